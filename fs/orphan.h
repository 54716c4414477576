/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/orphan.h: frees the space of deleted volumes, a bounded number of leaves in each commit, without changing their
 * trees: `progress` says how far it is.
 *
 * Invariants
 * 1. Leaves go from left to right; a node goes with the last of its children. So what is still referred to is exactly: leaves at
 *    or behind progress, and the nodes above them. The counts of the root are of these.
 * 2. A node that cannot be read in any copy is passed over, and what it referred to stays taken (transaction.leaked): neither a
 *    commit nor the freeing of what lies behind it may fail for it.
 * 3. A commit writes the items of the orphans that it touched, and looks at no others.
 *
 * Growth: a commit frees at most fs->orphan_leaves leaves of all orphans together, and costs as much as these.
 */
#ifndef FS_ORPHAN_H
#define FS_ORPHAN_H

#include "fs/transaction.h"

#define ORPHAN_LEAVES_PER_COMMIT 2048u /* fs->orphan_leaves, unless a test makes it smaller */

/* A volume that the commit deletes, whose overlay is merged, becomes an orphan. -ENOMEM. */
int orphan_add(struct transaction *txn, struct fs_volume *vol);
/*
 * Frees on: new_progress, new_root, new_used_blocks and done of the orphans on txn->touched say where the transaction leaves them.
 * *budget counts leaves down. -ENOMEM, and what else is no fault of a tree's.
 */
int orphans_drop(struct transaction *txn, unsigned *budget);
/* The transaction is durable, or is given up. */
void orphans_publish(struct transaction *txn);
void orphans_give_up(struct transaction *txn);

#endif
