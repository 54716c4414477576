/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub_walk.c: slices: which tree comes next, where in it the scrub stands, and what its leaves say
 * has to be read.
 *
 * A slice enters its epoch under the commit lock, together with the root that it takes, and walks down from
 * it to `pos`. Where it ends, `pos` is the first key that it did not see; since keys only grow from slice to
 * slice, it comes to an end. Nodes on the path to `pos` are read again by the next slice, of which one in
 * SCRUB_NODES is new at least.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/commit/volume_touch.h"
#include "fs/core/clock.h"
#include "fs/core/epoch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/scrub/scrub_int.h"
#include "fs/space/block_group.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/extent.h"

typedef unsigned long long ull;

uint64_t scrub_pos(const struct scrub_run *r)
{
	return key_number(&(struct key){r->pos, ITEM_KEY_LEN}, 0);
}

static struct key pos_key(const struct scrub_run *r)
{
	return (struct key){r->pos, ITEM_KEY_LEN};
}

/*
 * The slice ends in front of this key. -EUCLEAN: it is none, or lies behind us: a tree whose keys are not in
 * order has no end.
 */
static int end_slice(struct scrub_run *r, struct key key)
{
	if (key.len != ITEM_KEY_LEN || key_cmp(key, pos_key(r)) <= 0)
		return -EUCLEAN;
	memcpy(r->pos, key.data, ITEM_KEY_LEN);
	return -EAGAIN;
}

/* ---- leaves ---------------------------------------------------------------- */

/* A group's item: its cache is to be read. What cannot be is left to the checker. */
static void add_cache(struct scrub_run *r, struct key key, struct value value)
{
	struct scrub_cache *sc = &r->cache[r->caches];
	struct group_item item;
	struct block_group *g;
	const char *why;

	if (group_item_unpack(key, value, &item, &why))
		return;
	g = block_group_find(r->fs, item.start);
	if (!g || item.cache_slot > 1 || item.cache_bytes > item.slot_bytes ||
	    item.slot_bytes > SCRUB_COPY_BYTES)
		return;
	*sc = (struct scrub_cache){
		.ident = {.group_start = g->start,
			  .group_len = (uint64_t)g->nblocks * FS_BLOCK_SIZE,
			  .generation = item.cache_generation},
		.expect = {item.cache_crc, item.cache_bytes, (uint32_t)((g->len - item.used) / g->unit)},
		.copies = item.nr_stripes,
	};
	memcpy(sc->ident.pool_uuid, r->fs->uuid, sizeof(sc->ident.pool_uuid));
	for (unsigned i = 0; i < item.nr_stripes; i++)
		sc->off[i] = group_item_cache_offset(&item, i);
	r->caches++;
}

static int walk_groups_leaf(struct scrub_run *r, const struct node_header *leaf)
{
	for (unsigned i = 0; i < node_count(leaf); i++) {
		struct key key = node_key(leaf, i);

		if (key_cmp(key, pos_key(r)) < 0)
			continue;
		if (r->caches == SCRUB_CACHES * r->scale)
			return end_slice(r, key);
		add_cache(r, key, node_value(leaf, i));
	}
	return 0;
}

static int walk_volume_leaf(struct scrub_run *r, const struct node_header *leaf)
{
	uint64_t pos = scrub_pos(r);

	for (unsigned i = 0; i < node_count(leaf); i++) {
		struct key key = node_key(leaf, i);
		struct extent e;

		if (extent_unpack(key, node_value(leaf, i), &e)) /* the checker's */
			continue;
		if (e.blk + e.nblk <= pos)
			continue;
		if (e.addr == 0) /* a commit has found that before */
			scrub_damaged(r, FS_SCRUB_LOST, e.blk * FS_BLOCK_SIZE, e.nblk * FS_BLOCK_SIZE,
				      "it was lost with the node that knew where it stands");
		else if (!scrub_data_add(r, &e))
			return end_slice(r, key);
	}
	return 0;
}

static int walk_leaf(struct scrub_run *r, const struct node_header *leaf)
{
	if (r->phase == SCRUB_GROUPS)
		return walk_groups_leaf(r, leaf);
	/* Of a deleted volume the nodes are still needed, to free it; its data is not. */
	if (r->phase == SCRUB_VOLUMES && r->type == VOLUME_KEY_TYPE)
		return walk_volume_leaf(r, leaf);
	return 0;
}

/* ---- nodes ----------------------------------------------------------------- */

