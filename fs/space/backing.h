/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/backing.h: sparse pools: the host's file system may run full under the pool's file, and that must
 * be an ENOSPC for new data and nothing else.
 *
 * What a commit, a flush or a delete must write has blocks of the host before it is needed: superblocks,
 * system groups, flush log, metadata groups, free-space cache slots. Data is written into holes, and a write
 * that finds no blocks fails with -ENOSPC; while there are reserved volumes, data groups have all their
 * blocks too.
 *
 * Invariants (while fs->backing->on; otherwise nothing here does anything)
 * 1. Groups are made by the worker here, or by whoever waits in backing_promise; never by a reservation,
 *    which holds the space lock, or by a commit. A group is in the table only when what it needs has blocks.
 * 2. (M), see space_info.h, counts no unallocated space, and a metadata group only when a durable superblock
 *    names it (`uncounted` before that): what was granted and logged must find its room again after a crash
 *    on a full host. While `promised`, the same holds for data groups, and nothing is put into them before.
 * 3. A metadata group leaves only if (M) holds without it.
 * 4. A reservation that lacks a group waits for the worker, unless the host was full a moment ago: then it is
 *    refused.
 * 5. A trim or a zeroing with ragged edges writes up to two new blocks. They come from `spare`, a few data
 *    blocks that have blocks of the host. Spares are taken when there is room, and again from what is freed,
 *    which has been written. A list of them is on the device, so that a pool that is opened on a full host
 *    has them, too. They count as free, and are no more than the freeing reserve of data, so that nobody with
 *    a reservation lacks them.
 * 6. While `promised`, every data group has all its blocks, and nothing inside one is discarded.
 *
 * Cost: making a group takes one or two allocations of the host, besides everything else. A start makes one
 * allocation for each metadata group, which finds its blocks there, and none for data groups that a
 * superblock names; it takes as long as the host needs for its extents (tmpfs looks at each page, 1 GiB in 60
 * ms). A commit and a reservation pay a comparison.
 */
#ifndef FS_SPACE_BACKING_H
#define FS_SPACE_BACKING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/device/device_space.h"
#include "fs/format/backing_format.h"
#include "fs/fs.h"

struct fs;

struct block_group;
struct device_queue;
struct group_desc;
struct space_promise;
struct space_reservation;

#define BACKING_RETRY_US 500000u /* after the host had no room, before it is asked again */

struct backing {
	struct fs *fs;
	_Atomic uint64_t log_offset, log_size; /* where the flush log stands: backing_set_log */
	bool on;
	struct lock lock;	    /* spare */
	uint64_t spare[SPARES_MAX]; /* addresses */
	_Atomic unsigned spares;
	bool spares_changed; /* since they were last written */
	unsigned spares_max;
	struct fs_work work;
	_Atomic bool running;
	/*
	 * The committer's: how many groups were empty after the last commit, and how many of them two commits
	 * in a row could not remove.
	 */
	uint64_t empty_before, empty_left;
	struct fs_work discard_work;
	_Atomic bool discarding;
	bool discard;			/* what is freed is discarded by itself */
	_Atomic unsigned held_up;	/* by how many callers discards are held up */
	_Atomic uint64_t discard_bytes; /* of groups that have something to discard */
	_Atomic bool trimming;		/* fs_trim asked for all of it */
	_Atomic uint64_t trim_total;
	struct device_space freed;    /* unallocated, and not discarded yet: under the group table's lock */
	_Atomic uint64_t freed_bytes; /* the same as freed.bytes, for those without it */
	_Atomic bool host_full;	      /* as far as is known */
	_Atomic uint64_t failed_us;   /* when the host last had no room */
	_Atomic bool promised;	      /* there are reserved volumes, or one is being made */
	bool promising;		      /* a volume operation is about to promise: the space lock */
	/* bytes of metadata groups (0) and data groups (1) that wait for the commit that names them */
	_Atomic uint64_t uncounted[2];
	/* device bytes of groups for which the host is being asked: free, and in no other figure */
	_Atomic uint64_t making;
	/* LOCK_SPACE_INFO: unallocated space when no data (1) or metadata (0) group could be made of it. */
	uint64_t no_room_at[2];
};

/*
 * Decides whether the pool is sparse. Comes before volumes are known, because promises are counted
 * differently then.
 */
void backing_decide(struct fs *fs);
/*
 * Gives blocks to everything that must have some. After the groups are known, before anything is written to
 * them. -ENOSPC with a line for people.
 */
int backing_open(struct fs *fs, struct fs_error *err);
/* Makes the first groups, and more ahead of need: at start and after each commit. Does not wait. */
void backing_tick(struct fs *fs);

