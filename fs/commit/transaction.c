/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/transaction.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/cache/write_batch.h"
#include "fs/commit/flush_log.h"
#include "fs/commit/group_tree.h"
#include "fs/commit/orphan.h"
#include "fs/commit/root_tree.h"
#include "fs/core/clock.h"
#include "fs/core/epoch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/latency.h"
#include "fs/core/report.h"
#include "fs/core/upcall.h"
#include "fs/core/wakeup.h"
#include "fs/device/claim.h"
#include "fs/device/device.h"
#include "fs/device/super.h"
#include "fs/device/work.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/delayed_ref.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/extent.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"

#define COMMIT_MEMORY_TRIES 20
#define COMMIT_MEMORY_WAIT_US 50000

/* ---- nodes ----------------------------------------------------------------- */

static int store_alloc(struct tree_store *store, uint64_t owner, uint64_t *ret_addr)
{
	struct transaction *txn = container_of(store, struct transaction, store);
	uint8_t group_type = owner == TREE_ID_GROUP ? GROUP_SYSTEM : GROUP_METADATA;
	int r = block_group_alloc_node(txn->fs, txn->q, group_type, ret_addr);

	if (r)
		return r;
	r = delayed_ref_add(&txn->refs, *ret_addr, NODE_SIZE, +1);
	if (r) {
		block_group_give(txn->fs, *ret_addr, NODE_SIZE);
		space_deallocated_node(txn->fs, group_type, NODE_SIZE);
	}
	return r;
}

static int store_write(struct tree_store *store, struct cache_entry *entry, uint64_t addr)
{
	struct transaction *txn = container_of(store, struct transaction, store);
	uint64_t off[GROUP_STRIPES_MAX];
	int n = block_group_map(txn->fs, addr, NODE_SIZE, off);

	ASSERT(n > 0);
	cache_publish(txn->fs->cache, entry, addr);
	return write_batch_node(&txn->wb, entry, off, n);
}

static int store_read(struct tree_store *store, const struct node_ident *id, struct cache_entry **ret_entry)
{
	return transaction_read_node(container_of(store, struct transaction, store), id, ret_entry);
}

static int store_drop(struct tree_store *store, uint64_t addr)
{
	return delayed_ref_add(&container_of(store, struct transaction, store)->refs, addr, NODE_SIZE, -1);
}

void transaction_open_store(struct transaction *txn)
{
	txn->store = (struct tree_store){
		.fs = txn->fs,
		.q = txn->q,
		.generation = txn->generation,
		.alloc = store_alloc,
		.write = store_write,
		.read = store_read,
		.drop = store_drop,
	};
}

/* ---- freeze ---------------------------------------------------------------- */

static void freeze_volume(struct transaction *txn, struct fs_volume *vol)
{
	lock_take(&vol->lock);
	lock_take(&txn->fs->volumes->dirty_lock);
	vol->dirty_listed = false;
	lock_drop(&txn->fs->volumes->dirty_lock);
	overlay_move(&vol->committing, &vol->running);
	vol->frozen_size = vol->grown_size ? vol->grown_size : atomic_load(&vol->size);
	vol->frozen_flags = vol->flags;
	volume_text_put(vol->frozen_name);
	volume_text_put(vol->frozen_comment);
	vol->frozen_name = volume_text_get(vol->name);
	vol->frozen_comment = volume_text_get(vol->comment);
	vol->frozen_deleted = vol->deleted;
	vol->frozen_generation = txn->generation;
	vol->meta_dirty = false;
	mem_free(vol->frozen_touches);
	vol->frozen_touches = vol->touches;
	vol->touches = NULL;
	lock_drop(&vol->lock);
}

static void freeze(struct transaction *txn)
{
	struct fs *fs = txn->fs;
	struct fs_volume *vol;

	/*
	 * First: what is accounted by now is in an overlay, and so will be frozen. What comes later counts
	 * for the next commit too.
	 */
	space_freeze(fs);
	/* Under the log's lock: what belongs to the next transaction is logged behind this place. */
	flush_log_lock_built(fs->log);
	lock_take(&fs->volumes->dirty_lock);
	TAILQ_FOREACH (vol, &fs->volumes->dirty, dirty_link)
		TAILQ_INSERT_TAIL(&txn->frozen, vol, frozen_link);
	TAILQ_INIT(&fs->volumes->dirty);
	/* before anything is of that one */
	txn->turned = epoch_previous_is_empty(&fs->epoch) &&
		      pins_turn(fs->pins, atomic_load(&fs->running_generation) + 1);
	txn->generation = atomic_fetch_add(&fs->running_generation, 1);
	txn->log_tail = fs->log->head;
	txn->log_seq = fs->log->seq;
	if (flush_log_start_move_locked(fs))
		txn->log_tail = 0;
	flush_log_freeze_locked(fs->log);
	lock_drop(&fs->volumes->dirty_lock);
	/* Names and sizes of one moment: operations change them under the log's lock, too. */
	TAILQ_FOREACH (vol, &txn->frozen, frozen_link)
		freeze_volume(txn, vol);
	lock_drop(&fs->log->lock);
}

