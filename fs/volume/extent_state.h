/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/extent_state.h: what is going on in which byte ranges of one volume: ranges [start, end) with
 * bits, and fair range locks that put LOCKED, and the bits that go with it, on a range. Any thread may call;
 * the tree has a mutex of its own (LOCK_EXTENT_STATE) under which it never waits and never allocates.
 *
 * Invariants
 * 1. States do not overlap, are not empty, and have at least one bit.
 * 2. A range belongs either to one lock or to nobody. A state of a lock has LOCKED, names the lock as its
 *    owner, has no bits beyond LOCKED and the lock's own, and lives in memory inside the lock. Other states
 *    ("plain") have no owner. So neither taking nor dropping a lock can fail for lack of memory.
 * 3. Adjacent states with equal bits and equal owner are merged; states of different locks never merge.
 * 4. A lock is granted over a range without any state. A plain state uses its range as a lock does: locks
 *    wait until it is cleared. set_extent_bit finds a conflict in LOCKED; clear_extent_bit passes over states
 *    of locks.
 * 5. Overlapping locks are granted in the order in which they were asked for. Others do not wait for each
 *    other.
 * 6. delalloc_bytes and state_count are exact whenever the mutex is free.
 */
#ifndef FS_VOLUME_EXTENT_STATE_H
#define FS_VOLUME_EXTENT_STATE_H

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"

enum extent_bits {
	EXTENT_LOCKED = 1 << 0,	  /* set and cleared by the lock calls only */
	EXTENT_DELALLOC = 1 << 1, /* space is reserved, the extent not yet made */
	EXTENT_USER_1 = 1 << 2,
	EXTENT_USER_2 = 1 << 3,
	EXTENT_USER_3 = 1 << 4,
};

struct extent_lock;

struct extent_state {
	union {
		RB_ENTRY(extent_state) entry; /* in the tree */
		struct extent_state *next;    /* in a list of unused nodes */
	};
	uint64_t start, end;
	uint32_t bits;
	uint32_t refs;		   /* 1 for the tree, 1 for each `cached` */
	struct extent_lock *owner; /* NULL: plain */
};

RB_HEAD(extent_state_root, extent_state);
TAILQ_HEAD(extent_lock_list, extent_lock);

struct extent_state_tree;

/*
 * Hooks for accounting, which see each change under the tree's mutex. They must not wait, nor call the tree.
 * Any may be NULL. set, clear: `bits` are those that really change, over all of the state. split: `state` is
 * about to be cut at `at`. merge: `right` is about to be joined to `left`.
 */
struct extent_state_ops {
	void (*set_hook)(struct extent_state_tree *tree, const struct extent_state *state, uint32_t bits);
	void (*clear_hook)(struct extent_state_tree *tree, const struct extent_state *state, uint32_t bits);
	void (*split_hook)(struct extent_state_tree *tree, const struct extent_state *state, uint64_t at);
	void (*merge_hook)(struct extent_state_tree *tree, const struct extent_state *left,
			   const struct extent_state *right);
};

struct extent_state_tree {
	struct lock lock;
	struct extent_state_root root;
	struct extent_lock_list waiters; /* in order of arrival */
	uint64_t delalloc_bytes;	 /* read with extent_state_delalloc_bytes */
	uint64_t state_count;
	struct extent_state *spare; /* unused nodes, at most EXTENT_SPARE_MAX */
	unsigned spare_count;
	const struct extent_state_ops *ops; /* NULL: none */
	void *ops_arg;			    /* the hooks' */
};

/* Cannot fail. `ops` may be NULL. fini asserts that no state, lock or waiter is left. */
void extent_state_tree_init(struct extent_state_tree *tree, const struct extent_state_ops *ops,
			    void *ops_arg);
void extent_state_tree_fini(struct extent_state_tree *tree);

/* For tests. Momentary figures; they take no lock. */
uint64_t extent_state_delalloc_bytes(const struct extent_state_tree *tree);
uint64_t extent_state_count(const struct extent_state_tree *tree);

/* For tests. Asserts invariants 1, 2, 3 and 6 by walking the tree. O(states). */
void extent_state_check(struct extent_state_tree *tree);

/* ---- plain bits ------------------------------------------------------------ */

/*
 * Nodes that a change may need, allocated before it. Start with {0}. A call first takes spare nodes of the
 * tree, so that one prealloc serves many calls. fini gives back what is left over.
 */
struct extent_prealloc {
	struct extent_state *list;
	unsigned count;
	/* set by a call that returned -ENOMEM: this many nodes are enough, if nothing changes meanwhile */
	unsigned need;
};

/* For tests. Fills it up to n nodes. -ENOMEM: it has fewer, and keeps those that it got. */
int extent_prealloc_fill(struct extent_prealloc *p, unsigned n);
void extent_prealloc_fini(struct extent_prealloc *p);