/* Blocks for a group about to be made: 0 or -ENOSPC. Waits. */
int backing_allocate(struct fs *fs, const struct group_desc *desc);

/*
 * Whether groups that the worker can make would help this request. If so, the worker is at it, and runs the
 * tickets when it is done. Under the space lock.
 */
bool backing_helps_locked(struct fs *fs, const struct space_reservation *want, uint32_t flags);

/* Why there is no room for a promise: bytes. */
struct backing_lack {
	uint64_t pool_bytes; /* that the pool lacks */
	uint64_t host_needed, host_free;
};

/*
 * A volume is about to be promised this much: gives blocks to all data groups, and makes enough of them,
 * durably. A promise that the host has no room for is refused before anything is done. Under the lock of
 * volume operations. 0, -EDQUOT (the host has no room), -ENOSPC (the pool has none), -ENOMEM, -EROFS. Waits.
 * backing_promise_end: the last promise may be gone.
 */
int backing_promise(struct fs *fs, const struct space_promise *p, uint64_t promised,
		    struct backing_lack *ret_lack);
void backing_promise_end(struct fs *fs);
/*
 * Brackets the operation that backing_promise is part of: an end for another volume in between does nothing.
 */
void backing_promise_begin(struct fs *fs);
void backing_promise_begun(struct fs *fs);

/* As space_grow_system, on a sparse pool. Waits. */
void backing_grow_system(struct fs *fs, uint64_t groups);

/*
 * Whether metadata can do without this many bytes, and would not be given others at once. Under the space
 * lock.
 */
bool backing_can_spare_locked(struct fs *fs, uint64_t bytes);

/*
 * Whether a group that is made now waits for a commit that names it, before it counts; and whether any does.
 */
bool backing_must_be_durable(struct fs *fs, uint8_t type);
bool backing_has_uncounted(struct fs *fs);
/* A commit names this group, or needs it before. The committer only. */
void backing_group_durable(struct fs *fs, struct block_group *g);

/* A data write or an allocation has found no blocks (writes are counted); or one has found some. */
void backing_set_full(struct fs *fs);
bool backing_failed_lately(struct fs *fs, uint64_t us);
void backing_write_failed(struct fs *fs);
void backing_write_succeeded(struct fs *fs);

/* ---- backing_discard.c ----------------------------------------------------- */

/* A group has durably left this range, which is unallocated. */
void backing_space_freed(struct fs *fs, uint64_t off, uint64_t len);
/* After a commit: whether any group has left with it. */
void backing_note_empty(struct fs *fs, bool left);
/* Whether a commit would remove groups, although nothing else has to be written. Under the commit lock. */
bool backing_groups_may_leave(struct fs *fs);
/* Gives some of it back to the host, after a commit. Does not wait. */
void backing_discard_tick(struct fs *fs);
/* At open: whether what is freed is discarded. */
void backing_discard_open(struct fs *fs);
/* These blocks of a data group are available again. Under the group's lock. */
void backing_note_freed_locked(struct fs *fs, struct block_group *g, uint32_t start, uint32_t n);
/* Discards everything that is free in data groups, which had to keep it until then. */
void backing_discard_all(struct fs *fs);
/* The group is unloaded, or leaves. Under its lock. */
void backing_forget_freed_locked(struct fs *fs, struct block_group *g, bool leaves);
/* Waits until no discard is under way, and holds discards up until called with false. Nests. */
void backing_discard_hold_up(struct fs *fs, bool held_up);

/* ---- backing_spare.c ------------------------------------------------------- */

/* Takes a block for a request that frees space. False: there is none. */
bool backing_take_spare(struct fs *fs, uint64_t *ret_addr);
/* The host is full and there is no spare: the next commit may bring some. */
bool backing_lacks_spare(struct fs *fs);
/*
 * Keeps up to n freed blocks of a data group from addr on, instead of making them available: how many. Under
 * the group's lock.
 */
uint32_t backing_keep_freed(struct fs *fs, const struct block_group *g, uint64_t addr, uint32_t n);
/*
 * The list on the device: read at open; written by a commit, before its flush, where it has changed. They
 * wait.
 */
void backing_read_spares(struct fs *fs);
void backing_write_spares(struct fs *fs, struct device_queue *q, uint64_t generation);
/* Takes blocks of free space, while the host has room. Waits. */
void backing_fill_spares(struct fs *fs);
/* Makes the spares of this group available, so that it can go. Under the group's lock. */
void backing_return_spares(struct fs *fs, struct block_group *g);

/* The flush log stands there from now on. When the pool is opened, and by the commit that moves it. */
void backing_set_log(struct fs *fs, uint64_t offset, uint64_t size);

#endif