/* ---- the trees ------------------------------------------------------------- */

static int apply_volume(struct transaction *txn, struct fs_volume *vol)
{
	struct extent_counts counts = {vol->used_blocks, vol->lost_blocks};
	uint64_t end = vol->frozen_size / FS_BLOCK_SIZE;
	struct tree_root cut = {0};
	int r = 0;

	vol->new_root = vol->root;
	if (overlay_first(&vol->committing) || (vol->frozen_touches && vol->root.addr))
		r = extent_apply(txn, &vol->new_root, &vol->committing, vol->frozen_touches, vol->tree_end,
				 end, &counts, &cut);
	if (r == 0 && cut.addr)
		r = orphan_add_cut(txn, vol, &cut);
	vol->new_used_blocks = counts.used;
	vol->new_lost_blocks = counts.lost;
	return r;
}

/* All that the commit frees of the volume is freed. */
static void settle_volume(struct transaction *txn, struct fs_volume *vol)
{
	if (vol->new_root.addr == 0 && !orphans_are_left_of(txn, vol)) { /* then they are exact again */
		vol->new_root = (struct tree_root){.owner = vol->id};
		vol->new_used_blocks = vol->new_lost_blocks = 0;
	}
	vol->new_freed_blocks = vol->used_blocks + vol->committing.blocks - vol->new_used_blocks;
	tree_sums_add(&txn->sums, &vol->root, -1);
	if (!vol->frozen_deleted) /* else the orphan has them */
		tree_sums_add(&txn->sums, &vol->new_root, 1);
}

static int apply_volumes(struct transaction *txn)
{
	struct fs_volume *vol;
	int r = 0;

	TAILQ_FOREACH (vol, &txn->frozen, frozen_link) {
		r = apply_volume(txn, vol);
		if (r == 0 && vol->frozen_deleted)
			r = orphan_add(txn, vol);
		if (r)
			break;
	}
	return r;
}

/* Everything that can still be given up. */
static int build_trees(struct transaction *txn)
{
	unsigned budget = txn->fs->orphan_leaves;
	struct fs_volume *vol;
	int r;

	txn->root_tree = *txn->fs->root_tree;
	txn->group_tree = *txn->fs->group_tree;
	txn->sums = (struct tree_sums){0};
	txn->open_leaves = txn->fs->orphan_leaves;
	txn->losts = 0;
	txn->store.lost = false;
	r = apply_volumes(txn);
	if (r == 0)
		r = orphans_drop(txn, &budget);
	if (r)
		return r;
	TAILQ_FOREACH (vol, &txn->frozen, frozen_link)
		settle_volume(txn, vol);
	orphans_sum_up(txn);
	return root_tree_update(txn);
}

/* Takes back the nodes whose refs have not been run. */
static void give_up_nodes(struct transaction *txn)
{
	struct fs *fs = txn->fs;

	(void)write_batch_wait(&txn->wb);
	for (size_t i = 0; i < txn->refs.count; i++) {
		struct delayed_ref *ref = &txn->refs.ref[i];
		struct block_group *g = block_group_find(fs, ref->addr);

		if (ref->delta > 0 && g && g->type != GROUP_DATA) {
			cache_invalidate(fs->cache, CACHE_NODE, ref->addr);
			block_group_give(fs, ref->addr, NODE_SIZE);
			space_deallocated_node(fs, g->type, NODE_SIZE);
		}
	}
	txn->refs.count = 0;
}

/* Takes back what build_trees did: new nodes' space, new orphans. The overlays stay frozen. */
static void give_up(struct transaction *txn)
{
	give_up_nodes(txn);
	orphans_give_up(txn);
}

