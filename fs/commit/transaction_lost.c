/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/transaction_lost.c: nodes that a commit has to change and cannot read.
 *
 * A wrong checksum in every copy is final. What the device says that it cannot read may come back: a path
 * that fails over, a cable. So it is tried again for some seconds, during which the commit waits and clients
 * go on. Longer would make those wait who need the commit (full pools, a full log), and a bad sector never
 * comes back. The seconds are shared by all nodes, so that a device with many bad places does not cost them
 * again and again.
 */
#include <errno.h>
#include <string.h>

#include "fs/cache/cache.h"
#include "fs/commit/transaction.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/fs.h"
#include "fs/tree/node.h"
#include "fs/volume/volume.h"

#define EIO_TRIES 10u
#define EIO_WAIT_MS 500u
#define EIO_AGAIN_S 600u

static bool may_try_again(struct fs *fs)
{
	uint64_t now = fs_now_us(fs);

	if (!fs->eio_tried_us || now - fs->eio_tried_us > EIO_AGAIN_S * 1000000ull)
		fs->eio_tries = EIO_TRIES;
	if (fs->eio_tries == 0)
		return false;
	fs->eio_tries--;
	fs->eio_tried_us = now;
	return true;
}

int transaction_read_node(struct transaction *txn, const struct node_ident *id,
			  struct cache_entry **ret_entry)
{
	int r;

	while ((r = node_read(txn->fs, txn->q, id, ret_entry)) == -EIO && may_try_again(txn->fs))
		(void)fs_pause(txn->fs, EIO_WAIT_MS * 1000);
	return r;
}

void transaction_note_lost(struct transaction *txn, uint64_t volume, uint64_t blk, uint64_t nblk)
{
	if (txn->losts < LOST_RANGES_MAX)
		txn->lost[txn->losts] = (struct lost_range){volume, blk, nblk};
	txn->losts++;
}

static void report(struct fs *fs, const struct fs_volume *vol, const struct lost_range *lost)
{
	fs_log(fs, FS_LOG_ERROR,
	       "volume %s, offset %llu, length %llu: lost, except what was written since: a node of its tree cannot be read in any copy. Reading it fails until it is overwritten; byre pool check --repair frees what it held",
	       vol->frozen_name->text, (unsigned long long)lost->blk * FS_BLOCK_SIZE,
	       (unsigned long long)lost->nblk * FS_BLOCK_SIZE);
}

void transaction_report_lost(struct transaction *txn)
{
	unsigned n = txn->losts < LOST_RANGES_MAX ? txn->losts : LOST_RANGES_MAX;
	struct fs_volume *vol;

	if (n == 0)
		return;
	TAILQ_FOREACH (vol, &txn->frozen, frozen_link)
		for (unsigned i = 0; i < n; i++)
			if (txn->lost[i].volume == vol->id && !vol->frozen_deleted)
				report(txn->fs, vol, &txn->lost[i]);
	if (txn->losts > n)
		fs_log(txn->fs, FS_LOG_ERROR, "%u more ranges are lost: byre pool check names them",
		       txn->losts - n);
}
