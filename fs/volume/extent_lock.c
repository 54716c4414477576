/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/extent_lock.c: range locks, and whose turn it is. See extent_state.h for the invariants.
 *
 * Fairness costs one counter a lock: on arrival it counts the overlapping locks before it, held or waiting,
 * and each of them counts itself off at its unlock (a grant changes nothing: those that waited before it
 * still come before it). At zero the range is free of locks. Every waiter that overlaps an unlocked range
 * came later than that lock (else the lock would not have been granted), so unlock need not know who counted
 * it.
 */
#include "base/lock.h"
#include "base/util.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/extent_state_int.h"

static bool locks_overlap(const struct extent_lock *a, const struct extent_lock *b)
{
	return a->start < b->end && b->start < a->end;
}

/* How many other locks, held or waiting, stand before a new one; *ret_plain: plain states do. */
static uint64_t lock_count_blockers(struct extent_state_tree *tree, const struct extent_lock *lk,
				    bool *ret_plain)
{
	struct extent_state *s = extent_state_find(tree, lk->start);
	const struct extent_lock *other = NULL;
	uint64_t n = 0;

	*ret_plain = false;
	for (; s && s->start < lk->end; s = extent_state_next(s)) {
		if (!s->owner)
			*ret_plain = true;
		else
			n += s->owner != other;
		other = s->owner;
	}
	TAILQ_FOREACH (other, &tree->waiters, link)
		n += locks_overlap(lk, other);
	return n;
}

static void lock_grant(struct extent_state_tree *tree, struct extent_lock *lk)
{
	struct extent_state *s = extent_state_take_owned(lk);

	lk->status = EXTENT_LOCK_HELD;
	extent_state_link(tree, s, lk->start, lk->end, lk);
	extent_state_set(tree, s, EXTENT_LOCKED | lk->bits);
}

/* A waiter's turn: takes the lock if no plain state stands in the way, and notes whom to tell. */
static void waiter_try(struct extent_state_tree *tree, struct extent_lock *lk,
		       struct extent_lock_list *granted)
{
	struct extent_state *s = extent_state_find(tree, lk->start);

	if (s && s->start < lk->end)
		return;
	TAILQ_REMOVE(&tree->waiters, lk, link);
	lock_grant(tree, lk);
	/* A thread in lock_extent may be gone with its lock once the mutex is free. */
	if (lk->cond)
		pthread_cond_signal(lk->cond);
	else
		TAILQ_INSERT_TAIL(granted, lk, link);
}

void extent_lock_retry_locked(struct extent_state_tree *tree, struct extent_lock_list *granted)
{
	struct extent_lock *lk, *next;

	lock_assert_held(&tree->lock);
	TAILQ_FOREACH_SAFE (lk, &tree->waiters, link, next)
		if (!lk->blockers)
			waiter_try(tree, lk, granted);
}

void extent_lock_run_granted(struct extent_lock_list *granted)
{
	struct extent_lock *lk, *next;

	TAILQ_FOREACH_SAFE (lk, granted, link, next)
		lk->granted(lk);
}

void extent_lock_init(struct extent_lock *lk, uint64_t start, uint64_t end, uint32_t bits,
		      void (*granted)(struct extent_lock *lk))
{
	ASSERT(start < end && !(bits & EXTENT_LOCKED));
	lk->start = start;
	lk->end = end;
	lk->bits = bits;
	lk->granted = granted;
	lk->status = EXTENT_LOCK_IDLE;
	lk->used = 0;
	lk->cond = NULL;
}

/* Takes the lock if nothing stands before it; else queues it if it may wait. */
static bool lock_or_queue_locked(struct extent_state_tree *tree, struct extent_lock *lk, bool queue)
{
	bool plain;

	ASSERT(lk->status == EXTENT_LOCK_IDLE);
	lk->blockers = lock_count_blockers(tree, lk, &plain);
	if (!lk->blockers && !plain) {
		lock_grant(tree, lk);
		return true;
	}
	if (queue) {
		lk->status = EXTENT_LOCK_WAITING;
		TAILQ_INSERT_TAIL(&tree->waiters, lk, link);
	}
	return false;
}

bool lock_extent_async(struct extent_state_tree *tree, struct extent_lock *lk)
{
	bool got;

	ASSERT(lk->granted);
	lock_take(&tree->lock);
	got = lock_or_queue_locked(tree, lk, true);
	lock_drop(&tree->lock);
	return got;
}

bool try_lock_extent(struct extent_state_tree *tree, struct extent_lock *lk)
{
	bool got;

	lock_take(&tree->lock);
	got = lock_or_queue_locked(tree, lk, false);
	lock_drop(&tree->lock);
	return got;
}

void lock_extent(struct extent_state_tree *tree, struct extent_lock *lk)
{
	pthread_cond_t cond;

	lock_take(&tree->lock);
	if (!lock_or_queue_locked(tree, lk, true)) {
		lock_cond_init(&cond);
		lk->cond = &cond;
		while (lk->status != EXTENT_LOCK_HELD)
			lock_wait(&tree->lock, &cond);
		lk->cond = NULL;
		pthread_cond_destroy(&cond);
	}
	lock_drop(&tree->lock);
}

static void lock_release(struct extent_state_tree *tree, struct extent_lock *lk)
{
	ASSERT(lk->status == EXTENT_LOCK_HELD);
	while (lk->used) {
		struct extent_state *s = &lk->nodes[__builtin_ctz(lk->used)];

		extent_state_clear(tree, s, s->bits);
		extent_state_unlink(tree, s);
	}
	lk->status = EXTENT_LOCK_IDLE;
}

void unlock_extent(struct extent_state_tree *tree, struct extent_lock *lk)
{
	struct extent_lock_list granted = TAILQ_HEAD_INITIALIZER(granted);
	struct extent_lock *w, *next;

	lock_take(&tree->lock);
	lock_release(tree, lk);
	TAILQ_FOREACH_SAFE (w, &tree->waiters, link, next) {
		if (!locks_overlap(lk, w))
			continue;
		ASSERT(w->blockers);
		if (--w->blockers == 0)
			waiter_try(tree, w, &granted);
	}
	lock_drop(&tree->lock);
	extent_lock_run_granted(&granted);
}

void extent_lock_clear_bits(struct extent_state_tree *tree, struct extent_lock *lk, uint64_t start,
			    uint64_t end, uint32_t bits)
{
	struct extent_state *s;

	ASSERT(lk->start <= start && start < end && end <= lk->end && !(bits & ~lk->bits));
	lock_take(&tree->lock);
	ASSERT(lk->status == EXTENT_LOCK_HELD);
	s = extent_state_find(tree, start);
	while (s && s->start < end)
		s = s->bits & bits ? extent_state_clear_part(tree, s, start, end, bits, NULL)
				   : extent_state_next(s);
	lock_drop(&tree->lock);
}
