/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_commit.c: what a commit does to block groups: references, caches, items, removal.
 * Committer only.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/write_batch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/device/device_space.h"
#include "fs/format/block_group_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/delayed_ref.h"
#include "fs/space/free_space.h"
#include "fs/space/free_space_cache.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"

/* btrfs's disk cache states, and the moves between them. */
static void set_cache_state(struct block_group *g, enum group_cache_state to)
{
	static const uint8_t allowed[] = {
		[FREE_SPACE_CACHE_CLEAR] = 1 << FREE_SPACE_CACHE_SETUP | 1 << FREE_SPACE_CACHE_CLEAR,
		[FREE_SPACE_CACHE_SETUP] = 1 << FREE_SPACE_CACHE_NEED_WRITE | 1 << FREE_SPACE_CACHE_ERROR |
					   1 << FREE_SPACE_CACHE_CLEAR,
		[FREE_SPACE_CACHE_NEED_WRITE] = 1 << FREE_SPACE_CACHE_WRITTEN | 1 << FREE_SPACE_CACHE_ERROR,
		[FREE_SPACE_CACHE_WRITTEN] = 1 << FREE_SPACE_CACHE_CLEAR,
		[FREE_SPACE_CACHE_ERROR] = 1 << FREE_SPACE_CACHE_CLEAR,
	};

	ASSERT(allowed[g->cache_state] & 1 << to);
	g->cache_state = to;
}

void block_group_set_dirty(struct fs *fs, struct block_group *g)
{
	if (g->dirty || g->type == GROUP_SYSTEM)
		return;
	g->dirty = true;
	g->dirty_next = fs->groups->dirty;
	fs->groups->dirty = g;
}

/* ---- references ------------------------------------------------------------ */

/*
 * Of a group that is being rebuilt `lost` has what was freed since that began: in a pool whose trees refer to
 * a block twice, again.
 */
static bool is_lost(struct block_group *g, uint32_t start, uint32_t n)
{
	bool is = false;

	lock_take(&g->lock);
	for (uint32_t i = start; g->lost && i < start + n; i++)
		is |= g->lost[i / 64] >> (i % 64) & 1;
	lock_drop(&g->lock);
	return is;
}

static int run_ref(struct fs *fs, const struct delayed_ref *ref, uint64_t generation)
{
	struct block_group *g = block_group_find(fs, ref->addr);
	uint64_t len = (uint64_t)ref->len * FS_BLOCK_SIZE;
	uint32_t start, n;

	if (!g || !block_group_holds(g, ref->addr, len))
		return -EUCLEAN;
	if (g->type == GROUP_SYSTEM) { /* what the group tree uses is found by walking it */
		if (ref->delta < 0)
			block_group_pin(fs, ref->addr, len, generation);
		return 0;
	}
	start = block_group_index(g, ref->addr);
	n = (uint32_t)(len / g->unit);
	if (ref->delta > 0 && (g->state != GROUP_LOADED || !free_space_take(g->committed, start, n)))
		return -EUCLEAN;
	if (ref->delta < 0) {
		if (g->used < len || (g->state == GROUP_LOADED && !free_space_give(g->committed, start, n)) ||
		    (g->state == GROUP_REBUILDING && is_lost(g, start, n)))
			return -EUCLEAN;
		block_group_pin(fs, ref->addr, len, generation);
	}
	g->used = ref->delta > 0 ? g->used + len : g->used - len;
	block_group_set_dirty(fs, g);
	return 0;
}

/*
 * The groups in whose space refs fall, many at a time. They come by address, so one is found again right
 * away.
 */
