/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/space/backing.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/epoch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/device/work.h"
#include "fs/format/backing_format.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/space/backing_int.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/space/space_info_int.h"

#define ROOM_AGAIN_US 2000000u /* writes have succeeded for so long: it is not full any more */
#define GROUPS_A_RUN 256u      /* made before those who wait are looked after */

/* ---- full or not ----------------------------------------------------------- */

void backing_set_full(struct fs *fs)
{
	atomic_store(&fs->backing->failed_us, fs_now_us(fs));
	if (!atomic_exchange(&fs->backing->host_full, true))
		fs_log(fs, FS_LOG_WARNING,
		       "the file system under the pool is full: new data is refused until it has room again; everything else goes on");
}

static void set_not_full(struct fs *fs)
{
	if (atomic_exchange(&fs->backing->host_full, false))
		fs_log(fs, FS_LOG_NOTICE, "the file system under the pool has room again");
}

bool backing_failed_lately(struct fs *fs, uint64_t us)
{
	uint64_t failed = atomic_load(&fs->backing->failed_us);

	return failed && fs_now_us(fs) - failed < us;
}

void backing_write_failed(struct fs *fs)
{
	lock_take(&fs->space->lock);
	fs->space->enospc++;
	lock_drop(&fs->space->lock);
	backing_set_full(fs);
}

void backing_write_succeeded(struct fs *fs)
{
	if (atomic_load(&fs->backing->host_full) && !backing_failed_lately(fs, ROOM_AGAIN_US))
		set_not_full(fs);
}

/* ---- blocks ---------------------------------------------------------------- */

int backing_allocate(struct fs *fs, const struct group_desc *d)
{
	bool whole = d->type != GROUP_DATA || atomic_load(&fs->backing->promised);
	int r = 0;

	if (!fs->backing->on || FAULT(FAULT_BACKING_MISSING))
		return 0;
	for (unsigned i = 0; r == 0 && i < d->nr_stripes; i++)
		r = fs->dev->ops->allocate(fs->dev, d->stripe[i] + (whole ? 0 : d->len),
					   (whole ? d->len : 0) + 2ull * d->slot_bytes, true);
	if (r == -ENOSPC)
		backing_set_full(fs);
	else if (r == 0)
		set_not_full(fs);
	return r;
}

static uint64_t device_bytes(const struct block_group *g)
{
	return g->nr_stripes * (g->len + 2ull * g->slot_bytes);
}

void backing_set_log(struct fs *fs, uint64_t offset, uint64_t size)
{
	atomic_store(&fs->backing->log_offset, offset);
	atomic_store(&fs->backing->log_size, size);
}

static void add_device_bytes(struct block_group *g, void *arg)
{
	*(uint64_t *)arg += device_bytes(g);
}

uint64_t backing_missing(struct fs *fs, const struct device_host *host)
{
	uint64_t wanted = DEVICE_DATA_START + atomic_load(&fs->backing->log_size);

	block_group_each(fs, add_device_bytes, &wanted);
	return wanted > host->used_bytes ? wanted - host->used_bytes : 0;
}

/* Of a group that is there: all of it, or its slots. */
static int allocate_group(struct fs *fs, const struct block_group *g, bool whole)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < g->nr_stripes; i++)
		r = fs->dev->ops->allocate(fs->dev, g->stripe[i] + (whole ? 0 : g->len),
					   (whole ? g->len : 0) + 2ull * g->slot_bytes, false);
	return r;
}

int backing_allocate_groups(struct fs *fs, bool data)
{
	int r = 0;

	for (uint32_t i = 1; r == 0 && i < atomic_load(&fs->groups->count); i++) {
		unsigned epoch = epoch_enter(&fs->epoch); /* one that leaves meanwhile is not freed */
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (g && (g->type == GROUP_DATA) == data)
			r = allocate_group(fs, g, true);
		epoch_leave(&fs->epoch, epoch);
	}
	return r;
}