/*
 * For tests. Sets bits (not LOCKED) over [start, end). Where a state in the range has one of exclusive_bits,
 * or LOCKED: -EEXIST, *failed_start is where the first such place begins, and (as in btrfs) the bits are set
 * from start to there. -ENOMEM: too few nodes in the prealloc, nothing has changed (for a range without
 * states one node is enough; each state in the range can take one more, each end of the range one).
 * failed_start may be NULL. *cached (a state or NULL before) is replaced by the state that holds `start`, if
 * anything was set; give it to clear_extent_bit, or back with free_extent_state.
 */
int set_extent_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits,
		   uint32_t exclusive_bits, struct extent_prealloc *prealloc, uint64_t *failed_start,
		   struct extent_state **cached);

/*
 * For tests. Clears bits from the plain states in [start, end). Two nodes are always enough; -ENOMEM as
 * above. On success *cached is given back and NULL; it saves the look-up if it still holds `start`. prealloc
 * and cached may be NULL here and above.
 */
int clear_extent_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits,
		     struct extent_prealloc *prealloc, struct extent_state **cached);

/*
 * For tests. `filled`: whether every byte of the range has one of bits; else, whether any has. Sees states of
 * locks too.
 */
bool test_range_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits, bool filled);

/*
 * For tests. The first state that ends after `from` and has one of bits: its whole range (may begin before
 * from). False: none.
 */
bool find_first_extent_bit(struct extent_state_tree *tree, uint64_t from, uint32_t bits, uint64_t *ret_start,
			   uint64_t *ret_end);

/* For tests. Gives back what a call put into `cached`; accepts NULL. */
void free_extent_state(struct extent_state_tree *tree, struct extent_state *state);

/* ---- range locks ----------------------------------------------------------- */

#define EXTENT_LOCK_NODES 4

enum extent_lock_status { EXTENT_LOCK_IDLE, EXTENT_LOCK_WAITING, EXTENT_LOCK_HELD };

/*
 * A lock of [start, end), in the caller's memory, which stays until it is unlocked. Needs no allocation,
 * ever, and nothing to free; may be used again, after unlock_extent and a new extent_lock_init.
 */
struct extent_lock {
	uint64_t start, end; /* bytes; start < end */
	uint32_t bits;	     /* set and cleared together with LOCKED; may be 0 */
	/*
	 * Runs once after lock_extent_async returned false (perhaps before it has returned), when the lock is
	 * taken, on the thread that unlocked, without any lock of the tree. It should hand the work on: work
	 * done inside it, with an unlock at its end, nests as deep as there are waiters.
	 */
	void (*granted)(struct extent_lock *lk);

	/* The tree's; do not touch. */
	enum extent_lock_status status;
	uint32_t used;	      /* bit i: nodes[i] is in the tree */
	uint64_t blockers;    /* overlapping locks that were asked for earlier and are not yet unlocked */
	pthread_cond_t *cond; /* lock_extent waits here */
	TAILQ_ENTRY(extent_lock) link; /* among the waiters */
	struct extent_state nodes[EXTENT_LOCK_NODES];
};

/* `granted` may be NULL when only try_lock_extent and lock_extent are used. */
void extent_lock_init(struct extent_lock *lk, uint64_t start, uint64_t end, uint32_t bits,
		      void (*granted)(struct extent_lock *lk));

/*
 * True: the lock is taken. False: it is queued; lk belongs to the tree until granted(lk), do not touch it.
 * Never waits.
 */
bool lock_extent_async(struct extent_state_tree *tree, struct extent_lock *lk);

/*
 * For tests. True: taken. False: somebody has, or waits for, a part of the range; lk is as before. Never
 * waits.
 */
bool try_lock_extent(struct extent_state_tree *tree, struct extent_lock *lk);

/* Waits for its turn. Not for event loops. */
void lock_extent(struct extent_state_tree *tree, struct extent_lock *lk);

/*
 * Clears LOCKED and all of lk's bits in one step and grants those who can be; lk is the caller's again. Never
 * waits.
 */
void unlock_extent(struct extent_state_tree *tree, struct extent_lock *lk);

/*
 * For tests. Clears some of lk's bits in [start, end), a part of its range, which stays locked. Between two
 * calls the lock's range may be in at most EXTENT_LOCK_NODES - 1 pieces (runs of equal bits), which is so
 * when parts are cleared from the front on, from the end backwards, both, or outwards from one place in the
 * middle. Asserted.
 */
void extent_lock_clear_bits(struct extent_state_tree *tree, struct extent_lock *lk, uint64_t start,
			    uint64_t end, uint32_t bits);

#endif