/* A step that takes back all it did when memory is out is tried again for a while. */
static int try_patiently(struct transaction *txn, int (*step)(struct transaction *txn))
{
	int r = step(txn);

	for (int i = 1; r == -ENOMEM && i < COMMIT_MEMORY_TRIES; i++) {
		(void)fs_pause(txn->fs, COMMIT_MEMORY_WAIT_US);
		r = step(txn);
	}
	return r;
}

static int build_or_give_up(struct transaction *txn)
{
	int r = build_trees(txn);

	if (r == -ENOMEM)
		give_up(txn);
	return r;
}

/* ---- to the device --------------------------------------------------------- */

/* The caches' share of what was waited for goes by bytes: nodes and caches are under way together. */
static void count_caches(struct fs *fs, uint64_t bytes, uint64_t all_bytes, uint64_t encode_us,
			 uint64_t wait_us)
{
	uint64_t us = encode_us + (all_bytes ? wait_us * bytes / all_bytes : 0);

	atomic_store(&fs->stats.cache_last_bytes, bytes);
	atomic_store(&fs->stats.cache_last_us, us);
	atomic_fetch_add(&fs->stats.cache_bytes, bytes);
	atomic_fetch_add(&fs->stats.cache_us, us);
}

static int write_caches(struct transaction *txn)
{
	uint64_t start = fs_now_us(txn->fs), before = txn->wb.bytes, encoded;
	int r = block_group_write_caches(txn->fs, &txn->wb, txn->generation);

	encoded = fs_now_us(txn->fs);
	if (r == 0) /* nodes too; from how the caches went, the items */
		r = write_batch_wait(&txn->wb);
	count_caches(txn->fs, txn->wb.bytes - before, txn->wb.bytes, encoded - start,
		     fs_now_us(txn->fs) - encoded);
	return r;
}

static int run_refs(struct transaction *txn)
{
	return block_group_run_refs(txn->fs, txn->q, &txn->refs, txn->generation);
}

static int update_group_tree(struct transaction *txn)
{
	int r = group_tree_update(txn);

	if (r == -ENOMEM)
		give_up_nodes(txn);
	return r;
}

static int write_out(struct transaction *txn)
{
	struct fs *fs = txn->fs;
	int r;

	delayed_refs_settle(&txn->refs, fs->group_step);
	r = try_patiently(txn, run_refs);
	txn->refs.count = 0;
	if (r == 0)
		r = write_caches(txn);
	if (r == 0)
		r = try_patiently(txn, update_group_tree);
	if (r == 0 && !FAULT(FAULT_SUPER_BEFORE_NODES))
		r = write_batch_wait(&txn->wb);
	if (r == 0) {
		delayed_refs_settle(&txn->refs, fs->group_step); /* the group tree's own nodes */
		r = run_refs(txn);
	}
	atomic_fetch_add(&fs->stats.commit_bytes, txn->wb.bytes + SUPER_COPIES * SUPER_SIZE);
	return r;
}

static int write_super(struct transaction *txn)
{
	struct fs *fs = txn->fs;
	struct super_block *sb = fs->super;
	int r = claim_check(fs, txn->q);

	if (r)
		return r;
	backing_write_spares(fs, txn->q, txn->generation);
	r = FAULT(FAULT_FLUSH_MISSING) ? 0 : device_flush(txn->q);

	if (r == 0 && fs_is_read_only(fs)) /* a flush of the log's failed: this one's success says nothing */
		r = -EROFS;
	if (r)
		return r;
	sb->generation = cpu_to_le64(txn->generation);
	sb->next_id = cpu_to_le64(atomic_load(&fs->next_id));
	sb->device_size = cpu_to_le64(fs->dev->size);
	if (txn->store.lost)
		sb->flags = cpu_to_le64(le64_to_cpu(sb->flags) | SUPER_FLAG_LEAKED);
	if (FAULT(FAULT_LOG_TAIL) && !fs->log->moving) {
		txn->log_tail = fs->log->head;
		txn->log_seq = fs->log->seq;
	}
	if (fs->log->moving) {
		sb->log_offset = cpu_to_le64(fs->log->next_offset);
		sb->log_size = cpu_to_le64(fs->log->next_size);
	}
	sb->log_tail = cpu_to_le64(txn->log_tail);
	sb->log_seq = cpu_to_le64(txn->log_seq);
	block_group_pack_system(fs, sb);
	tree_root_pack(&txn->root_tree, &sb->root_tree);
	tree_root_pack(&txn->group_tree, &sb->group_tree);
	fs->up->pack_scrub(fs, sb);
	return super_write_all(txn->q, sb);
}

/* ---- publish --------------------------------------------------------------- */