/* Where the file was made without holes and has some now: a copy. */
static int fill_holes(struct fs *fs)
{
	int r = fs->dev->ops->allocate(fs->dev, 0, fs->dev->size, false);

	if (r)
		fs_log(fs, FS_LOG_WARNING,
		       "the pool's file was preallocated but has holes (is it a copy?), and they cannot be filled (%s): it is treated as sparse",
		       strerror(-r));
	return r;
}

/* ---- opening --------------------------------------------------------------- */

void backing_decide(struct fs *fs)
{
	bool sparse = le64_to_cpu(fs->super->flags) & SUPER_FLAG_SPARSE;

	if (fs_is_read_only(fs) || fs->dev->block_device || fs->opt.as_device)
		return;
	fs->backing->on = sparse || (fs->opt.discard == FS_DISCARD_ON && device_can_discard(fs->dev)) ||
			  (fs->dev->sparse && fill_holes(fs));
}

/*
 * Groups that only the log names get what they are to have: it may have gone with the power cut. The others
 * have had it since before a superblock named them, and looking costs as much as they have fragments: only
 * where there are fewer blocks than there should be, in a copy.
 */
static int find_holes(struct fs *fs)
{
	bool promised = atomic_load(&fs->backing->promised);
	struct block_group *g;
	struct device_host host;
	int r = 0;

	TAILQ_FOREACH (g, &fs->groups->fresh, fresh_link)
		if (r == 0)
			r = allocate_group(fs, g, promised);
	if (r == 0 && promised && fs->dev->ops->host(fs->dev, &host) == 0 && backing_missing(fs, &host))
		r = backing_allocate_groups(fs, true);
	return r;
}

int backing_open(struct fs *fs, struct fs_error *err)
{
	struct backing *b = fs->backing;
	int r;

	backing_discard_open(fs);
	if (!b->on)
		return 0;
	r = fs->dev->ops->allocate(fs->dev, 0, DEVICE_DATA_START, false);
	if (r == 0)
		r = fs->dev->ops->allocate(fs->dev, atomic_load(&fs->backing->log_offset),
					   atomic_load(&fs->backing->log_size), false);
	if (r == 0)
		r = backing_allocate_groups(fs, false);
	if (r)
		return fs_fail(
			err, r,
			"the file system that it is on has no blocks for its metadata: %s: make room there",
			strerror(-r));
	lock_take(&fs->space->lock);
	atomic_store(&b->promised, fs->space->promises != 0);
	lock_drop(&fs->space->lock);
	if (find_holes(fs) == -ENOSPC)
		backing_set_full(fs);
	lock_take(&fs->space->lock);
	b->spares_max = (unsigned)min_u64(fs->space->freeing_reserve / FS_BLOCK_SIZE, SPARES_MAX);
	lock_drop(&fs->space->lock);
	backing_read_spares(fs);
	return 0;
}

/* ---- what to make ---------------------------------------------------------- */

static const struct space_reservation nothing;

/*
 * A data group that would serve the request, as large as the device and the metadata allow; `flags` for
 * space_metadata_fits.
 */
static uint64_t data_group_bytes(struct fs *fs, const struct space_reservation *want, uint32_t flags)
{
	uint64_t quantum = group_quantum(fs), unallocated = atomic_load(&fs->groups->unallocated_bytes);
	uint64_t bytes = min_u64(round_down_u64(unallocated, quantum), fs->group_size);

	if (space_groups_left(fs) == 0)
		return 0;
	while (bytes >= quantum && !space_metadata_fits(fs, want->pending, unallocated - bytes, flags,
							space_group_growth(fs, bytes)))
		bytes = bytes > 16 * quantum ? round_down_u64(bytes / 2 + bytes / 4, quantum)
					     : bytes - quantum;
	return bytes >= quantum ? bytes : 0;
}

/* Near its end a pool makes what is needed and no more: what metadata gets ahead of need, data would lack. */
static bool is_scarce(struct fs *fs)
{
	return atomic_load(&fs->groups->unallocated_bytes) < fs->dev->size / 4;
}

/* Of metadata, so that requests seldom wait for it. */
static uint64_t headroom(struct fs *fs)
{
	return is_scarce(fs) ? 0 : max_u64(16 * NODE_SIZE, fs->space->kind[SPACE_METADATA].total / 8);
}

