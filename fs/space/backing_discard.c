/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/backing_discard.c: what is free goes back to the host under a sparse pool, or is discarded on a
 * device that can: what groups have left, and free runs inside data groups.
 *
 * Invariants
 * 1. What is discarded is taken meanwhile: out of unallocated space, or out of the group's available blocks.
 *    So nothing else is put there until the discard has ended.
 * 2. What a group leaves comes here after the commit without the group is durable in all superblocks. The
 *    group was empty by then, pins released: no tree, no log and no reader has anything there.
 * 3. Inside a group, only what is available is taken: no durable tree refers to it, the log does not, and its
 *    pins are released (block_group.h, invariants 1 and 2). Only data groups; and none while there are
 *    reserved volumes, whose blocks are promised.
 * 4. Nobody who has a reservation lacks what is taken: inside a group it counts as unavailable, and is less
 *    than what is not reserved; of unallocated space, (M) holds without it (on a sparse pool it counts none).
 *    Who lacks it without one waits.
 *
 * Growth: a bit for each block of a group in which something was freed and not discarded, from the release of
 * its pins until the group was gone through; without memory, or when the group is unloaded, one mark that
 * stands for all of its free space. A commit pays for setting the bits. What is shorter than RUN_BYTES stays
 * with the pool, until its neighbours are free or fs_trim asks for it.
 */
#include <errno.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/epoch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/device/device_space.h"
#include "fs/device/work.h"
#include "fs/format/block_group_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/space/space_info_int.h"

#define PIECE_BYTES (16ull << 20)
#define RUN_BYTES (64ull << 10)
#define RUN_US 300000u /* then others have the worker */

/* ---- what groups have left --------------------------------------------------- */

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

static void space_freed_locked(struct backing *b, uint64_t off, uint64_t len)
{
	/* without memory it stays with the pool until it is used again */
	if (forget_overlaps(&b->freed, off, len) == 0)
		(void)device_space_add(&b->freed, off, len);
	atomic_store(&b->freed_bytes, b->freed.bytes);
}

void backing_space_freed(struct fs *fs, uint64_t off, uint64_t len)
{
	if (!fs->backing->discard || !device_can_discard(fs->dev))
		return;
	lock_take(&fs->groups->lock);
	space_freed_locked(fs->backing, off, len);
	lock_drop(&fs->groups->lock);
}

/* What a commit empties can leave with the next one at the earliest, when its pins are released. */
void backing_note_empty(struct fs *fs, bool left)
{
	struct backing *b = fs->backing;
	uint64_t empty = fs->groups->nr_empty;

	b->empty_left = !left && empty == b->empty_before ? empty : 0;
	b->empty_before = empty;
}

bool backing_groups_may_leave(struct fs *fs)
{
	return fs->backing->on && fs->groups->nr_empty > fs->backing->empty_left;
}

/* Whether metadata can do without so much unallocated space. The space lock is held. */
static bool can_take_locked(struct fs *fs, uint64_t len)
{
	uint64_t unallocated = space_unallocated(fs, 2);

	return fs->backing->on || FAULT(FAULT_DISCARD_IN_USE) ||
	       (unallocated >= len &&
		space_metadata_fits(fs, (struct space_pending){0, 0}, unallocated - len, 0, 0));
}

/* The next piece, taken. False: there is none. */
static bool take_piece(struct fs *fs, uint64_t *ret_off, uint64_t *ret_len)
{
	struct backing *b = fs->backing;
	bool found, taken = false;

	do {
		lock_take(&fs->space->lock);
		lock_take(&fs->groups->lock);
		found = device_space_next(&b->freed, 0, ret_off, ret_len);
		*ret_len = found ? min_u64(*ret_len, PIECE_BYTES) : 0;
		if (found && device_space_take(&b->freed, *ret_off, *ret_len))
			found = false;
		atomic_store(&b->freed_bytes, b->freed.bytes);
		lock_drop(&fs->groups->lock);
		if (found && can_take_locked(fs, *ret_len)) /* or some of it is in use again */
			taken = FAULT(FAULT_DISCARD_IN_USE) || group_space_take(fs, *ret_off, *ret_len) == 0;
		lock_drop(&fs->space->lock);
	} while (found && !taken);
	return taken;
}

/* ---- inside groups ------------------------------------------------------------- */

