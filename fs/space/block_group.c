/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group.c: the table of groups, the device space that none of them has, and making groups.
 * Reading what is free in one: block_group_load.c; giving out and taking back: block_group_space.c; the
 * commit's part: block_group_commit.c.
 */
#include "fs/space/block_group.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/epoch.h"
#include "fs/core/fs_int.h"
#include "fs/core/lock_rank.h"
#include "fs/device/device_space.h"
#include "fs/format/block_group_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/space_info.h"

int group_table_init(struct fs *fs)
{
	struct group_table *t = fs->groups;
	void *map = mmap(NULL, GROUP_INDEX_MAX * sizeof(*t->at_step), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return -ENOMEM;
	t->at_step = map;
	atomic_store(&t->count, 1); /* address 0 is nobody's */
	lock_init(&t->lock, LOCK_GROUP_LIST);
	lock_init(&t->order_lock, LOCK_GROUP_ORDER);
	for (unsigned i = 0; i < GROUP_ORDERS * GROUP_TYPES; i++)
		for (unsigned k = 0; k < GROUP_BUCKETS; k++)
			TAILQ_INIT(&t->by_free[i][k]);
	TAILQ_INIT(&t->loaded);
	TAILQ_INIT(&t->discard);
	TAILQ_INIT(&t->fresh);
	TAILQ_INIT(&t->empty);
	TAILQ_INIT(&t->removed[0]);
	TAILQ_INIT(&t->removed[1]);
	t->loaded_max = UINT64_MAX;
	return device_space_add(&t->free_index, 1, GROUP_INDEX_MAX - 1);
}

void group_free(struct block_group *g)
{
	if (!g)
		return;
	free_space_free(g->avail);
	free_space_free(g->committed);
	mem_free(g->pinned[0]);
	mem_free(g->pinned[1]);
	mem_free(g->lost);
	mem_free(g->freed);
	mem_free(g->cache_buf);
	lock_fini(&g->lock);
	mem_free(g);
}

void group_table_fini(struct fs *fs)
{
	struct group_table *t = fs->groups;

	if (!t->at_step)
		return;
	block_group_free_removed(fs, 0);
	block_group_free_removed(fs, 1);
	for (uint32_t i = 0; i < t->count; i++)
		group_free(t->at_step[i]);
	munmap((void *)t->at_step, GROUP_INDEX_MAX * sizeof(*t->at_step));
	t->at_step = NULL;
	device_space_fini(&t->unallocated);
	device_space_fini(&t->free_index);
	lock_fini(&t->lock);
	lock_fini(&t->order_lock);
}

uint64_t group_size_for(uint64_t pool_bytes)
{
	uint64_t size = GROUP_SIZE_MIN;

	while (size < GROUP_SIZE_MAX && size * 2 <= pool_bytes / 64)
		size *= 2;
	return size;
}

uint64_t group_quantum(const struct fs *fs)
{
	return max_u64(GROUP_QUANTUM_MIN, min_u64(fs->group_size / 16, 1u << 20));
}

/* ---- device space ---------------------------------------------------------- */

static int space_add_locked(struct group_table *t, uint64_t off, uint64_t len)
{
	int r = device_space_add(&t->unallocated, off, len);

	atomic_store(&t->unallocated_bytes, t->unallocated.bytes);
	atomic_store(&t->unallocated_ranges, t->unallocated.ranges);
	return r;
}

static int space_take_locked(struct group_table *t, uint64_t off, uint64_t len)
{
	int r = device_space_take(&t->unallocated, off, len);

	atomic_store(&t->unallocated_bytes, t->unallocated.bytes);
	atomic_store(&t->unallocated_ranges, t->unallocated.ranges);
	return r;
}

int group_space_add(struct fs *fs, uint64_t off, uint64_t len)
{
	int r;

	lock_take(&fs->groups->lock);
	r = space_add_locked(fs->groups, off, len);
	lock_drop(&fs->groups->lock);
	return r;
}

int group_space_take(struct fs *fs, uint64_t off, uint64_t len)
{
	int r;

	lock_take(&fs->groups->lock);
	r = space_take_locked(fs->groups, off, len);
	lock_drop(&fs->groups->lock);
	return r;
}

/* ---- look-up --------------------------------------------------------------- */

struct block_group *block_group_find(struct fs *fs, uint64_t addr)
{
	uint64_t index = addr / fs->group_step;
	struct block_group *g = index < GROUP_INDEX_MAX ? atomic_load(&fs->groups->at_step[index]) : NULL;

	return g && addr - g->start < g->len ? g : NULL;
}

int block_group_map(struct fs *fs, uint64_t addr, uint64_t len, uint64_t ret_off[GROUP_STRIPES_MAX])
{
	struct block_group *g = block_group_find(fs, addr);

	if (!g || len > g->len - (addr - g->start))
		return -EUCLEAN;
	for (unsigned i = 0; i < g->nr_stripes; i++)
		ret_off[i] = g->stripe[i] + (addr - g->start);
	return g->nr_stripes;
}

void block_group_each(struct fs *fs, void (*fn)(struct block_group *group, void *arg), void *arg)
{
	unsigned epoch = epoch_enter(&fs->epoch);

	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++) {
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (g)
			fn(g, arg);
	}
	epoch_leave(&fs->epoch, epoch);
}

