/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/backing_discard.c: space that groups of a sparse pool have left goes back to the host.
 *
 * Invariants
 * 1. A piece is discarded only while it is taken out of unallocated space, so that no group can be made of it meanwhile.
 * 2. What a group leaves comes here after the commit without the group is durable in all superblocks. The group was empty by then,
 *    pins released: no tree, no log and no reader has anything there.
 * 3. (M) does not count unallocated space on a sparse pool, so taking it for a moment refuses nothing that was granted. Who lacks a
 *    group meanwhile waits.
 */
#include <errno.h>
#include <time.h>

#include "base/util.h"
#include "fs/backing.h"
#include "fs/block_group.h"
#include "fs/fault.h"
#include "fs/fs_int.h"

#define PIECE_BYTES (16ull << 20)
#define RUN_US 300000u /* then others have the worker */

/* What was used in between and has not been discarded is there already. 0 or -ENOMEM. */
static int forget_overlaps(struct device_space *freed, uint64_t off, uint64_t len)
{
	uint64_t at, n;
	int r = 0;

	while (r == 0 && device_space_next(freed, off, &at, &n) && at < off + len) {
		uint64_t from = max_u64(at, off), to = min_u64(at + n, off + len);

		r = device_space_take(freed, from, to - from);
	}
	return r;
}

void backing_space_freed(struct fs *fs, uint64_t off, uint64_t len)
{
	struct backing *b = &fs->backing;

	if (!b->on || !device_can_discard(fs->dev))
		return;
	lock_take(&fs->groups.lock);
	if (forget_overlaps(&b->freed, off, len) == 0) /* without memory it stays with the pool until it is used again */
		(void)device_space_add(&b->freed, off, len);
	atomic_store(&b->freed_bytes, b->freed.bytes);
	lock_drop(&fs->groups.lock);
}

/* What a commit empties can leave with the next one at the earliest, when its pins are released. */
void backing_note_empty(struct fs *fs, bool left)
{
	struct backing *b = &fs->backing;
	uint64_t empty = fs->groups.nr_empty;

	b->empty_left = !left && empty == b->empty_before ? empty : 0;
	b->empty_before = empty;
}

bool backing_groups_may_leave(struct fs *fs) { return fs->backing.on && fs->groups.nr_empty > fs->backing.empty_left; }

/* The next piece, taken. False: there is none. */
static bool take_piece(struct fs *fs, uint64_t *ret_off, uint64_t *ret_len)
{
	struct backing *b = &fs->backing;
	bool found;

	do {
		lock_take(&fs->groups.lock);
		found = device_space_next(&b->freed, 0, ret_off, ret_len);
		*ret_len = found ? min_u64(*ret_len, PIECE_BYTES) : 0;
		if (found && device_space_take(&b->freed, *ret_off, *ret_len))
			found = false;
		atomic_store(&b->freed_bytes, b->freed.bytes);
		lock_drop(&fs->groups.lock);
	} while (found && !FAULT(FAULT_DISCARD_IN_USE) && group_space_take(fs, *ret_off, *ret_len)); /* some of it is in use again */
	return found;
}

static void discard_fn(struct fs_work *work)
{
	struct fs *fs = container_of(work, struct fs, backing.discard_work);
	uint64_t start = fs_now_us(), off, len;

	while (fs_now_us() - start < RUN_US && !fs_is_read_only(fs) && take_piece(fs, &off, &len)) {
		uint64_t began = fs_now_us();

		if (device_sync(work_queue(), DEVICE_DISCARD, off, NULL, len) == 0)
			atomic_fetch_add(&fs->stats.discarded, len);
		if (!FAULT(FAULT_DISCARD_IN_USE))
			(void)group_space_add(fs, off, len);
		if (!fs->simulated) /* half of the time is the clients' */
			nanosleep(&(struct timespec){0, (long)min_u64(1000 * (fs_now_us() - began) + 1000000, 100000000)}, NULL);
	}
	atomic_store(&fs->backing.discarding, false);
	(void)space_run_tickets(fs, atomic_load(&fs->commits_done), pins_are_left(&fs->pins));
}

void backing_discard_tick(struct fs *fs)
{
	struct backing *b = &fs->backing;

	if (!b->on || atomic_load(&b->freed_bytes) == 0 || fs_is_read_only(fs) || atomic_exchange(&b->discarding, true))
		return;
	b->discard_work.fn = discard_fn;
	work_pool_add_waiting(&fs->work, &b->discard_work);
}
