/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/group_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/commit/transaction.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"

#define READS_UNDER_WAY 64u

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
	int r = block_group_take_system(tr->fs, id->addr);

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

int group_tree_read(struct fs *fs, struct device_queue *q)
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

/* ---- changing it ----------------------------------------------------------------- */

struct group_change {
	uint8_t key[ITEM_KEY_LEN];
	uint8_t value[GROUP_VALUE_MAX];
	struct block_group *group;
};

static uint16_t pack_value(const struct block_group *g, uint8_t *value)
{
	struct group_item item = {
		.start = g->start,
		.length = g->len,
		.used = g->used,
		.generation = g->generation,
		.cache_generation = g->cache_generation,
		.cache_crc = g->cache_crc,
		.cache_bytes = g->cache_bytes,
		.slot_bytes = g->slot_bytes,
		.cache_slot = g->cache_slot,
		.type = g->type,
		.nr_stripes = g->nr_stripes,
	};

	memcpy(item.stripe, g->stripe, sizeof(item.stripe));
	return group_item_pack(&item, value);
}

static int by_start(const void *pa, const void *pb)
{
	const struct group_change *a = pa, *b = pb;

	return memcmp(a->key, b->key, sizeof(a->key));
}

int group_tree_update(struct transaction *txn)
{
	struct fs *fs = txn->fs;
	struct group_change *gc;
	struct tree_keyed_change *change;
	struct tree_keyed_changes changes;
	size_t n = 0, i = 0;
	int r = -ENOMEM;

	for (struct block_group *g = fs->groups->dirty; g; g = g->dirty_next)
		n++;
	if (n == 0)
		return 0;
	gc = mem_zalloc(n * sizeof(*gc));
	change = mem_zalloc(n * sizeof(*change));
	if (gc && change) {
		for (struct block_group *g = fs->groups->dirty; g; g = g->dirty_next, i++) {
			gc[i].group = g;
			group_key_pack(gc[i].key, g->start);
		}
		qsort(gc, n, sizeof(*gc), by_start);
		for (i = 0; i < n; i++) {
			struct block_group *g = gc[i].group;

			change[i].key = (struct key){gc[i].key, ITEM_KEY_LEN};
			if (g->state == GROUP_REMOVING)
				continue;
			block_group_end_cache(fs, g);
			change[i].value = (struct value){gc[i].value, pack_value(g, gc[i].value)};
		}
		tree_keyed_changes_init(&changes, change, n);
		r = tree_apply(&txn->store, &txn->group_tree, &changes.base);
	}
	mem_free(gc);
	mem_free(change);
	return r;
}