/* ---- making ---------------------------------------------------------------- */

int block_group_set_loaded(struct fs *fs, struct block_group *g, struct free_space *committed)
{
	struct free_space *avail = free_space_new(g->nblocks, false);
	uint64_t *p0 = mem_zalloc(block_group_bitmap_bytes(g)), *p1 = mem_zalloc(block_group_bitmap_bytes(g));
	int r = avail && p0 && p1 ? 0 : -ENOMEM;

	if (r == 0) {
		free_space_clone_into(avail, committed);
		lock_take(&g->lock);
		if (g->state != GROUP_UNLOADED && g->state != GROUP_REBUILDING) {
			r = -EAGAIN;
		} else {
			g->avail = avail;
			g->committed = committed;
			g->pinned[0] = p0;
			g->pinned[1] = p1;
			if (g->type == GROUP_DATA)
				atomic_fetch_add(&fs->groups->loaded_bytes, block_group_loaded_bytes(g));
			if (g->type == GROUP_METADATA)
				atomic_fetch_sub(&fs->groups->metadata_unknown, 1);
			g->state = GROUP_LOADED;
			block_group_reorder_locked(fs, g);
		}
		lock_drop(&g->lock);
	}
	if (r) {
		free_space_free(avail);
		mem_free(p0);
		mem_free(p1);
	} else if (!g->in_tree && g->type == GROUP_DATA) {
		atomic_store(&fs->groups->unlogged, true); /* from now on something in it may be logged */
	}
	return r;
}

int block_group_load_empty(struct fs *fs, struct block_group *g)
{
	struct free_space *space = free_space_new(g->nblocks, true);
	int r = space ? block_group_set_loaded(fs, g, space) : -ENOMEM;

	if (r)
		free_space_free(space);
	return r;
}

static int group_new(struct fs *fs, const struct group_desc *d, struct block_group **ret_group)
{
	struct block_group *g = mem_zalloc(sizeof(*g));

	if (!g)
		return -ENOMEM;
	lock_init(&g->lock, LOCK_BLOCK_GROUP);
	g->start = d->start;
	g->len = d->len;
	g->type = d->type;
	g->unit = d->type == GROUP_DATA ? FS_BLOCK_SIZE : NODE_SIZE;
	g->nblocks = (uint32_t)(d->len / g->unit);
	g->generation = d->generation;
	g->slot_bytes = d->slot_bytes;
	g->nr_stripes = d->nr_stripes;
	memcpy(g->stripe, d->stripe, sizeof(g->stripe));
	g->used = d->used;
	g->cache_slot = d->cache_slot;
	g->cache_generation = d->cache_generation;
	g->cache_crc = d->cache_crc;
	g->cache_bytes = d->cache_bytes;
	g->in_tree = d->in_tree;
	*ret_group = g;
	return 0;
}