/* Puts the group on the list, or takes it off. Its lock is held. */
static void set_listed_locked(struct fs *fs, struct block_group *g, bool listed)
{
	struct backing *b = fs->backing;

	if (g->in_discard == listed)
		return;
	g->in_discard = listed;
	g->discard_from = 0;
	lock_take(&fs->groups->order_lock);
	if (listed)
		TAILQ_INSERT_TAIL(&fs->groups->discard, g, discard_link);
	else
		TAILQ_REMOVE(&fs->groups->discard, g, discard_link);
	lock_drop(&fs->groups->order_lock);
	if (listed)
		atomic_fetch_add(&b->discard_bytes, g->len);
	else
		atomic_fetch_sub(&b->discard_bytes, g->len);
}

static void set_bits(uint64_t *map, uint32_t start, uint32_t n, bool to)
{
	for (uint32_t i = start; i < start + n; i++)
		if (to)
			map[i / 64] |= 1ull << (i % 64);
		else
			map[i / 64] &= ~(1ull << (i % 64));
}

static bool is_set(const uint64_t *map, uint32_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

void backing_note_freed_locked(struct fs *fs, struct block_group *g, uint32_t start, uint32_t n)
{
	if (!fs->backing->discard || g->type != GROUP_DATA || atomic_load(&fs->backing->promised) || n == 0)
		return;
	if (!g->freed && !g->freed_all)
		g->freed = mem_zalloc(block_group_bitmap_bytes(g));
	if (g->freed)
		set_bits(g->freed, start, n, true);
	else
		g->freed_all = true;
	set_listed_locked(fs, g, true);
}

void backing_forget_freed_locked(struct fs *fs, struct block_group *g, bool leaves)
{
	g->freed_all |= g->freed != NULL;
	mem_free(g->freed);
	g->freed = NULL;
	if (leaves)
		set_listed_locked(fs, g, false);
}

/* One mark for all that is free becomes its bits. False: there is no memory for them. */
static bool expand_mark_locked(struct block_group *g)
{
	if (!g->freed_all)
		return true;
	if (!g->freed)
		g->freed = mem_zalloc(block_group_bitmap_bytes(g));
	if (g->freed) {
		free_space_get_words(g->avail, 0, (g->nblocks + 63) / 64, g->freed);
		g->freed_all = false;
	}
	return g->freed;
}

/*
 * The first run of marked blocks from `from` on that is free, cut at `max`; marks of others are dropped.
 * False: there is none.
 */
static bool next_run_locked(struct block_group *g, uint32_t from, uint32_t max, uint32_t *ret_start,
			    uint32_t *ret_n)
{
	uint32_t start, n = 0;

	for (start = from; start < g->nblocks; start++) {
		if (start % 64 == 0 && !g->freed[start / 64]) {
			start += 63;
			continue;
		}
		if (!is_set(g->freed, start))
			continue;
		if (free_space_test(g->avail, start, 1, true) || FAULT(FAULT_DISCARD_EARLY))
			break;
		set_bits(g->freed, start, 1, false);
	}
	while (start + n < g->nblocks && n < max && is_set(g->freed, start + n) &&
	       (free_space_test(g->avail, start + n, 1, true) || FAULT(FAULT_DISCARD_EARLY)))
		n++;
	*ret_start = start;
	*ret_n = n;
	return n > 0;
}

/* To what the device discards as a whole: outwards where all of that is free, else inwards. */
static void align_run_locked(const struct fs *fs, const struct block_group *g, uint32_t *start, uint32_t *n)
{
	uint64_t unit = max_u64(fs->dev->discard_unit, g->unit), shift = fs->dev->discard_shift;
	uint64_t from = g->stripe[0] + (uint64_t)*start * g->unit - shift, to = from + (uint64_t)*n * g->unit;
	uint64_t low = from / unit * unit, high = (to + unit - 1) / unit * unit, base = g->stripe[0] - shift;

	if (low < base || !free_space_test(g->avail, (uint32_t)((low - base) / g->unit),
					   (uint32_t)((from - low) / g->unit), true))
		low += low == from ? 0 : unit;
	if (high > base + g->len || !free_space_test(g->avail, (uint32_t)((to - base) / g->unit),
						     (uint32_t)((high - to) / g->unit), true))
		high -= high == to ? 0 : unit;
	if (low >= high || (low - base) % g->unit || (high - base) % g->unit) {
		*n = 0;
		return;
	}
	*start = (uint32_t)((low - base) / g->unit);
	*n = (uint32_t)((high - low) / g->unit);
}

/* Takes the next piece of the group, of at most `max` bytes. False: none is worth it. */
static bool take_run_locked(struct fs *fs, struct block_group *g, uint64_t max, uint32_t *ret_start,
			    uint32_t *ret_n)
{
	uint64_t least = atomic_load(&fs->backing->trimming) ? max_u64(fs->dev->discard_unit, g->unit)
							     : max_u64(RUN_BYTES, fs->dev->discard_unit);
	uint32_t start, n;

	while (next_run_locked(g, g->discard_from, (uint32_t)(min_u64(max, PIECE_BYTES) / g->unit), &start,
			       &n)) {
		uint32_t marked = start, marked_n = n;

		g->discard_from = start + n;
		if (!FAULT(FAULT_DISCARD_EARLY))
			align_run_locked(fs, g, &start, &n);
		if ((uint64_t)n * g->unit < least)
			continue;
		if ((uint64_t)n * g->unit > max) /* aligned outwards, in a pool that is nearly full */
			continue;
		if (!FAULT(FAULT_DISCARD_EARLY) && !free_space_take(g->avail, start, n))
			continue;
		set_bits(g->freed, marked, marked_n, false);
		block_group_reorder_locked(fs, g);
		*ret_start = start;
		*ret_n = n;
		return true;
	}
	return false;
}

/*
 * So many bytes of free data space that nobody has a right to: unavailable from now on. 0: there are none, or
 * it may not be now.
 */
static uint64_t hold(struct fs *fs)
{
	struct space_info *si = fs->space;
	struct space_counts *d = &si->kind[SPACE_DATA];
	uint64_t need, bytes = 0;

	lock_take(&si->lock);
	need = d->allocated + d->may_use + d->unavailable + si->volume_reserved + si->freeing_reserve;
	if (!si->promises && !fs->backing->promising && !atomic_load(&fs->backing->promised) &&
	    need < d->total)
		bytes = round_down_u64(min_u64(2 * PIECE_BYTES, (d->total - need) / 2), FS_BLOCK_SIZE);
	d->unavailable += bytes;
	si->discarding += bytes;
	lock_drop(&si->lock);
	return bytes;
}

static void let_go(struct fs *fs, uint64_t bytes)
{
	lock_take(&fs->space->lock);
	fs->space->kind[SPACE_DATA].unavailable -= bytes;
	fs->space->discarding -= bytes;
	lock_drop(&fs->space->lock);
}

/*
 * A piece of the first group of the list that has one; groups without leave the list. False: there is none.
 * The caller has space of *ret_g then, which cannot leave.
 */
static bool take_run(struct fs *fs, uint64_t max, struct block_group **ret_g, uint32_t *ret_start,
		     uint32_t *ret_n)
{
	unsigned epoch = epoch_enter(&fs->epoch);
	struct block_group *g;
	bool taken = false;

	while (!taken) {
		lock_take(&fs->groups->order_lock);
		g = TAILQ_FIRST(&fs->groups->discard);
		lock_drop(&fs->groups->order_lock);
		if (!g)
			break;
		if (g->state == GROUP_UNLOADED)
			(void)block_group_load(fs, work_queue(), g);
		lock_take(&g->lock);
		taken = g->in_discard && g->state == GROUP_LOADED && max && expand_mark_locked(g) &&
			g->freed && take_run_locked(fs, g, max, ret_start, ret_n);
		if (!taken)
			set_listed_locked(fs, g, false);
		lock_drop(&g->lock);
	}
	epoch_leave(&fs->epoch, epoch);
	*ret_g = g;
	return taken;
}

static bool discard_in_group(struct fs *fs)
{
	struct block_group *g;
	uint32_t start, n;
	uint64_t bytes;

	if (atomic_load(&fs->backing->discard_bytes) == 0)
		return false;
	bytes = hold(fs);
	if (!take_run(fs, bytes, &g, &start, &n)) {
		let_go(fs, bytes);
		return false;
	}
	let_go(fs, bytes - (uint64_t)n * g->unit);
	if (device_sync(work_queue(), DEVICE_DISCARD, g->stripe[0] + (uint64_t)start * g->unit, NULL,
			(uint64_t)n * g->unit) == 0)
		atomic_fetch_add(&fs->stats.discarded, (uint64_t)n * g->unit);
	bytes = (uint64_t)n * g->unit;
	if (!FAULT(FAULT_DISCARD_EARLY))
		/* it may leave from now on */
		block_group_give(fs, g->start + (uint64_t)start * g->unit, bytes);
	let_go(fs, bytes);
	return true;
}

/* ---- when ------------------------------------------------------------------------ */

static bool discard_unallocated(struct fs *fs)
{
	uint64_t off, len;

	if (!take_piece(fs, &off, &len))
		return false;
	if (device_sync(work_queue(), DEVICE_DISCARD, off, NULL, len) == 0)
		atomic_fetch_add(&fs->stats.discarded, len);
	if (!FAULT(FAULT_DISCARD_IN_USE))
		(void)group_space_add(fs, off, len);
	return true;
}

static uint64_t left(struct fs *fs)
{
	return atomic_load(&fs->backing->freed_bytes) + atomic_load(&fs->backing->discard_bytes);
}

static void discard_fn(struct fs_work *work)
{
	struct fs *fs = container_of(work, struct backing, discard_work)->fs;
	struct backing *b = fs->backing;
	uint64_t start = fs_now_us(fs);
	bool more = true;

	while (more && fs_now_us(fs) - start < RUN_US && !fs_is_read_only(fs) && !atomic_load(&b->held_up)) {
		uint64_t began = fs_now_us(fs);

		more = discard_unallocated(fs) || discard_in_group(fs);
		/* half of the time is the clients' */
		if (more && !atomic_load(&b->trimming))
			(void)fs_pause(fs, min_u64(fs_now_us(fs) - began + 1000, 100000));
	}
	if (left(fs) == 0)
		atomic_store(&b->trimming, false);
	atomic_store(&b->discarding, false);
	(void)space_run_tickets(fs, atomic_load(&fs->commits_done), pins_are_left(fs->pins));
	if (more && left(fs) && !atomic_load(&b->held_up))
		fs_kick_commit(fs); /* whose end starts the next round */
}

void backing_discard_tick(struct fs *fs)
{
	struct backing *b = fs->backing;

	if (left(fs) == 0 || fs_is_read_only(fs) || atomic_load(&b->held_up) ||
	    atomic_exchange(&b->discarding, true))
		return;
	b->discard_work.fn = discard_fn;
	/* a promise waits for it, and those that wait may all wait for that */
	work_pool_add(fs->work, &b->discard_work);
}

void backing_discard_hold_up(struct fs *fs, bool held_up)
{
	if (!held_up) {
		atomic_fetch_sub(&fs->backing->held_up, 1);
		return;
	}
	atomic_fetch_add(&fs->backing->held_up, 1);
	while (atomic_load(&fs->backing->discarding))
		fs_await_worker(fs);
}

/* ---- all of it, now ---------------------------------------------------------------- */

static void mark_group(struct block_group *g, void *arg)
{
	struct fs *fs = arg;

	if (g->type != GROUP_DATA || atomic_load(&fs->backing->promised))
		return;
	lock_take(&g->lock);
	if (g->state == GROUP_LOADED || g->state == GROUP_UNLOADED) {
		g->freed_all = true;
		set_listed_locked(fs, g, true);
	}
	lock_drop(&g->lock);
}

void backing_discard_all(struct fs *fs)
{
	if (fs->backing->discard)
		block_group_each(fs, mark_group, fs);
}

static void mark_unallocated(struct fs *fs)
{
	uint64_t end = 0, off, len;

	lock_take(&fs->groups->lock);
	while (device_space_next(&fs->groups->unallocated, end, &off, &len)) {
		space_freed_locked(fs->backing, off, len);
		end = off + len;
	}
	lock_drop(&fs->groups->lock);
}

int fs_trim(struct fs *fs, struct fs_error *err)
{
	struct backing *b = fs->backing;

	if (fs_is_read_only(fs))
		return fs_fail(err, -EROFS, "pool: cannot be trimmed: it is read-only");
	if (!device_can_discard(fs->dev))
		return fs_fail(
			err, -ENOTSUP,
			"pool: cannot be trimmed: its device, or the file system that it is on, cannot discard");
	if (!b->on && !fs->dev->block_device && !fs->opt.as_device)
		return fs_fail(
			err, -EINVAL,
			"pool: not trimmed: its file was preallocated, so that the host cannot run out of space for it: to trim it all the same, start byred with --discard on");
	if (fs_commit(fs)) /* what was freed until now counts */
		return fs_fail(err, -EROFS, "pool: cannot be trimmed: the commit failed");
	mark_unallocated(fs);
	block_group_each(fs, mark_group, fs);
	atomic_store(&b->trim_total, left(fs));
	atomic_store(&b->trimming, left(fs) != 0);
	fs_kick_commit(fs);
	return 0;
}

void backing_discard_open(struct fs *fs)
{
	struct backing *b = fs->backing;
	bool can = device_can_discard(fs->dev) && !fs_is_read_only(fs);

	b->discard = can && (fs->opt.discard == FS_DISCARD_ON ||
			     (fs->opt.discard == FS_DISCARD_AUTO && (b->on || fs->dev->block_device)));
	if (fs->opt.discard == FS_DISCARD_ON && !can && !fs_is_read_only(fs))
		fs_log(fs, FS_LOG_WARNING,
		       "--discard on: the pool's device, or the file system that it is on, cannot discard: what is freed stays with the pool");
}
