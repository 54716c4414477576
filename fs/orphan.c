/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/orphan.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

#include "fs/extent.h"
#include "fs/fs_int.h"

struct drop {
	struct transaction *txn;
	struct orphan *o;
	unsigned *budget;
	bool stopped;
};

static bool is_unreadable(int error) { return error == -EIO || error == -EUCLEAN; }

/* -EUCLEAN before anything of it is freed. */
static int drop_leaf(struct drop *d, const struct node_header *leaf)
{
	struct extent e;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++)
		r = extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++) {
		(void)extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
		r = delayed_ref_add(&d->txn->refs, e.addr, e.nblk * FS_BLOCK_SIZE, -1);
		d->o->new_used_blocks -= e.nblk;
	}
	if (r)
		return r;
	d->txn->leaves--;
	d->txn->items -= node_count(leaf);
	(*d->budget)--;
	return 0;
}

/* The first block of a child; what came before the progress is gone already. */
static uint64_t child_blk(const struct node_header *node, unsigned slot)
{
	uint64_t be = 0;
	struct key key = node_key(node, slot);

	if (key.len == EXTENT_KEY_LEN)
		memcpy(&be, key.data + 1, sizeof(be));
	return be64toh(be);
}

/* The node cannot be read, in any copy: what was freed before it stays freed, the rest stays until a start that can. */
static void get_stuck(struct drop *d, int error)
{
	struct fs *fs = d->txn->fs;

	fs_log(fs, FS_LOG_ERROR, "volume %llu, deleted: a node cannot be read (%s); %llu MiB of its space are not freed",
	       (unsigned long long)d->o->root.owner, strerror(-error),
	       (unsigned long long)(d->o->new_used_blocks * FS_BLOCK_SIZE >> 20));
	d->stopped = d->o->stuck = true;
	atomic_fetch_sub(&fs->orphans, 1);
}

/* A node that is unreadable is an error here, and one of its parent's loop: where it begins is as far as it goes. */
static int drop_node(struct drop *d, const struct node_ident *id)
{
	struct fs *fs = d->txn->fs;
	struct cache_entry *entry;
	const struct node_header *node;
	int r = node_read(fs, d->txn->q, id, &entry);

	if (r)
		return r;
	node = node_header(entry);
	if (id->level == 0)
		r = drop_leaf(d, node);
	for (unsigned i = 0; r == 0 && !d->stopped && id->level > 0 && i < node_count(node); i++) {
		struct node_ident child;

		if (i + 1 < node_count(node) && child_blk(node, i + 1) <= d->o->progress)
			continue;
		if (*d->budget == 0) {
			d->o->new_progress = max_u64(child_blk(node, i), d->o->progress);
			d->stopped = true;
			break;
		}
		r = node_child(node, i, id->owner, &child);
		if (r == 0)
			r = drop_node(d, &child);
		if (is_unreadable(r)) {
			d->o->new_progress = max_u64(child_blk(node, i), d->o->progress);
			get_stuck(d, r);
			r = 0;
		}
	}
	cache_put(fs->cache, entry);
	if (r == 0 && !d->stopped) {
		d->txn->nodes--;
		r = delayed_ref_add(&d->txn->refs, id->addr, NODE_SIZE, -1);
	}
	return r;
}

int orphan_drop(struct transaction *txn, struct orphan *o, unsigned *budget)
{
	struct drop d = {txn, o, budget, false};
	struct node_ident id = {o->root.addr, o->root.generation, o->root.owner, o->root.level};
	int r = 0;

	o->new_progress = o->progress;
	o->new_used_blocks = o->used_blocks;
	if (o->root.addr && *budget > 0 && !o->stuck)
		r = drop_node(&d, &id);
	else
		d.stopped = o->root.addr != 0;
	if (is_unreadable(r)) { /* the root */
		get_stuck(&d, r);
		r = 0;
	}
	o->done = !d.stopped;
	return r;
}