static void publish_volume(struct fs_volume *vol, uint64_t generation)
{
	struct overlay old;

	overlay_init(&old);
	lock_take(&vol->lock);
	vol->root = vol->new_root;
	vol->used_blocks = vol->new_used_blocks;
	/* the tree is an orphan's now; another commit may still find the volume dirty */
	if (vol->frozen_deleted) {
		vol->root = (struct tree_root){.owner = vol->id};
		vol->used_blocks = vol->new_lost_blocks = 0;
		if (!vol->buried) {
			vol->buried = true;
			atomic_fetch_sub(&vol->fs->volumes->dying, 1);
			atomic_fetch_sub(&vol->fs->space->volumes, 1);
		}
	}
	atomic_fetch_add(&vol->fs->lost_blocks, vol->new_lost_blocks - vol->lost_blocks);
	vol->lost_blocks = vol->new_lost_blocks;
	vol->tree_end = vol->frozen_size / FS_BLOCK_SIZE;
	volume_note_freed_locked(vol, generation, vol->new_freed_blocks * FS_BLOCK_SIZE);
	overlay_move(&old, &vol->committing);
	lock_drop(&vol->lock);
	overlay_clear(&old);
	volume_unref(vol); /* the dirty list's */
}

static void publish(struct transaction *txn)
{
	struct fs *fs = txn->fs;
	struct fs_volume *vol;

	transaction_report_lost(txn);
	atomic_fetch_add(&fs->lost_commits, txn->store.lost);
	/* the trees can be walked again where this node was the obstacle */
	if (txn->store.lost && atomic_load(&fs->rebuild_error))
		fs_kick_rebuild(fs);
	orphans_publish(txn); /* they know their volumes, which the next step may free */
	while ((vol = TAILQ_FIRST(&txn->frozen))) {
		TAILQ_REMOVE(&txn->frozen, vol, frozen_link);
		publish_volume(vol, txn->generation);
	}
	*fs->root_tree = txn->root_tree;
	*fs->group_tree = txn->group_tree;
	atomic_store(&fs->root_tree_nodes_bound, 2 * txn->root_tree.nodes + 16);
	block_group_commit_done(fs, txn->generation);
	space_commit_done(fs, &txn->sums);
	pins_commit_done(fs->pins, txn->turned);
	if (txn->turned)
		epoch_advance(&fs->epoch);
}

bool transaction_release_pins(struct fs *fs)
{
	unsigned set = pins_waiting_set(fs->pins);

	if (!atomic_load(&fs->pins->waiting))
		return true;
	if (!epoch_previous_is_empty(&fs->epoch) && !FAULT(FAULT_READERS_LEFT))
		return false;
	/*
	 * Owed to its volume before it is free: in between a reserved volume would have no right to it, and
	 * others would.
	 */
	volume_release_freed(fs, set);
	block_group_release_pinned(fs, set);
	block_group_free_removed(fs, set);
	block_group_unload(fs);
	pins_released(fs->pins);
	space_count_release(fs);
	return true;
}

/* ---- all of it ------------------------------------------------------------- */

/* What was freed beside readers who have left now comes back by a commit. */
static bool pins_want_commit(struct fs *fs)
{
	return atomic_load(&fs->pins->behind) && !atomic_load(&fs->pins->waiting) &&
	       epoch_previous_is_empty(&fs->epoch);
}

bool transaction_is_needed(struct fs *fs)
{
	bool dirty;

	lock_take(&fs->volumes->dirty_lock);
	dirty = !TAILQ_EMPTY(&fs->volumes->dirty);
	lock_drop(&fs->volumes->dirty_lock);
	/*
	 * A log that has failed has a gap at its head: only a superblock with a tail behind that makes it one
	 * again.
	 */
	if (flush_log_has_failed(fs->log) && !FAULT(FAULT_LOG_HOLE))
		return true;
	if (pins_want_commit(fs))
		return true;
	/* A change is accounted after it is in an overlay: one may still count whose commit has been. */
	return dirty || space_has_running(fs) || atomic_load(&fs->orphans) || fs->groups->dirty ||
	       fs->super_dirty || backing_has_uncounted(fs) || backing_groups_may_leave(fs);
}

