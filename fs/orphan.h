/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/orphan.h: frees the space of deleted volumes, a bounded number of leaves in each commit, without changing their
 * trees: `progress` says how far it is. Leaves go from left to right; a node goes with the last of its children. So what
 * is still referred to is exactly: leaves at or behind progress, and the nodes above them.
 *
 * A node that cannot be read in any copy stops that orphan until the next start (stuck): neither a commit nor the freeing of other
 * volumes may fail for it.
 */
#ifndef FS_ORPHAN_H
#define FS_ORPHAN_H

#include "fs/transaction.h"

#define ORPHAN_LEAVES_PER_COMMIT 2048u /* fs->orphan_leaves, unless a test makes it smaller */

/*
 * Frees on from o->progress; o->new_progress, new_used_blocks and done say where the transaction leaves it.
 * *budget counts leaves down. -ENOMEM, and what else is no fault of the tree's.
 */
int orphan_drop(struct transaction *txn, struct orphan *o, unsigned *budget);

#endif
