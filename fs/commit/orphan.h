/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/orphan.h: frees the space of deleted volumes, and of what holes have cut out of volumes' trees, a
 * bounded number of leaves in each commit, without changing these trees: `progress` says how far it is.
 *
 * What was cut out has an item of its own, but its nodes, items and blocks go on counting with the volume, or
 * with the orphan that the volume has become, until they are freed.
 *
 * Invariants
 * 1. Leaves go from left to right; a node goes with the last of its children. So what is still referred to is
 *    exactly: leaves at or behind progress, and the nodes above them. The counts of the root are of these.
 * 2. A node that cannot be read in any copy is passed over, and what it referred to stays taken
 *    (transaction.leaked): neither a commit nor the freeing of what lies behind it may fail for it.
 * 3. A commit writes the items of the orphans that it touched, and looks at no others.
 * 4. What was cut out of a volume is on the list, and is freed, before the volume's own tree when that is
 *    deleted.
 * 5. What was cut out of a living volume is freed in commits that have frozen the volume, since they change
 *    its item.
 *
 * Growth: a commit frees at most fs->orphan_leaves leaves of all orphans together, and costs as much as
 * these. A trim of n extents is n / 379 leaves, so n / 776,000 commits follow, and takes no memory that goes
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
/* Before the freeze: volumes of which something that was cut out is next to be freed become dirty. */
void orphans_before_freeze(struct fs *fs);
/*
 * Frees on: new_progress, new_root, new_used_blocks and done of the orphans on txn->touched say where the
 * transaction leaves them. *budget counts leaves down. -ENOMEM, and what else is no fault of a tree's.
 */
int orphans_drop(struct transaction *txn, unsigned *budget);
/* Whether the commit leaves anything that was cut out of the volume. */
bool orphans_are_left_of(struct transaction *txn, const struct fs_volume *vol);
/* What that changes of txn->sums. What was made by the transaction is not in them yet. */
void orphans_sum_up(struct transaction *txn);
/* The transaction is durable, or is given up. */
void orphans_publish(struct transaction *txn);
void orphans_give_up(struct transaction *txn);

#endif
