/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/space_info.c: reservations, promises and the counters. What fits is computed in space_bound.c; who
 * waits: space_ticket.c.
 */
#include "fs/space/space_info.h"

#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info_int.h"

#define PROMISE_SLACK_BYTES (64ull << 20) /* of a reserved volume, for overwrites between two commits */
#define GLOBAL_RESERVE_NODES_MIN 16u	  /* a trim needs 7 of the half that it may always have */
#define GLOBAL_RESERVE_NODES_CUT 28u	  /* 14 where it may cut subtrees out */
#define FREEING_RESERVE_BYTES (256u << 10)
/* Pending changes in memory: more than the first ask for a commit, more than the second wait for it. */
#define PENDING_COMMIT 400000u
#define PENDING_MAX 1600000u

static enum space_kind kind_of(uint8_t group_type)
{
	return group_type == GROUP_DATA	      ? SPACE_DATA
	       : group_type == GROUP_METADATA ? SPACE_METADATA
					      : SPACE_SYSTEM;
}

static void check_locked(struct space_info *si)
{
#ifdef BYRE_DEBUG
	for (int k = 0; k < SPACE_KINDS; k++) {
		struct space_counts *c = &si->kind[k];

		ASSERT(c->pinned <= c->allocated);
		/*
		 * Only then can more be reserved than there is: a group's cache turned out to be bad after
		 * that.
		 */
		ASSERT(c->unavailable || c->allocated + c->may_use <= c->total);
	}
#endif
	lock_assert_held(&si->lock);
}

void space_info_init(struct fs *fs)
{
	struct space_info *si = fs->space;
	uint64_t nodes = space_may_cut(fs) ? GLOBAL_RESERVE_NODES_CUT : GLOBAL_RESERVE_NODES_MIN;

	atomic_store(&fs->group_size, min_u64(group_size_for(fs->dev->size), fs->group_step));
	si->global_reserve =
		round_up_u64(max_u64(nodes * NODE_SIZE, min_u64(fs->dev->size / 512, 256u << 20)), NODE_SIZE);
	si->freeing_reserve = min_u64(FREEING_RESERVE_BYTES, fs->dev->size / 1024);
	si->freeing_reserve = round_up_u64(si->freeing_reserve, FS_BLOCK_SIZE);
}

void space_info_fini(struct fs *fs)
{
	ASSERT(fs->space->nr_tickets == 0);
	lock_fini(&fs->space->lock);
}

static uint64_t owed(const struct space_promise *p)
{
	return p->promised > p->allocated ? p->promised - p->allocated : 0;
}

static void promise_change_locked(struct space_info *si, struct space_promise *p, uint64_t promised,
				  uint64_t allocated)
{
	si->volume_reserved -= owed(p);
	si->promises += (promised != 0) - (p->promised != 0);
	p->promised = promised;
	p->allocated = allocated;
	si->volume_reserved += owed(p);
	si->aside = min_u64(si->aside, si->volume_reserved);
}

/* ---- reserving ------------------------------------------------------------- */

/*
 * Before the group tree runs out of room for items there is another system group, as large as all before, if
 * metadata can spare that. Else data groups end a quarter before that room does.
 */
static void grow_system_locked(struct fs *fs, uint64_t groups)
{
	uint64_t have = block_group_system_bytes(fs), want = block_group_system_for(2 * groups);
	uint64_t quantum = group_quantum(fs),
		 bytes = round_up_u64(min_u64(max_u64(have, quantum), SYSTEM_GROUP_MAX), quantum);
	struct space_pending none = {0, 0};
	int r = 0;

	if (fs->backing->on) /* see backing_grow_system */
		return;
	while (r == 0 && have < want && bytes >= quantum) {
		uint64_t unallocated = space_unallocated(fs, 2);

		if (2 * bytes > unallocated ||
		    !space_metadata_fits(fs, none, unallocated - 2 * bytes, 0, 0)) {
			bytes = round_down_u64(bytes / 2, quantum);
			continue;
		}
		r = block_group_create_system_locked(fs, bytes);
		have = block_group_system_bytes(fs);
	}
}

/* The groups that will be made of what is set aside have room for their items, too. */
static void grow_system_for_aside_locked(struct fs *fs)
{
	uint64_t groups = atomic_load(&fs->groups->live) + space_aside_groups(fs, fs->space->aside);

	if (groups > atomic_load(&fs->groups->live_max) / 2)
		grow_system_locked(fs, groups);
}

