/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_system.c: the system groups, which hold the group tree, and reading that at open.
 *
 * They stand in the superblock. One is made with the pool; more are made, each as large as all before, when
 * half of what they have room for is used, so that their number stays small however large the pool becomes. A
 * new one is in memory at first, as any group; the commit that first may put a node there also has it in its
 * superblock.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"

#define GROUP_ITEM_BYTES 96u /* at the most, with its slot in the node */
#define READS_UNDER_WAY 64u

/* ---- how many groups they have room for -------------------------------------- */

/*
 * A third of it holds the items, in half-full nodes; the rest is for the old tree while the new one is
 * written.
 */
static uint64_t groups_in(uint64_t bytes)
{
	return bytes / 3 / NODE_SIZE * (NODE_CAPACITY / 2 / GROUP_ITEM_BYTES);
}

uint64_t block_group_system_for(uint64_t groups)
{
	return (groups / (NODE_CAPACITY / 2 / GROUP_ITEM_BYTES) + 1) * NODE_SIZE * 3;
}

static uint64_t system_bytes_locked(const struct group_table *t)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < t->nr_system; i++)
		bytes += t->system[i]->len;
	return bytes;
}

uint64_t block_group_system_bytes(struct fs *fs)
{
	uint64_t bytes;

	lock_take(&fs->groups->lock);
	bytes = system_bytes_locked(fs->groups);
	lock_drop(&fs->groups->lock);
	return bytes;
}

void block_group_system_added(struct fs *fs)
{
	uint64_t max = groups_in(block_group_system_bytes(fs));

	atomic_store(&fs->groups->live_max, (uint32_t)min_u64(max, GROUP_INDEX_MAX));
}

void block_group_pack_system(struct fs *fs, struct super_block *sb)
{
	struct group_table *t = fs->groups;

	lock_take(&t->lock);
	for (unsigned i = 0; i < t->nr_system; i++) {
		const struct block_group *g = t->system[i];
		struct super_system_group *entry = &sb->system[i];

		*entry = (struct super_system_group){.start = cpu_to_le64(g->start),
						     .length = cpu_to_le64(g->len)};
		for (unsigned k = 0; k < g->nr_stripes; k++)
			entry->stripe[k].offset = cpu_to_le64(g->stripe[k]);
	}
	lock_drop(&t->lock);
}

int block_group_read_system(struct fs *fs)
{
	for (unsigned i = 0; i < SUPER_SYSTEM_GROUPS; i++) {
		const struct super_system_group *sg = &fs->super->system[i];
		struct group_desc d = {.start = le64_to_cpu(sg->start),
				       .len = le64_to_cpu(sg->length),
				       .type = GROUP_SYSTEM,
				       .nr_stripes = 2,
				       .cache_slot = CACHE_SLOT_NONE,
				       .in_tree = true};
		struct block_group *g;
		int r;

		if (d.start == 0)
			continue;
		for (unsigned s = 0; s < GROUP_STRIPES_MAX; s++)
			d.stripe[s] = le64_to_cpu(sg->stripe[s].offset);
		r = block_group_add(fs, &d, &g);
		if (r == 0)
			r = block_group_load_empty(fs, g);
		if (r)
			return r;
		space_loaded_group(fs, GROUP_SYSTEM, d.len, 0);
	}
	block_group_system_added(fs);
	return atomic_load(&fs->groups->live_max) ? 0 : -EUCLEAN;
}

/* ---- reading the group tree --------------------------------------------------- */

struct tree_read;

struct node_slot_read {
	struct device_io io;
	struct tree_read *tr;
	void *buf;
	size_t node; /* which of the level */
	bool busy, done;
};

struct ident_list {
	struct node_ident *id;
	size_t count, cap;
};

struct tree_read {
	struct fs *fs;
	struct device_queue *q;
	struct ident_list level, below;
	struct ident_list again; /* whose first copy was not good */
	struct node_slot_read slot[READS_UNDER_WAY];
	unsigned under_way;
};

