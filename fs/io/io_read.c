/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/io/io_read.c: reads: look up all pieces (on a worker, if nodes have to be read), then fetch what is not
 * cached.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/epoch.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/device/executor.h"
#include "fs/device/work.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/io/io.h"
#include "fs/space/block_group.h"
#include "fs/volume/volume.h"

#define SUB_BLOCKS 256u

/* One device read: blocks in a row that are not in the cache. */
struct read_sub {
	struct device_io dev;
	struct io *io;
	uint64_t addr, index, n; /* index: of the first block within the request */
	struct iovec iov[SUB_BLOCKS];
	struct cache_entry *page[SUB_BLOCKS];
};

/* -ENODATA: a part of it is lost. */
static int map_pieces(struct io *io, struct device_queue *q)
{
	while (io->mapped < io->nblk) {
		struct volume_piece vp;
		int r = volume_lookup(io->vol, q, io->blk + io->mapped, io->nblk - io->mapped, &vp,
				      io->crc + io->mapped);

		if (r == 0 && vp.lost)
			r = -ENODATA;
		if (r)
			return r;
		io->piece[io->pieces++] = (struct read_piece){vp.addr, vp.nblk};
		io->mapped += vp.nblk;
	}
	return 0;
}

static void part_done(struct io *io, int error)
{
	if (error && !io->error)
		io->error = error;
	if (--io->parts == 0)
		io_end(io, io->error);
}

static int check_block(struct read_sub *sub, uint64_t i)
{
	struct io *io = sub->io;

	if (crc32c(sub->page[i]->data, FS_BLOCK_SIZE) == io->crc[sub->index + i])
		return 0;
	atomic_fetch_add(&io->fs->stats.errors_checksum, 1);
	fs_log_often(io->fs, FS_OFTEN_CHECKSUM, FS_LOG_ERROR,
		     "volume %s, offset %llu: data at %llu does not match its checksum",
		     volume_get_name(io->vol).text,
		     (unsigned long long)(io->blk + sub->index + i) * FS_BLOCK_SIZE,
		     (unsigned long long)(sub->addr + i * FS_BLOCK_SIZE));
	return -EIO;
}

static bool is_ahead(const struct io *io)
{
	return io->user->op == FS_CACHE;
}

static void publish(struct io *io, struct cache_entry *page, uint64_t addr)
{
	if (is_ahead(io))
		cache_publish_ahead(io->fs->cache, page, addr);
	else
		cache_publish(io->fs->cache, page, addr);
}

static void sub_done(struct device_io *dev)
{
	struct read_sub *sub = container_of(dev, struct read_sub, dev);
	struct io *io = sub->io;
	int error = dev->error;

	if (error) {
		atomic_fetch_add(&io->fs->stats.errors_io, 1);
		fs_log_often(io->fs, FS_OFTEN_READ, FS_LOG_ERROR,
			     "volume %s, offset %llu: cannot be read: %s", volume_get_name(io->vol).text,
			     (unsigned long long)(io->blk + sub->index) * FS_BLOCK_SIZE, strerror(-error));
	}
	for (uint64_t i = 0; i < sub->n; i++) {
		int bad = dev->error ? dev->error : check_block(sub, i);

		if (bad) {
			error = bad;
		} else {
			publish(io, sub->page[i], sub->addr + i * FS_BLOCK_SIZE);
			io_copy_out(io, sub->index + i, sub->page[i]->data);
		}
		cache_put(io->fs->cache, sub->page[i]);
	}
	mem_free(sub);
	part_done(io, error);
}

