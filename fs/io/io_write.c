/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/io/io_write.c: writes, and trims of whole blocks. Those of any alignment are made of them in io_zero.c.
 *
 * A write: lock, reserve, fill pages (reading what it covers only in part), allocate, write, and only when
 * all of that is on the device put the extents into the overlay. Writes of one batch take neighbouring
 * addresses and leave as one device write.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/device/executor.h"
#include "fs/device/work.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/io/io.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"

#define RUN_IOV_MAX 256u
/* that a trim replaces in one go, under the volume's lock and on the thread of a loop */
#define HOLE_PENDINGS 256u

/* A device write that is being put together: neighbours in the pool, from any number of requests. */
struct write_run {
	struct device_io dev;
	struct fs_ctx *ctx;
	uint64_t addr, blocks;
	unsigned segs;
	struct io *seg[RUN_IOV_MAX];
	struct iovec iov[RUN_IOV_MAX];
};

static void write_parts_done(struct io *io);
static void allocate(struct io *io);

/* ---- device writes --------------------------------------------------------- */

static void part_done(struct io *io, int error)
{
	if (error && !io->error)
		io->error = error;
	if (--io->parts == 0)
		write_parts_done(io);
}

static void run_done(struct device_io *dev)
{
	struct write_run *run = container_of(dev, struct write_run, dev);

	if (dev->error == -ENOSPC && run->ctx->fs->backing->on) {
		backing_write_failed(run->ctx->fs);
	} else if (dev->error) {
		atomic_fetch_add(&run->ctx->fs->stats.errors_io, 1);
		fs_log_often(run->ctx->fs, FS_OFTEN_WRITE, FS_LOG_ERROR,
			     "data of %llu blocks could not be written: %s", (unsigned long long)run->blocks,
			     strerror(-dev->error));
	} else {
		backing_write_succeeded(run->ctx->fs);
	}
	for (unsigned i = 0; i < run->segs; i++)
		part_done(run->seg[i], dev->error);
	mem_free(run);
}

void io_submit_open_write(struct fs_ctx *ctx)
{
	struct write_run *run = ctx->open_write;
	uint64_t off[GROUP_STRIPES_MAX];

	ctx->open_write = NULL;
	if (!run)
		return;
	/* Data has one stripe; a mirrored group will submit one write for each. */
	ASSERT(block_group_map(ctx->fs, run->addr, run->blocks * FS_BLOCK_SIZE, off) == 1);
	run->dev = (struct device_io){.op = DEVICE_WRITE,
				      .off = off[0],
				      .len = run->blocks * FS_BLOCK_SIZE,
				      .iov = run->iov,
				      .iovcnt = (int)run->blocks,
				      .done = run_done};
	ctx->ex.q->dev->ops->submit(ctx->ex.q, &run->dev);
}

/* Adds pages of a request that were given [addr, + n blocks). */
static int add_to_run(struct io *io, uint64_t page, uint64_t addr, uint64_t n)
{
	struct fs_ctx *ctx = io->ctx;

	while (n) {
		struct write_run *run = ctx->open_write;
		uint64_t take;

		if (run && (run->addr + run->blocks * FS_BLOCK_SIZE != addr || run->blocks == RUN_IOV_MAX ||
			    block_group_find(io->fs, run->addr) != block_group_find(io->fs, addr))) {
			io_submit_open_write(ctx);
			run = NULL;
		}
		if (!run) {
			run = mem_alloc(sizeof(*run));
			if (!run)
				return -ENOMEM;
			run->ctx = ctx;
			run->addr = addr;
			run->blocks = run->segs = 0;
			ctx->open_write = run;
		}
		take = min_u64(n, RUN_IOV_MAX - run->blocks);
		for (uint64_t i = 0; i < take; i++)
			run->iov[run->blocks + i] = (struct iovec){io->page[page + i]->data, FS_BLOCK_SIZE};
		run->seg[run->segs++] = io;
		run->blocks += take;
		io->parts++;
		page += take;
		addr += take * FS_BLOCK_SIZE;
		n -= take;
	}
	return 0;
}

/* ---- the end of a write ---------------------------------------------------- */

