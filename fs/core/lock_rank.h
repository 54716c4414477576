/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/lock_rank.h: the order in which all mutexes are taken, those of the server too, outermost first
 * (see base/lock.h). There is no rank elsewhere (make tidy). A lock not marked "across I/O" is dropped before
 * anything that waits for the device, for space or for a commit.
 */
#ifndef FS_CORE_LOCK_RANK_H
#define FS_CORE_LOCK_RANK_H

enum lock_rank {
	/* one growth of the pool, or promise to a volume, at a time. Held across I/O and commits. */
	LOCK_VOLUME_OP = 50,
	LOCK_COMMIT = 100,	 /* one commit at a time: trees, delayed refs, superblock. Held across I/O. */
	LOCK_VOLUME_TABLE = 200, /* names, ids and reference counts of volumes. Not across I/O. */
	/* the flush log's tail, and who writes the next log group. Not across I/O. */
	LOCK_LOG = 300,
	LOCK_VOLUME = 400, /* one volume's overlays, root and size. Not across I/O. */
	/* the lists of volumes with changes to commit, or to log. Not across I/O. */
	LOCK_DIRTY_VOLUMES = 450,
	LOCK_CTX = 470,	       /* a context's run of free space; the list of contexts. Not across I/O. */
	LOCK_GROUP_LOAD = 480, /* reading of free-space caches. Held across I/O. */
	/* byte counters, reservations and tickets of a kind of space. Not across I/O. */
	LOCK_SPACE_INFO = 500,
	LOCK_GROUP_LIST = 600,	  /* the list of block groups, and which are dirty. Not across I/O. */
	LOCK_BLOCK_GROUP = 700,	  /* one group's free space, counters and cache state. Not across I/O. */
	LOCK_GROUP_ORDER = 750,	  /* the lists of groups by free space and by last use. Not across I/O. */
	LOCK_SPARES = 750,	  /* a sparse pool's blocks for edges of trims. Not across I/O. */
	LOCK_EXTENT_STATE = 800,  /* one volume's extent state tree and its waiters. Not across I/O. */
	LOCK_CACHE_POOL = 890,	  /* the memory that caches share, their sizes and pages. Not across I/O. */
	LOCK_CACHE_SHARD = 900,	  /* one shard of the node or data cache. Not across I/O. */
	LOCK_WORK = 1000,	  /* the queue of the worker threads. Not across I/O. */
	LOCK_CTX_POST = 1100,	  /* what other threads hand to a context. Not across I/O. */
	LOCK_COMMIT_STATE = 1150, /* what the commit thread is asked to do. Not across I/O. */
	LOCK_SCRUB = 1180,	  /* what the scrub found, and what it is asked to do. Not across I/O. */
	LOCK_BAD_NODES = 1190,	  /* which nodes were found without a good copy. Not across I/O. */
	/* server: answers that other threads have ready. Nothing is called with it held. */
	LOCK_RPC_DONE = 1300,
	/* server: memory of clients' requests; waking takes loops'. Not across I/O. */
	LOCK_BUDGET = 1900,
	/* server: the list of connections; loops are woken inside it. Not across I/O. */
	LOCK_CLIENTS = 1900,
	/* server: what is posted to a loop, by the engine's threads, too. Not across I/O. */
	LOCK_LOOP = 2000,
	/* The device layer's are leaves: nothing else is locked while one is held. */
	/* what --write-log records, in its order: before the inner device's. Across its own I/O. */
	LOCK_RECORD = 9999,
	LOCK_DEVICE = 10000, /* a device's queues of requests. Not across I/O. */
};

#endif
