/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/commit_thread.c: when commits happen: every commit interval, when somebody waits for space, for a
 * full flush log or for many pending changes, and on and on while deleted volumes' space is being freed.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/commit/rebuild.h"
#include "fs/commit/transaction.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/upcall.h"
#include "fs/core/wakeup.h"
#include "fs/device/claim.h"
#include "fs/device/work.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"

#define RETRY_MS 2u
#define CLAIM_CHECK_US 1000000u /* an idle pool looks whether it is still its own, when it wakes */

/*
 * Released pins may serve those who wait for space; the commit itself has tried already. True when they wait
 * for requests under way: then there is nothing to commit yet.
 */
static bool after_commit(struct fs *fs)
{
	bool waiting, needed, idle = false;

	lock_take(&fs->commit_lock);
	(void)transaction_release_pins(fs);
	needed = transaction_is_needed(fs);
	if (!fs_is_read_only(fs) && fs_now_us(fs) - fs->claim_checked_us >= CLAIM_CHECK_US)
		(void)claim_check(fs, fs->commit_q);
	lock_drop(&fs->commit_lock);
	waiting = space_run_tickets(fs, atomic_load(&fs->commits_done), pins_are_left(fs->pins));
	backing_tick(fs);
	backing_discard_tick(fs);
	if (fs_is_read_only(fs))
		transaction_fail_waiting(fs);
	else if (atomic_load(&fs->orphans) ||
		 (needed && !atomic_load(&fs->pins->waiting) && (waiting || atomic_load(&fs->pins->behind))))
		fs_kick_commit(fs);
	else
		idle = waiting;
	return idle;
}

static void rebuild_work_fn(struct fs_work *work)
{
	struct fs *fs = container_of(work, struct fs, rebuild_work);
	uint64_t lost_commits = atomic_load(&fs->lost_commits);
	int r = rebuild_groups(fs, work_queue());

	if (r && r != -ECANCELED)
		fs_log(fs, FS_LOG_ERROR, "free space could not be rebuilt: %s%s", strerror(-r),
		       node_is_lost(r)
			       ? "; it will be tried again when a commit has put a lost range in place of what cannot be read, and from time to time"
			       : "");
	fs->rebuild_failed_us = fs_now_us(fs);
	atomic_store(&fs->rebuild_error, r);
	/* which looked at rebuild_error too early */
	if (node_is_lost(r) && atomic_load(&fs->lost_commits) != lost_commits)
		fs_kick_rebuild(fs);
	atomic_store(&fs->rebuild_running, false);
	fs_kick_commit(fs);
}

/* rebuild_running was set by the caller. */
static void queue_rebuild(struct fs *fs)
{
	fs->rebuild_work.fn = rebuild_work_fn;
	/* a commit may wait for it, and those that wait for commits must not be in its way */
	work_pool_add(fs->work, &fs->rebuild_work);
}

void fs_start_rebuild(struct fs *fs)
{
	if (atomic_exchange(&fs->rebuild_running, true))
		fs_kick_rebuild(fs); /* again, when that one has ended */
	else
		queue_rebuild(fs);
}

/*
 * What failed for lack of memory is tried again at each interval. A node that cannot be read stays so, as a
 * rule, until it is overwritten (the commit that does it asks for the rebuild), and to find that out takes a
 * walk of all trees.
 */
static bool may_rebuild_again(struct fs *fs)
{
	int error = atomic_load(&fs->rebuild_error);

	if (error == 0 ||
	    (node_is_lost(error) && fs_now_us(fs) - fs->rebuild_failed_us < REBUILD_AGAIN_S * 1000000ull))
		return false;
	atomic_store(&fs->rebuild_error, 0);
	return true;
}

static void *commit_thread(void *arg)
{
	struct fs *fs = arg;
	bool again = false;

	lock_take(&fs->state_lock);
	while (!fs->stop) {
		uint64_t wait_ms = again || atomic_load(&fs->pins->waiting) ? RETRY_MS
									    : fs->opt.commit_interval_ms;
		bool in_time = true, rebuild, pins_only;

		if (!fs->commit_wanted && !(fs->rebuild_wanted && !atomic_load(&fs->rebuild_running)))
			in_time = lock_wait_ms(&fs->state_lock, &fs->state_cond, wait_ms);
		if (fs->stop)
			break;
		rebuild = fs->rebuild_wanted && !atomic_load(&fs->rebuild_running);
		if (!in_time && wait_ms != RETRY_MS && !fs_is_read_only(fs))
			rebuild |= may_rebuild_again(fs);
		if (rebuild) { /* in one step: nobody finds that there is none */
			fs->rebuild_wanted = atomic_exchange(&fs->rebuild_running, true);
			rebuild = !fs->rebuild_wanted;
		}
		pins_only = !fs->commit_wanted && !again && (in_time || wait_ms == RETRY_MS);
		fs->commit_wanted = false;
		lock_drop(&fs->state_lock);
		if (rebuild)
			queue_rebuild(fs);
		if (!pins_only && !fs_is_read_only(fs))
			(void)transaction_commit(fs);
		again = after_commit(fs);
		fs->up->poll_scrub(fs);
		lock_take(&fs->state_lock);
	}
	lock_drop(&fs->state_lock);
	return NULL;
}

int commit_thread_start(struct fs *fs)
{
	int r = -pthread_create(&fs->commit_thread, NULL, commit_thread, fs);

	fs->commit_thread_runs = r == 0;
	return r;
}

void commit_thread_stop(struct fs *fs)
{
	if (!fs->commit_thread_runs)
		return;
	lock_take(&fs->state_lock);
	fs->stop = true;
	pthread_cond_signal(&fs->state_cond);
	lock_drop(&fs->state_lock);
	pthread_join(fs->commit_thread, NULL);
	fs->commit_thread_runs = false;
}
