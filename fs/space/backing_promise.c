/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/backing_promise.c: what is promised to reserved volumes of a sparse pool has its blocks before the
 * promise is made.
 *
 * Invariants
 * 1. When a record or an item that promises something becomes durable, so are the groups that have room for
 *    it, named by a superblock, and their blocks: a crash may leave the host full.
 * 2. A promise that the host has no room for, with some to spare, is refused before anything is allocated for
 *    it. Where that turns out on the way (others write to the host, too), the groups that were made leave
 *    with the next commits and go back to it.
 *
 * Cost: a promise allocates all that it lacks, in pieces (device.h), and makes its groups; commits and other
 * clients go on meanwhile.
 */
#include <errno.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/device/work.h"
#include "fs/format/block_group_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/backing_int.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/space/space_info_int.h"

/* The host keeps books of what it allocates, and others want to go on, too. */
static uint64_t with_margin(uint64_t bytes)
{
	return bytes + bytes / 64 + (bytes ? 4u << 20 : 0);
}

static int promise_groups(struct fs *fs, uint64_t more_bytes)
{
	const struct space_reservation want = {.data_bytes = more_bytes};
	int r = 0;

	for (;;) {
		struct backing_plan plan;
		uint64_t growth;

		lock_take(&fs->space->lock);
		growth = space_promise_growth(fs->space, more_bytes) - space_promise_growth(fs->space, 0);
		plan = backing_plan_locked(fs, &want, 0, growth, false);
		lock_drop(&fs->space->lock);
		if (plan.type)
			r = backing_make(fs, plan);
		/* the pool's own space: the caller sees what is lacking */
		if (r == -ENOSPC && !backing_failed_lately(fs, BACKING_RETRY_US))
			r = 0;
		else if (r == 0 && plan.type)
			r = plan.type == GROUP_METADATA ? fs_commit(fs) : 0;
		if (r || !plan.type)
			return r;
	}
}

/*
 * What promise_groups will allocate, and what data groups that are there lack. At the most what the pool has
 * unallocated.
 */
static uint64_t needed_bytes(struct fs *fs, uint64_t more_bytes, bool first, const struct device_host *host)
{
	const struct space_info *si = fs->space;
	const struct space_counts *d = &si->kind[SPACE_DATA];
	uint64_t missing = first ? backing_missing(fs, host) : 0, data, growth, lacking;

	lock_take(&fs->space->lock);
	data = d->allocated + d->may_use + d->unavailable + si->volume_reserved + more_bytes +
	       si->freeing_reserve;
	data = data > d->total ? space_groups_for(fs, data - d->total) : 0;
	growth = space_promise_growth(si, more_bytes) - space_promise_growth(si, 0) +
		 space_group_growth(fs, data);
	lacking = space_metadata_lacking(fs, (struct space_pending){0, 0}, 0, 0, growth);
	lock_drop(&fs->space->lock);
	return missing + min_u64(data + 2 * lacking, atomic_load(&fs->groups->unallocated_bytes));
}

static bool host_has_room(struct fs *fs, uint64_t more_bytes, bool first, struct backing_lack *ret_lack)
{
	struct device_host host;

	if (fs->dev->ops->host(fs->dev, &host)) /* unknown: seen as it goes */
		return true;
	ret_lack->host_needed = with_margin(needed_bytes(fs, more_bytes, first, &host));
	ret_lack->host_free = host.free_bytes;
	return ret_lack->host_needed <= host.free_bytes;
}

static void wait_for_worker(struct fs *fs)
{
	while (atomic_load(&fs->backing->running))
		fs_await_worker(fs);
}

/* What the worker has begun without knowing, and what stood there before, have their blocks, too. */
static int back_groups(struct fs *fs)
{
	wait_for_worker(fs);
	return backing_allocate_groups(fs, true);
}

/* By a commit, which nothing else may want: a group that holds nothing is in no record of the log. */
static int make_durable(struct fs *fs, bool first)
{
	bool fresh;

	lock_take(&fs->commit_lock); /* one that is under way may have missed them */
	lock_take(&fs->groups->lock);
	fresh = !TAILQ_EMPTY(&fs->groups->fresh);
	lock_drop(&fs->groups->lock);
	fs->super_dirty |= first || fresh;
	lock_drop(&fs->commit_lock);
	return first || fresh ? fs_commit(fs) : 0;
}

/* By how much the pool itself is too small: where that is clear nothing is made for it. */
static uint64_t pool_lacks(struct fs *fs, uint64_t more_bytes)
{
	uint64_t free_bytes = space_free_bytes(fs);

	free_bytes += free_bytes / 32 + (4u << 20); /* that figure is careful */
	return more_bytes > free_bytes ? more_bytes - free_bytes : 0;
}

int backing_promise(struct fs *fs, const struct space_promise *p, uint64_t promised,
		    struct backing_lack *ret_lack)
{
	bool first = !atomic_load(&fs->backing->promised);
	uint64_t more;
	int r = 0;

	if (!fs->backing->on || promised <= p->promised)
		return 0;
	lock_take(&fs->space->lock); /* as space_set_promise counts it */
	more = promised - max_u64(p->promised, min_u64(p->allocated, promised));
	lock_drop(&fs->space->lock);
	ret_lack->pool_bytes = pool_lacks(fs, more);
	if (ret_lack->pool_bytes)
		return -ENOSPC;
	if (!host_has_room(fs, more, first, ret_lack))
		return -EDQUOT;
	atomic_store(&fs->backing->promised, true);
	if (first)
		r = back_groups(fs);
	if (r == -ENOSPC)
		backing_set_full(fs);
	if (r == 0)
		r = promise_groups(fs, more);
	if (r == 0)
		r = make_durable(fs, first);
	if (r)
		fs_kick_commit(fs); /* what was made leaves */
	return r == -ENOSPC ? -EDQUOT : r;
}

void backing_promise_end(struct fs *fs)
{
	bool before = atomic_load(&fs->backing->promised);

	lock_take(&fs->space->lock);
	if (!fs->backing->promising)
		atomic_store(&fs->backing->promised, fs->space->promises != 0);
	lock_drop(&fs->space->lock);
	if (before && !atomic_load(&fs->backing->promised))
		backing_discard_all(fs); /* what was kept for it */
}

static void set_promising(struct fs *fs, bool promising)
{
	lock_take(&fs->space->lock);
	fs->backing->promising = promising;
	lock_drop(&fs->space->lock);
}

void backing_promise_begin(struct fs *fs)
{
	set_promising(fs, true);
	backing_discard_hold_up(fs, true); /* what it has in its hands is there for the promise, too */
}

void backing_promise_begun(struct fs *fs)
{
	set_promising(fs, false);
	backing_discard_hold_up(fs, false);
}