/* Everything below a node that no copy is left of. */
static void lost(struct scrub_run *r, const struct node_ident *id, const struct key *first,
		 const struct key *upper, int error)
{
	uint64_t from = first ? key_number(first, 0) : 0, to = key_number(upper, r->size / FS_BLOCK_SIZE);

	if (r->phase == SCRUB_VOLUMES && r->type == VOLUME_KEY_TYPE) {
		to = min_u64(to, r->size / FS_BLOCK_SIZE);
		if (to > from)
			scrub_damaged(r, FS_SCRUB_LOST, from * FS_BLOCK_SIZE, (to - from) * FS_BLOCK_SIZE,
				      "no copy is left of the node that knows where it stands");
		if (error == -EUCLEAN) /* what the device cannot read may come back */
			volume_touch(r->fs, r->id, from);
		return;
	}
	scrub_log(r, FS_LOG_ERROR,
		  "scrub: tree %llu: node at %llu, level %u: no copy of it can be read: run byre pool check",
		  (ull)id->owner, (ull)id->addr, id->level);
}

static int walk_node(struct scrub_run *r, const struct node_ident *id, const struct key *first,
		     const struct key *upper)
{
	struct node_header *node = (struct node_header *)r->node[id->level];
	int e = 0;

	r->nodes++;
	e = scrub_node(r, id, node);
	if (e) {
		lost(r, id, first, upper, e);
		return 0;
	}
	if (id->level == 0)
		return walk_leaf(r, node);
	for (unsigned i = 0; e == 0 && i < node_count(node); i++) {
		struct key key = node_key(node, i), next;
		bool has_next = i + 1 < node_count(node);
		struct node_ident child;

		if (has_next)
			next = node_key(node, i + 1);
		if (has_next && key_cmp(next, pos_key(r)) <= 0)
			continue;
		if (r->nodes >= SCRUB_NODES * r->scale && key_cmp(key, pos_key(r)) > 0)
			return end_slice(r, key);
		if (node_child(node, i, id->owner, &child) == 0)
			e = walk_node(r, &child, &key, has_next ? &next : upper);
	}
	return e;
}

static int walk_tree(struct scrub_run *r, const struct tree_root *root)
{
	struct node_ident id = {root->addr, root->generation, root->owner, root->level};

	if (id.addr == 0)
		return 0;
	if (id.level >= NODE_LEVEL_MAX || id.addr % NODE_SIZE)
		return -EUCLEAN;
	return walk_node(r, &id, NULL, NULL);
}

/* ---- which tree ------------------------------------------------------------ */

/* An item that is none leaves an empty tree: it is the checker's. */
static void take_volume(struct scrub_run *r, struct value value, struct tree_root *ret_root)
{
	struct volume_fields item;
	const char *doubt;

	if (volume_item_unpack(r->id, value, &item, &doubt))
		return;
	memcpy(r->name, item.name.text, item.name.len + 1u);
	r->size = item.size;
	*ret_root = item.root;
}

static void take_orphan(struct scrub_run *r, struct value value, struct tree_root *ret_root)
{
	struct orphan_fields item;
	uint8_t from[ITEM_KEY_LEN];
	const char *doubt;

	if (orphan_item_unpack(r->id, value, &item, &doubt))
		return;
	*ret_root = item.root;
	key_pack(from, EXTENT_KEY_TYPE, item.progress); /* what is before has been freed */
	if (memcmp(from, r->pos, ITEM_KEY_LEN) > 0)
		memcpy(r->pos, from, ITEM_KEY_LEN);
}

/* The volume (type, id), or what follows it in the root tree: its tree. -ENOENT: there are no more. */
static int find_volume(struct scrub_run *r, struct tree_root *ret_root)
{
	uint8_t want[ITEM_KEY_LEN];
	struct tree_iter it;
	struct key key;
	int e;

	*ret_root = (struct tree_root){0};
	r->name[0] = '\0';
	r->size = FS_VOLUME_SIZE_MAX;
	key_pack(want, r->type, r->id);
	tree_iter_init(&it, r->fs, r->q, &r->root);
	e = tree_iter_seek(&it, (struct key){want, sizeof(want)});
	if (e == 0 && it.valid && key_cmp(tree_iter_key(&it), (struct key){want, sizeof(want)}) < 0)
		e = tree_iter_next(&it);
	if (e == 0 && !it.valid)
		e = -ENOENT;
	if (e == 0) {
		key = tree_iter_key(&it);
		if (key.len != ITEM_KEY_LEN || memcmp(key.data, want, ITEM_KEY_LEN) < 0)
			e = -EUCLEAN;
		else if (memcmp(key.data, want, ITEM_KEY_LEN) != 0) {
			key_pack(r->pos, EXTENT_KEY_TYPE, 0);
			r->type = key.data[0];
			r->id = key_number(&key, 0);
		}
	}
	if (e == 0 && r->type == VOLUME_KEY_TYPE)
		take_volume(r, tree_iter_value(&it), ret_root);
	else if (e == 0 && r->type == ORPHAN_KEY_TYPE)
		take_orphan(r, tree_iter_value(&it), ret_root);
	tree_iter_fini(&it);
	return e;
}

