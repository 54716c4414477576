/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/flush_log.h: the log that makes a flush durable without a commit.
 *
 * A flush appends what is pending and not yet logged, of all volumes, as one *log group*, for all flushes
 * that wait at that moment; then the device is flushed once. (In this unit "group" is a log group, unless it
 * is a block group.) The flush that starts a group leads it: its context does the I/O.
 *
 * Invariants
 * 1. A group is written only after the group before it is durable, and its records say so. So only the last
 *    valid group of a log can lack data: replay verifies the checksums of its data, unless it says
 *    LOG_DATA_DURABLE. And a record that is missing before a later group was lost after it had been durable
 *    (flush_log_reader.h).
 * 2. Items of transaction N+1 are at or after the position that the commit of N made the tail.
 * 3. The log never overwrites what comes after the tail of the last durable superblock.
 * 4. A pending marked as logged is in a group that is durable, or whose failure set `failed`. While `failed`
 *    is set, commits do every flush.
 * 5. Between the tail and the head the durable records have no gap, except while `failed` is set: a group
 *    that could not be written leaves one. So `failed` is cleared only by a superblock whose tail is the head
 *    of a freeze after the failure, and while it is set there is something to commit, even if no volume is
 *    dirty. A group that could not be built has changed neither the head nor the sequence.
 * 6. An operation (log_op) is put on the list under the locks under which it changed memory, and freezing is
 *    one step under the log's lock. So each operation belongs to one transaction, with all that came before
 *    it, and groups carry operations in the order in which they were carried out. A group has first the
 *    operations and extents of a commit under way, then those of the running transaction. Extents are as of
 *    the freeze, or of the moment that the group is built: those after an operation do not include what it
 *    replaced. A volume that is being deleted has no extents in the group of its deletion or after it. A
 *    group is collected without the log's lock, in steps under the volumes' locks; a freeze and an operation
 *    wait until it is built.
 * 7. A data block group that no commit knows of is in the log before the first item that refers to it.
 * 8. The log moves with a commit. From its freeze on commits do the flushes, so the old place gets no group
 *    that its superblock would not lead to; the superblock names the new place, which is empty. A group that
 *    was under way at the freeze ends at the old place, which nobody else gets until then
 *    (flush_log_has_left).
 */
#ifndef FS_COMMIT_FLUSH_LOG_H
#define FS_COMMIT_FLUSH_LOG_H

#include <bsd/sys/queue.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/device/device.h"
#include "fs/device/executor.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"

struct fs;
struct device_queue;

/* most data of a group that replay may have to verify: log->verify_max */
#define FLUSH_VERIFY_BYTES_MAX (64u << 20)
#define FLUSH_GROUP_MAX (32u << 20) /* most bytes of records in one group; more is left to a commit */

/*
 * One that waits for what was done before to be durable: a flush, or an operation. The caller's memory until
 * done. Without an executor a worker does the I/O when it leads.
 */
struct flush_waiter {
	struct executor *ex;				 /* NULL: none */
	bool or_commit;					 /* if its group fails, the next commit answers it */
	void (*done)(struct flush_waiter *w, int error); /* any thread, no lock held */
	uint64_t commits; /* if it waits for a commit: one that starts after this many */
	TAILQ_ENTRY(flush_waiter) link;
};
TAILQ_HEAD(flush_waiter_list, flush_waiter);

/* An operation on a volume, as the log has it. */
struct log_op {
	TAILQ_ENTRY(log_op) link;
	bool listed; /* it is in no group and in no commit yet */
	union {
		struct log_item item;
		struct log_create create;
		struct log_rename rename;
		struct log_resize resize;
		struct log_set set;
		uint8_t bytes[sizeof(struct log_create) + 256]; /* with a name or a comment */
	};
};
TAILQ_HEAD(log_op_list, log_op);

/* The group under way; there is one at a time, and its leader's thread owns it. */
struct log_group {
	struct fs *fs;
	struct executor *ex; /* the leader's */
	struct flush_waiter_list waiters;
	uint64_t ring, ring_size; /* where it is written: the log may move while it is under way */
	uint8_t *buf;		  /* the records, from `start` on in the ring */
	uint64_t cap, used;
	uint64_t start;
	uint64_t data_bytes; /* that the items refer to */
	uint64_t items;
	uint64_t begun_us;
	struct device_io io[2]; /* before and after the ring's end */
	struct device_io flush_io;
	unsigned ios;
	int error;
};

