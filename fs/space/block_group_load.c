/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_load.c: how a group gets to know its free space: from its cache when it is first
 * needed, or, where that cannot be used, from a rebuild (rebuild.c walks the trees; here the group is given
 * up and taken back into use).
 *
 * Invariants
 * 1. A group of which something is used leaves GROUP_UNLOADED under fs->load_lock only: to LOADED or to
 *    REBUILDING. One of which nothing is used needs no reading, and anybody may load it.
 * 2. Its free space is taken out of what may be given out before anybody can see it REBUILDING.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/epoch.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/free_space_cache.h"
#include "fs/space/space_info.h"

static int decode_cache(struct fs *fs, const struct block_group *g, const void *buf, uint64_t bytes,
			struct free_space **ret_space)
{
	struct free_space_cache_ident ident = {.group_start = g->start,
					       .group_len = (uint64_t)g->nblocks * FS_BLOCK_SIZE,
					       .generation = g->cache_generation};
	struct free_space_cache_expect expect = {g->cache_crc, g->cache_bytes,
						 (uint32_t)((g->len - g->used) / g->unit)};

	memcpy(ident.pool_uuid, fs->uuid, sizeof(ident.pool_uuid));
	return free_space_cache_decode(buf, bytes, &ident, &expect, ret_space);
}

static int read_cache(struct fs *fs, struct device_queue *q, struct block_group *g,
		      struct free_space **ret_space)
{
	uint64_t bytes = round_up_u64(g->cache_bytes, DEVICE_ALIGN);
	void *buf;
	int r = -EUCLEAN;

	if (g->cache_slot > 1 || bytes == 0)
		return -ENOENT;
	buf = mem_alloc_aligned(DEVICE_ALIGN, bytes);
	if (!buf)
		return -ENOMEM;
	for (unsigned i = 0; r && r != -ENOMEM && i < g->nr_stripes; i++) {
		r = device_sync(q, DEVICE_READ,
				g->stripe[i] + g->len + (uint64_t)g->cache_slot * g->slot_bytes, buf, bytes);
		if (r == 0)
			r = decode_cache(fs, g, buf, bytes, ret_space);
	}
	mem_free(buf);
	return r;
}

static void start_rebuild_locked(struct fs *fs, struct block_group *g, uint64_t *lost)
{
	g->lost = lost;
	g->state = GROUP_REBUILDING;
	block_group_reorder_locked(fs, g);
	/* cache_slot stays: the committed item names it, and the next cache goes to the other one. */
	atomic_fetch_add(&fs->groups->rebuilding, 1);
}

/* The group's cache cannot be used: its free space is nobody's until it is rebuilt. */
static int give_up_cache(struct fs *fs, struct block_group *g, int error)
{
	uint64_t *lost = mem_zalloc(block_group_bitmap_bytes(g));

	if (!lost)
		return -ENOMEM;
	fs_log(fs, FS_LOG_WARNING, "block group %llu: free-space cache %s (%s), rebuilding it from the trees",
	       (unsigned long long)g->start,
	       error == -ENOENT	  ? "is missing"
	       : error == -ESTALE ? "is stale"
				  : "is damaged",
	       strerror(-error));
	/* Before a commit can find the group in this state and free something of it. */
	space_unavailable(fs, g->type, (int64_t)(g->len - g->used));
	lock_take(&g->lock);
	start_rebuild_locked(fs, g, lost);
	lock_drop(&g->lock);
	return 0;
}

/* Under the load lock. True: the group's cache turned out to be bad. */
static int load_locked(struct fs *fs, struct device_queue *q, struct block_group *g, bool *ret_rebuild)
{
	struct free_space *space = NULL;
	int r = read_cache(fs, q, g, &space);

	if (r == 0) {
		r = block_group_set_loaded(fs, g, space);
		if (r)
			free_space_free(space);
		else
			atomic_fetch_add(&fs->stats.cache_loaded, 1);
	} else if (r != -ENOMEM) {
		r = give_up_cache(fs, g, r);
		*ret_rebuild = r == 0;
	}
	return r;
}

