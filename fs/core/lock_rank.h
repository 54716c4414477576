/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/lock_rank.h: the order in which the engine's mutexes are taken, outermost first (see base/lock.h).
 * A lock not marked "across I/O" is dropped before anything that waits for the device, for space or for a
 * commit.
 */
#ifndef FS_CORE_LOCK_RANK_H
#define FS_CORE_LOCK_RANK_H

enum lock_rank {
	/* one growth of the pool, or promise to a volume, at a time. Held across I/O and commits. */
	LOCK_VOLUME_OP = 50,
	LOCK_COMMIT = 100,	 /* one commit at a time: trees, delayed refs, superblock. Held across I/O. */
	LOCK_VOLUME_TABLE = 200, /* names, ids and reference counts of volumes. Not across I/O. */
	LOCK_LOG = 300,		 /* the flush log's tail, and who writes the next group. Not across I/O. */
	LOCK_VOLUME = 400,	 /* one volume's overlays, root and size. Not across I/O. */
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
	LOCK_CACHE_SHARD = 900,	  /* one shard of the node or data cache. Not across I/O. */
	LOCK_WORK = 1000,	  /* the queue of the worker threads. Not across I/O. */
	LOCK_CTX_POST = 1100,	  /* what other threads hand to a context. Not across I/O. */
	LOCK_COMMIT_STATE = 1150, /* what the commit thread is asked to do. Not across I/O. */
	LOCK_SCRUB = 1180,	  /* what the scrub found, and what it is asked to do. Not across I/O. */
	LOCK_BAD_NODES = 1190,	  /* which nodes were found without a good copy. Not across I/O. */
	LOCK_STATS = 1200,	  /* figures for fs_get_info. Not across I/O. */
};

#endif
