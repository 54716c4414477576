/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/pool/pool_step.c: a pool without threads: its owner does with pool_step what they would do, and so does
 * whoever waits for them.
 */
#include <errno.h>

#include "fs/commit/flush_log.h"
#include "fs/commit/transaction.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/device/work.h"
#include "fs/pool/pool.h"
#include "fs/scrub/scrub.h"
#include "fs/space/backing.h"
#include "fs/space/space_info.h"

bool pool_step(struct fs *fs)
{
	/* A request that waits for a spare asks again and again: the commit that brings one goes first. */
	bool commit_first = fs->commit_wanted && backing_lacks_spare(fs);

	if (!commit_first && work_run_one(fs->work))
		return true;
	if (fs->rebuild_wanted) {
		fs->rebuild_wanted = false;
		fs_start_rebuild(fs);
		return true;
	}
	if (!fs->commit_wanted)
		return scrub_step(fs);
	fs->commit_wanted = false;
	if (transaction_commit(fs) == -EAGAIN) { /* readers are under way: again when they are done */
		fs->commit_wanted = true;
		return commit_first && work_run_one(fs->work);
	}
	/* As the commit thread does: those who wait for space, and deleted volumes, need another one. */
	if (!fs_is_read_only(fs) && (fs->space->nr_tickets || atomic_load(&fs->orphans)))
		fs->commit_wanted = true;
	if (commit_first) /* else commits might follow each other for ever */
		(void)work_run_one(fs->work);
	return true;
}

/* ---- instead of waiting ---------------------------------------------------- */

static uint64_t alone_now_us(void)
{
	return fs_clock_system.now_us();
}

static uint64_t alone_wall_ns(void)
{
	return fs_clock_system.wall_ns();
}

static int alone_random(void *buf, size_t len)
{
	return fs_clock_system.random(buf, len);
}

static bool alone_pause(uint64_t us)
{
	return false;
}

static void alone_await_worker(struct fs *fs)
{
	(void)work_run_one(fs->work);
}

static bool alone_await_done(struct fs *fs, const bool *done)
{
	while (!*done) {
		if (pool_step(fs) || *done)
			continue;
		flush_log_leave_to_commit(fs);
		if (transaction_commit(fs) && !*done)
			return false;
	}
	return true;
}

static bool alone_await_cond(struct lock *lock, pthread_cond_t *cond)
{
	return false;
}

static void alone_await_fd(struct fs *fs, int fd)
{
	(void)pool_step(fs);
}

const struct fs_clock pool_without_threads = {
	.threads = false,
	.now_us = alone_now_us,
	.wall_ns = alone_wall_ns,
	.random = alone_random,
	.pause = alone_pause,
	.await_worker = alone_await_worker,
	.await_done = alone_await_done,
	.await_cond = alone_await_cond,
	.await_fd = alone_await_fd,
};
