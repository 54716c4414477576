/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/space_bound.c: what commits can need at the worst, and what therefore fits. Only computes: nothing
 * is changed here. docs/proof.md rests on these bounds.
 */
#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/space/space_info_int.h"

/* in the root tree */
#define CUT_ITEM_BYTES (sizeof(struct node_slot) + ITEM_KEY_LEN + sizeof(struct orphan_item))
#define EXTENT_ITEM_BYTES (sizeof(struct node_slot) + 9 + sizeof(struct extent_item))

/*
 * The most bytes of nodes that the commits of these changes write: each touched leaf and one neighbour that
 * it may be merged with are written anew; each may split, once for each touch and for what the new items
 * fill; above them every interior node; a first leaf and a root for each volume that is touched; and the root
 * tree. What the commit under way splits, the next one may have to write once more.
 */
static uint64_t commit_bound(const struct space_info *si, const struct fs *fs, struct space_pending p)
{
	uint64_t leaves = min_u64(si->tree_leaves, 2 * p.touches), volumes = atomic_load(&fs->space->volumes);
	uint64_t fill = 2 * p.bytes / NODE_CAPACITY + 1;
	uint64_t out = leaves + min_u64(p.touches, leaves + fill) + fill + 2 * min_u64(p.touches, volumes);
	uint64_t interior = si->tree_nodes - si->tree_leaves;

	out += min_u64(si->committing.touches, leaves + fill);
	return (out + interior + out / 64 + fs->root_tree_nodes_bound) * NODE_SIZE;
}

/*
 * By how much trims can make the trees grow at the worst: every second block freed, each of the others an
 * item of its own, and every leaf half full (tree.h, invariant 4). A trim never makes this larger.
 */
static uint64_t trim_growth(const struct space_info *si, uint64_t volumes)
{
	uint64_t blocks = (si->kind[SPACE_DATA].allocated - si->kind[SPACE_DATA].pinned) / FS_BLOCK_SIZE;
	uint64_t splits = blocks > si->tree_items ? (blocks - si->tree_items) / 2 : 0;
	uint64_t worst = 2 * ((si->tree_items + splits) * EXTENT_ITEM_BYTES + blocks * sizeof(le32));
	uint64_t sure = si->tree_leaves - si->tree_unsure;
	uint64_t now = sure > volumes ? (sure - volumes) * NODE_SIZE : 0; /* one of each may be less full */

	return worst > now ? worst - now : 0;
}

uint64_t space_growth_slack(const struct space_info *si, uint64_t more_data)
{
	return (si->kind[SPACE_DATA].total + more_data) / 256;
}

struct space_pending space_all_pending(const struct space_info *si)
{
	return (struct space_pending){si->in_flight.touches + si->running.touches + si->committing.touches,
				      si->in_flight.bytes + si->running.bytes + si->committing.bytes};
}

/*
 * Nodes that fit into metadata groups and into what can become such: in two copies, less the cache slots
 * beside them and the pieces that are too small for a pair of stripes. On a sparse pool only what has blocks
 * of the host counts (backing.h).
 */
static uint64_t metadata_capacity(const struct fs *fs, uint64_t unallocated, uint32_t flags)
{
	const struct space_counts *m = &fs->space->kind[SPACE_METADATA];
	uint64_t lost = 2 * group_quantum(fs);

	if (fs->backing->on && !(flags & SPACE_AS_IF_MADE))
		unallocated = 0;
	return m->total - m->unavailable + (unallocated > lost ? (unallocated - lost) / 32 * 15 : 0);
}

uint64_t space_items_for(uint64_t data_bytes)
{
	return data_bytes / FS_BLOCK_SIZE * 2 * (EXTENT_ITEM_BYTES + sizeof(le32));
}

/*
 * Nodes that one request to a reserved volume needs beside its items, however its tree has grown: 2 touches
 * cost 4 leaves and 2 splits, 2 trees their first leaf and root; and the first nodes of the root tree and the
 * group tree.
 */