static int table_put_locked(struct fs *fs, struct block_group *g)
{
	struct group_table *t = fs->groups;
	uint32_t index = (uint32_t)(g->start / fs->group_step);

	if (g->type == GROUP_SYSTEM && t->nr_system == SUPER_SYSTEM_GROUPS)
		return -ENOSPC;
	if (device_space_take(&t->free_index, index, 1))
		return -ENOMEM;
	if (g->type == GROUP_SYSTEM)
		t->system[t->nr_system++] = g;
	else if (!g->in_tree)
		TAILQ_INSERT_TAIL(&t->fresh, g, fresh_link);
	else if (g->used == 0)
		block_group_note_empty(fs, g);
	atomic_fetch_add(&t->number[block_group_kind(g->type)], 1);
	atomic_fetch_add(&t->live, g->type != GROUP_SYSTEM);
	atomic_fetch_add(&t->metadata_unknown, g->type == GROUP_METADATA);
	lock_take(&g->lock);
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	atomic_store(&t->at_step[index], g);
	if (index >= atomic_load(&t->count))
		atomic_store(&t->count, index + 1);
	return 0;
}

static bool desc_is_sane(const struct fs *fs, const struct group_desc *d)
{
	uint64_t unit = d->type == GROUP_DATA ? FS_BLOCK_SIZE : NODE_SIZE;

	if (d->type != GROUP_DATA && d->type != GROUP_METADATA && d->type != GROUP_SYSTEM)
		return false;
	if (d->start == 0 || d->start % fs->group_step || d->start / fs->group_step >= GROUP_INDEX_MAX)
		return false;
	if (d->len == 0 || d->len > fs->group_step || d->len % unit || d->used > d->len || d->used % unit)
		return false;
	if (d->type != GROUP_SYSTEM && d->slot_bytes < free_space_cache_slot_bytes((uint32_t)(d->len / unit)))
		return false;
	if (d->slot_bytes % FS_BLOCK_SIZE || d->slot_bytes > (1u << 20) || d->cache_bytes > d->slot_bytes)
		return false;
	return d->nr_stripes >= 1 && d->nr_stripes <= GROUP_STRIPES_MAX;
}

int block_group_add(struct fs *fs, const struct group_desc *d, struct block_group **ret_group)
{
	struct block_group *g;
	int r = 0;

	if (!desc_is_sane(fs, d) || atomic_load(&fs->groups->at_step[d->start / fs->group_step]))
		return -EUCLEAN;
	r = group_new(fs, d, &g);
	if (r)
		return r;
	lock_take(&fs->groups->lock);
	for (unsigned i = 0; r == 0 && i < d->nr_stripes; i++)
		r = d->type == GROUP_SYSTEM && d->stripe[i] < DEVICE_DATA_START
			    ? 0
			    : space_take_locked(fs->groups, d->stripe[i], d->len + 2ull * d->slot_bytes);
	if (r == 0)
		r = table_put_locked(fs, g);
	lock_drop(&fs->groups->lock);
	if (r) {
		group_free(g);
		return r;
	}
	*ret_group = g;
	return 0;
}

/*
 * Finds device space for a new group of `copies` stripes, smaller and smaller until it fits. -ENOSPC: there
 * is none; -ENOMEM, which a commit tries again.
 */
static int place_locked(struct fs *fs, uint64_t stripe_bytes, unsigned copies, uint64_t off[],
			uint64_t *ret_bytes)
{
	struct group_table *t = fs->groups;
	uint64_t quantum = group_quantum(fs);

	for (; stripe_bytes >= quantum; stripe_bytes = stripe_bytes > 2 * quantum
							       ? round_up_u64(stripe_bytes / 2, quantum)
							       : stripe_bytes - quantum) {
		unsigned got = 0;
		int r = 0;

		while (r == 0 && got < copies &&
		       device_space_find(&t->unallocated, stripe_bytes, &off[got])) {
			r = space_take_locked(t, off[got], stripe_bytes);
			got += r == 0;
		}
		if (got == copies) {
			*ret_bytes = stripe_bytes;
			return 0;
		}
		while (got > 0)
			/* there is room: it was taken from there */
			(void)space_add_locked(t, off[--got], stripe_bytes);
		if (r)
			return r;
	}
	return -ENOSPC;
}

/* Splits a stripe's bytes into the group and its two cache slots. */
static void shape(uint64_t stripe_bytes, uint64_t unit, struct group_desc *d)
{
	d->slot_bytes = free_space_cache_slot_bytes((uint32_t)(stripe_bytes / unit));
	d->len = round_down_u64(stripe_bytes - 2ull * d->slot_bytes, unit);
	/* all of the stripe: what a group leaves must fit another one */
	d->slot_bytes = (uint32_t)((stripe_bytes - d->len) / 2);
}