void space_grow_system(struct fs *fs, uint64_t groups)
{
	lock_take(&fs->space->lock);
	grow_system_locked(fs, max_u64(groups, atomic_load(&fs->groups->live)));
	lock_drop(&fs->space->lock);
	backing_grow_system(fs, groups);
}

/*
 * Makes a data group of what unallocated space metadata does not need to keep, as large as it may be.
 * `growth` as for space_metadata_fits. False: there is no room.
 */
static bool grow_data_locked(struct fs *fs, struct space_pending extra, uint64_t growth)
{
	struct space_info *si = fs->space;
	uint64_t quantum = group_quantum(fs), unallocated = space_unallocated(fs, 2);
	uint64_t bytes = min_u64(round_down_u64(unallocated, quantum), fs->group_size);
	int r = -ENOSPC;

	if (fs->backing->on) /* a worker makes them: see backing.h */
		return false;

	while (bytes >= quantum && !space_metadata_fits(fs, extra, unallocated - bytes, 0,
							growth + space_group_growth(fs, bytes)))
		bytes = bytes > 16 * quantum ? round_down_u64(bytes / 2 + bytes / 4, quantum)
					     : bytes - quantum;
	if (bytes >= quantum && space_groups_left(fs) > space_aside_groups(fs, si->aside))
		r = block_group_create(fs, GROUP_DATA, bytes, &bytes);
	if (r == 0) {
		si->kind[SPACE_DATA].total += bytes;
		if (atomic_load(&fs->groups->live) > atomic_load(&fs->groups->live_max) / 2)
			grow_system_locked(fs, atomic_load(&fs->groups->live));
	}
	return r == 0;
}

/* Makes a data group of what was set aside for reserved volumes: that needs no look at metadata. */
static bool grow_promised_locked(struct fs *fs)
{
	struct space_info *si = fs->space;
	uint64_t bytes = min_u64(space_aside_bytes(fs, si->aside, 0), fs->group_size);

	if (si->aside == 0 || block_group_create(fs, GROUP_DATA, bytes, &bytes))
		return false;
	si->kind[SPACE_DATA].total += bytes;
	si->aside -= min_u64(si->aside, bytes);
	return true;
}

int space_grow_metadata(struct fs *fs)
{
	struct space_info *si = fs->space;
	uint64_t bytes;
	int r;

	lock_take(&si->lock);
	bytes = space_unallocated(fs, 1);
	r = bytes < 2 * group_quantum(fs)
		    ? -ENOSPC
		    : block_group_create(fs, GROUP_METADATA, min_u64(fs->group_size / 2, bytes), &bytes);
	if (r == 0)
		si->kind[SPACE_METADATA].total += bytes;
	lock_drop(&si->lock);
	return r;
}

static bool promise_is_there(const struct space_info *si, uint64_t bytes)
{
	const struct space_counts *d = &si->kind[SPACE_DATA];

	return d->allocated + d->may_use + d->unavailable + bytes <= d->total;
}

enum space_fit space_try_reserve_locked(struct fs *fs, const struct space_reservation *want, uint32_t flags)
{
	struct space_info *si = fs->space;
	struct space_promise *p = want->promise;
	bool promised = p && p->promised;

	if (space_all_pending(si).touches > PENDING_MAX)
		return SPACE_FULL;
	if (promised) { /* it is owed; or it is as soon as a commit has freed what was overwritten */
		flags |= SPACE_PROMISED;
		if (want->data_bytes > owed(p))
			return SPACE_OWED_LATER;
		while (!promise_is_there(si, want->data_bytes))
			if (!grow_promised_locked(fs) && !grow_data_locked(fs, want->pending, 0))
				return SPACE_FULL;
	} else if (want->data_bytes) {
		while (!space_data_fits(si, want->data_bytes, flags))
			if (!grow_data_locked(fs, want->pending, 0))
				return SPACE_FULL;
	}
	if (!space_metadata_fits(fs, want->pending, space_unallocated(fs, 2), flags, 0))
		return SPACE_FULL;
	if (p)
		promise_change_locked(si, p, p->promised, p->allocated + want->data_bytes);
	si->kind[SPACE_DATA].may_use += want->data_bytes;
	si->in_flight.touches += want->pending.touches;
	si->in_flight.bytes += want->pending.bytes;
	check_locked(si);
	return SPACE_FITS;
}