int block_group_load(struct fs *fs, struct device_queue *q, struct block_group *g)
{
	bool rebuild = false, empty;
	int r = 0;

	lock_take(&fs->load_lock); /* one loader at a time */
	lock_take(&g->lock);
	empty = g->state == GROUP_UNLOADED && g->used == 0;
	lock_drop(&g->lock);
	if (empty)
		r = block_group_load_empty(fs, g);
	else if (g->state == GROUP_UNLOADED)
		r = load_locked(fs, q, g, &rebuild);
	lock_drop(&fs->load_lock);
	if (rebuild)
		fs_kick_rebuild(fs);
	return r == -EAGAIN ? 0 : r; /* somebody else has loaded the empty one, or it leaves */
}

/* ---- several at a time ------------------------------------------------------- */

struct cache_read {
	struct device_io io;
	struct block_group *group;
	unsigned *under_way;
};

static void cache_read_done(struct device_io *io)
{
	struct cache_read *cr = container_of(io, struct cache_read, io);

	(*cr->under_way)--;
}

/* NULL in ->group: it is not read here. */
static void start_cache_read(struct device_queue *q, struct block_group *g, unsigned *under_way,
			     struct cache_read *cr)
{
	uint64_t bytes = round_up_u64(g->cache_bytes, DEVICE_ALIGN);
	void *buf;

	if (g->state != GROUP_UNLOADED || g->used == 0 || g->cache_slot > 1 || bytes == 0)
		return;
	buf = mem_alloc_aligned(DEVICE_ALIGN, bytes);
	if (!buf)
		return;
	*cr = (struct cache_read){.group = g, .under_way = under_way};
	cr->io = (struct device_io){.op = DEVICE_READ,
				    .off = g->stripe[0] + g->len + (uint64_t)g->cache_slot * g->slot_bytes,
				    .buf = buf,
				    .len = bytes,
				    .done = cache_read_done};
	(*under_way)++;
	q->dev->ops->submit(q, &cr->io);
}

static void end_cache_read(struct fs *fs, struct cache_read *cr)
{
	struct free_space *space = NULL;

	if (cr->io.error == 0 && decode_cache(fs, cr->group, cr->io.buf, cr->io.len, &space) == 0) {
		if (block_group_set_loaded(fs, cr->group, space))
			free_space_free(space);
		else
			atomic_fetch_add(&fs->stats.cache_loaded, 1);
	}
	mem_free(cr->io.buf);
}

void block_group_load_ahead(struct fs *fs, struct device_queue *q, struct block_group **group, unsigned n)
{
	struct cache_read cr[GROUP_LOAD_AHEAD] = {{.group = NULL}};
	unsigned under_way = 0;

	ASSERT(n <= GROUP_LOAD_AHEAD);
	lock_take(&fs->load_lock);
	for (unsigned i = 0; i < n; i++)
		start_cache_read(q, group[i], &under_way, &cr[i]);
	while (under_way)
		q->dev->ops->wait(q); /* kicks, too */
	for (unsigned i = 0; i < n; i++)
		if (cr[i].group)
			end_cache_read(fs, &cr[i]);
	lock_drop(&fs->load_lock);
}

bool block_group_load_next(struct fs *fs, struct device_queue *q)
{
	/* first: what is found in it stays until it is left */
	unsigned epoch = epoch_enter(&fs->epoch), bucket;
	struct block_group *g = block_group_most_free(fs, GROUP_DATA, ORDER_UNLOADED, &bucket);
	bool loaded;

	if (!g)
		g = block_group_most_free(fs, GROUP_DATA, ORDER_EMPTY, &bucket);
	loaded = g && block_group_load(fs, q, g) == 0;
	epoch_leave(&fs->epoch, epoch);
	return loaded;
}

bool block_group_load_metadata(struct fs *fs, struct device_queue *q)
{
	bool unknown = false;

	if (atomic_load(&fs->groups->metadata_unknown) == 0)
		return false;
	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++) {
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (!g || g->type != GROUP_METADATA)
			continue;
		if (g->state == GROUP_UNLOADED)
			(void)block_group_load(fs, q, g);
		unknown |= g->state != GROUP_LOADED && !g->contradicts;
	}
	return unknown;
}

int block_group_rebuilt(struct fs *fs, struct block_group *g, struct free_space *committed)
{
	return block_group_set_loaded(fs, g, committed);
}