#define PROMISE_NODES 20u

uint64_t space_promise_growth(const struct space_info *si, uint64_t more_bytes)
{
	uint64_t items = space_items_for(si->volume_reserved + more_bytes);

	/* a 64th: interior nodes */
	return si->promises || more_bytes ? items + items / 64 + PROMISE_NODES * NODE_SIZE : 0;
}

/* Of all that is pending and of `p`, which includes it. See enum space_commit. */
static uint64_t pending_bound(const struct space_info *si, const struct fs *fs, struct space_pending p)
{
	struct space_pending rest = {p.touches - si->committing.touches, p.bytes - si->committing.bytes};

	switch (si->beside) {
	case SPACE_COMMIT_BESIDE_SOON: /* any part of it may be in that commit */
		return 2 * commit_bound(si, fs, p);
	case SPACE_COMMIT_BESIDE: return commit_bound(si, fs, si->committing) + commit_bound(si, fs, rest);
	default: return commit_bound(si, fs, p);
	}
}

uint64_t space_metadata_lacking(const struct fs *fs, struct space_pending extra, uint64_t unallocated,
				uint32_t flags, uint64_t growth)
{
	const struct space_info *si = fs->space;
	struct space_pending p = space_all_pending(si);
	uint64_t need = si->kind[SPACE_METADATA].allocated, have = metadata_capacity(fs, unallocated, flags);

	p.touches += extra.touches;
	p.bytes += extra.bytes;
	need += pending_bound(si, fs, p);
	if (flags & SPACE_SPLITS)
		need += si->global_reserve / 2 + trim_growth(si, atomic_load(&fs->space->volumes));
	else if (!(flags & SPACE_FREEING))
		need += si->global_reserve;
	if (!(flags & (SPACE_FREEING | SPACE_PROMISED)))
		need += trim_growth(si, atomic_load(&fs->space->volumes)) + space_promise_growth(si, 0) +
			growth;
	return need > have ? need - have : 0;
}

bool space_metadata_fits(const struct fs *fs, struct space_pending extra, uint64_t unallocated,
			 uint32_t flags, uint64_t growth)
{
	return space_metadata_lacking(fs, extra, unallocated, flags, growth) == 0;
}

uint64_t space_group_growth(const struct fs *fs, uint64_t bytes)
{
	return space_items_for(bytes) + space_growth_slack(fs->space, bytes);
}

uint64_t space_data_lacking(const struct space_info *si, uint64_t bytes, uint32_t flags)
{
	const struct space_counts *d = &si->kind[SPACE_DATA];
	uint64_t need = d->allocated + d->may_use + d->unavailable + si->volume_reserved + bytes,
		 have = d->total + si->aside;

	need += flags & SPACE_FREEING ? 0 : si->freeing_reserve;
	return need > have ? need - have : 0;
}

bool space_data_fits(const struct space_info *si, uint64_t bytes, uint32_t flags)
{
	return space_data_lacking(si, bytes, flags) == 0;
}

/* Leaves that all trees can have: half-full ones have 190 items, each of a block or more. */
static uint64_t leaves_max(const struct fs *fs)
{
	return device_size(fs->dev) / (512u << 10);
}

bool space_may_cut(const struct fs *fs)
{
	return leaves_max(fs) > fs->orphan_leaves;
}

/*
 * The tree of what is cut out has a node that is not full on each level for each hole, and one more for its
 * end; a level more than the volumes' trees can have, whose leaves are half full, and whose interior nodes
 * have 250 children.
 */
uint64_t space_cut_bytes(const struct fs *fs, uint64_t blocks)
{
	uint64_t leaves = leaves_max(fs), levels = 2;

	if (blocks < CUT_BLOCKS_MIN || !space_may_cut(fs))
		return 0;
	for (uint64_t n = 250; n < leaves; n *= 250)
		levels++;
	return 2 * levels * (NODE_CAPACITY / 2) + CUT_ITEM_BYTES;
}