/* ---- a reservation's life -------------------------------------------------- */

static void pending_sub(struct space_pending *from, struct space_pending *what)
{
	ASSERT(from->touches >= what->touches && from->bytes >= what->bytes);
	from->touches -= what->touches;
	from->bytes -= what->bytes;
	memset(what, 0, sizeof(*what));
}

void space_allocate(struct fs *fs, struct space_reservation *res, uint64_t bytes)
{
	struct space_counts *d = &fs->space->kind[SPACE_DATA];

	lock_take(&fs->space->lock);
	ASSERT(res->data_bytes >= bytes && d->may_use >= bytes);
	res->data_bytes -= bytes;
	d->may_use -= bytes;
	d->allocated += bytes;
	check_locked(fs->space);
	lock_drop(&fs->space->lock);
}

void space_unallocate(struct fs *fs, struct space_reservation *res, uint64_t bytes)
{
	struct space_counts *d = &fs->space->kind[SPACE_DATA];

	lock_take(&fs->space->lock);
	ASSERT(d->allocated >= bytes);
	res->data_bytes += bytes;
	d->may_use += bytes;
	d->allocated -= bytes;
	check_locked(fs->space);
	lock_drop(&fs->space->lock);
}

void space_deallocate(struct fs *fs, struct space_promise *promise, uint64_t bytes)
{
	struct space_counts *d = &fs->space->kind[SPACE_DATA];

	lock_take(&fs->space->lock);
	ASSERT(d->allocated >= bytes);
	d->allocated -= bytes;
	if (promise)
		promise_change_locked(fs->space, promise, promise->promised, promise->allocated - bytes);
	check_locked(fs->space);
	lock_drop(&fs->space->lock);
}

static void give_data_back_locked(struct space_info *si, struct space_reservation *res)
{
	struct space_promise *p = res->promise;

	ASSERT(si->kind[SPACE_DATA].may_use >= res->data_bytes);
	si->kind[SPACE_DATA].may_use -= res->data_bytes;
	if (p)
		promise_change_locked(si, p, p->promised, p->allocated - res->data_bytes);
	res->data_bytes = 0;
}

void space_pend(struct fs *fs, struct space_reservation *res, struct space_pending actual)
{
	struct space_info *si = fs->space;
	bool many;

	lock_take(&si->lock);
	ASSERT(actual.touches <= res->pending.touches && actual.bytes <= res->pending.bytes);
	give_data_back_locked(si, res);
	pending_sub(&si->in_flight, &res->pending);
	si->running.touches += actual.touches;
	si->running.bytes += actual.bytes;
	many = si->running.touches > PENDING_COMMIT && !si->committing.touches;
	check_locked(si);
	lock_drop(&si->lock);
	if (many)
		fs_kick_commit(fs);
}

void space_unreserve(struct fs *fs, struct space_reservation *res)
{
	if (!res->data_bytes && !res->pending.touches && !res->pending.bytes)
		return;
	lock_take(&fs->space->lock);
	give_data_back_locked(fs->space, res);
	pending_sub(&fs->space->in_flight, &res->pending);
	check_locked(fs->space);
	lock_drop(&fs->space->lock);
}

void space_replayed(struct fs *fs, struct space_promise *promise, uint64_t data_bytes,
		    struct space_pending pending)
{
	struct space_info *si = fs->space;

	lock_take(&si->lock);
	si->kind[SPACE_DATA].allocated += data_bytes;
	promise_change_locked(si, promise, promise->promised, promise->allocated + data_bytes);
	si->running.touches += pending.touches;
	si->running.bytes += pending.bytes;
	check_locked(si);
	lock_drop(&si->lock);
}

bool space_has_running(struct fs *fs)
{
	bool has;

	lock_take(&fs->space->lock);
	has = fs->space->running.touches > 0;
	lock_drop(&fs->space->lock);
	return has;
}

void space_freeze(struct fs *fs)
{
	struct space_info *si = fs->space;

	lock_take(&si->lock);
	si->committing.touches += si->running.touches;
	si->committing.bytes += si->running.bytes;
	memset(&si->running, 0, sizeof(si->running));
	if (si->beside == SPACE_COMMIT_BESIDE_SOON)
		si->beside = SPACE_COMMIT_BESIDE;
	lock_drop(&si->lock);
}