void scrub_go_to(struct scrub_run *r, enum scrub_phase phase, uint64_t volume, uint64_t pos)
{
	r->phase = phase == SCRUB_ENDED ? SCRUB_SUPERS : phase;
	if (r->phase == SCRUB_GROUPS)
		key_pack(r->pos, GROUP_KEY_TYPE, pos);
	if (r->phase != SCRUB_VOLUMES)
		return;
	key_pack(r->pos, EXTENT_KEY_TYPE, pos);
	r->id = volume == UINT64_MAX ? 0 : volume;
	r->type = volume == UINT64_MAX ? ORPHAN_KEY_TYPE : VOLUME_KEY_TYPE;
}

/* The volume, or the phase, is done. */
static void go_on(struct scrub_run *r)
{
	if (r->phase == SCRUB_VOLUMES) {
		r->id++;
		key_pack(r->pos, EXTENT_KEY_TYPE, 0);
		return;
	}
	r->phase++;
	memset(r->pos, 0, sizeof(r->pos));
	if (r->phase == SCRUB_VOLUMES)
		key_pack(r->pos, EXTENT_KEY_TYPE, 0);
}

/* ---- a slice --------------------------------------------------------------- */

static int read_slice(struct scrub_run *r)
{
	struct tree_root root;
	struct fs *fs = r->fs;
	unsigned epoch;
	int e = 0;

	lock_take(&fs->commit_lock);
	epoch = epoch_enter(&fs->epoch);
	r->root = *fs->root_tree;
	root = r->phase == SCRUB_GROUPS ? *fs->group_tree : *fs->root_tree;
	lock_drop(&fs->commit_lock);
	if (FAULT(FAULT_SCRUB_EPOCH))
		epoch_leave(&fs->epoch, epoch);
	if (r->phase == SCRUB_VOLUMES)
		e = find_volume(r, &root);
	if (e == 0) {
		e = walk_tree(r, &root);
		if (e == -EUCLEAN) {
			r->found++;
			scrub_log(
				r, FS_LOG_ERROR,
				"scrub: tree %llu contradicts itself, the rest of it is left out: run byre pool check",
				(ull)root.owner);
			e = 0;
		}
	}
	scrub_data_read(r);
	scrub_caches_read(r);
	if (!FAULT(FAULT_SCRUB_EPOCH))
		epoch_leave(&fs->epoch, epoch);
	scrub_caches_renew(r);
	return e;
}

/* What was written counts when it is durable. */
static int flush(struct scrub_run *r)
{
	int e = r->repaired ? device_flush(r->q) : 0;

	if (e)
		fs_set_read_only(r->fs, e, "a flush failed");
	return e;
}

/* So that a slice takes about SCRUB_SLICE_MS. */
static void set_scale(struct scrub_run *r, uint64_t us)
{
	if (us < SCRUB_SLICE_MS * 500u)
		r->scale = (unsigned)min_u64(r->scale * 2, r->scale_max);
	else if (us > SCRUB_SLICE_MS * 2000u && r->scale > 1)
		r->scale /= 2;
}

int scrub_slice(struct scrub_run *r)
{
	uint64_t began = fs_now_us(r->fs);
	int e = 0;

	r->bytes = r->nodes = r->found = r->repaired = 0;
	r->blocks = r->pieces = r->caches = 0;
	if (r->phase == SCRUB_SUPERS)
		scrub_supers(r);
	else
		e = read_slice(r);
	if (e == -EAGAIN) { /* there is more of it */
		e = 0;
	} else if (e == -ENOENT && r->phase == SCRUB_VOLUMES) {
		r->phase = SCRUB_ENDED;
		e = 0;
	} else if (e == 0) {
		go_on(r);
	}
	if (e == 0)
		e = flush(r);
	set_scale(r, fs_now_us(r->fs) - began);
	return e;
}