struct flush_log {
	struct fs *fs;
	struct lock lock;
	uint64_t offset, size;		 /* on the device */
	uint64_t head, tail;		 /* positions in the endless log */
	uint64_t seq;			 /* of the next record */
	uint64_t next_offset, next_size; /* not 0: the next commit moves it there */
	bool moving;			 /* the committer's: a commit that moves it is under way */
	/* how many leads have ended; and at how many nobody writes to the old place any more */
	uint64_t turns, turns_left;
	uint64_t verify_max; /* a test may make it smaller before anything is flushed */
	bool busy;	     /* a group is under way */
	/* its items are being collected: seq is the leader's, and no freeze and no operation may happen */
	bool building;
	pthread_cond_t built;
	/*
	 * it cannot be used, mostly because a group could not be written: commits do the flushes until one
	 * has put that right
	 */
	bool failed;
	uint64_t failed_commits;	     /* started when that began */
	struct flush_waiter_list waiting;    /* for the next group */
	struct flush_waiter_list committing; /* for a commit */
	struct log_group group;
	struct post lead;	  /* hands the lead to the next waiter's thread, */
	struct fs_work lead_work; /* or to a worker */
	struct log_op_list ops;	  /* for the next group, in order */
	/*
	 * An upper bound of what the next group takes of frozen overlays. That of running ones, and of
	 * operations, is volume_table.log_bytes.
	 */
	uint64_t frozen_bytes;
	_Atomic uint64_t groups, bytes;
	uint64_t lost_flushes; /* as in the superblock, set at open */
	int64_t lost_ns;
};

void flush_log_init(struct fs *fs);
void flush_log_fini(struct fs *fs);

/*
 * Takes the log's lock when no group is being built. The first waits for that; the second only tries, and
 * returns whether it has the lock.
 */
void flush_log_lock_built(struct flush_log *log);
bool flush_log_try_lock_built(struct flush_log *log);

/*
 * The next group carries this operation. Both the log's lock and the volume's are held, and the operation was
 * carried out under them, so a freeze and a group see it as a whole or not at all. No group is being built.
 * The memory is the caller's until flush_log_forget_op.
 */
void flush_log_add_op_locked(struct flush_log *log, struct log_op *op);
/* The operation was answered. */
void flush_log_forget_op(struct flush_log *log, struct log_op *op);
/* In a pool without threads, if nobody runs the leader's context: the next commit answers all that wait. */
void flush_log_leave_to_commit(struct fs *fs);

/* Makes everything durable that completed before the call; w->done tells. Never waits. On w->ex's thread. */
void flush_log_flush(struct fs *fs, struct flush_waiter *w);

/*
 * The committer: dirty volumes are being frozen. The log's lock and that of the list of dirty volumes are
 * held.
 */
void flush_log_freeze_locked(struct flush_log *log);

/* The next commit moves it to an empty place. */
void flush_log_move(struct fs *fs, uint64_t offset, uint64_t size);
/* The log stays after all. False: a commit has moved it already, or is about to. */
bool flush_log_stay(struct fs *fs);
/*
 * The committer, at the freeze, with the log's lock: whether this commit moves it. If so, replay starts at
 * position 0.
 */
bool flush_log_start_move_locked(struct fs *fs);
/*
 * Waits until nothing is written to the old place any more. False: a pool without threads cannot wait for it.
 */
bool flush_log_has_left(struct fs *fs);

/* Commits do the flushes until one that starts after this has ended. The log's lock is held. */
void flush_log_suspend_locked(struct fs *fs);

bool flush_log_has_failed(struct flush_log *log);

/*
 * The committer: the transaction is durable (or failed with error); `commits` have been started. tail
 * UINT64_MAX: there was nothing to commit.
 */
void flush_log_commit_done(struct fs *fs, int error, uint64_t commits, uint64_t tail);

#endif