#define SYSTEM_BESIDE_BYTES (4u << 20) /* most bytes of system groups for commits beside readers */

/*
 * The group tree may be written anew by this commit and, with all the groups there may come to be, by the
 * next.
 */
static bool system_has_room_locked(struct fs *fs)
{
	const struct space_counts *s = &fs->space->kind[SPACE_SYSTEM];
	uint64_t most = min_u64(SYSTEM_BESIDE_BYTES, fs->dev->size / 256);
	struct space_pending none = {0, 0};

	while (s->allocated + (fs->group_tree->nodes + atomic_load(&fs->groups->live) / 64 + 4) * NODE_SIZE +
		       s->total / 3 >
	       s->total) {
		uint64_t unallocated = space_unallocated(fs, 2), bytes = s->total;

		if (fs->backing->on || 2 * bytes > most || 2 * bytes > unallocated ||
		    !space_metadata_fits(fs, none, unallocated - 2 * bytes, 0, 0) ||
		    block_group_create_system_locked(fs, bytes))
			return false;
	}
	return true;
}

bool space_commit_beside_pins(struct fs *fs)
{
	struct space_info *si = fs->space;
	struct space_pending none = {0, 0};
	bool may;

	lock_take(&si->lock);
	si->beside = SPACE_COMMIT_BESIDE_SOON;
	may = system_has_room_locked(fs) && space_metadata_fits(fs, none, space_unallocated(fs, 2), 0, 0);
	if (!may)
		si->beside = SPACE_COMMIT_ALONE;
	lock_drop(&si->lock);
	return may;
}

void space_commit_ended(struct fs *fs)
{
	lock_take(&fs->space->lock);
	fs->space->beside = SPACE_COMMIT_ALONE;
	lock_drop(&fs->space->lock);
}

void space_count_release(struct fs *fs)
{
	lock_take(&fs->space->lock);
	fs->space->change_commits += fs->space->unreleased;
	fs->space->unreleased = false;
	lock_drop(&fs->space->lock);
}

void space_commit_done(struct fs *fs, const struct tree_sums *change)
{
	struct space_info *si = fs->space;

	lock_take(&si->lock);
	si->unreleased |= si->committing.touches > 0;
	memset(&si->committing, 0, sizeof(si->committing));
	si->tree_nodes += (uint64_t)change->nodes;
	si->tree_leaves += (uint64_t)change->leaves;
	si->tree_items += (uint64_t)change->items;
	si->tree_unsure += (uint64_t)change->unsure;
	lock_drop(&si->lock);
}

/* ---- groups ---------------------------------------------------------------- */

#define CHANGE(fs, type, body)                                              \
	do {                                                                \
		struct space_counts *c = &(fs)->space->kind[kind_of(type)]; \
		lock_take(&(fs)->space->lock);                              \
		body;                                                       \
		check_locked((fs)->space);                                  \
		lock_drop(&(fs)->space->lock);                              \
	} while (0)

void space_group_added(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, c->total += bytes);
}
void space_allocated_node(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, c->allocated += bytes);
}
void space_deallocated_node(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, c->allocated -= bytes);
}
void space_loaded_group(struct fs *fs, uint8_t type, uint64_t total, uint64_t used)
{
	CHANGE(fs, type, (c->total += total, c->allocated += used));
}

bool space_try_remove(struct fs *fs, uint8_t type, uint64_t bytes)
{
	struct space_counts *c = &fs->space->kind[kind_of(type)];
	uint64_t used, total;
	bool may;

	lock_take(&fs->space->lock);
	used = c->allocated + c->may_use + c->unavailable;
	if (type == GROUP_DATA) /* what is promised keeps its place */
		used += fs->space->volume_reserved + fs->space->freeing_reserve;
	total = c->total + (type == GROUP_DATA ? fs->space->aside : 0);
	may = c->total >= bytes && total >= used && total - used >= 2 * bytes;
	if (type == GROUP_METADATA && fs->backing->on) /* nothing comes in its place by itself */
		may = may && backing_can_spare_locked(fs, bytes);
	/* groups are made for a promise, with commits in between, and it counts only at the end */
	if (fs->backing->on && fs->backing->promising)
		may = false;
	if (may)
		c->total -= bytes;
	lock_drop(&fs->space->lock);
	return may;
}