/* ---- what fits -------------------------------------------------------------- */

uint64_t space_groups_left(const struct fs *fs)
{
	uint64_t max = fs->groups->live_max / 4 * 3, live = atomic_load(&fs->groups->live);

	return max > live ? max - live : 0;
}

static uint64_t slots_of(uint64_t group_bytes)
{
	return 2ull * free_space_cache_slot_bytes((uint32_t)(group_bytes / FS_BLOCK_SIZE));
}

/* The most pieces smaller than a whole group that groups for this much data may be placed in. */
static uint64_t small_pieces(const struct fs *fs, uint64_t data_bytes)
{
	/* of a group, each half of the one before: a range ends in one of each */
	uint64_t quantum = group_quantum(fs), sizes = 1;

	for (uint64_t bytes = fs->group_size; bytes > quantum; bytes /= 2)
		sizes++;
	return min_u64(sizes * (atomic_load(&fs->groups->unallocated_ranges) + 1),
		       data_bytes / (quantum - slots_of(quantum)) + 1);
}

uint64_t space_aside_bytes(const struct fs *fs, uint64_t data_bytes, unsigned losses)
{
	uint64_t slots = slots_of(fs->group_size), groups = data_bytes / (fs->group_size - slots) + 1;
	uint64_t bytes =
		data_bytes + groups * slots + losses * small_pieces(fs, data_bytes) * slots_of(FS_BLOCK_SIZE);

	return data_bytes ? round_up_u64(bytes, group_quantum(fs)) + 2 * group_quantum(fs) : 0;
}

uint64_t space_aside_groups(const struct fs *fs, uint64_t data_bytes)
{
	return data_bytes ? data_bytes / (fs->group_size - slots_of(fs->group_size)) + 1 +
				    small_pieces(fs, data_bytes)
			  : 0;
}

uint64_t space_unallocated(const struct fs *fs, unsigned losses)
{
	uint64_t unallocated = atomic_load(&fs->groups->unallocated_bytes);
	uint64_t aside = space_aside_bytes(fs, fs->space->aside, losses);

	return unallocated > aside ? unallocated - aside : 0;
}

/*
 * Device space for system groups that this many more groups of the usual size need, by the rule of
 * grow_system_locked.
 */
static uint64_t system_for(struct fs *fs, uint64_t more_groups)
{
	uint64_t have = block_group_system_bytes(fs),
		 want = 2 * block_group_system_for(2 * (atomic_load(&fs->groups->live) + more_groups));

	return more_groups > space_groups_left(fs) && want > have ? 2 * (want - have) : 0;
}

static bool can_set_aside(struct fs *fs, uint64_t more, uint64_t growth)
{
	const struct space_info *si = fs->space;
	uint64_t unallocated = atomic_load(&fs->groups->unallocated_bytes),
		 groups = space_aside_groups(fs, si->aside + more);
	uint64_t bytes = space_aside_bytes(fs, si->aside + more, 2) + system_for(fs, groups);
	struct space_pending none = {0, 0};

	return bytes <= unallocated && atomic_load(&fs->groups->live) + groups < GROUP_INDEX_MAX / 4 * 3 &&
	       space_metadata_fits(fs, none, unallocated - bytes, 0,
				   max_u64(growth, space_items_for(more)) + space_growth_slack(si, more));
}

