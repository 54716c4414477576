/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/pins.h: two sets of what was freed and must not be reused yet, because a commit is not durable or
 * readers of older trees are left.
 *
 * One set *gathers*: what is freed goes there. The other *waits* for the readers that may still look at what
 * is in it, or is empty. A commit that finds the waiting set empty turns the two when it freezes. Then the
 * one has what transactions up to its own have freed, and what running requests free goes into the other.
 * When the commit is durable the epoch advances, and the first set waits for readers of the epoch before. A
 * commit that finds readers left turns nothing: what it frees goes on gathering, and a later commit turns. So
 * commits do not wait for readers, there are never more than two sets or two epochs with readers, and nothing
 * is moved or copied.
 *
 * Invariants
 * 1. The waiting set holds only what durable transactions freed. A reader that may look at it is in the epoch
 *    before the current one, which nobody enters any more.
 * 2. What a transaction of generation g frees goes to pins_set(g) at any moment. Between the turn of N's
 *    freeze and the end of N both generations N and N+1 are in use, and go to different sets; without a turn
 *    they go to the same.
 * 3. Sets turn only when none waits and nobody is left in the epoch before. Nothing is added to a set while
 *    it waits.
 * 4. What was freed comes back: the waiting set is fixed, and its readers leave; then the next commit turns.
 *    A commit is made even if there is nothing to commit, as long as something of a finished commit gathers
 *    (`behind`).
 *
 * Only the committer changes this, under the commit lock; any thread may read the turn.
 */
#ifndef FS_SPACE_PINS_H
#define FS_SPACE_PINS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/core/fault.h"

struct pins {
	/* the first generation that goes to the gathering set, times two, and which set that is */
	_Atomic uint64_t turn;
	_Atomic bool waiting; /* the other set waits for readers */
	_Atomic bool behind;  /* the gathering set has something of a commit that has ended */
};

/* The set of what a transaction frees. */
static inline unsigned pins_set(const struct pins *p, uint64_t generation)
{
	uint64_t turn = atomic_load(&p->turn);

	if (FAULT(FAULT_PIN_SET) && atomic_load(&p->waiting))
		return (turn & 1) ^ 1;
	return (turn & 1) ^ (generation < turn >> 1);
}

static inline unsigned pins_waiting_set(const struct pins *p)
{
	return (atomic_load(&p->turn) & 1) ^ 1;
}

/* Whether anything that a finished commit has freed is still kept. */
static inline bool pins_are_left(const struct pins *p)
{
	return atomic_load(&p->waiting) || atomic_load(&p->behind);
}

/*
 * The freeze of a transaction, before the running generation becomes `next`. False: readers of an older one
 * are left, and nothing was turned.
 */
static inline bool pins_turn(struct pins *p, uint64_t next)
{
	if (atomic_load(&p->waiting))
		return false;
	atomic_store(&p->turn, next << 1 | ((atomic_load(&p->turn) & 1) ^ 1));
	return true;
}

/* That transaction is durable, and its trees are what new readers see. */
static inline void pins_commit_done(struct pins *p, bool turned)
{
	if (turned)
		atomic_store(&p->waiting, true);
	atomic_store(&p->behind, !turned);
}

/* The readers have left, and what waited is free. */
static inline void pins_released(struct pins *p)
{
	atomic_store(&p->waiting, false);
}

#endif