static void load_ahead(struct fs *fs, struct device_queue *q, const struct delayed_refs *refs)
{
	struct block_group *group[GROUP_LOAD_AHEAD], *last = NULL;
	unsigned n = 0;

	for (size_t i = 0; i < refs->count; i++) {
		struct block_group *g = block_group_find(fs, refs->ref[i].addr);

		if (!g || g == last || g->state != GROUP_UNLOADED)
			continue;
		last = group[n++] = g;
		if (n == GROUP_LOAD_AHEAD) {
			block_group_load_ahead(fs, q, group, n);
			n = 0;
		}
	}
	if (n > 1)
		block_group_load_ahead(fs, q, group, n);
}

int block_group_run_refs(struct fs *fs, struct device_queue *q, const struct delayed_refs *refs,
			 uint64_t generation)
{
	load_ahead(fs, q, refs);
	/* First everything that may fail for lack of memory; after that nothing may fail. */
	for (size_t i = 0; i < refs->count; i++) {
		struct block_group *g = block_group_find(fs, refs->ref[i].addr);
		int r = g && g->state == GROUP_UNLOADED ? block_group_load(fs, q, g) : 0;

		if (r)
			return r;
	}
	for (size_t i = 0; i < refs->count; i++) {
		const struct delayed_ref *ref = &refs->ref[i];
		int r = run_ref(fs, ref, generation);

		if (r) {
			fs_log(fs, FS_LOG_ERROR, "space at %llu (%u blocks) is %s",
			       (unsigned long long)ref->addr, ref->len,
			       ref->delta > 0 ? "given out twice" : "freed twice");
			return r;
		}
	}
	return 0;
}

/* ---- caches ---------------------------------------------------------------- */

#define EMPTY_TRIES 64u /* empty groups that a commit looks at without one of them leaving */

/* Whether an empty group can leave: nobody has anything of it, and enough others have room. */
static bool try_remove(struct fs *fs, struct block_group *g)
{
	bool empty;

	if (g->used || !g->in_tree || g->type == GROUP_SYSTEM || !space_try_remove(fs, g->type, g->len))
		return false;
	lock_take(&fs->groups->lock); /* nothing is taken from it meanwhile */
	lock_take(&g->lock);
	if (g->state == GROUP_LOADED)
		backing_return_spares(fs, g);
	empty = (g->state == GROUP_LOADED && free_space_count(g->avail) == g->nblocks &&
		 !g->pinned_blocks[0] && !g->pinned_blocks[1]) ||
		g->state == GROUP_UNLOADED;
	if (empty) {
		g->state = GROUP_REMOVING;
		block_group_reorder_locked(fs, g);
	}
	lock_drop(&g->lock);
	lock_drop(&fs->groups->lock);
	if (!empty)
		space_group_added(fs, g->type, g->len);
	return empty;
}

void block_group_note_empty(struct fs *fs, struct block_group *g)
{
	if (g->in_empty == (g->used == 0))
		return;
	g->in_empty = g->used == 0;
	if (g->type == GROUP_DATA)
		atomic_fetch_add(&fs->groups->empty_data_bytes, g->in_empty ? g->len : -g->len);
	if (g->in_empty) {
		TAILQ_INSERT_TAIL(&fs->groups->empty, g, empty_link);
		fs->groups->nr_empty++;
	} else {
		TAILQ_REMOVE(&fs->groups->empty, g, empty_link);
		fs->groups->nr_empty--;
	}
}

