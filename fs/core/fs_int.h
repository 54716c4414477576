/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/fs_int.h: the open pool, as the engine's units see it. Each unit owns its part of struct fs and
 * documents it in its own header; nothing else may write there.
 */
#ifndef FS_CORE_FS_INT_H
#define FS_CORE_FS_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/lock.h"
#include "fs/core/epoch.h"
#include "fs/core/latency.h"
#include "fs/core/report.h"
#include "fs/fs.h"

struct fs_clock;
struct fs_ctx;
struct fs_upcalls;

struct backing;
struct bad_nodes;
struct cache;
struct device;
struct device_queue;
struct flush_log;
struct group_table;
struct pins;
struct scrub;
struct space_info;
struct super_block;
struct tree_root;
struct volume_table;
struct work_pool;

struct fs_stats {
	_Atomic uint64_t cache_loaded, cache_written, cache_rebuilt, cache_last_bytes, cache_last_us;
	_Atomic uint64_t cache_bytes, cache_us, commit_bytes, commit_us;
	_Atomic uint64_t last_commit_us, flushes;
	struct latency commit_latency, log_latency;
	_Atomic uint64_t discarded; /* bytes given back to the host */
	_Atomic uint64_t errors_corrected, errors_checksum, errors_io;
};

struct fs {
	const struct fs_upcalls *up;
	struct device *dev;
	struct cache *cache;
	uint8_t uuid[FS_UUID_LEN];
	uint64_t group_step;	     /* of logical addresses */
	_Atomic uint64_t group_size; /* maximum length of new groups; depends on the pool's size */
	uint8_t session[16];	     /* of this opening: claim.h */
	struct fs_options opt;
	const struct fs_clock *clock; /* where time, waiting and random numbers come from */
	_Atomic int read_only; /* 0, or the errno that turned the pool read-only, or EROFS when opened so */

	struct group_table *groups;
	struct lock load_lock; /* reading of a group's cache */
	struct space_info *space;
	struct backing *backing;
	struct epoch epoch;
	struct volume_table *volumes;
	struct flush_log *log;
	struct work_pool *work;
	struct fs_stats stats;
	struct fs_often often[FS_OFTEN_KINDS];
	struct bad_nodes *bad_nodes;
	struct scrub *scrub;

	/* Contexts, for taking back their runs. */
	struct lock ctx_lock;
	struct fs_ctx *ctxs;

	/* The committer: everything below is under commit_lock unless noted. */
	struct lock commit_lock;
	struct super_block *super; /* of the last commit */
	struct tree_root *root_tree, *group_tree;
	struct device_queue *commit_q;
	/* tries left for commits to read again nodes that the device says it cannot read */
	unsigned eio_tries;
	uint64_t eio_tried_us; /* when the last of them was used */
	uint64_t claim_checked_us;
	/* something in the superblock has changed other than the trees */
	bool super_dirty;
	_Atomic uint64_t running_generation; /* of the running transaction */
	_Atomic uint64_t root_tree_nodes_bound;
	_Atomic uint64_t next_id;
	_Atomic uint64_t orphans;     /* deleted volumes whose space is not yet freed */
	_Atomic uint64_t lost_blocks; /* of all volumes, as of the last commit */
	unsigned orphan_leaves;	      /* most leaves of orphans that one commit frees */
	struct pins *pins;	      /* what was freed and is kept for readers */

	/* The commit thread: LOCK_COMMIT_STATE. */
	struct lock state_lock;
	pthread_cond_t state_cond, done_cond;
	pthread_t commit_thread;
	bool commit_thread_runs, stop;
	bool commit_wanted, rebuild_wanted;
	/* a commit that starts after X completed contains X */
	_Atomic uint64_t commits_started, commits_done;
	struct fs_work rebuild_work;
	_Atomic bool rebuild_running;
	/* the last rebuild's; it is tried again at the next interval, or much later (commit_thread.c) */
	_Atomic int rebuild_error;
	uint64_t rebuild_failed_us; /* when it ended, before rebuild_error was set */
	/* since when rebuilds have met nodes that the device cannot read; 0: the last one met none */
	uint64_t rebuild_eio_us;
	_Atomic uint64_t lost_commits; /* commits that put a lost extent in place of a node */
	_Atomic bool rebuild_stop;     /* the last commit is done: a rebuild that runs must end */
};

/* Puts the rebuild on a worker, unless one is under way. */
void fs_start_rebuild(struct fs *fs);

#endif
