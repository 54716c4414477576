/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/orphan.h"

#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/commit/transaction.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"
#include "fs/space/delayed_ref.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/extent.h"
#include "fs/volume/volume.h"

struct drop {
	struct transaction *txn;
	struct orphan *o;
	unsigned *budget;
	bool stopped;
};

/* ---- the list --------------------------------------------------------------- */

static void touch(struct transaction *txn, struct orphan *o)
{
	if (o->touched)
		return;
	o->touched = true;
	o->new_root = o->root;
	o->new_progress = o->progress;
	o->new_used_blocks = o->used_blocks;
	o->new_deleted = o->deleted;
	o->done = false;
	TAILQ_INSERT_TAIL(&txn->touched, o, touched_link);
}

static struct orphan *orphan_new(struct transaction *txn, uint64_t id, const struct tree_root *root)
{
	struct orphan *o = mem_zalloc(sizeof(*o));

	if (!o)
		return NULL;
	o->id = id;
	o->root = *root;
	TAILQ_INSERT_TAIL(&txn->fs->volumes->orphans, o, link);
	atomic_fetch_add(&txn->fs->orphans, 1);
	touch(txn, o);
	return o;
}

/* What was cut out of the volume counts with the orphan from now on. */
static void hand_over_cuts(struct transaction *txn, const struct fs_volume *vol, struct orphan *to)
{
	struct orphan *o;
	unsigned left = vol->cuts;

	TAILQ_FOREACH (o, &txn->fs->volumes->orphans, link) {
		if (left == 0)
			break;
		if (o->vol != vol)
			continue;
		touch(txn, o);
		o->new_deleted = to;
		left--;
	}
}

int orphan_add(struct transaction *txn, struct fs_volume *vol)
{
	struct orphan *o;

	if (vol->new_root.addr == 0 && vol->cuts == 0)
		return 0;
	o = orphan_new(txn, vol->id, &vol->new_root);
	if (!o)
		return -ENOMEM;
	o->new_used_blocks = vol->new_used_blocks;
	hand_over_cuts(txn, vol, o);
	return 0;
}

int orphan_add_cut(struct transaction *txn, struct fs_volume *vol, const struct tree_root *cut)
{
	struct orphan *o = orphan_new(txn, atomic_fetch_add(&txn->fs->next_id, 1), cut);

	if (!o)
		return -ENOMEM;
	o->vol = vol;
	vol->cuts++;
	return 0;
}

static void orphan_remove(struct fs *fs, struct orphan *o)
{
	TAILQ_REMOVE(&fs->volumes->orphans, o, link);
	atomic_fetch_sub(&fs->orphans, 1);
	if (o->vol)
		o->vol->cuts--;
	mem_free(o);
}

void orphans_before_freeze(struct fs *fs)
{
	unsigned left = fs->orphan_leaves; /* more cannot be come to */
	struct orphan *o;

	TAILQ_FOREACH (o, &fs->volumes->orphans, link) {
		if (left-- == 0)
			break;
		if (!o->vol)
			continue;
		lock_take(&o->vol->lock);
		volume_set_dirty_locked(o->vol);
		lock_drop(&o->vol->lock);
	}
}

void orphans_publish(struct transaction *txn)
{
	struct orphan *o;

	while ((o = TAILQ_FIRST(&txn->touched))) {
		TAILQ_REMOVE(&txn->touched, o, touched_link);
		o->touched = false;
		o->in_tree = true;
		o->root = o->new_root;
		o->progress = o->new_progress;
		o->used_blocks = o->new_used_blocks;
		if (o->new_deleted && o->vol) {
			o->vol->cuts--;
			o->vol = NULL;
		}
		o->deleted = o->new_deleted;
		if (o->done)
			orphan_remove(txn->fs, o);
	}
}

void orphans_give_up(struct transaction *txn)
{
	struct orphan *o;

	while ((o = TAILQ_FIRST(&txn->touched))) {
		TAILQ_REMOVE(&txn->touched, o, touched_link);
		o->touched = false;
		if (!o->in_tree) /* made by this transaction */
			orphan_remove(txn->fs, o);
	}
}

/* ---- freeing ---------------------------------------------------------------- */

/* Where the nodes and blocks of an orphan count, as the commit makes it. */
struct counters {
	struct tree_root *root;
	uint64_t *used_blocks, *lost_blocks;
};

static struct counters counters_of(struct drop *d)
{
	struct orphan *o = d->o;

	if (o->new_deleted) {
		touch(d->txn, o->new_deleted);
		o = o->new_deleted;
	} else if (o->vol) {
		return (struct counters){&o->vol->new_root, &o->vol->new_used_blocks,
					 &o->vol->new_lost_blocks};
	}
	return (struct counters){&o->new_root, &o->new_used_blocks, NULL};
}

/* A node is gone, with the items and blocks that were in it. */
static void count(struct drop *d, uint8_t level, unsigned items, uint64_t blocks, uint64_t lost)
{
	struct counters c = counters_of(d);

	c.root->nodes = add_clamped(c.root->nodes, -1);
	c.root->leaves = add_clamped(c.root->leaves, -(level == 0));
	c.root->items = add_clamped(c.root->items, -(int64_t)items);
	*c.used_blocks = add_clamped(*c.used_blocks, -(int64_t)blocks);
	if (c.lost_blocks)
		*c.lost_blocks = add_clamped(*c.lost_blocks, -(int64_t)lost);
	*d->budget -= level == 0 && *d->budget;
}

