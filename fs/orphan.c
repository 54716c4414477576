/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/orphan.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/extent.h"
#include "fs/fs_int.h"

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
	o->done = false;
	TAILQ_INSERT_TAIL(&txn->touched, o, touched_link);
}

int orphan_add(struct transaction *txn, struct fs_volume *vol)
{
	struct orphan *o;

	if (vol->new_root.addr == 0)
		return 0;
	o = mem_zalloc(sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->id = vol->id;
	o->root = vol->new_root;
	o->used_blocks = vol->new_used_blocks;
	TAILQ_INSERT_TAIL(&txn->fs->volumes.orphans, o, link);
	atomic_fetch_add(&txn->fs->orphans, 1);
	touch(txn, o);
	return 0;
}

static void orphan_remove(struct fs *fs, struct orphan *o)
{
	TAILQ_REMOVE(&fs->volumes.orphans, o, link);
	atomic_fetch_sub(&fs->orphans, 1);
	mem_free(o);
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

/* A node is gone, with so many blocks that it referred to. */
static void count(struct drop *d, uint8_t level, unsigned items, uint64_t blocks)
{
	struct tree_root *root = &d->o->new_root;

	root->nodes = add_clamped(root->nodes, -1);
	root->leaves = add_clamped(root->leaves, -(level == 0));
	root->items = add_clamped(root->items, -(int64_t)items);
	d->o->new_used_blocks = add_clamped(d->o->new_used_blocks, -(int64_t)blocks);
	*d->budget -= level == 0 && *d->budget;
}

/* -EUCLEAN before anything of it is freed. */
static int drop_leaf(struct drop *d, const struct node_header *leaf)
{
	struct extent e;
	uint64_t blocks = 0;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++)
		r = extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++) {
		(void)extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
		if (e.addr == 0) /* lost */
			continue;
		r = delayed_ref_add(&d->txn->refs, e.addr, e.nblk * FS_BLOCK_SIZE, -1);
		blocks += e.nblk;
	}
	if (r == 0)
		count(d, 0, node_count(leaf), blocks);
	return r;
}

/* The first block of a child; what came before the progress is gone already. */
static uint64_t child_blk(const struct node_header *node, unsigned slot) { return extent_key_blk(node_key(node, slot)); }

/* Nobody can tell what the node refers to. It goes as if it referred to nothing. */
static void pass_over(struct drop *d, const struct node_header *parent, unsigned slot, int error)
{
	struct orphan *o = d->o;
	uint8_t level = parent ? (uint8_t)(parent->level - 1) : o->root.level;

	fs_log(d->txn->fs, FS_LOG_ERROR,
	       "volume %llu, deleted, from offset %llu on: no copy of a node of level %u can be read (%s); the space of what it held is not freed: byre pool check --repair finds it",
	       (unsigned long long)o->root.owner, parent ? (unsigned long long)child_blk(parent, slot) * FS_BLOCK_SIZE : 0, level,
	       strerror(-error));
	o->new_root.flags |= TREE_LEAF_LOST | (level ? TREE_NODE_LOST : 0);
	d->txn->leaked = true;
	count(d, level, 0, 0);
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
		count(d, id->level, 0, 0);
	return delayed_ref_add(&d->txn->refs, id->addr, NODE_SIZE, -1);
}

static int orphan_drop(struct transaction *txn, struct orphan *o, unsigned *budget)
{
	struct drop d = {txn, o, budget, false};
	struct node_ident id = {o->root.addr, o->root.generation, o->root.owner, o->root.level};
	bool possible = id.level < NODE_LEVEL_MAX && id.addr % NODE_SIZE == 0;
	int r;

	touch(txn, o);
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
	tree_sums_add(&txn->sums, &o->root, -1);
	tree_sums_add(&txn->sums, &o->new_root, 1);
	return r;
}

int orphans_drop(struct transaction *txn, unsigned *budget)
{
	struct orphan *o;
	int r = 0;

	TAILQ_FOREACH(o, &txn->fs->volumes.orphans, link) {
		if (r || *budget == 0)
			break;
		r = orphan_drop(txn, o, budget);
	}
	return r;
}
