/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/fault.h: deliberate mistakes, compiled in one at a time (-DBYRE_FAULT=n) to see that the crash
 * simulator finds them (make check-mutation). FAULT(n) is 0 and costs nothing in every other build.
 */
#ifndef FS_CORE_FAULT_H
#define FS_CORE_FAULT_H

enum fault {
	/* a flush is answered when its records are written, before the device is flushed */
	FAULT_FLUSH_EARLY = 1,
	/* the superblock is written and flushed before the nodes it names are there */
	FAULT_SUPER_BEFORE_NODES,
	FAULT_LOG_CHECKSUM,	 /* replay believes a record whose checksum is wrong */
	FAULT_EARLY_REUSE,	 /* what is freed can be given out at once, not after the commit */
	FAULT_CACHE_SLOT,	 /* a free-space cache is always written to cache slot 0 */
	FAULT_FLUSH_MISSING,	 /* no flush between the nodes and the superblock */
	FAULT_REPLAY_UNVERIFIED, /* replay does not check whether the last log group's data arrived */
	FAULT_LOG_TAIL,		 /* the commit takes the log's place when it ends, not when it freezes */
	/* a free-space cache holds what is free now, without the space of running writes */
	FAULT_CACHE_OF_NOW,
	FAULT_COMMITTING_UNLOGGED, /* a flush forgets what the commit under way has frozen */
	FAULT_FLUSH_ERROR,	   /* a failed flush is reported to its client and then forgotten */
	FAULT_RANGE_LOCK,	   /* requests that overlap do not wait for each other */
	/* a log that could not be written is used again when nothing is dirty, with its hole */
	FAULT_LOG_HOLE,
	FAULT_OP_EARLY,	     /* an operation on a volume is answered before its record is durable */
	FAULT_ID_AGAIN,	     /* ids that replay finds can be given out again */
	FAULT_LOG_OPS_MIXED, /* a log group has operations ahead of what was frozen before them */
	/* the edge of a trim is read before an earlier write to it has ended */
	FAULT_EDGE_UNLOCKED,
	/* replay silently takes a record that has rotted for the end of the log */
	FAULT_LOG_ROT_SILENT,
	/* references are merged across the border of two neighbouring groups */
	FAULT_REF_MERGE,
	/* a node of a volume that cannot be read fails the commit that has to change it */
	FAULT_LOST_NODE,
	/* the scrub reads outside an epoch: what it reads may be given out meanwhile */
	FAULT_SCRUB_EPOCH,
	/* new groups of a sparse pool get no blocks from the host */
	FAULT_BACKING_MISSING,
	FAULT_CUT_FORGOTTEN, /* what a trim cuts out of a tree gets no item, and is never freed */
	/* space that groups have left is discarded without being taken first, even if it is in use again */
	FAULT_DISCARD_IN_USE,
	FAULT_PIN_SET, /* what is freed while readers are left joins the set that waits for them */
	/* what a commit freed is given out although a reader may still look at it */
	FAULT_READERS_LEFT,
	/* a commit takes operations off the log's list that came after its freeze */
	FAULT_OPS_FORGOTTEN,
	FAULT_DISCARD_EARLY,  /* what is freed is discarded before the commit that frees it */
	FAULT_LOG_MOVES_BUSY, /* flushes go on at the log's old place while a commit names the new one */
	FAULT_COUNT
};

#ifdef BYRE_FAULT
#define FAULT(n) ((n) == BYRE_FAULT)
#else
#define FAULT(n) 0
#endif

#endif
