/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/tree/tree.h: copy-on-write B-trees: roots, walking, and the bulk update that a commit does.
 *
 * A tree is never changed in place: tree_apply merges a sorted stream of changes into it and writes each
 * touched node anew, once. Whoever holds the old root (and its generation, see epoch.h) goes on reading the
 * old tree.
 *
 * Invariants
 * 1. A parent's key for a child is exactly the child's first key.
 * 2. No node is empty; all leaves are at level 0, at equal depth.
 * 3. A node of generation g has no descendant younger than g.
 * 4. Nodes written by tree_apply are about half full at least (by an item), but for the last one of each
 *    level, and where the next subtree would have been opened to fill one up and cannot be read.
 * 5. A tree's counts are exact unless its flags say otherwise; then they are too high, never too low.
 */
#ifndef FS_TREE_TREE_H
#define FS_TREE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/format/key.h"
#include "fs/format/node_format.h"

struct node_ident;

struct tree_sums;

struct cache_entry;
struct device_queue;
struct fs;

void tree_sums_add(struct tree_sums *sums, const struct tree_root *root, int sign);

/* ---- walking --------------------------------------------------------------- */

/* A place in a tree, which pins the nodes on its path. Start with tree_iter_init, end with tree_iter_fini. */
struct tree_iter {
	struct fs *fs;
	struct device_queue *q; /* NULL: cache only */
	struct tree_root root;
	struct cache_entry *node[NODE_LEVEL_MAX];
	unsigned slot[NODE_LEVEL_MAX];
	bool valid; /* stands on an item */
};

void tree_iter_init(struct tree_iter *it, struct fs *fs, struct device_queue *q,
		    const struct tree_root *root);
void tree_iter_fini(struct tree_iter *it);
/* To the last item with a key <= key, else to the first item. The iterator is not valid in an empty tree. */
int tree_iter_seek(struct tree_iter *it, struct key key);
/* To the first item of the tree. */
int tree_iter_first(struct tree_iter *it);
/* To the next item; not valid past the last. */
int tree_iter_next(struct tree_iter *it);
/* The item; points into a pinned node. */
struct key tree_iter_key(const struct tree_iter *it);
struct value tree_iter_value(const struct tree_iter *it);

/* The item with exactly this key, copied to buf (at most cap bytes). -ENOENT. */
int tree_get(struct fs *fs, struct device_queue *q, const struct tree_root *root, struct key key, void *buf,
	     size_t cap, size_t *ret_len);

/* ---- the bulk update ------------------------------------------------------- */

struct tree_writer;

/* Where the changes come from. */
struct tree_changes {
	/* The key where the next change begins; false: there are no more. */
	bool (*next)(struct tree_changes *ch, struct key *ret_key);
	/*
	 * Merges a leaf (NULL in an empty tree) with all changes before `upper` (NULL: to the end), putting
	 * the outcome out with tree_emit in ascending order. A change that reaches beyond goes on with the
	 * next leaf.
	 */
	int (*merge)(struct tree_changes *ch, struct tree_writer *w, const struct node_header *leaf,
		     const struct key *upper);
	/*
	 * May be NULL: a node that cannot be read fails the update. Else it is called in place of merge for a
	 * subtree of the level, into which changes fall and whose root cannot be read in any copy: it held
	 * keys from *first (NULL: the whole tree) to before *upper, and merges the changes with whatever
	 * shall stand for them.
	 */
	int (*lost)(struct tree_changes *ch, struct tree_writer *w, const struct key *first,
		    const struct key *upper, uint8_t level);
	/*
	 * May be NULL. Whether merge can read every item of the leaf. If not, the leaf is lost, like one that
	 * cannot be read.
	 */
	bool (*is_sane)(const struct tree_changes *ch, const struct node_header *leaf);
	/*
	 * May be NULL: nothing is read ahead. Whether a change falls into the range from *first to before
	 * *upper (NULL: no bound), which is not before the next change, so that a node there will have to be
	 * read. Changes nothing.
	 */
	bool (*touches)(const struct tree_changes *ch, const struct key *first, const struct key *upper);
	/*
	 * May be NULL. Whether the next change drops all that there can be from *first (NULL: the whole tree)
	 * to before *upper. Then the subtree may be cut out by its pointer, unread, and merge is called for
	 * its range without a leaf.
	 */
	bool (*drops)(const struct tree_changes *ch, const struct key *first, const struct key *upper);
	/*
	 * With drops: how many leaves of such subtrees are opened and merged all the same, before the others
	 * are cut out. Counted down. What was cut out comes as a tree of its own, with the same owner; the
	 * counts of the root that tree_apply makes are those of both together.
	 */
	unsigned *open_leaves;
	struct tree_root cut; /* addr 0: nothing was */
};

/* From merge and lost: the id of the tree. */
uint64_t tree_writer_owner(const struct tree_writer *w);
/* Puts an item out, from merge and lost. */
int tree_emit(struct tree_writer *w, struct key key, struct value value);

/*
 * What an update needs of its transaction. Nothing that tree_apply has taken or dropped counts before the
 * transaction says so; if the update fails, the transaction takes it back.
 */
struct tree_store {
	struct fs *fs;
	struct device_queue *q;
	uint64_t generation; /* of the nodes that are written */
	bool lost;	     /* set: a node could not be read, and what it referred to stays taken */

	/* A place for a node of a tree of that owner. -ENOSPC, -ENOMEM. */
	int (*alloc)(struct tree_store *store, uint64_t owner, uint64_t *ret_addr);
	/* Publishes the node in the cache and starts its writes. Takes the pin, on failure, too. */
	int (*write)(struct tree_store *store, struct cache_entry *entry, uint64_t addr);
	/* As node_read, for a node that has to be changed: it may try harder. */
	int (*read)(struct tree_store *store, const struct node_ident *id, struct cache_entry **ret_entry);
	/* The node at addr is not part of the tree any more. -ENOMEM. */
	int (*drop)(struct tree_store *store, uint64_t addr);
};

/*
 * Merges the changes into the tree at *root. On success *root is the new tree, whose nodes are on their way
 * to the device, and the store knows every node that came and went. On failure *root is untouched. One thread
 * at a time (the committer).
 */
int tree_apply(struct tree_store *store, struct tree_root *root, struct tree_changes *changes);

/* Changes by key, sorted by the caller: value.data NULL deletes. */
struct tree_keyed_change {
	struct key key;
	struct value value;
};
struct tree_keyed_changes {
	struct tree_changes base;
	const struct tree_keyed_change *change;
	size_t count, pos;
};
void tree_keyed_changes_init(struct tree_keyed_changes *kc, const struct tree_keyed_change *change,
			     size_t count);

#endif
