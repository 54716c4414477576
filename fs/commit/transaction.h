/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/transaction.h: the commit: from frozen overlays to a superblock.
 *
 * One transaction of generation N, in this order:
 *   1. pins that no reader needs any more are released. If readers are left, there must be room to go on
 *      without what the pins keep (space_commit_beside_pins); if not, the commit waits for the readers
 *   2. freeze: the sets of pins turn, unless readers are left (pins.h); the running generation becomes N+1;
 *      each dirty volume's overlay is frozen
 *   3. each frozen overlay is merged into its volume's tree; orphans are dropped further; the root tree
 *   4. delayed refs run: now what the trees of N refer to is known
 *   5. caches of dirty groups and nodes are written, together; then the group tree, which says how that went
 *   6. device flush; superblock copy 0; device flush; the other copies; device flush
 *   7. publish: volumes' roots; epoch; the flush log's tail; pins wait for readers
 * If memory is out, 3 and the group tree in 5 take back the nodes they wrote, 4 has not yet changed anything,
 * and each is tried again for a while; a cache that finds no memory is left out. Any other failure, and
 * memory that stays out, turns the pool read-only.
 */
#ifndef FS_COMMIT_TRANSACTION_H
#define FS_COMMIT_TRANSACTION_H

#include <stdint.h>

#include "fs/cache/write_batch.h"
#include "fs/format/node_format.h"
#include "fs/space/delayed_ref.h"
#include "fs/space/space_info.h"
#include "fs/tree/tree.h"
#include "fs/volume/volume.h"

struct cache_entry;
struct device_queue;
struct node_ident;

struct fs;

#define LOST_RANGES_MAX 16u

/* What a volume has lost with a node that could not be read, apart from what was written since. */
struct lost_range {
	uint64_t volume, blk, nblk;
};

struct transaction {
	struct fs *fs;
	struct device_queue *q;
	uint64_t generation;
	struct tree_store store; /* these three, as the trees see them */
	bool turned;		 /* the sets of pins */
	struct delayed_refs refs;
	struct write_batch wb;
	struct volume_list frozen;
	struct orphan_list touched; /* that this commit makes or changes */
	struct tree_root root_tree, group_tree;
	uint64_t log_tail, log_seq; /* where replay of what comes after N starts */
	/* leaves that may still be read of what holes drop: extent_apply */
	unsigned open_leaves;
	struct tree_sums sums;			 /* changes to those over all volumes */
	struct lost_range lost[LOST_RANGES_MAX]; /* logged once it is durable */
	unsigned losts;				 /* all losses, some of which may have no entry */
};

/*
 * Makes txn->store from fs, q and generation: trees are updated through it, and their nodes counted in refs
 * and wb.
 */
void transaction_open_store(struct transaction *txn);

/*
 * As node_read, for a node that has to be changed: what the device cannot read is tried again for some
 * seconds, because it counts as lost after that. A wrong checksum is final.
 */
int transaction_read_node(struct transaction *txn, const struct node_ident *id,
			  struct cache_entry **ret_entry);
/* This commit makes blocks of a volume lost. */
void transaction_note_lost(struct transaction *txn, uint64_t volume, uint64_t blk, uint64_t nblk);
/* The transaction is durable: logs what was lost. */
void transaction_report_lost(struct transaction *txn);

/*
 * Makes one commit; called by the commit thread, or by the owner of a pool without threads. 0 also if there
 * was nothing to do. Waits. Everything that completed before the call is durable on success.
 */
int transaction_commit(struct fs *fs);

/* Whether there is anything to commit. Under the commit lock. */
bool transaction_is_needed(struct fs *fs);

/* Releases the pins that wait if their readers are gone. False if some still wait. Under the commit lock. */
bool transaction_release_pins(struct fs *fs);

/* The pool is read-only: ends every wait for a commit, for space or for a flush. */
void transaction_fail_waiting(struct fs *fs);

/* The commit thread. */
int commit_thread_start(struct fs *fs);
void commit_thread_stop(struct fs *fs);

#endif
