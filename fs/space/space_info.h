/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/space_info.h: the counters behind "full is never fatal": who may take how much space.
 *
 * Kinds: data, metadata, system. All counters are bytes of logical space.
 *   total       in block groups of this kind
 *   allocated   given out: referred to by trees, overlays or writes under way, or pinned
 *   pinned      the part of allocated that was freed and waits for its commit
 *   may_use     data: reserved by requests that have not yet allocated
 *   unavailable in groups that give nothing out (their free space is being rebuilt)
 * Metadata is not reserved by adding up worst cases of single items (that would promise a hundred times what
 * a commit can need) but by one bound on what the next commit writes, from the number of pending changes and
 * the size of the trees (struct space_pending, space_commit_bound).
 *
 * Invariants
 * 1. Data: allocated + may_use + unavailable + volume_reserved (what is owed to reserved volumes) <= total +
 *    aside. `aside` is at most what is owed: data of reserved volumes for which unallocated space is kept
 *    instead of groups (space_aside_bytes). Groups are made of it as they write. Nobody else has it: neither
 *    data of others nor metadata. So a promise of any size costs no memory. Requests that do not free space
 *    leave freeing_reserve alone besides. Writes to a reserved volume take of what it is owed, which does not
 *    change the sum. Broken only where a group's cache turns out to be bad, or a pool is opened whose
 *    promises no longer fit: then nobody but reserved volumes is granted data until it holds again. Debug
 *    builds check at each change that allocated + may_use <= total where nothing is unavailable.
 * 2. Metadata: allocated + bound(all pending) + reserves <= total - unavailable + 15/32 (unallocated, but for
 *    what is set aside, - two quanta), when a reservation is granted. Reserves: none for SPACE_FREEING; for
 *    writes to reserved volumes the global reserve; for all others that, trim growth, and what reserved
 *    volumes may come to need (space_promise_growth). When a data group is made it holds, with all of them,
 *    for what is then unallocated, and with items for all blocks of the group and a slack of 1/256 of the
 *    data. While a commit runs beside readers, bound(all pending) is bound(what it commits) + bound(the
 *    rest): so (M) holds when it has ended, although what it replaced is not free.
 * 3. A write to a reserved volume never waits for one to a thin volume; only for what a commit gives back to
 *    its own volume, or for a commit when all that may be pending is (space_ticket.c).
 * 4. What was reserved leaves exactly once: data by space_allocate, and the rest of it by space_pend or
 *    space_unreserve; pendings by space_unreserve, or after space_pend with the commit that carries them out.
 * docs/proof.md proves that the committer then always finds room.
 */
#ifndef FS_SPACE_SPACE_INFO_H
#define FS_SPACE_SPACE_INFO_H

#include <bsd/sys/queue.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"

struct fs;

#define CUT_BLOCKS_MIN 256u /* a smaller hole never takes subtrees with it (extent_apply) */

enum space_kind { SPACE_DATA, SPACE_METADATA, SPACE_SYSTEM, SPACE_KINDS };

/* Sums over trees, or changes to them. */
struct tree_sums {
	int64_t nodes, leaves, items;
	int64_t unsure; /* leaves of trees of which only the most is known */
};

struct space_counts {
	uint64_t total, allocated, pinned, may_use, unavailable;
};

/* Changes to trees that some commit has to make. */
struct space_pending {
	uint64_t touches; /* leaves that may have to be rewritten */
	uint64_t bytes;	  /* of new items */
};

enum space_flags {
	SPACE_FREEING = 1, /* frees more than it takes: may use the global reserve */
	SPACE_NOTICKET = 2,
	SPACE_PROMISED = 4, /* set inside, for writes to reserved volumes */
	/*
	 * frees, but may also cut a lost range in two, which frees nothing: leaves half of the global reserve
	 * alone
	 */
	SPACE_SPLITS = 8,
	/*
	 * a question only: on a sparse pool, whether it fits when groups have been made of unallocated space
	 */
	SPACE_AS_IF_MADE = 16,
};

/*
 * What is promised to a reserved volume: its size, and some more for overwrites, whose old space comes back
 * only with a commit. What of it is not allocated is owed; nobody else can have that. Under the lock of
 * struct space_info.
 */
struct space_promise {
	uint64_t promised;   /* bytes of data; 0: a thin volume */
	uint64_t allocated;  /* to this volume: in its trees and overlays, pinned, or under way */
	uint64_t waiting;    /* tickets of this volume */
	uint64_t blocked_in; /* the round of tickets in which one was found to wait for what is owed */
};