void space_pinned(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, c->pinned += bytes);
}
void space_released(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, (c->pinned -= bytes, c->allocated -= bytes));
}
void space_lost(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, (c->allocated -= bytes, c->unavailable += bytes));
}
void space_found_leaked(struct fs *fs, uint8_t type, uint64_t bytes)
{
	CHANGE(fs, type, c->allocated -= bytes);
}
void space_unavailable(struct fs *fs, uint8_t type, int64_t bytes)
{
	CHANGE(fs, type, c->unavailable += (uint64_t)bytes);
}

/* ---- promises -------------------------------------------------------------- */

uint64_t space_promise_for(uint64_t size)
{
	return size + min_u64(size, PROMISE_SLACK_BYTES);
}

/*
 * Room for `bytes` more that nobody else has, with their metadata. What data groups do not have is set aside
 * of unallocated space: no group is made now, so that a promise takes neither time nor memory by its size. 0,
 * or what is lacking.
 */
static uint64_t lacking_locked(struct fs *fs, uint64_t bytes)
{
	struct space_info *si = fs->space;
	const struct space_counts *d = &si->kind[SPACE_DATA];
	struct space_pending none = {0, 0};
	uint64_t need = d->allocated + d->may_use + d->unavailable + si->volume_reserved + bytes +
			si->freeing_reserve;
	uint64_t growth = space_promise_growth(si, bytes) - space_promise_growth(si, 0);
	uint64_t more, can;

	/* groups were made, with the host's blocks, if there was room: backing_promise */
	if (fs->backing->on && !space_data_fits(si, bytes, 0))
		return need - d->total;
	while (!space_data_fits(si, 0, 0)) /* the freeing reserve, which stands in groups */
		if (!grow_data_locked(fs, none, growth))
			return need - d->total - si->aside;
	more = need > d->total + si->aside ? need - d->total - si->aside : 0;
	if (more == 0)
		return space_metadata_fits(fs, none, space_unallocated(fs, 2), 0, growth) ? 0 : growth;
	can = space_can_set_aside_locked(fs, growth);
	if (more > can)
		return more - can;
	si->aside += more;
	grow_system_for_aside_locked(fs);
	return 0;
}

/* What was promised before the pool was opened, whether or not there is room. */
static void set_aside_by_force_locked(struct fs *fs)
{
	struct space_info *si = fs->space;
	const struct space_counts *d = &si->kind[SPACE_DATA];
	uint64_t need =
		d->allocated + d->may_use + d->unavailable + si->volume_reserved + si->freeing_reserve;

	if (need > d->total + si->aside && !fs->backing->on)
		si->aside = min_u64(need - d->total, si->volume_reserved);
	if (si->aside && !fs_is_read_only(fs))
		grow_system_for_aside_locked(fs);
}

int space_set_promise(struct fs *fs, struct space_promise *p, uint64_t promised, bool force,
		      uint64_t *ret_missing)
{
	struct space_info *si = fs->space;
	uint64_t lacking = 0;

	lock_take(&si->lock);
	if (!force && promised > p->promised)
		lacking =
			lacking_locked(fs, promised - max_u64(p->promised, min_u64(p->allocated, promised)));
	if (lacking == 0)
		promise_change_locked(si, p, promised, p->allocated);
	else
		*ret_missing = lacking;
	lock_drop(&si->lock);
	return lacking ? -ENOSPC : 0;
}

void space_promises_opened(struct fs *fs)
{
	lock_take(&fs->space->lock);
	set_aside_by_force_locked(fs);
	lock_drop(&fs->space->lock);
}

void space_promise_allocated(struct fs *fs, struct space_promise *p, int64_t bytes)
{
	lock_take(&fs->space->lock);
	ASSERT(bytes >= 0 || p->allocated >= (uint64_t)-bytes);
	promise_change_locked(fs->space, p, p->promised, p->allocated + (uint64_t)bytes);
	lock_drop(&fs->space->lock);
}

void space_used_bytes(struct fs *fs, uint64_t *ret_data, uint64_t *ret_metadata)
{
	struct space_info *si = fs->space;

	lock_take(&si->lock);
	*ret_data = si->kind[SPACE_DATA].allocated - si->kind[SPACE_DATA].pinned;
	*ret_metadata = si->kind[SPACE_METADATA].allocated - si->kind[SPACE_METADATA].pinned +
			si->kind[SPACE_SYSTEM].allocated - si->kind[SPACE_SYSTEM].pinned;
	lock_drop(&si->lock);
}