/* -EUCLEAN before anything of it is freed. */
static int drop_leaf(struct drop *d, const struct node_header *leaf)
{
	struct extent e;
	uint64_t blocks = 0, lost = 0;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++)
		r = extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++) {
		(void)extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
		if (e.addr == 0) {
			lost += e.nblk;
			continue;
		}
		r = delayed_ref_add(&d->txn->refs, e.addr, e.nblk * FS_BLOCK_SIZE, -1);
		blocks += e.nblk;
	}
	if (r == 0)
		count(d, 0, node_count(leaf), blocks, lost);
	return r;
}

/* The first block of a child; what came before the progress is gone already. */
static uint64_t child_blk(const struct node_header *node, unsigned slot)
{
	return extent_key_blk(node_key(node, slot));
}

/*
 * Nobody can tell what the node refers to. It is dropped as if it referred to nothing. But it takes along as
 * many of the blocks in use as it can have held, because these count as "at least" (a reserved volume is owed
 * the others).
 */
static void pass_over(struct drop *d, const struct node_header *parent, unsigned slot, int error)
{
	struct orphan *o = d->o;
	uint8_t level = parent ? (uint8_t)(parent->level - 1) : o->root.level;
	uint64_t most = extent_blocks_below(level);

	if (parent && slot + 1 < node_count(parent))
		most = min_u64(most, child_blk(parent, slot + 1) - child_blk(parent, slot));
	fs_log(d->txn->fs, FS_LOG_ERROR,
	       "volume %llu, deleted%s, from offset %llu on: no copy of a node of level %u can be read (%s); the space of what it held is not freed: byre pool check --repair finds it",
	       (unsigned long long)o->root.owner, o->id == o->root.owner ? "" : " or trimmed",
	       parent ? (unsigned long long)child_blk(parent, slot) * FS_BLOCK_SIZE : 0, level,
	       strerror(-error));
	counters_of(d).root->flags |= TREE_LEAF_LOST | (level ? TREE_NODE_LOST : 0);
	d->txn->store.lost = true;
	count(d, level, 0, most, 0);
}

static int drop_node(struct drop *d, const struct node_ident *id);

static int drop_child(struct drop *d, const struct node_header *node, unsigned i)
{
	struct node_ident child;
	int r;

	if (i + 1 < node_count(node) && child_blk(node, i + 1) <= d->o->progress)
		return 0;
	if (*d->budget == 0) {
		d->o->new_progress = max_u64(child_blk(node, i), d->o->progress);
		d->stopped = true;
		return 0;
	}
	r = node_child(node, i, d->o->root.owner, &child);
	if (r == 0)
		r = drop_node(d, &child);
	if (node_is_lost(r)) {
		pass_over(d, node, i, r);
		r = 0;
	}
	return r;
}

/* A node that is unreadable is an error here, and passed over by its parent's loop. */
static int drop_node(struct drop *d, const struct node_ident *id)
{
	struct fs *fs = d->txn->fs;
	struct cache_entry *entry;
	const struct node_header *node;
	int r = transaction_read_node(d->txn, id, &entry);

	if (r)
		return r;
	node = node_header(entry);
	if (id->level == 0)
		r = drop_leaf(d, node);
	for (unsigned i = 0; r == 0 && !d->stopped && id->level > 0 && i < node_count(node); i++)
		r = drop_child(d, node, i);
	cache_put(fs->cache, entry);
	if (r || d->stopped)
		return r;
	if (id->level > 0)
		count(d, id->level, 0, 0, 0);
	return delayed_ref_add(&d->txn->refs, id->addr, NODE_SIZE, -1);
}

static int orphan_drop(struct transaction *txn, struct orphan *o, unsigned *budget)
{
	struct drop d = {txn, o, budget, false};
	struct node_ident id = {o->root.addr, o->root.generation, o->root.owner, o->root.level};
	bool possible = id.level < NODE_LEVEL_MAX && id.addr % NODE_SIZE == 0;
	int r = 0;

	touch(txn, o);
	if (o->root.addr)
		r = possible ? drop_node(&d, &id) : -EUCLEAN;
	if (node_is_lost(r)) {
		pass_over(&d, NULL, 0, r);
		r = 0;
	}
	o->done = !d.stopped;
	if (o->done) { /* what is left of counts that were at most */
		o->new_root.nodes = o->new_root.leaves = o->new_root.items = 0;
		o->new_root.flags = 0;
	}
	return r;
}

int orphans_drop(struct transaction *txn, unsigned *budget)
{
	struct orphan *o;
	int r = 0;

	TAILQ_FOREACH (o, &txn->fs->volumes->orphans, link) {
		if (r || *budget == 0 || (o->vol && o->vol->frozen_generation != txn->generation))
			break;
		r = orphan_drop(txn, o, budget);
	}
	return r;
}

bool orphans_are_left_of(struct transaction *txn, const struct fs_volume *vol)
{
	unsigned left = vol->cuts;
	struct orphan *o;

	if (left == 0)
		return false;
	TAILQ_FOREACH (o, &txn->touched, touched_link)
		left -= o->vol == vol && o->done;
	return left > 0;
}

void orphans_sum_up(struct transaction *txn)
{
	struct orphan *o;

	TAILQ_FOREACH (o, &txn->touched, touched_link) {
		if (o->in_tree)
			tree_sums_add(&txn->sums, &o->root, -1);
		tree_sums_add(&txn->sums, &o->new_root, 1);
	}
}