/*
 * A commit that begins while pins of older ones are kept for readers (fs/space/pins.h) must leave room for
 * the next one without any of these coming back: then what it writes, and what is written after it, are
 * bounded one by one and not together.
 */
enum space_commit { SPACE_COMMIT_ALONE, SPACE_COMMIT_BESIDE_SOON, SPACE_COMMIT_BESIDE };

/* What one request holds. Start with {0}. */
struct space_reservation {
	uint64_t data_bytes;
	struct space_pending pending;
	struct space_promise *promise; /* of the volume that is written; NULL: none */
};

/*
 * Who waits behind whom. FREEING: behind nobody. PROMISED (writes to reserved volumes): behind those of the
 * same volume, and behind other promised ones unless these wait for their own volume's space alone; never
 * behind what is not promised. PLAIN: behind all that wait for what it needs too.
 */
enum space_class { SPACE_CLASS_FREEING, SPACE_CLASS_PROMISED, SPACE_CLASS_PLAIN, SPACE_CLASSES };

/*
 * Whether a reservation fits now; or what it waits for: what a commit gives back to its own volume, or what
 * all share.
 */
enum space_fit { SPACE_FITS, SPACE_OWED_LATER, SPACE_FULL };

/* A request that waits for space. The caller's memory, until done. */
struct space_ticket {
	struct space_reservation want;
	uint32_t flags;
	void (*done)(struct space_ticket *t, int error); /* 0: reserved. Any thread, no lock held. */
	/* While it waits: */
	enum space_class class;
	enum space_fit why;
	int error;
	uint64_t commits, change_commits; /* started, and completed with changes, when it was queued */
	TAILQ_ENTRY(space_ticket) link;
};
TAILQ_HEAD(space_ticket_list, space_ticket);

struct space_info {
	/*
	 * For the bounds, which look without the lock: all volumes that a commit may still write a tree for,
	 * deleted ones too. The table of volumes counts them.
	 */
	_Atomic uint64_t volumes;
	struct lock lock;
	struct space_counts kind[SPACE_KINDS];
	struct space_pending in_flight;	 /* of requests under way */
	struct space_pending running;	 /* in the running overlays */
	struct space_pending committing; /* in the frozen ones */
	/* of all volumes, as of the last commit. At most, where nodes were lost: */
	uint64_t tree_nodes, tree_leaves, tree_items;
	uint64_t tree_unsure;	  /* this many of the leaves may not be there */
	enum space_commit beside; /* of the commit under way */
	bool unreleased;	  /* a commit with changes has ended since pins were last released */
	uint64_t volume_reserved; /* owed to reserved volumes */
	uint64_t aside;		  /* of that: for which data groups are still to be made */
	/* data: of what is unavailable, in the hands of a discard (backing_discard.c) */
	uint64_t discarding;
	uint64_t promises;				 /* reserved volumes */
	uint64_t global_reserve;			 /* metadata */
	uint64_t freeing_reserve;			 /* data */
	struct space_ticket_list tickets[SPACE_CLASSES]; /* each in order of arrival */
	uint64_t nr_tickets;				 /* in all of them */
	uint64_t nr_stuck;	 /* promised ones that wait for what others could take */
	uint64_t round;		 /* of answering tickets: struct space_promise */
	uint64_t change_commits; /* releases of pins, of commits that had something to commit */
	/* of these, when a ticket was last granted, or one that frees space for it */
	uint64_t granted_at[SPACE_CLASSES];
	uint64_t enospc, reclaim_commits, reclaim_groups;
};

void space_tickets_init(struct space_info *si);
/*
 * Sets the reserves from the device's size, which may have grown, and from whether holes may cut subtrees
 * out.
 */
void space_info_init(struct fs *fs);
void space_info_fini(struct fs *fs);

/*
 * Takes the reservation, or queues the ticket (enum space_class; t->done is called later), or refuses.
 * 0: reserved. -EINPROGRESS: queued. -ENOSPC: nothing that could be reclaimed would help. -EROFS.
 * With SPACE_NOTICKET: -EAGAIN instead of queueing.
 */
int space_reserve(struct fs *fs, struct space_ticket *t);

/* Part of a reservation (data bytes) became an allocation. */
void space_allocate(struct fs *fs, struct space_reservation *res, uint64_t bytes);
/* Back again: the allocation is given up, the reservation stays. */
void space_unallocate(struct fs *fs, struct space_reservation *res, uint64_t bytes);
/* An allocation that no tree and no overlay knows goes back, with the reservation it was made from. */
void space_deallocate(struct fs *fs, struct space_promise *promise, uint64_t bytes);
/*
 * Its change is in a running overlay: what it really takes replaces what was reserved. Data that is left goes
 * back.
 */