static void insert_pendings(struct io *io)
{
	struct pending *p;

	lock_take(&io->vol->lock);
	while ((p = TAILQ_FIRST(&io->pendings))) {
		TAILQ_REMOVE(&io->pendings, p, log_link);
		volume_insert_locked(io->vol, p, &io->ctx->spare);
	}
	lock_drop(&io->vol->lock);
}

static void publish_pages(struct io *io)
{
	struct pending *p;

	TAILQ_FOREACH (p, &io->pendings, log_link)
		for (uint64_t i = 0; i < p->nblk; i++)
			cache_publish(io->fs->cache, io->page[p->blk - io->blk + i],
				      p->addr + i * FS_BLOCK_SIZE);
}

static void allocate_posted(struct post *post)
{
	allocate(container_of(post, struct io, post));
}

/* What frees space and found no blocks of the host takes a spare, or waits for one. */
static bool try_again(struct io *io)
{
	struct pending *p;

	if (io->error != -ENOSPC || !(io->user->flags & IO_FREEING) || !io->fs->backing->on ||
	    ++io->alloc_tries > IO_ALLOC_TRIES)
		return false;
	while ((p = TAILQ_FIRST(&io->pendings))) {
		TAILQ_REMOVE(&io->pendings, p, log_link);
		block_group_give(io->fs, p->addr, p->nblk * FS_BLOCK_SIZE);
		space_unallocate(io->fs, &io->ticket.want, p->nblk * FS_BLOCK_SIZE);
		pending_free(p);
	}
	io->allocated = io->items = 0;
	io->error = 0;
	io->parts = 1;
	io->post.fn = allocate_posted;
	executor_post(&io->ctx->ex, &io->post);
	return true;
}

static void write_parts_done(struct io *io)
{
	int error = io->error;

	if (try_again(io))
		return;
	if (!error && fs_is_read_only(io->fs))
		error = -EROFS;
	if (!error) /* the extents of one write split at most one older pending */
		error = overlay_insert_prealloc(&io->ctx->spare);
	if (error) {
		io_end(io, error);
		return;
	}
	publish_pages(io);
	insert_pendings(io);
	space_pend(io->fs, &io->ticket.want,
		   (struct space_pending){io->ticket.want.pending.touches,
					  volume_item_bytes(io->items + 2, io->nblk)});
	io->reserved = false;
	io_succeed(io);
}

/* ---- allocation ------------------------------------------------------------ */

static void load_on_worker(struct fs_work *work)
{
	struct io *io = container_of(work, struct io, work);

	/*
	 * Groups that turned out to need a rebuild had been counted as free: their space comes back with
	 * that.
	 */
	if (!block_group_load_next(io->fs, work_queue()) &&
	    (fs_is_rebuilding(io->fs) || backing_lacks_spare(io->fs)))
		(void)fs_pause(io->fs, 2000);
	io->post.fn = allocate_posted;
	executor_post(&io->ctx->ex, &io->post);
}

/*
 * The space is reserved, but nobody could give it yet: a group has to be read, or another thread has it in
 * its hands.
 */
static void allocate_later(struct io *io)
{
	if (fs_is_read_only(io->fs)) {
		part_done(io, -EROFS);
		return;
	}
	if (!fs_is_rebuilding(io->fs) && ++io->alloc_tries > IO_ALLOC_TRIES) {
		fs_log_often(io->fs, FS_OFTEN_SPACE, FS_LOG_ERROR,
			     "reserved space could not be found; run a check of the pool");
		part_done(io, -ENOSPC);
		return;
	}
	io->work.fn = load_on_worker;
	if (fs_is_rebuilding(io->fs)) /* behind the rebuild, not in its way */
		work_pool_add_waiting(io->fs->work, &io->work);
	else
		work_pool_add(io->fs->work, &io->work);
}

static int add_extent(struct io *io, uint64_t addr, uint32_t n)
{
	struct pending *p = pending_new(n, true);
	int r;

	if (!p) {
		block_group_give(io->fs, addr, (uint64_t)n * FS_BLOCK_SIZE);
		return -ENOMEM;
	}
	p->blk = io->blk + io->allocated;
	p->addr = addr;
	for (uint32_t i = 0; i < n; i++)
		p->crc[i] = crc32c(io->page[io->allocated + i]->data, FS_BLOCK_SIZE);
	space_allocate(io->fs, &io->ticket.want, (uint64_t)n * FS_BLOCK_SIZE);
	TAILQ_INSERT_TAIL(&io->pendings, p, log_link);
	io->items += volume_extent_items(n);
	r = add_to_run(io, io->allocated, addr, n);
	io->allocated += n;
	return r;
}