/* By bisection. */
uint64_t space_can_set_aside_locked(struct fs *fs, uint64_t growth)
{
	uint64_t lo = 0, hi = atomic_load(&fs->groups->unallocated_bytes) / FS_BLOCK_SIZE;

	while (lo < hi) {
		uint64_t mid = (lo + hi + 1) / 2;

		if (can_set_aside(fs, mid * FS_BLOCK_SIZE, growth))
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo * FS_BLOCK_SIZE;
}

#define FREE_REQUEST_BLOCKS 66u /* of the requests that the figure of free space counts with */

uint64_t space_groups_for(const struct fs *fs, uint64_t data_bytes)
{
	uint64_t slots = 2ull * free_space_cache_slot_bytes((uint32_t)(fs->group_size / FS_BLOCK_SIZE));
	uint64_t groups = data_bytes / (fs->group_size - slots) + 1;

	return data_bytes ? round_up_u64(data_bytes + groups * slots, group_quantum(fs)) : 0;
}

/*
 * Whether so much data can be written in single blocks, `have` bytes of it to groups that are there; and
 * without any others.
 */
static bool can_write_locked(struct fs *fs, uint64_t bytes, uint64_t have, uint64_t leaving, bool only_made)
{
	uint64_t unallocated = space_unallocated(fs, 2) + leaving;
	uint64_t grow = space_groups_for(fs, bytes > have ? bytes - have : 0),
		 groups = grow / fs->group_size + space_aside_groups(fs, fs->space->aside);
	/* a small pool has no room for many */
	uint64_t requests = max_u64(min_u64(device_size(fs->dev) / (16u << 20), 16), 1);
	/* As grow_data_locked asks it: for whole groups. */
	uint64_t growth =
		space_items_for(max_u64(bytes, grow)) + (grow ? space_growth_slack(fs->space, grow) : 0);
	struct space_pending few = {max_u64(requests, 2),
				    requests * 256 +
					    volume_item_bytes(FREE_REQUEST_BLOCKS, FREE_REQUEST_BLOCKS)};

	if (only_made)
		return grow == 0 && space_metadata_fits(fs, few, 0, 0, growth);
	grow += system_for(fs, groups);
	return grow <= unallocated && atomic_load(&fs->groups->live) + groups < GROUP_INDEX_MAX / 4 * 3 &&
	       space_metadata_fits(fs, few, unallocated - grow, SPACE_AS_IF_MADE, growth);
}

/*
 * Empty data groups that leave with the next commits, but for as much room as stays: then metadata can have
 * of their space what data does not. (On a sparse pool commits go on by themselves until they have left.)
 */
static uint64_t leaving_bytes(const struct fs *fs)
{
	uint64_t empty = atomic_load(&fs->groups->empty_data_bytes), stays = 2 * fs->group_size;

	return fs->backing->on || empty < stays ? 0 : empty - stays;
}

/* Groups of a sparse pool that give no space yet: for whoever waits a moment they are free. */
static uint64_t coming_bytes(const struct fs *fs)
{
	const struct backing *b = fs->backing;

	return atomic_load(&b->making) + 2 * atomic_load(&b->uncounted[0]);
}

static uint64_t free_bytes(struct fs *fs, bool only_made)
{
	struct space_info *si = fs->space;
	const struct space_counts *d = &si->kind[SPACE_DATA];
	uint64_t lo = 0, hi = device_size(fs->dev) / FS_BLOCK_SIZE; /* in blocks */
	uint64_t taken, have, leaving, coming = coming_bytes(fs);

	lock_take(&si->lock);
	taken = d->allocated - d->pinned + d->may_use + d->unavailable - si->discarding +
		si->volume_reserved + si->freeing_reserve;
	have = d->total + si->aside > taken ? d->total + si->aside - taken : 0;
	if (!only_made)
		have += atomic_load(&fs->backing->uncounted[1]);
	leaving = min_u64(leaving_bytes(fs), have);
	while (lo < hi) {
		uint64_t mid = (lo + hi + 1) / 2;

		if (can_write_locked(fs, mid * FS_BLOCK_SIZE, only_made ? have : have - leaving,
				     only_made ? 0 : leaving + coming, only_made))
			lo = mid;
		else
			hi = mid - 1;
	}
	lock_drop(&si->lock);
	return (lo - lo / 512) * FS_BLOCK_SIZE; /* nodes are not filled to the last byte */
}

uint64_t space_free_bytes(struct fs *fs)
{
	return free_bytes(fs, false);
}
uint64_t space_free_bytes_made(struct fs *fs)
{
	return free_bytes(fs, true);
}