void space_pend(struct fs *fs, struct space_reservation *res, struct space_pending actual);
/* Gives back what is left. */
void space_unreserve(struct fs *fs, struct space_reservation *res);

/* Whether changes are accounted to the running transaction. */
bool space_has_running(struct fs *fs);

/* From replay: data that the log refers to, and the changes. */
void space_replayed(struct fs *fs, struct space_promise *promise, uint64_t data_bytes,
		    struct space_pending pending);

/* The overlays were frozen / their commit ended (trees' new sizes). */
void space_freeze(struct fs *fs);
void space_commit_done(struct fs *fs, const struct tree_sums *change);

/*
 * After pins were released: grants tickets in order; refuses those that had their commit and that nothing can
 * help. Returns true while some still wait.
 */
bool space_run_tickets(struct fs *fs, uint64_t commits, bool reclaimable);
/*
 * It waits, and is the caller's again without an answer. Where there are no threads: nobody answers it
 * meanwhile.
 */
void space_cancel(struct fs *fs, struct space_ticket *t);
/*
 * A commit is to begin although readers keep pins of older ones. True: it and the next have room. Under the
 * commit lock; space_commit_ended is called when it has, or was not needed.
 */
bool space_commit_beside_pins(struct fs *fs);
void space_commit_ended(struct fs *fs);
/* Pins were released. */
void space_count_release(struct fs *fs);
/* A commit begins: counted as a step of reclaim if somebody waits for space. */
void space_count_reclaim(struct fs *fs);
/* Ends every ticket with this error. */
void space_fail_tickets(struct fs *fs, int error);

/*
 * Makes system groups for so many groups (at least for those that there are) and as many again, if metadata
 * can spare the space.
 */
void space_grow_system(struct fs *fs, uint64_t groups);
/* Makes a metadata group for the committer, of what is not set aside. -ENOSPC, -ENOMEM. */
int space_grow_metadata(struct fs *fs);

/* From block groups, by type of group. */
void space_group_added(struct fs *fs, uint8_t group_type, uint64_t bytes);
void space_allocated_node(struct fs *fs, uint8_t group_type, uint64_t bytes);
void space_deallocated_node(struct fs *fs, uint8_t group_type, uint64_t bytes);
/* Takes an empty group's bytes out of the total if it is not needed: others keep as much room again. */
bool space_try_remove(struct fs *fs, uint8_t group_type, uint64_t bytes);
void space_loaded_group(struct fs *fs, uint8_t group_type, uint64_t total, uint64_t used);
void space_pinned(struct fs *fs, uint8_t group_type, uint64_t bytes);
void space_released(struct fs *fs, uint8_t group_type, uint64_t bytes);
void space_lost(struct fs *fs, uint8_t group_type, uint64_t bytes);
/* Was allocated, and nothing refers to it. */
void space_found_leaked(struct fs *fs, uint8_t group_type, uint64_t bytes);
void space_unavailable(struct fs *fs, uint8_t group_type, int64_t bytes);

/* What a reserved volume of this size is promised. */
uint64_t space_promise_for(uint64_t size);
/*
 * Sets what is promised. More than before only if it is there, -ENOSPC otherwise: *ret_missing bytes are
 * lacking. `force` (at open, for what was promised before) takes it all the same.
 */
int space_set_promise(struct fs *fs, struct space_promise *p, uint64_t promised, bool force,
		      uint64_t *ret_missing);
/* At open, when the log is replayed: sees to unallocated space for what is promised. */
void space_promises_opened(struct fs *fs);
/* What a volume has allocated changed by what a commit freed, or by what was found at open. */
void space_promise_allocated(struct fs *fs, struct space_promise *p, int64_t bytes);

/*
 * For reservations of a hole of so many blocks: bytes of nodes, beside its items, that its commit may write
 * to hold what is cut out of the tree (extent_apply). 0: its trees are so small that nothing is.
 */
uint64_t space_cut_bytes(const struct fs *fs, uint64_t blocks);
/* Whether a hole can cover more leaves than a commit merges (fs->orphan_leaves). */
bool space_may_cut(const struct fs *fs);

/* How much new data can be written, by the same rule that reserves. */
uint64_t space_free_bytes(struct fs *fs);
/* The same without any more groups. */
uint64_t space_free_bytes_made(struct fs *fs);

/*
 * What volumes hold, and what nodes take (of each pair of copies once); what waits to be freed is in neither.
 */
void space_used_bytes(struct fs *fs, uint64_t *ret_data, uint64_t *ret_metadata);

#endif
