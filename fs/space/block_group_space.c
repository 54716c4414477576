/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_space.c: giving space of groups out, taking it back, and the pins in between.
 *
 * Invariants
 * 1. Giving back, pinning and releasing allocate no memory: what frees space cannot fail (block_group.h,
 *    invariant 2).
 * 2. While data is taken the table's lock is held: no group that gives something goes away.
 */
#include <errno.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/upcall.h"
#include "fs/device/device.h"
#include "fs/device/work.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"

/* ---- data ------------------------------------------------------------------ */

static uint32_t take_from(struct fs *fs, struct block_group *g, uint32_t want, uint32_t *ret_start)
{
	uint32_t n = 0;

	lock_take(&g->lock);
	if (g->state == GROUP_LOADED && free_space_count(g->avail) > 0) {
		n = free_space_alloc(g->avail, g->hint, want, ret_start);
		g->hint = *ret_start + n;
		block_group_reorder_locked(fs, g);
	}
	lock_drop(&g->lock);
	return n;
}

#define RUN_SHORT 16u /* blocks: a group that gives only this much at a time is left for a better one */

static void load_ahead_fn(struct fs_work *work)
{
	struct fs *fs = container_of(work, struct group_table, load_ahead)->fs;

	(void)block_group_load_next(fs, work_queue());
	atomic_store(&fs->groups->loads_ahead, false);
}

/*
 * What is loaded gives little, and groups that would give more have to be read: one is, for later requests.
 */
static void want_load_ahead(struct fs *fs)
{
	if (atomic_exchange(&fs->groups->loads_ahead, true))
		return;
	fs->groups->load_ahead.fn = load_ahead_fn;
	work_pool_add_waiting(fs->work, &fs->groups->load_ahead);
}

/*
 * The cursor's group gave too little: the one to go on with. One of which nothing is used is loaded, without
 * I/O, if it has more room. NULL: there is none; with *ret_unloaded there would be one, but it has to be read
 * first, or there was no memory. The table's lock is held.
 */
static struct block_group *next_data_group(struct fs *fs, bool *ret_unloaded)
{
	unsigned most = 0, most_empty = 0, most_unloaded = 0;
	struct block_group *g = block_group_most_free(fs, GROUP_DATA, ORDER_LOADED, &most);
	struct block_group *empty = block_group_most_free(fs, GROUP_DATA, ORDER_EMPTY, &most_empty);
	struct block_group *unloaded = block_group_most_free(fs, GROUP_DATA, ORDER_UNLOADED, &most_unloaded);

	if (most_empty > most && block_group_load_empty(fs, empty) == 0)
		g = empty;
	else if (most && most_unloaded > most + 1)
		want_load_ahead(fs);
	*ret_unloaded = !g && (empty || unloaded);
	if (g)
		atomic_store(&fs->groups->data_cursor, (uint32_t)(g->start / fs->group_step));
	return g;
}

uint32_t block_group_take_data(struct fs *fs, uint32_t want, uint64_t *ret_addr, bool *ret_unloaded)
{
	uint32_t cursor, start = 0, n = 0;
	struct block_group *g;

	*ret_unloaded = false;
	lock_take(&fs->groups->lock); /* so that no group goes away */
	cursor = atomic_load(&fs->groups->data_cursor);
	g = cursor ? atomic_load(&fs->groups->at_step[cursor]) : NULL;
	if (g && g->type == GROUP_DATA)
		n = take_from(fs, g, want, &start);
	if (n == 0 || (n < RUN_SHORT && n < want)) {
		struct block_group *next = next_data_group(fs, ret_unloaded);

		if (next && n == 0) {
			g = next;
			n = take_from(fs, g, want, &start);
		}
	}
	lock_drop(&fs->groups->lock);
	if (n)
		*ret_addr = g->start + (uint64_t)start * g->unit;
	return n;
}

void block_group_give(struct fs *fs, uint64_t addr, uint64_t len)
{
	struct block_group *g = block_group_find(fs, addr);
	bool ok;

	ASSERT(g);
	lock_take(&g->lock);
	ok = free_space_give(g->avail, block_group_index(g, addr), (uint32_t)(len / g->unit));
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	ASSERT(ok);
}