static int list_add(struct ident_list *list, const struct node_ident *id)
{
	if (list->count == list->cap) {
		size_t cap = list->cap ? list->cap * 2 : 64;
		struct node_ident *v = mem_realloc(list->id, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		list->id = v;
		list->cap = cap;
	}
	list->id[list->count++] = *id;
	return 0;
}

/* The group tree's nodes are what is used of the system groups. */
static int take_system_node(struct fs *fs, uint64_t addr)
{
	struct block_group *g = block_group_find(fs, addr);

	if (!g || g->type != GROUP_SYSTEM || (addr - g->start) % NODE_SIZE ||
	    !free_space_take(g->avail, (uint32_t)((addr - g->start) / NODE_SIZE), 1))
		return -EUCLEAN;
	lock_take(&g->lock);
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	space_allocated_node(fs, GROUP_SYSTEM, NODE_SIZE);
	return 0;
}

static int add_group_item(struct fs *fs, struct key key, struct value value)
{
	struct group_item item;
	struct group_desc d;
	struct block_group *g;
	const char *why;
	int r = group_item_unpack(key, value, &item, &why);

	if (r)
		return r;
	d = (struct group_desc){
		.start = item.start,
		.len = item.length,
		.used = item.used,
		.generation = item.generation,
		.slot_bytes = item.slot_bytes,
		.type = item.type,
		.nr_stripes = item.nr_stripes,
		.cache_slot = item.cache_slot,
		.cache_generation = item.cache_generation,
		.cache_crc = item.cache_crc,
		.cache_bytes = item.cache_bytes,
		.in_tree = true,
	};
	memcpy(d.stripe, item.stripe, sizeof(d.stripe));
	r = block_group_add(fs, &d, &g);
	if (r == 0)
		space_loaded_group(fs, d.type, d.len, d.used);
	return r;
}

static int use_node(struct tree_read *tr, const struct node_ident *id, const struct node_header *node)
{
	int r = take_system_node(tr->fs, id->addr);

	for (unsigned i = 0; r == 0 && i < node_count(node); i++) {
		struct node_ident child;

		if (id->level == 0) {
			r = add_group_item(tr->fs, node_key(node, i), node_value(node, i));
		} else {
			r = node_child(node, i, id->owner, &child);
			if (r == 0)
				r = list_add(&tr->below, &child);
		}
	}
	return r;
}

static void read_done(struct device_io *io)
{
	struct node_slot_read *s = container_of(io, struct node_slot_read, io);

	s->done = true;
	s->tr->under_way--;
}

static int start_read(struct tree_read *tr, struct node_slot_read *s, size_t node)
{
	uint64_t off[GROUP_STRIPES_MAX];
	int n = block_group_map(tr->fs, tr->level.id[node].addr, NODE_SIZE, off);

	if (n < 0)
		return n;
	s->io = (struct device_io){
		.op = DEVICE_READ, .off = off[0], .buf = s->buf, .len = NODE_SIZE, .done = read_done};
	s->tr = tr;
	s->node = node;
	s->busy = true;
	s->done = false;
	tr->under_way++;
	tr->q->dev->ops->submit(tr->q, &s->io);
	return 0;
}

static int end_read(struct tree_read *tr, struct node_slot_read *s)
{
	const struct node_ident *id = &tr->level.id[s->node];
	const char *why;

	s->busy = false;
	if (s->io.error || node_validate(s->buf, id, tr->fs->uuid, &why))
		return list_add(&tr->again, id);
	return use_node(tr, id, s->buf);
}

/* Waits for what is under way also where something fails. */
static int read_level(struct tree_read *tr)
{
	size_t next = 0;
	int r = 0;

	do {
		for (unsigned i = 0; i < READS_UNDER_WAY; i++) {
			struct node_slot_read *s = &tr->slot[i];

			if (s->busy && s->done && r == 0)
				r = end_read(tr, s);
			if (!(s->busy && !s->done) && r == 0 && next < tr->level.count)
				r = start_read(tr, s, next++);
		}
		if (tr->under_way)
			tr->q->dev->ops->wait(tr->q); /* kicks, too */
	} while (tr->under_way || (r == 0 && next < tr->level.count));
	for (unsigned i = 0; i < READS_UNDER_WAY; i++)
		if (tr->slot[i].busy && r == 0)
			r = end_read(tr, &tr->slot[i]);
	return r;
}

/* Those with a damaged copy, one by one: the twin mends it. */
static int read_again(struct tree_read *tr)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < tr->again.count; i++) {
		struct cache_entry *entry;

		r = node_read(tr->fs, tr->q, &tr->again.id[i], &entry);
		if (r == 0) {
			r = use_node(tr, &tr->again.id[i], node_header(entry));
			cache_put(tr->fs->cache, entry);
		}
	}
	tr->again.count = 0;
	return r;
}

static int read_levels(struct tree_read *tr)
{
	int r = 0;

	while (r == 0 && tr->level.count) {
		struct ident_list done;

		r = read_level(tr);
		if (r == 0)
			r = read_again(tr);
		done = tr->level;
		tr->level = tr->below;
		done.count = 0;
		tr->below = done;
	}
	return r;
}

static int alloc_buffers(struct tree_read *tr)
{
	for (unsigned i = 0; i < READS_UNDER_WAY; i++) {
		tr->slot[i].buf = mem_alloc_aligned(DEVICE_ALIGN, NODE_SIZE);
		if (!tr->slot[i].buf)
			return -ENOMEM;
	}
	return 0;
}

int block_group_read_tree(struct fs *fs, struct device_queue *q)
{
	struct node_ident id = {fs->group_tree->addr, fs->group_tree->generation, TREE_ID_GROUP,
				fs->group_tree->level};
	struct tree_read tr = {.fs = fs, .q = q};
	int r;

	if (id.addr == 0)
		return 0;
	if (id.level >= NODE_LEVEL_MAX || id.addr % NODE_SIZE)
		return -EUCLEAN;
	r = list_add(&tr.level, &id);
	if (r == 0)
		r = alloc_buffers(&tr);
	if (r == 0)
		r = read_levels(&tr);
	for (unsigned i = 0; i < READS_UNDER_WAY; i++)
		mem_free(tr.slot[i].buf);
	mem_free(tr.level.id);
	mem_free(tr.below.id);
	mem_free(tr.again.id);
	return r;
}