static int commit_locked(struct fs *fs)
{
	struct transaction txn = {.fs = fs, .q = fs->commit_q};
	uint64_t start = fs_now_us(fs);
	int r;

	TAILQ_INIT(&txn.frozen);
	TAILQ_INIT(&txn.touched);
	write_batch_init(&txn.wb, fs->cache, txn.q);
	orphans_before_freeze(fs);
	freeze(&txn);
	transaction_open_store(&txn);
	r = try_patiently(&txn, build_or_give_up);
	if (r == 0)
		r = write_out(&txn);
	if (r == 0)
		r = write_super(&txn);
	if (r || FAULT(FAULT_SUPER_BEFORE_NODES))
		(void)write_batch_wait(&txn.wb);
	delayed_refs_fini(&txn.refs);
	if (r) {
		struct fs_volume *vol;

		fs_set_read_only(fs, r, "a commit failed");
		space_fail_tickets(fs, -EROFS);
		while ((vol = TAILQ_FIRST(&txn.frozen))) { /* the table has those that are not deleted */
			TAILQ_REMOVE(&txn.frozen, vol, frozen_link);
			volume_unref(vol); /* the dirty list's */
		}
	} else {
		fs->super_dirty = false;
		publish(&txn);
	}
	/* On failure the frozen overlays stay where they are, for readers. */
	flush_log_commit_done(fs, r, atomic_load(&fs->commits_started), txn.log_tail);
	start = fs_now_us(fs) - start;
	atomic_store(&fs->stats.last_commit_us, start);
	atomic_fetch_add(&fs->stats.commit_us, start);
	latency_add(&fs->stats.commit_latency, start);
	return r;
}

static bool will_fail_again(int error)
{
	return error && error != -ENOMEM && error != -EAGAIN;
}

/*
 * A commit writes nodes: the free space of metadata must be known before it begins, since a rebuild needs the
 * commit lock at its end. One that failed for lack of memory, or because a reader kept an old epoch, is tried
 * again: without that space the commit might not find room. Trees that cannot be read stay so: the commit
 * goes on without, and does not try that again (the commit thread does, at its next interval): a rebuild's
 * end asks for a commit, and so there would be no end.
 */
static void prepare_metadata(struct fs *fs)
{
	for (int i = 0; i < COMMIT_MEMORY_TRIES; i++) {
		bool unknown;

		if (i)
			(void)fs_pause(fs, COMMIT_MEMORY_WAIT_US);
		lock_take(&fs->commit_lock);
		unknown = block_group_load_metadata(fs, fs->commit_q);
		lock_drop(&fs->commit_lock);
		if (!unknown || fs_is_read_only(fs) || will_fail_again(atomic_load(&fs->rebuild_error)))
			return;
		fs_start_rebuild(fs);
		while (atomic_load(&fs->rebuild_running))
			fs_await_worker(fs);
	}
}

void transaction_fail_waiting(struct fs *fs)
{
	space_fail_tickets(fs, -EROFS);
	flush_log_commit_done(fs, -EROFS, UINT64_MAX, UINT64_MAX);
}

/*
 * Readers hold up a commit only where there is not room enough for it beside what is kept for them. False: in
 * a pool without threads, whose readers cannot go on meanwhile.
 */
static bool wait_for_readers(struct fs *fs)
{
	bool go = transaction_release_pins(fs) || space_commit_beside_pins(fs);

	while (!go && fs_pause(fs, 100))
		go = transaction_release_pins(fs);
	return go;
}

int transaction_commit(struct fs *fs)
{
	bool behind = false;
	int r = 0;

	prepare_metadata(fs);
	lock_take(&fs->commit_lock);
	if (fs_is_read_only(fs)) {
		r = -EROFS;
	} else if (!wait_for_readers(fs)) {
		r = -EAGAIN;
	} else {
		atomic_fetch_add(&fs->commits_started, 1);
		space_count_reclaim(fs);
		if (atomic_load(&fs->groups->live) > atomic_load(&fs->groups->live_max) / 2)
			space_grow_system(fs, 0);
		if (transaction_is_needed(fs))
			r = commit_locked(fs);
		else
			flush_log_commit_done(fs, 0, atomic_load(&fs->commits_started), UINT64_MAX);
		if (r == 0)
			atomic_store(&fs->commits_done, atomic_load(&fs->commits_started));
		space_commit_ended(fs);
		(void)transaction_release_pins(fs);
		behind = pins_want_commit(fs);
	}
	lock_drop(&fs->commit_lock);
	if (behind)
		fs_kick_commit(fs);
	if (r == 0)
		(void)space_run_tickets(fs, atomic_load(&fs->commits_done), pins_are_left(fs->pins));
	else if (fs_is_read_only(fs))
		transaction_fail_waiting(fs);
	return r;
}