int block_group_claim(struct fs *fs, struct device_queue *q, uint64_t addr, uint64_t len)
{
	struct block_group *g = block_group_find(fs, addr);
	int r;

	if (!g || g->type != GROUP_DATA || len > g->len - (addr - g->start) || addr % g->unit)
		return -EUCLEAN;
	r = block_group_load(fs, q, g);
	if (r)
		return r;
	if (g->state == GROUP_REBUILDING) {
		/* So that the trees are walked once for many of them. */
		while (atomic_load(&fs->groups->loaded_bytes) < fs->groups->loaded_max &&
		       block_group_load_next(fs, q))
			;
		r = fs->up->rebuild(fs, q);
		if (r)
			return r;
	}
	if (g->state != GROUP_LOADED)
		return -EUCLEAN;
	lock_take(&g->lock);
	if (!free_space_take(g->avail, block_group_index(g, addr), (uint32_t)(len / g->unit)))
		r = -EUCLEAN;
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	return r;
}

/* ---- nodes ----------------------------------------------------------------- */

/*
 * From the group that gave last, up to its end; then from the one with the most room, so that new nodes
 * follow each other on the device and all groups take their turn.
 */
static bool take_node(struct fs *fs, struct block_group *g, uint64_t *ret_addr)
{
	struct block_group **cursor = &fs->groups->node_cursor[g->type == GROUP_SYSTEM];
	uint32_t before = g->hint, start;

	*cursor = NULL;
	if (!take_from(fs, g, 1, &start))
		return false;
	if (start >= before && start + 1 < g->nblocks) {
		*cursor = g;
	} else {
		lock_take(&g->lock);
		block_group_reorder_last_locked(fs, g);
		lock_drop(&g->lock);
	}
	*ret_addr = g->start + (uint64_t)start * g->unit;
	space_allocated_node(fs, g->type, NODE_SIZE);
	return true;
}

/* On a sparse pool: a metadata group that no commit names yet is needed now, whatever a crash makes of it. */
static int use_uncounted(struct fs *fs)
{
	struct block_group *g;

	lock_take(&fs->groups->lock);
	TAILQ_FOREACH (g, &fs->groups->fresh, fresh_link)
		if (g->uncounted && g->type == GROUP_METADATA)
			break;
	lock_drop(&fs->groups->lock);
	if (!g)
		return -ENOSPC;
	backing_group_durable(fs, g);
	return 0;
}

int block_group_alloc_node(struct fs *fs, struct device_queue *q, uint8_t type, uint64_t *ret_addr)
{
	struct block_group *g = fs->groups->node_cursor[type == GROUP_SYSTEM];
	bool made = false;

	for (;;) {
		unsigned bucket;
		int r = 0;

		if (!g)
			g = block_group_most_free(fs, type, ORDER_LOADED, &bucket);
		if (g && take_node(fs, g, ret_addr))
			return 0;
		if (!g) { /* every loaded group is full: load the others, then make one */
			g = block_group_most_free(fs, type, ORDER_UNLOADED, &bucket);
			if (!g)
				g = block_group_most_free(fs, type, ORDER_EMPTY, &bucket);
			if (g) {
				r = block_group_load(fs, q, g);
			} else if (fs->backing->on && type == GROUP_METADATA) {
				r = use_uncounted(fs);
			} else {
				/* System groups are not made on the way. */
				r = made || type == GROUP_SYSTEM ? -ENOSPC : space_grow_metadata(fs);
				made = true;
			}
		}
		if (r)
			return r;
		g = NULL;
	}
}

/* ---- pins ------------------------------------------------------------------ */

static void bitmap_set(uint64_t *map, uint32_t start, uint32_t len)
{
	for (uint32_t i = start; i < start + len;) {
		uint32_t bit = i % 64, n = (uint32_t)min_u64(64 - bit, start + len - i);
		uint64_t mask = n == 64 ? UINT64_MAX : ((1ull << n) - 1) << bit;

		ASSERT((map[i / 64] & mask) == 0);
		map[i / 64] |= mask;
		i += n;
	}
}