/*
 * What frees space must not find the host full: the commit of those before it brings blocks that can be
 * written.
 */
static bool waits_for_spare(struct io *io)
{
	if (!(io->user->flags & IO_FREEING) || !backing_lacks_spare(io->fs) ||
	    io->alloc_tries >= IO_ALLOC_TRIES)
		return false;
	fs_kick_commit(io->fs);
	return true;
}

/* io->parts counts one for this function until everything is allocated. */
static void allocate(struct io *io)
{
	int r = 0;

	while (r == 0 && io->allocated < io->nblk) {
		bool unloaded;
		uint64_t addr;
		uint32_t n = io->user->flags & IO_FREEING && backing_take_spare(io->fs, &addr);

		if (n == 0 && !waits_for_spare(io))
			n = ctx_take_blocks(io->ctx, (uint32_t)(io->nblk - io->allocated), &addr, &unloaded);
		if (n == 0) {
			allocate_later(io);
			return;
		}
		r = add_extent(io, addr, n);
	}
	part_done(io, r);
}

/* ---- pages ----------------------------------------------------------------- */

static void fill_pages(struct io *io)
{
	for (uint64_t i = 0; i < io->nblk; i++)
		io_copy_in(io, i, io->page[i]->data);
	io->parts = 1;
	allocate(io);
}

/*
 * The edge of a trim that is zeros already, and may be a hole by now. To write it then would take space for
 * good from what is kept for those who free some.
 */
static bool is_idle_edge(const struct io *io)
{
	static const uint8_t zeros[FS_BLOCK_SIZE];

	return io->user->flags & IO_FREEING && io->nblk == 1 &&
	       memcmp((const char *)io->page[0]->data + io->user->off % FS_BLOCK_SIZE, zeros,
		      io->user->len) == 0;
}

static void edge_read(struct fs_io *child)
{
	struct io *io = child->arg;

	if (child->error && !io->error)
		io->error = child->error;
	if (--io->parts > 0)
		return;
	if (io->error || is_idle_edge(io))
		io_end(io, io->error);
	else
		fill_pages(io);
}

static void read_edge(struct io *io, unsigned which, uint64_t index)
{
	io->child[which] = (struct fs_io){.op = FS_READ,
					  .vol = io->vol,
					  .off = (io->blk + index) * FS_BLOCK_SIZE,
					  .len = FS_BLOCK_SIZE,
					  .buf = io->page[index]->data,
					  .done = edge_read,
					  .arg = io};
	io->parts++;
	io_start(io->ctx, &io->child[which]);
}

static int get_pages(struct io *io)
{
	if (io->nblk > IO_INLINE_BLOCKS) {
		io->page = mem_alloc(io->nblk * sizeof(*io->page));
		if (!io->page) {
			io->page = io->page_inline;
			return -ENOMEM;
		}
	}
	if (!cache_alloc_many(io->fs->cache, CACHE_DATA, io->nblk, io->page))
		return -ENOMEM;
	io->pages = io->nblk;
	return 0;
}

/* The range is locked. */
static void write_locked(struct io *io)
{
	uint64_t off = io->user->off, end = off + io->user->len, last = io->nblk - 1;
	bool head = off % FS_BLOCK_SIZE, tail = end % FS_BLOCK_SIZE;
	int r = end > atomic_load(&io->vol->size) ? -ENOSPC : get_pages(io);

	if (r) {
		io_end(io, r);
		return;
	}
	if (!head && !tail) {
		fill_pages(io);
		return;
	}
	io->parts = 1;
	if (head || last == 0)
		read_edge(io, 0, 0);
	if (tail && last > 0)
		read_edge(io, 1, last);
	edge_read(&(struct fs_io){.arg = io}); /* the starter's part */
}

/* ---- lock and reservation -------------------------------------------------- */

/*
 * The lock comes first: requests of the same range are carried out in the order in which they came, so that
 * an old write that waits for space never lands on top of a newer one, or of a trim, that was answered
 * meanwhile. And who has a reservation waits for nobody but the device: those who wait for space, with their
 * locks, get it in the end.
 */

