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
	FAULT_LOG_CHECKSUM,	   /* replay believes a record whose checksum is wrong */
	FAULT_EARLY_REUSE,	   /* what is freed can be given out at once, not after the commit */
	FAULT_CACHE_SLOT,	   /* a cache is always written to slot 0 */
	FAULT_FLUSH_MISSING,	   /* no flush between the nodes and the superblock */
	FAULT_REPLAY_UNVERIFIED,   /* replay does not look whether the last group's data arrived */
	FAULT_LOG_TAIL,		   /* the commit takes the log's place when it ends, not when it freezes */
	FAULT_CACHE_OF_NOW,	   /* a cache holds what is free now, with running writes' space taken */
	FAULT_COMMITTING_UNLOGGED, /* a flush forgets what the commit under way has frozen */
	FAULT_FLUSH_ERROR,	   /* a failed flush is told to its client and then forgotten */
	FAULT_RANGE_LOCK,	   /* requests that overlap do not wait for each other */
	/* a log that could not be written is used again when nothing is dirty, hole and all */
	FAULT_LOG_HOLE,
	FAULT_OP_EARLY,	     /* an operation on a volume is answered before its record is durable */
	FAULT_ID_AGAIN,	     /* replay does not keep the ids that it finds from being given out again */
	FAULT_LOG_OPS_MIXED, /* a group has operations before what was frozen before they were done */
	/* the edge of a trim is looked at before an earlier write to it has ended */
	FAULT_EDGE_UNLOCKED,
	/* replay takes a record that has rotted for the end of the log and says nothing */
	FAULT_LOG_ROT_SILENT,
	/* references are merged across the border of two groups that are neighbours */
	FAULT_REF_MERGE,
	/* a node of a volume that cannot be read fails the commit that has to change it */
	FAULT_LOST_NODE,
	/* the scrub reads when it is in no epoch: what it reads is given out meanwhile */
	FAULT_SCRUB_EPOCH,
	/* the groups of a sparse pool get no blocks of the host when they are made */
	FAULT_BACKING_MISSING,
	FAULT_CUT_FORGOTTEN, /* what a trim cuts out of a tree is in no item, and never freed */
	/* what groups have left is discarded without being taken, in use again or not */
	FAULT_DISCARD_IN_USE,
	FAULT_PIN_SET, /* what is freed while readers are left goes with what waits for them */
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