/* Device space for metadata groups of this many bytes, and some more, so that they are few. */
static struct backing_plan metadata_plan(struct fs *fs, uint64_t lacking)
{
	uint64_t more = is_scarce(fs) ? 0 : lacking / 4 + fs->space->kind[SPACE_METADATA].total / 16;
	uint64_t bytes = 2 * (lacking + more) + (is_scarce(fs) ? 2 : 4) * group_quantum(fs);

	return (struct backing_plan){GROUP_METADATA, min_u64(bytes, fs->group_size)};
}

/*
 * First metadata, then the data that it is for: so data runs out before metadata does, as where both come
 * from unallocated space.
 */
struct backing_plan backing_plan_locked(struct fs *fs, const struct space_reservation *want, uint32_t flags,
					uint64_t growth, bool ahead)
{
	struct space_info *si = fs->space;
	struct backing *b = fs->backing;
	uint64_t unallocated = atomic_load(&fs->groups->unallocated_bytes), grow = 0, lacking;
	bool may = unallocated > b->no_room_at[0], promised = want->promise && want->promise->promised;
	uint64_t need = ahead ? fs->group_size / 4 : want->data_bytes;
	bool short_of_data = (ahead || (want->data_bytes && !promised)) &&
			     space_data_lacking(si, need, ahead ? 0 : flags) > atomic_load(&b->uncounted[1]);

	if (short_of_data && unallocated > b->no_room_at[1])
		grow = data_group_bytes(fs, want, may ? SPACE_AS_IF_MADE : 0);
	if (short_of_data && !grow && !ahead)
		return (struct backing_plan){0};
	flags |= promised ? SPACE_PROMISED : 0; /* its data is there since it was promised */
	growth += (grow ? space_group_growth(fs, grow) : 0) + (ahead ? headroom(fs) : 0);
	lacking = space_metadata_lacking(fs, want->pending, unallocated, flags, growth);
	if (lacking > atomic_load(&b->uncounted[0]) && may && unallocated >= 4 * group_quantum(fs))
		return metadata_plan(fs, lacking - atomic_load(&b->uncounted[0]));
	return (struct backing_plan){grow && !lacking ? GROUP_DATA : 0, grow};
}

/* ---- making ---------------------------------------------------------------- */

/* On a host with little room, smaller and smaller. */
int backing_make(struct fs *fs, struct backing_plan plan)
{
	uint64_t made, least = 4 * group_quantum(fs);
	int r = block_group_create(fs, plan.type, plan.bytes, &made);

	while (r == -ENOSPC && backing_failed_lately(fs, BACKING_RETRY_US) && plan.bytes / 2 >= least) {
		plan.bytes /= 2;
		r = block_group_create(fs, plan.type, plan.bytes, &made);
	}
	if (r == 0 && plan.type == GROUP_DATA && made)
		space_group_added(fs, GROUP_DATA, made);
	if (r == -ENOSPC && !backing_failed_lately(fs, BACKING_RETRY_US)) {
		lock_take(&fs->space->lock);
		fs->backing->no_room_at[plan.type == GROUP_DATA] =
			atomic_load(&fs->groups->unallocated_bytes);
		lock_drop(&fs->space->lock);
	} else if (r) {
		atomic_store(&fs->backing->failed_us, fs_now_us(fs));
	}
	return r;
}

void backing_grow_system(struct fs *fs, uint64_t groups)
{
	uint64_t want = block_group_system_for(2 * max_u64(groups, atomic_load(&fs->groups->live)));
	uint64_t quantum = group_quantum(fs), have = block_group_system_bytes(fs);
	int r = fs->backing->on ? 0 : -EINVAL;

	while (r == 0 && have < want) {
		uint64_t bytes = round_up_u64(min_u64(max_u64(have, quantum), SYSTEM_GROUP_MAX), quantum);
		bool fits;

		lock_take(&fs->space->lock);
		fits = space_metadata_fits(fs, nothing.pending,
					   atomic_load(&fs->groups->unallocated_bytes) - 2 * bytes,
					   SPACE_AS_IF_MADE, 0);
		lock_drop(&fs->space->lock);
		r = fits && 2 * bytes <= atomic_load(&fs->groups->unallocated_bytes)
			    ? block_group_create_system_backed(fs, bytes)
			    : -ENOSPC;
		have = block_group_system_bytes(fs);
	}
}

