/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/io/ctx.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/device/executor.h"
#include "fs/fs.h"
#include "fs/io/io.h"
#include "fs/space/block_group.h"
#include "fs/volume/overlay.h"

#define RUN_BLOCKS 1024u /* taken from a group at a time: 4 MiB */

static int watch(struct fs_ctx *ctx, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(ctx->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

int fs_ctx_new(struct fs *fs, struct fs_ctx **ret_ctx)
{
	struct fs_ctx *ctx = mem_zalloc(sizeof(*ctx));
	int r, fd;

	if (!ctx)
		return -ENOMEM;
	ctx->fs = fs;
	ctx->epoll_fd = -1;
	r = executor_init(&ctx->ex, fs->dev);
	if (r == 0) {
		ctx->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		r = ctx->epoll_fd < 0 ? -errno : watch(ctx, ctx->ex.event_fd);
	}
	if (r == 0) {
		fd = ctx->ex.q->dev->ops->fd(ctx->ex.q);
		r = fd >= 0 ? watch(ctx, fd) : fd == -ENOSYS ? 0 : fd;
	}
	lock_take(&fs->ctx_lock);
	ctx->next = fs->ctxs;
	fs->ctxs = ctx;
	lock_drop(&fs->ctx_lock);
	if (r) {
		fs_ctx_free(ctx);
		return r;
	}
	*ret_ctx = ctx;
	return 0;
}

static void return_run_locked(struct fs_ctx *ctx)
{
	if (ctx->run_blocks)
		block_group_give(ctx->fs, ctx->run_addr, (uint64_t)ctx->run_blocks * FS_BLOCK_SIZE);
	ctx->run_blocks = 0;
}

void ctx_return_runs(struct fs *fs)
{
	lock_take(&fs->ctx_lock);
	for (struct fs_ctx *ctx = fs->ctxs; ctx; ctx = ctx->next)
		return_run_locked(ctx);
	lock_drop(&fs->ctx_lock);
}

void fs_ctx_free(struct fs_ctx *ctx)
{
	struct fs_ctx **at;

	if (!ctx)
		return;
	ASSERT(ctx->under_way == 0);
	lock_take(&ctx->fs->ctx_lock);
	for (at = &ctx->fs->ctxs; *at != ctx; at = &(*at)->next)
		;
	*at = ctx->next;
	return_run_locked(ctx);
	lock_drop(&ctx->fs->ctx_lock);
	io_free_all(ctx);
	pending_free(ctx->spare);
	executor_fini(&ctx->ex);
	if (ctx->epoll_fd >= 0)
		close(ctx->epoll_fd);
	mem_free(ctx);
}

int fs_ctx_fd(struct fs_ctx *ctx)
{
	return ctx->epoll_fd;
}

void fs_ctx_run(struct fs_ctx *ctx)
{
	executor_run(&ctx->ex);
	ctx->ex.q->dev->ops->poll(ctx->ex.q);
	io_submit_open_write(ctx);
	ctx->ex.q->dev->ops->kick(ctx->ex.q);
}

/* ---- free space ------------------------------------------------------------ */

static uint32_t take_from_run_locked(struct fs_ctx *ctx, uint32_t want, uint64_t *ret_addr)
{
	uint32_t n = (uint32_t)min_u64(want, ctx->run_blocks);

	*ret_addr = ctx->run_addr;
	ctx->run_addr += (uint64_t)n * FS_BLOCK_SIZE;
	ctx->run_blocks -= n;
	return n;
}

uint32_t ctx_take_blocks(struct fs_ctx *ctx, uint32_t want, uint64_t *ret_addr, bool *ret_unloaded)
{
	struct fs *fs = ctx->fs;
	uint32_t n;

	*ret_unloaded = false;
	lock_take(&fs->ctx_lock);
	if (ctx->run_blocks == 0)
		ctx->run_blocks = block_group_take_data(fs, (uint32_t)max_u64(want, RUN_BLOCKS),
							&ctx->run_addr, ret_unloaded);
	n = take_from_run_locked(ctx, want, ret_addr);
	if (n == 0 && !*ret_unloaded) { /* what is free is in the others' runs */
		for (struct fs_ctx *other = fs->ctxs; other; other = other->next)
			return_run_locked(other);
		ctx->run_blocks = block_group_take_data(fs, want, &ctx->run_addr, ret_unloaded);
		n = take_from_run_locked(ctx, want, ret_addr);
	}
	lock_drop(&fs->ctx_lock);
	return n;
}

/* ---- waiting --------------------------------------------------------------- */

struct waited {
	bool done;
};

static void wait_done(struct fs_io *io)
{
	((struct waited *)io->arg)->done = true;
}

int fs_io_wait(struct fs *fs, struct fs_io *io)
{
	struct waited w = {false};
	struct fs_io *ios[1] = {io};
	struct fs_ctx *ctx;
	int r = fs_ctx_new(fs, &ctx);

	if (r)
		return r;
	io->done = wait_done;
	io->arg = &w;
	fs_submit(ctx, ios, 1);
	while (!w.done) {
		fs_await_fd(fs, ctx->epoll_fd);
		fs_ctx_run(ctx);
	}
	fs_ctx_free(ctx);
	return io->error;
}
