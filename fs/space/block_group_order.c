/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_order.c: which group to take from: groups in lists by the power of two of their free
 * units, so that one with the most room is found without looking at the others; and which to unload: loaded
 * data groups by last use.
 *
 * A group moves only when it crosses a power of two, or is used for the first time in a generation. So the
 * lock of the lists is taken rarely.
 */
#include "base/lock.h"
#include "base/mem.h"
#include "fs/core/fs_int.h"
#include "fs/format/block_group_format.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"

static uint8_t bucket_of(uint32_t units)
{
	return units ? (uint8_t)(32 - __builtin_clz(units)) : 0;
}

static uint32_t free_units_locked(const struct block_group *g)
{
	if (g->uncounted)
		return 0;
	if (g->state == GROUP_LOADED)
		return free_space_count(g->avail);
	return g->state == GROUP_UNLOADED ? (uint32_t)((g->len - g->used) / g->unit) : 0;
}

static uint8_t order_of(const struct block_group *g)
{
	enum group_order order = g->state == GROUP_LOADED ? ORDER_LOADED
				 : g->used		  ? ORDER_UNLOADED
							  : ORDER_EMPTY;

	return (uint8_t)(order * GROUP_TYPES + block_group_kind(g->type));
}

static void leave_bucket(struct group_table *t, struct block_group *g)
{
	struct group_list *list = &t->by_free[g->order][g->bucket];

	if (!g->bucket)
		return;
	TAILQ_REMOVE(list, g, order_link);
	if (TAILQ_EMPTY(list))
		t->bucket_used[g->order] &= ~(1u << g->bucket);
	g->bucket = 0;
}

static void enter_bucket(struct group_table *t, struct block_group *g, uint8_t order, uint8_t bucket)
{
	g->order = order;
	g->bucket = bucket;
	if (!bucket)
		return;
	TAILQ_INSERT_TAIL(&t->by_free[order][bucket], g, order_link);
	t->bucket_used[order] |= 1u << bucket;
}

static void set_last_use(struct group_table *t, struct block_group *g)
{
	bool loaded = g->type == GROUP_DATA && g->state == GROUP_LOADED;

	if (g->in_loaded)
		TAILQ_REMOVE(&t->loaded, g, loaded_link);
	if (loaded)
		TAILQ_INSERT_TAIL(&t->loaded, g, loaded_link);
	t->nr_loaded += (uint32_t)loaded - (uint32_t)g->in_loaded;
	g->in_loaded = loaded;
}

static void reorder_locked(struct fs *fs, struct block_group *g, bool last)
{
	uint8_t order = order_of(g), bucket = bucket_of(free_units_locked(g));
	uint64_t now = atomic_load(&fs->running_generation);
	bool moves = order != g->order || bucket != g->bucket || last,
	     used = now != g->touched || order != g->order;

	lock_assert_held(&g->lock);
	if (!moves && !used)
		return;
	g->touched = now;
	lock_take(&fs->groups->order_lock);
	if (moves) {
		leave_bucket(fs->groups, g);
		enter_bucket(fs->groups, g, order, bucket);
	}
	if (used)
		set_last_use(fs->groups, g);
	lock_drop(&fs->groups->order_lock);
}

void block_group_reorder_locked(struct fs *fs, struct block_group *g)
{
	reorder_locked(fs, g, false);
}
void block_group_reorder_last_locked(struct fs *fs, struct block_group *g)
{
	reorder_locked(fs, g, true);
}

struct block_group *block_group_most_free(struct fs *fs, uint8_t type, enum group_order order,
					  unsigned *ret_bucket)
{
	struct group_table *t = fs->groups;
	unsigned list = order * GROUP_TYPES + block_group_kind(type);
	struct block_group *g = NULL;

	lock_take(&t->order_lock);
	if (t->bucket_used[list]) {
		*ret_bucket = 31 - (unsigned)__builtin_clz(t->bucket_used[list]);
		g = TAILQ_FIRST(&t->by_free[list][*ret_bucket]);
	}
	lock_drop(&t->order_lock);
	return g;
}

/* ---- unloading -------------------------------------------------------------- */

uint64_t block_group_loaded_bytes(const struct block_group *g)
{
	return 2 * (free_space_memory(g->avail) + block_group_bitmap_bytes(g));
}

/* Whether its cache says all that its bitmaps say. */
static bool is_idle_locked(const struct block_group *g)
{
	return g->state == GROUP_LOADED && g->in_tree && !g->dirty && !g->pinned_blocks[0] &&
	       !g->pinned_blocks[1] && free_space_count(g->avail) == free_space_count(g->committed) &&
	       (g->used == 0 || g->cache_slot != CACHE_SLOT_NONE);
}

static void unload(struct fs *fs, struct block_group *g)
{
	struct free_space *avail = NULL, *committed = NULL;
	uint64_t *pinned[2] = {NULL, NULL};

	lock_take(&g->lock);
	if (is_idle_locked(g)) {
		atomic_fetch_sub(&fs->groups->loaded_bytes, block_group_loaded_bytes(g));
		avail = g->avail;
		committed = g->committed;
		for (unsigned i = 0; i < 2; i++) {
			pinned[i] = g->pinned[i];
			g->pinned[i] = NULL;
		}
		g->avail = g->committed = NULL;
		backing_forget_freed_locked(fs, g, false);
		g->state = GROUP_UNLOADED;
		block_group_reorder_locked(fs, g);
	}
	lock_drop(&g->lock);
	free_space_free(avail);
	free_space_free(committed);
	mem_free(pinned[0]);
	mem_free(pinned[1]);
}

/*
 * The least recently used one, which then counts as most recently used: if it cannot be unloaded, it is in
 * use.
 */
static struct block_group *next_victim(struct group_table *t)
{
	struct block_group *g;

	lock_take(&t->order_lock);
	g = TAILQ_FIRST(&t->loaded);
	if (g) {
		TAILQ_REMOVE(&t->loaded, g, loaded_link);
		TAILQ_INSERT_TAIL(&t->loaded, g, loaded_link);
	}
	lock_drop(&t->order_lock);
	return g;
}

void block_group_unload(struct fs *fs)
{
	struct group_table *t = fs->groups;
	uint32_t tries;

	lock_take(&t->order_lock);
	tries = t->nr_loaded;
	lock_drop(&t->order_lock);
	for (; tries > 0 && atomic_load(&t->loaded_bytes) > t->loaded_max; tries--) {
		struct block_group *g = next_victim(t); /* only the committer removes groups */

		if (!g)
			break;
		unload(fs, g);
	}
}
