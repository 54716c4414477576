/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/io/io.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/commit/flush_log.h"
#include "fs/core/epoch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/executor.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"

#define FREE_IOS_MAX 512u

struct io *io_new(struct fs_ctx *ctx, struct fs_io *user)
{
	struct io *io = ctx->free_ios;

	if (io) {
		ctx->free_ios = io->next;
		ctx->nr_free_ios--;
	} else {
		io = mem_alloc(sizeof(*io));
		if (!io)
			return NULL;
	}
	io->user = user;
	io->ctx = ctx;
	io->fs = ctx->fs;
	io->vol = user->vol;
	io->error = 0;
	io->parts = 0;
	io->in_epoch = io->reserved = io->locked = false;
	io->piece = io->piece_inline;
	io->crc = io->crc_inline;
	io->page = io->page_inline;
	io->pages = io->mapped = io->allocated = io->items = 0;
	io->pieces = io->alloc_tries = 0;
	TAILQ_INIT(&io->pendings);
	memset(&io->ticket, 0, sizeof(io->ticket));
	ctx->under_way++;
	return io;
}

static void io_free(struct io *io)
{
	struct fs_ctx *ctx = io->ctx;

	if (io->piece != io->piece_inline)
		mem_free(io->piece);
	if (io->crc != io->crc_inline)
		mem_free(io->crc);
	if (io->page != io->page_inline)
		mem_free(io->page);
	ctx->under_way--;
	if (ctx->nr_free_ios >= FREE_IOS_MAX) {
		mem_free(io);
		return;
	}
	io->next = ctx->free_ios;
	ctx->free_ios = io;
	ctx->nr_free_ios++;
}

void io_free_all(struct fs_ctx *ctx)
{
	struct io *io;

	while ((io = ctx->free_ios)) {
		ctx->free_ios = io->next;
		mem_free(io);
	}
}

/* Allocations that no overlay knows. */
static void give_back_pendings(struct io *io)
{
	struct pending *p;

	while ((p = TAILQ_FIRST(&io->pendings))) {
		TAILQ_REMOVE(&io->pendings, p, log_link);
		if (p->addr) {
			block_group_give(io->fs, p->addr, p->nblk * FS_BLOCK_SIZE);
			space_deallocate(io->fs, &io->vol->promise, p->nblk * FS_BLOCK_SIZE);
		}
		pending_free(p);
	}
}

/* ---- the range --------------------------------------------------------------- */

static void has_range(struct io *io)
{
	io->locked = true;
	io->go_locked(io);
}

static void locked_posted(struct post *post)
{
	has_range(container_of(post, struct io, post));
}

static void lock_granted(struct extent_lock *lk)
{
	struct io *io = container_of(lk, struct io, lock);

	io->post.fn = locked_posted;
	executor_post(&io->ctx->ex, &io->post);
}

void io_lock_range(struct io *io, uint32_t bits, void (*then)(struct io *io))
{
	io->go_locked = then;
	extent_lock_init(&io->lock, io->blk * FS_BLOCK_SIZE, (io->blk + io->nblk) * FS_BLOCK_SIZE, bits,
			 lock_granted);
	if (FAULT(FAULT_RANGE_LOCK)) { /* of a range that is nobody else's */
		io->lock.start = (uintptr_t)io;
		io->lock.end = io->lock.start + 1;
	}
	if (lock_extent_async(&io->vol->states, &io->lock))
		has_range(io);
}

void io_unlock_range(struct io *io)
{
	if (io->locked)
		unlock_extent(&io->vol->states, &io->lock);
	io->locked = false;
}

/* ---- the end ----------------------------------------------------------------- */

void io_end(struct io *io, int error)
{
	struct fs_io *user = io->user;

	give_back_pendings(io);
	if (io->reserved)
		space_unreserve(io->fs, &io->ticket.want);
	for (uint64_t i = 0; i < io->pages; i++)
		cache_put(io->fs->cache, io->page[i]);
	io_unlock_range(io);
	if (io->in_epoch)
		epoch_leave(&io->fs->epoch, io->epoch);
	io_free(io);
	user->error = error;
	user->done(user);
}

static void flush_done_here(struct post *post)
{
	struct io *io = container_of(post, struct io, post);

	io_end(io, io->error);
}