static void hole_locked(struct io *io);

static void go(struct io *io)
{
	if (io->user->op == FS_WRITE)
		write_locked(io);
	else
		hole_locked(io);
}

static void reserved_posted(struct post *post)
{
	struct io *io = container_of(post, struct io, post);

	if (io->error) {
		io_end(io, io->error);
		return;
	}
	io->reserved = true;
	go(io);
}

static void reserve_done(struct space_ticket *t, int error)
{
	struct io *io = container_of(t, struct io, ticket);

	io->error = error;
	io->post.fn = reserved_posted;
	executor_post(&io->ctx->ex, &io->post);
}

static void reserve(struct io *io)
{
	int r = space_reserve(io->fs, &io->ticket);

	if (r == -EINPROGRESS)
		return;
	if (r) {
		io_end(io, r);
		return;
	}
	io->reserved = true;
	go(io);
}

static void lock_and_reserve(struct io *io, uint64_t data_bytes, struct space_pending pending, uint32_t flags)
{
	io->ticket.want = (struct space_reservation){data_bytes, pending, &io->vol->promise};
	io->ticket.flags = flags;
	io->ticket.done = reserve_done;
	if (io->user->flags & IO_LOCKED)
		reserve(io);
	else
		io_lock_range(io, io->user->op == FS_WRITE ? EXTENT_DELALLOC : 0, reserve);
}

void io_write(struct io *io)
{
	/*
	 * At the worst each block gets a place of its own; when they have theirs, space_pend gives the rest
	 * back.
	 */
	struct space_pending pending = {io->nblk > 1 ? 2 : 1, volume_item_bytes(io->nblk + 2, io->nblk)};

	lock_and_reserve(io, io->nblk * FS_BLOCK_SIZE, pending,
			 io->user->flags & IO_FREEING ? SPACE_FREEING : 0);
}

/* ---- holes ----------------------------------------------------------------- */

/* For the rest of the range. */
static struct space_pending hole_pending(const struct io *io)
{
	return (struct space_pending){2, volume_item_bytes(2, 0) +
						 space_cut_bytes(io->fs, io->nblk - io->allocated)};
}

/*
 * Puts a hole over what is left of the range, up to HOLE_PENDINGS of what is pending there: all of it, as a
 * rule. Returns how many blocks that are.
 */
static uint64_t punch(struct io *io, struct pending *p)
{
	uint64_t n;

	p->blk = io->blk + io->allocated;
	lock_take(&io->vol->lock);
	n = p->nblk = overlay_span(&io->vol->running, p->blk, io->nblk - io->allocated, HOLE_PENDINGS);
	volume_insert_locked(io->vol, p, &io->ctx->spare);
	lock_drop(&io->vol->lock);
	space_pend(io->fs, &io->ticket.want, io->ticket.want.pending);
	io->reserved = false;
	return n;
}

static void next_hole_posted(struct post *post)
{
	struct io *io = container_of(post, struct io, post);

	io->ticket.want = (struct space_reservation){0, hole_pending(io), &io->vol->promise};
	reserve(io);
}

/* The range stays locked in between, and a block is a hole for good when its part has come. */
static void hole_locked(struct io *io)
{
	struct pending *p = NULL;
	int r = io->user->off + io->user->len > atomic_load(&io->vol->size) ? -ENOSPC : 0;

	if (r == 0 && fs_is_read_only(io->fs))
		r = -EROFS;
	if (r == 0) {
		p = pending_new(io->nblk - io->allocated, false);
		r = p ? overlay_insert_prealloc(&io->ctx->spare) : -ENOMEM;
	}
	if (r) {
		pending_free(p);
		io_end(io, r);
		return;
	}
	io->allocated += punch(io, p);
	if (io->allocated == io->nblk) {
		io_succeed(io);
	} else { /* others first */
		io->post.fn = next_hole_posted;
		executor_post(&io->ctx->ex, &io->post);
	}
}

void io_hole(struct io *io)
{
	uint32_t flags = SPACE_FREEING | (atomic_load(&io->vol->lost_blocks) ? SPACE_SPLITS : 0);

	lock_and_reserve(io, 0, hole_pending(io), flags);
}
