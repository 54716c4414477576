/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/orphan.h: frees the space of deleted volumes, and of what holes have cut out of volumes' trees, a
 * bounded number of leaves in each commit, without changing these trees: `progress` says how far that has
 * come.
 *
 * What was cut out has an item of its own, but its nodes, items and blocks go on counting with the volume, or
 * with the orphan that the volume has become, until they are freed.
 *
 * Invariants
 * 1. Leaves are freed from left to right; a node is freed with the last of its children. So exactly the
 *    leaves at or after progress, and the nodes above them, are still referred to. The root's counts are of
 *    these.
 * 2. A node that cannot be read in any copy is skipped, and what it referred to stays taken: neither a commit
 *    nor the freeing of what comes after it may fail because of it.
 * 3. A commit writes the items of the orphans that it touched, and looks at no others.
 * 4. What was cut out of a volume is on the list, and is freed, before the volume's own tree if that is
 *    deleted.
 * 5. What was cut out of a volume that still exists is freed in commits that have frozen the volume, because
 *    they change its item.
 *
 * Growth: a commit frees at most fs->orphan_leaves leaves of all orphans together, and costs in proportion. A
 * trim of n extents is n / 379 leaves, so n / 776,000 commits follow; the memory that it takes does not grow
 * with n (tests/bench/trim.c: of 10,000,000 extents it was answered in less than 0.1 ms; 42 MiB more beside
 * the cache's 64; the longest of 11 commits took 370 ms on two busy processors, and another client's slowest
 * flush 20.5 ms, 15.9 without it).
 */
#ifndef FS_COMMIT_ORPHAN_H
#define FS_COMMIT_ORPHAN_H

#include <stdbool.h>

struct fs;
struct fs_volume;
struct transaction;
struct tree_root;

#define ORPHAN_LEAVES_PER_COMMIT 2048u /* fs->orphan_leaves, unless a test makes it smaller */

/* A volume that the commit deletes, whose overlay is merged, becomes an orphan. -ENOMEM. */
int orphan_add(struct transaction *txn, struct fs_volume *vol);
/* A hole has cut this out of the volume's tree. -ENOMEM. */
int orphan_add_cut(struct transaction *txn, struct fs_volume *vol, const struct tree_root *cut);
/* Before the freeze: makes those volumes dirty whose cut-out parts are freed next. */
void orphans_before_freeze(struct fs *fs);
/*
 * Frees more leaves: new_progress, new_root, new_used_blocks and done of the orphans on txn->touched say
 * where the transaction leaves them. *budget counts leaves down. -ENOMEM, and other errors that are not a
 * tree's fault.
 */
int orphans_drop(struct transaction *txn, unsigned *budget);
/* Whether the commit leaves anything that was cut out of the volume. */
bool orphans_are_left_of(struct transaction *txn, const struct fs_volume *vol);
/* Updates txn->sums accordingly. Orphans that the transaction made are not in them yet. */
void orphans_sum_up(struct transaction *txn);
/* The transaction is durable, or is given up. */
void orphans_publish(struct transaction *txn);
void orphans_give_up(struct transaction *txn);

#endif