static int start_sub(struct io *io, uint64_t index, uint64_t addr, uint64_t n)
{
	struct read_sub *sub = mem_alloc(sizeof(*sub));
	uint64_t off[GROUP_STRIPES_MAX];

	if (!sub)
		return -ENOMEM;
	if (block_group_map(io->fs, addr, n * FS_BLOCK_SIZE, off) < 1) {
		mem_free(sub);
		return -EUCLEAN;
	}
	if (!(is_ahead(io) ? cache_alloc_ahead(io->fs->cache, n, sub->page)
			   : cache_alloc_many(io->fs->cache, CACHE_DATA, n, sub->page))) {
		mem_free(sub);
		return -ENOMEM;
	}
	sub->io = io;
	sub->addr = addr;
	sub->index = index;
	sub->n = n;
	for (uint64_t i = 0; i < n; i++)
		sub->iov[i] = (struct iovec){sub->page[i]->data, FS_BLOCK_SIZE};
	sub->dev = (struct device_io){.op = DEVICE_READ,
				      .off = off[0],
				      .len = n * FS_BLOCK_SIZE,
				      .iov = sub->iov,
				      .iovcnt = (int)n,
				      .done = sub_done};
	io->parts++;
	io->ctx->ex.q->dev->ops->submit(io->ctx->ex.q, &sub->dev);
	return 0;
}

/* True: the block is in the cache, and was copied if it is wanted. */
static bool fetch_cached(struct io *io, uint64_t index, uint64_t addr)
{
	struct cache_entry *e;

	if (is_ahead(io))
		return cache_has(io->fs->cache, addr);
	e = cache_get(io->fs->cache, CACHE_DATA, addr);
	if (!e)
		return false;
	io_copy_out(io, index, e->data);
	cache_put(io->fs->cache, e);
	return true;
}

/* A piece with data: cached blocks are copied, runs of others are read. */
static int fetch(struct io *io, uint64_t index, uint64_t addr, uint64_t n)
{
	uint64_t missing = 0; /* blocks in a row before i */
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < n; i++) {
		bool cached = fetch_cached(io, index + i, addr + i * FS_BLOCK_SIZE);

		missing += !cached;
		if (missing && (cached || missing == SUB_BLOCKS || i + 1 == n)) {
			uint64_t first = i + (cached ? 0 : 1) - missing;

			r = start_sub(io, index + first, addr + first * FS_BLOCK_SIZE, missing);
			missing = 0;
		}
	}
	return r;
}

static void fetch_pieces(struct io *io)
{
	uint64_t index = 0;
	int r = 0;

	io->parts = 1; /* the starter's, so that it does not end before all is started */
	for (unsigned p = 0; r == 0 && p < io->pieces; p++) {
		if (io->piece[p].addr)
			r = fetch(io, index, io->piece[p].addr, io->piece[p].nblk);
		else
			for (uint64_t i = 0; i < io->piece[p].nblk; i++)
				io_copy_out(io, index + i, NULL);
		index += io->piece[p].nblk;
	}
	part_done(io, r);
}

static void mapped(struct io *io, int error)
{
	if (!error) {
		fetch_pieces(io);
		return;
	}
	if (error != -ENODATA) /* a lost range was reported when it was found */
		fs_log_often(io->fs, FS_OFTEN_READ, FS_LOG_ERROR,
			     "volume %s, offset %llu: cannot be looked up: %s", volume_get_name(io->vol).text,
			     (unsigned long long)io->user->off, strerror(-error));
	io_end(io, error == -ENOMEM ? error : -EIO);
}

static void mapped_by_worker(struct post *post)
{
	struct io *io = container_of(post, struct io, post);

	mapped(io, io->error);
}

static void map_on_worker(struct fs_work *work)
{
	struct io *io = container_of(work, struct io, work);

	io->error = map_pieces(io, work_queue());
	io->post.fn = mapped_by_worker;
	executor_post(&io->ctx->ex, &io->post);
}

void io_read(struct io *io)
{
	int r;

	if (io->user->op == FS_CACHE)
		io->user->buf = NULL;
	if (io->nblk > IO_INLINE_BLOCKS) {
		io->piece = mem_alloc(io->nblk * sizeof(*io->piece));
		io->crc = mem_alloc(io->nblk * sizeof(*io->crc));
		if (!io->piece || !io->crc) {
			io_end(io, -ENOMEM);
			return;
		}
	}
	io->epoch = epoch_enter(&io->fs->epoch);
	io->in_epoch = true;
	r = map_pieces(io, NULL);
	if (r == -EAGAIN) {
		io->work.fn = map_on_worker;
		work_pool_add(io->fs->work, &io->work);
	} else {
		mapped(io, r);
	}
}