static int start_cache(struct fs *fs, struct write_batch *wb, struct block_group *g, uint64_t generation)
{
	struct free_space_cache_ident ident = {.group_start = g->start,
					       .group_len = (uint64_t)g->nblocks * FS_BLOCK_SIZE,
					       .generation = generation};
	uint8_t slot = g->cache_slot == 0 && !FAULT(FAULT_CACHE_SLOT) ? 1 : 0;
	int r;

	set_cache_state(g, FREE_SPACE_CACHE_SETUP);
	/* Its free space is not known; or all of it is free. */
	if (g->used == 0 || g->state != GROUP_LOADED) {
		set_cache_state(g, FREE_SPACE_CACHE_ERROR);
		return 0;
	}
	g->cache_buf = mem_alloc_aligned(DEVICE_ALIGN, g->slot_bytes);
	if (!g->cache_buf) { /* the commit goes on without */
		set_cache_state(g, FREE_SPACE_CACHE_ERROR);
		return 0;
	}
	memcpy(ident.pool_uuid, fs->uuid, sizeof(ident.pool_uuid));
	r = free_space_cache_encode(FAULT(FAULT_CACHE_OF_NOW) ? g->avail : g->committed, &ident, g->cache_buf,
				    g->slot_bytes, &g->cache_bytes, &g->cache_crc);
	if (r)
		return r;
	set_cache_state(g, FREE_SPACE_CACHE_NEED_WRITE);
	g->cache_error = 0;
	g->cache_slot = slot;
	g->cache_generation = generation;
	for (unsigned i = 0; r == 0 && i < g->nr_stripes; i++)
		r = write_batch_buffer(wb, g->cache_buf, round_up_u64(g->cache_bytes, DEVICE_ALIGN),
				       g->stripe[i] + g->len + (uint64_t)slot * g->slot_bytes,
				       &g->cache_error);
	if (r)
		g->cache_error = r;
	return 0;
}

/* Groups that were made since the last commit are dirty too; and so are empty ones that can leave. */
static void find_other_groups(struct fs *fs)
{
	struct group_table *t = fs->groups;
	struct block_group *g, *next;
	uint64_t left = t->nr_empty;
	unsigned failed = 0;

	lock_take(&t->lock);
	TAILQ_FOREACH (g, &t->fresh, fresh_link)
		block_group_set_dirty(fs, g);
	lock_drop(&t->lock);
	for (g = TAILQ_FIRST(&t->empty); g && left > 0 && failed < EMPTY_TRIES; g = next, left--) {
		next = TAILQ_NEXT(g, empty_link);
		if (g->dirty)
			continue;
		if (try_remove(fs, g)) {
			block_group_set_dirty(fs, g);
			continue;
		}
		failed++; /* the next commit begins with others */
		TAILQ_REMOVE(&t->empty, g, empty_link);
		TAILQ_INSERT_TAIL(&t->empty, g, empty_link);
	}
}

#define CACHES_AT_ONCE 64u /* whose buffers are in memory */

/* Waits for the writes of the caches from `first` up to `end`, whose buffers are then given back. */
static int end_writes(struct write_batch *wb, struct block_group *first, const struct block_group *end)
{
	int r = write_batch_wait(wb);

	for (struct block_group *g = first; g != end; g = g->dirty_next) {
		mem_free(g->cache_buf);
		g->cache_buf = NULL;
	}
	return r;
}

int block_group_write_caches(struct fs *fs, struct write_batch *wb, uint64_t generation)
{
	struct block_group *first;
	unsigned n = 0;
	int r = 0;

	find_other_groups(fs);
	first = fs->groups->dirty;
	for (struct block_group *g = first; r == 0 && g; g = g->dirty_next) {
		if (n == CACHES_AT_ONCE) {
			r = end_writes(wb, first, g);
			first = g;
			n = 0;
		}
		if (r == 0 && g->state != GROUP_REMOVING && !try_remove(fs, g))
			r = start_cache(fs, wb, g, generation);
		n++;
	}
	return r;
}

/* The cache is on the device, or it is as if there were none. May be called again, when memory was out. */
void block_group_end_cache(struct fs *fs, struct block_group *g)
{
	if (g->cache_state == FREE_SPACE_CACHE_WRITTEN)
		return;
	if (g->cache_state == FREE_SPACE_CACHE_NEED_WRITE && g->cache_error == 0) {
		set_cache_state(g, FREE_SPACE_CACHE_WRITTEN);
		atomic_fetch_add(&fs->stats.cache_written, 1);
		return;
	}
	if (g->cache_state == FREE_SPACE_CACHE_NEED_WRITE) {
		fs_log(fs, FS_LOG_WARNING,
		       "block group %llu: free-space cache could not be written (%s): the next start rebuilds it",
		       (unsigned long long)g->start, strerror(-g->cache_error));
		set_cache_state(g, FREE_SPACE_CACHE_ERROR);
	}
	g->cache_slot = CACHE_SLOT_NONE;
	g->cache_bytes = 0;
}

