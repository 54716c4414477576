/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/group_tree.h: the tree of block groups: read when the pool is opened, changed by each commit. It
 * stands in the system groups (fs/space/block_group_system.c).
 *
 * Growth: reading is linear in the number of groups, 64 nodes under way at a time; a commit goes with the
 * groups that it changes.
 */
#ifndef FS_COMMIT_GROUP_TREE_H
#define FS_COMMIT_GROUP_TREE_H

struct device_queue;
struct fs;
struct transaction;

/* Reads the nodes, and adds all groups to the table. At open. -EUCLEAN, -EIO, -ENOMEM. */
int group_tree_read(struct fs *fs, struct device_queue *q);

/*
 * The committer, after the caches' writes: the items of all dirty groups. -ENOMEM, or what the tree fails
 * with.
 */
int group_tree_update(struct transaction *txn);

#endif