static struct backing_plan plan_for_first(struct fs *fs)
{
	struct backing_plan plan = {0};

	lock_take(&fs->space->lock);
	for (unsigned c = 0; c < SPACE_CLASSES && !plan.type; c++) {
		struct space_ticket *t = TAILQ_FIRST(&fs->space->tickets[c]);

		if (t)
			plan = backing_plan_locked(fs, &t->want, t->flags, 0, false);
	}
	if (!plan.type)
		plan = backing_plan_locked(fs, &nothing, 0, 0, true);
	lock_drop(&fs->space->lock);
	return plan;
}

static void work_fn(struct fs_work *work)
{
	struct fs *fs = container_of(work, struct backing, work)->fs;

	for (unsigned i = 0;
	     i < GROUPS_A_RUN && !fs_is_read_only(fs) && !backing_failed_lately(fs, BACKING_RETRY_US); i++) {
		struct backing_plan plan = plan_for_first(fs);

		if (!plan.type)
			break;
		(void)backing_make(fs, plan);
		if (atomic_load(&fs->groups->live) > atomic_load(&fs->groups->live_max) / 2)
			backing_grow_system(fs, 0);
	}
	backing_fill_spares(fs);
	atomic_store(&fs->backing->running, false);
	(void)space_run_tickets(fs, atomic_load(&fs->commits_done), pins_are_left(fs->pins));
	if (backing_has_uncounted(fs))
		fs_kick_commit(fs);
}

static void start(struct fs *fs)
{
	if (atomic_exchange(&fs->backing->running, true))
		return;
	fs->backing->work.fn = work_fn;
	work_pool_add(fs->work, &fs->backing->work); /* those that wait for space may be all that may wait */
}

bool backing_helps_locked(struct fs *fs, const struct space_reservation *want, uint32_t flags)
{
	struct backing *b = fs->backing;

	if (atomic_load(&b->discarding))
		return true;
	if (!b->on)
		return false;
	if (atomic_load(&b->running) || backing_has_uncounted(fs))
		return true;
	if (backing_failed_lately(fs, BACKING_RETRY_US) ||
	    !backing_plan_locked(fs, want, flags, 0, false).type)
		return false;
	start(fs);
	return true;
}

void backing_tick(struct fs *fs)
{
	struct backing *b = fs->backing;
	struct backing_plan plan = {0};

	if (!b->on || fs_is_read_only(fs) || atomic_load(&b->running))
		return;
	if (!backing_failed_lately(fs, BACKING_RETRY_US)) {
		lock_take(&fs->space->lock);
		plan = backing_plan_locked(fs, &nothing, 0, 0, true);
		lock_drop(&fs->space->lock);
	}
	if (plan.type || backing_lacks_spare(fs) ||
	    (b->spares < b->spares_max && !backing_failed_lately(fs, BACKING_RETRY_US)))
		start(fs);
}

bool backing_can_spare_locked(struct fs *fs, uint64_t bytes)
{
	uint64_t growth = bytes + 2 * headroom(fs) + space_group_growth(fs, fs->group_size);

	return space_metadata_fits(fs, nothing.pending, 0, 0, growth);
}

bool backing_has_uncounted(struct fs *fs)
{
	return atomic_load(&fs->backing->uncounted[0]) || atomic_load(&fs->backing->uncounted[1]);
}

bool backing_must_be_durable(struct fs *fs, uint8_t type)
{
	return fs->backing->on &&
	       (type == GROUP_METADATA || (type == GROUP_DATA && atomic_load(&fs->backing->promised)));
}

void backing_group_durable(struct fs *fs, struct block_group *g)
{
	if (!g->uncounted)
		return;
	lock_take(&g->lock);
	g->uncounted = false;
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	space_group_added(fs, g->type, g->len);
	atomic_fetch_sub(&fs->backing->uncounted[g->type == GROUP_DATA], g->len);
}