/* Takes the device space that d names. */
static int add_placed_locked(struct fs *fs, struct group_desc *d, uint64_t stripe_bytes)
{
	struct block_group *g = NULL;
	uint64_t index;
	int r = device_space_find(&fs->groups->free_index, 1, &index) ? 0 : -ENOSPC;

	d->start = index * fs->group_step;
	d->generation = atomic_load(&fs->running_generation);
	if (r == 0)
		r = group_new(fs, d, &g);
	if (r == 0) {
		g->uncounted = d->uncounted;
		r = table_put_locked(fs, g);
	}
	if (r == 0 && g->uncounted)
		atomic_fetch_add(&fs->backing->uncounted[g->type == GROUP_DATA], g->len);
	if (r) {
		group_free(g);
		for (unsigned i = 0; i < d->nr_stripes; i++)
			(void)space_add_locked(fs->groups, d->stripe[i], stripe_bytes);
	}
	return r;
}

/* The same, without the lock: on a sparse pool it waits for the host. */
static int add_backed(struct fs *fs, struct group_desc *d, uint64_t stripe_bytes)
{
	uint64_t bytes = d->nr_stripes * stripe_bytes;
	int r;

	atomic_fetch_add(&fs->backing->making, bytes);
	r = backing_allocate(fs, d);
	lock_take(&fs->groups->lock);
	if (r == 0)
		r = add_placed_locked(fs, d, stripe_bytes);
	else
		for (unsigned i = 0; i < d->nr_stripes; i++)
			(void)space_add_locked(fs->groups, d->stripe[i], stripe_bytes);
	atomic_fetch_sub(&fs->backing->making, bytes);
	lock_drop(&fs->groups->lock);
	return r;
}

int block_group_create(struct fs *fs, uint8_t type, uint64_t max_bytes, uint64_t *ret_bytes)
{
	struct group_desc d = {
		.type = type, .nr_stripes = type == GROUP_DATA ? 1 : 2, .cache_slot = CACHE_SLOT_NONE};
	uint64_t stripe_bytes, want = max_u64(min_u64(max_bytes, atomic_load(&fs->group_size)) / d.nr_stripes,
					      group_quantum(fs));
	int r = -ENOSPC;

	lock_take(&fs->groups->lock);
	if (atomic_load(&fs->groups->live) < atomic_load(&fs->groups->live_max))
		r = place_locked(fs, round_down_u64(want, group_quantum(fs)), d.nr_stripes, d.stripe,
				 &stripe_bytes);
	lock_drop(&fs->groups->lock);
	if (r)
		return r;
	shape(stripe_bytes, type == GROUP_DATA ? FS_BLOCK_SIZE : NODE_SIZE, &d);
	d.uncounted = backing_must_be_durable(fs, type);
	r = add_backed(fs, &d, stripe_bytes);
	if (r == 0)
		*ret_bytes = d.uncounted ? 0 : d.len;
	return r;
}

int block_group_create_system_locked(struct fs *fs, uint64_t bytes)
{
	struct group_desc d = {
		.type = GROUP_SYSTEM, .nr_stripes = 2, .cache_slot = CACHE_SLOT_NONE, .in_tree = true};
	int r;

	lock_assert_held(&fs->space->lock);
	lock_take(&fs->groups->lock);
	r = place_locked(fs, round_down_u64(min_u64(bytes, fs->group_step), group_quantum(fs)), d.nr_stripes,
			 d.stripe, &d.len);
	if (r == 0)
		r = add_placed_locked(fs, &d, d.len);
	lock_drop(&fs->groups->lock);
	if (r)
		return r;
	fs->space->kind[SPACE_SYSTEM].total += d.len;
	block_group_system_added(fs);
	return 0;
}

int block_group_create_system_backed(struct fs *fs, uint64_t bytes)
{
	struct group_desc d = {
		.type = GROUP_SYSTEM, .nr_stripes = 2, .cache_slot = CACHE_SLOT_NONE, .in_tree = true};
	int r;

	lock_take(&fs->groups->lock);
	r = place_locked(fs, round_down_u64(min_u64(bytes, fs->group_step), group_quantum(fs)), d.nr_stripes,
			 d.stripe, &d.len);
	lock_drop(&fs->groups->lock);
	if (r == 0)
		r = add_backed(fs, &d, d.len);
	if (r)
		return r;
	space_group_added(fs, GROUP_SYSTEM, d.len);
	block_group_system_added(fs);
	return 0;
}