static void flush_done(struct flush_waiter *w, int error)
{
	struct io *io = container_of(w, struct io, flush);

	io->error = error;
	io->post.fn = flush_done_here;
	executor_post(&io->ctx->ex, &io->post);
}

static void io_flush(struct io *io)
{
	io->flush.ex = &io->ctx->ex;
	io->flush.or_commit = false;
	io->flush.done = flush_done;
	flush_log_flush(io->fs, &io->flush);
}

void io_succeed(struct io *io)
{
	io_unlock_range(io);
	if (io->user->flags & FS_FUA && io->user->op != FS_READ && io->user->op != FS_CACHE)
		io_flush(io);
	else
		io_end(io, 0);
}

void io_copy_out(struct io *io, uint64_t index, const void *page)
{
	uint64_t at = (io->blk + index) * FS_BLOCK_SIZE, from = max_u64(at, io->user->off);
	uint64_t to = min_u64(at + FS_BLOCK_SIZE, io->user->off + io->user->len);

	if (!io->user->buf)
		return;
	if (page)
		memcpy((char *)io->user->buf + (from - io->user->off), (const char *)page + (from - at),
		       to - from);
	else
		memset((char *)io->user->buf + (from - io->user->off), 0, to - from);
}

void io_copy_in(struct io *io, uint64_t index, void *page)
{
	uint64_t at = (io->blk + index) * FS_BLOCK_SIZE, from = max_u64(at, io->user->off);
	uint64_t to = min_u64(at + FS_BLOCK_SIZE, io->user->off + io->user->len);

	if (io->user->flags & IO_ZEROS)
		memset((char *)page + (from - at), 0, to - from);
	else
		memcpy((char *)page + (from - at), (const char *)io->user->buf + (from - io->user->off),
		       to - from);
}

/* The request against the volume: 0 or what it is answered with. */
static int check_request(struct fs *fs, const struct fs_io *user)
{
	uint64_t size = atomic_load(&user->vol->size);
	bool reads = user->op == FS_READ || user->op == FS_CACHE;

	if (user->off > size || user->len > size - user->off)
		return reads ? -EINVAL : -ENOSPC;
	if ((user->op == FS_READ || user->op == FS_WRITE) && user->len > FS_IO_MAX)
		return -EINVAL;
	if (!reads && (fs_is_read_only(fs) || user->vol->flags & FS_VOLUME_READ_ONLY))
		return -EROFS;
	return 0;
}

static void answer(struct fs_io *user, int error)
{
	user->error = error;
	user->done(user);
}

void io_start(struct fs_ctx *ctx, struct fs_io *user)
{
	struct io *io;
	int r = user->op == FS_FLUSH ? 0 : check_request(ctx->fs, user);

	/* there was nothing to write since the pool was opened */
	if (user->op == FS_FLUSH && ctx->fs->opt.read_only) {
		answer(user, 0);
		return;
	}
	if (r || (user->op != FS_FLUSH && user->len == 0)) {
		answer(user, r);
		return;
	}
	io = io_new(ctx, user);
	if (!io) {
		answer(user, -ENOMEM);
		return;
	}
	if (user->op == FS_FLUSH) {
		io_flush(io);
		return;
	}
	io->blk = user->off / FS_BLOCK_SIZE;
	io->nblk = (user->off + user->len + FS_BLOCK_SIZE - 1) / FS_BLOCK_SIZE - io->blk;
	switch (user->op) {
	case FS_READ:
	case FS_CACHE: io_read(io); break;
	case FS_WRITE: io_write(io); break;
	default:
		if (user->op == FS_ZERO && user->flags & FS_NO_HOLE)
			io_zero_fill(io);
		else if (user->off % FS_BLOCK_SIZE || user->len % FS_BLOCK_SIZE)
			io_discard(io);
		else
			io_hole(io);
	}
}

void fs_submit(struct fs_ctx *ctx, struct fs_io *const *ios, size_t n)
{
	uint64_t requests = atomic_load_explicit(&ctx->requests, memory_order_relaxed);

	/* only this thread writes it */
	atomic_store_explicit(&ctx->requests, requests + n, memory_order_relaxed);
	for (size_t i = 0; i < n; i++)
		io_start(ctx, ios[i]);
	io_submit_open_write(ctx);
	ctx->ex.q->dev->ops->kick(ctx->ex.q);
}
