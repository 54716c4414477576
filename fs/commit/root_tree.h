/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/root_tree.h: the root tree: an item for each volume and for each deleted one whose space is still
 * being freed.
 *
 * Invariants
 * 1. In the tree of a generation a volume's item and its volume tree are of the same freeze (struct
 *    fs_volume, frozen_size and the rest).
 * 2. A volume that a commit deletes turns into an orphan in that commit: an id has one item, of one kind or
 *    the other.
 *
 * Growth: a start reads the whole tree, and makes a volume in memory of each item. A commit takes about 700
 * bytes of memory for each item that it changes, while it writes them.
 */
#ifndef FS_COMMIT_ROOT_TREE_H
#define FS_COMMIT_ROOT_TREE_H

struct fs;
struct transaction;

/*
 * At open: makes the volumes and orphans that the committed tree names. -EUCLEAN on impossible items. Waits.
 */
int root_tree_read(struct fs *fs);

/*
 * In a commit, when the volumes' new trees are there and orphans were dropped further: writes the items of
 * all frozen volumes and of the orphans that it touched into txn->root_tree. -ENOMEM, and as tree_apply.
 */
int root_tree_update(struct transaction *txn);

#endif