/* ---- afterwards ------------------------------------------------------------ */

/* Readers of older trees may still find it: it is freed when they are gone. */
static void remove_group(struct fs *fs, struct block_group *g, unsigned set)
{
	struct group_table *t = fs->groups;
	uint32_t index = (uint32_t)(g->start / fs->group_step);

	for (unsigned i = 0; i < g->nr_stripes; i++)
		if (group_space_add(fs, g->stripe[i], g->len + 2ull * g->slot_bytes))
			fs_log(fs, FS_LOG_WARNING,
			       "out of memory: %llu bytes stay unused until the next start",
			       (unsigned long long)g->len);
		else
			backing_space_freed(fs, g->stripe[i], g->len + 2ull * g->slot_bytes);
	if (g->in_empty) {
		if (g->type == GROUP_DATA)
			atomic_fetch_sub(&t->empty_data_bytes, g->len);
		TAILQ_REMOVE(&t->empty, g, empty_link);
		t->nr_empty--;
		g->in_empty = false;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(t->node_cursor); i++)
		if (t->node_cursor[i] == g)
			t->node_cursor[i] = NULL;
	lock_take(&g->lock);
	backing_forget_freed_locked(fs, g, true);
	lock_drop(&g->lock);
	lock_take(&t->lock);
	atomic_store(&t->at_step[index], NULL);
	(void)device_space_add(&t->free_index, index, 1); /* it brought the memory for this */
	lock_drop(&t->lock);
	atomic_fetch_sub(&t->live, 1);
	atomic_fetch_sub(&t->number[block_group_kind(g->type)], 1);
	if (g->type == GROUP_METADATA && !g->avail)
		atomic_fetch_sub(&t->metadata_unknown, 1);
	if (g->type == GROUP_DATA && g->avail)
		atomic_fetch_sub(&t->loaded_bytes, block_group_loaded_bytes(g));
	lock_take(&fs->space->lock);
	fs->space->reclaim_groups++;
	lock_drop(&fs->space->lock);
	TAILQ_INSERT_TAIL(&t->removed[set], g, fresh_link);
}

void block_group_free_removed(struct fs *fs, unsigned set)
{
	struct group_list *removed = &fs->groups->removed[set];
	struct block_group *g;

	while ((g = TAILQ_FIRST(removed))) {
		TAILQ_REMOVE(removed, g, fresh_link);
		group_free(g);
	}
}

/* A commit knows it now. */
static void set_in_tree(struct fs *fs, struct block_group *g)
{
	if (g->in_tree)
		return;
	lock_take(&fs->groups->lock);
	TAILQ_REMOVE(&fs->groups->fresh, g, fresh_link);
	g->in_tree = true;
	lock_drop(&fs->groups->lock);
}

void block_group_commit_done(struct fs *fs, uint64_t generation)
{
	unsigned set = pins_set(fs->pins, generation);
	struct block_group *next;
	bool left = false;

	for (struct block_group *g = fs->groups->dirty; g; g = next) {
		next = g->dirty_next;
		g->dirty = false;
		g->dirty_next = NULL;
		if (g->state == GROUP_REMOVING) {
			remove_group(fs, g, set);
			left = true;
			continue;
		}
		set_in_tree(fs, g);
		backing_group_durable(fs, g);
		block_group_note_empty(fs, g);
		set_cache_state(g, FREE_SPACE_CACHE_CLEAR);
		mem_free(g->cache_buf);
		g->cache_buf = NULL;
	}
	fs->groups->dirty = NULL;
	backing_note_empty(fs, left);
}