/* What is freed makes room in the cache at once; a reader of an older tree reads it from the device. */
static void forget_cached(struct fs *fs, const struct block_group *g, uint64_t addr, uint64_t len)
{
	if (g->type == GROUP_DATA) {
		cache_invalidate_range(fs->cache, addr, len);
		return;
	}
	for (uint64_t off = 0; off < len; off += NODE_SIZE)
		cache_invalidate(fs->cache, CACHE_NODE, addr + off);
}

/* On the list of those that the end of the transaction looks at, until then. */
static void note_pinned_locked(struct group_table *t, struct block_group *g, unsigned which)
{
	struct block_group *first = atomic_load(&t->pinned[which]);

	do
		g->pinned_next[which] = first;
	while (!atomic_compare_exchange_weak(&t->pinned[which], &first, g));
}

void block_group_pin(struct fs *fs, uint64_t addr, uint64_t len, uint64_t generation)
{
	struct block_group *g = block_group_find(fs, addr);
	unsigned set = pins_set(fs->pins, generation);
	uint32_t n;

	ASSERT(g && len <= g->len - (addr - g->start));
	forget_cached(fs, g, addr, len);
	n = (uint32_t)(len / g->unit);
	if (FAULT(FAULT_EARLY_REUSE) && g->state == GROUP_LOADED) {
		block_group_give(fs, addr, len);
		space_pinned(fs, g->type, len);
		space_released(fs, g->type, len);
		return;
	}
	lock_take(&g->lock);
	ASSERT(g->state == GROUP_LOADED || g->state == GROUP_REBUILDING);
	if (g->state == GROUP_LOADED) {
		if (g->pinned_blocks[set] == 0)
			note_pinned_locked(fs->groups, g, set);
		bitmap_set(g->pinned[set], block_group_index(g, addr), n);
		g->pinned_blocks[set] += n;
		if (FAULT(FAULT_DISCARD_EARLY))
			backing_note_freed_locked(fs, g, block_group_index(g, addr), n);
	} else {
		bitmap_set(g->lost, block_group_index(g, addr), n);
	}
	lock_drop(&g->lock);
	if (g->state == GROUP_LOADED)
		space_pinned(fs, g->type, len);
	else
		space_lost(fs, g->type, len);
}

static void release_run(struct fs *fs, struct block_group *g, uint32_t start, uint32_t n)
{
	uint32_t kept = backing_keep_freed(fs, g, g->start + (uint64_t)start * g->unit, n);
	bool given = kept == n || free_space_give(g->avail, start + kept, n - kept);

	ASSERT(given);
	backing_note_freed_locked(fs, g, start + kept, n - kept);
}

static void release_group(struct fs *fs, struct block_group *g, unsigned which)
{
	uint64_t released;

	lock_take(&g->lock);
	released = (uint64_t)g->pinned_blocks[which] * g->unit;
	for (uint32_t w = 0; released && w < (g->nblocks + 63) / 64; w++) {
		uint64_t bits = g->pinned[which][w];

		g->pinned[which][w] = 0;
		while (bits) {
			unsigned from = (unsigned)__builtin_ctzll(bits);
			uint64_t rest = ~(bits >> from);
			unsigned n = rest ? (unsigned)__builtin_ctzll(rest) : 64;

			if (n > 64 - from)
				n = 64 - from;
			release_run(fs, g, w * 64 + from, n);
			bits = from + n == 64 ? 0 : bits & ~((((1ull << n) - 1)) << from);
		}
	}
	g->pinned_blocks[which] = 0;
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	if (released)
		space_released(fs, g->type, released);
}

void block_group_release_pinned(struct fs *fs, unsigned set)
{
	struct block_group *next;

	for (struct block_group *g = atomic_exchange(&fs->groups->pinned[set], NULL); g; g = next) {
		next = g->pinned_next[set];
		release_group(fs, g, set);
	}
}
