/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/extent_state.c: see the header for the invariants.
 *
 * Plain changes run in two passes: one that counts the nodes and finds conflicts, and one that cannot fail.
 *
 * Fairness costs one counter a lock: on arrival it counts the overlapping locks before it, held or waiting, and each
 * of them takes itself off at its unlock (a grant changes nothing: who waited before still stands before). At zero
 * the range is free of locks. Every waiter that overlaps an unlocked range came later than that lock (else the lock
 * would not have been granted), so unlock need not know who counted it.
 */
#include "fs/extent_state.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/lock_rank.h"

#define EXTENT_SPARE_MAX 64

static int extent_state_cmp(const struct extent_state *a, const struct extent_state *b)
{
	return a->start < b->start ? -1 : a->start > b->start;
}

/* Not RB_GENERATE_STATIC: it needs __unused, which libbsd does not define here. */
RB_GENERATE_INTERNAL(extent_state_root, extent_state, entry, extent_state_cmp, __attribute__((unused)) static)

/* ---- counters and hooks ---------------------------------------------------- */

/* Written under the mutex, read without. */
static void counter_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static void account_set(struct extent_state_tree *tree, const struct extent_state *s, uint32_t bits)
{
	if (bits & EXTENT_DELALLOC)
		counter_add(&tree->delalloc_bytes, s->end - s->start);
	if (tree->ops && tree->ops->set_hook)
		tree->ops->set_hook(tree, s, bits);
}

static void account_clear(struct extent_state_tree *tree, const struct extent_state *s, uint32_t bits)
{
	if (bits & EXTENT_DELALLOC)
		counter_add(&tree->delalloc_bytes, -(s->end - s->start));
	if (tree->ops && tree->ops->clear_hook)
		tree->ops->clear_hook(tree, s, bits);
}

static void account_split(struct extent_state_tree *tree, const struct extent_state *s, uint64_t at)
{
	if (tree->ops && tree->ops->split_hook)
		tree->ops->split_hook(tree, s, at);
}

static void account_merge(struct extent_state_tree *tree, const struct extent_state *left,
			  const struct extent_state *right)
{
	if (tree->ops && tree->ops->merge_hook)
		tree->ops->merge_hook(tree, left, right);
}

uint64_t extent_state_delalloc_bytes(const struct extent_state_tree *tree)
{
	return __atomic_load_n(&tree->delalloc_bytes, __ATOMIC_RELAXED);
}

uint64_t extent_state_count(const struct extent_state_tree *tree)
{
	return __atomic_load_n(&tree->state_count, __ATOMIC_RELAXED);
}

/* ---- nodes ------------------------------------------------------------------ */

int extent_prealloc_fill(struct extent_prealloc *p, unsigned n)
{
	while (p->count < n) {
		struct extent_state *s = mem_alloc(sizeof(*s));

		if (!s)
			return -ENOMEM;
		s->next = p->list;
		p->list = s;
		p->count++;
	}
	return 0;
}

void extent_prealloc_fini(struct extent_prealloc *p)
{
	while (p->list) {
		struct extent_state *s = p->list;

		p->list = s->next;
		mem_free(s);
	}
	p->count = 0;
}

/* Whether `need` nodes are at hand. */
static int node_reserve(const struct extent_state_tree *tree, struct extent_prealloc *p, unsigned need)
{
	if (need <= tree->spare_count + (p ? p->count : 0))
		return 0;
	if (p)
		p->need = need;
	return -ENOMEM;
}

static struct extent_state *node_take_plain(struct extent_state_tree *tree, struct extent_prealloc *p)
{
	struct extent_state *s;

	if (tree->spare) {
		s = tree->spare;
		tree->spare = s->next;
		tree->spare_count--;
	} else {
		ASSERT(p && p->list);
		s = p->list;
		p->list = s->next;
		p->count--;
	}
	return s;
}

static struct extent_state *node_take_owned(struct extent_lock *lk)
{
	int i = __builtin_ctz(~lk->used);

	ASSERT(i < EXTENT_LOCK_NODES);
	lk->used |= 1u << i;
	return &lk->nodes[i];
}

static void node_put(struct extent_state_tree *tree, struct extent_state *s)
{
	if (--s->refs)
		return;
	if (tree->spare_count == EXTENT_SPARE_MAX) {
		mem_free(s);
		return;
	}
	s->next = tree->spare;
	tree->spare = s;
	tree->spare_count++;
}

/* ---- the tree --------------------------------------------------------------- */

/* The first state that ends after pos. */
static struct extent_state *state_find(struct extent_state_tree *tree, uint64_t pos)
{
	struct extent_state *s = RB_ROOT(&tree->root), *best = NULL;

	while (s) {
		if (s->end > pos) {
			best = s;
			s = RB_LEFT(s, entry);
		} else {
			s = RB_RIGHT(s, entry);
		}
	}
	return best;
}

static struct extent_state *state_next(struct extent_state *s)
{
	return RB_NEXT(extent_state_root, NULL, s);
}

static void state_link(struct extent_state_tree *tree, struct extent_state *s, uint64_t start, uint64_t end,
		       struct extent_lock *owner)
{
	s->start = start;
	s->end = end;
	s->bits = 0;
	s->refs = 1;
	s->owner = owner;
	ASSERT(!RB_INSERT(extent_state_root, &tree->root, s));
	counter_add(&tree->state_count, 1);
}

/* The empty range marks a node that only a `cached` still holds. */
static void state_unlink(struct extent_state_tree *tree, struct extent_state *s)
{
	RB_REMOVE(extent_state_root, &tree->root, s);
	counter_add(&tree->state_count, (uint64_t)-1);
	s->start = s->end = 0;
	if (s->owner)
		s->owner->used &= ~(1u << (s - s->owner->nodes));
	else
		node_put(tree, s);
}

static void state_set(struct extent_state_tree *tree, struct extent_state *s, uint32_t bits)
{
	account_set(tree, s, bits & ~s->bits);
	s->bits |= bits;
}

static void state_clear(struct extent_state_tree *tree, struct extent_state *s, uint32_t bits)
{
	account_clear(tree, s, bits & s->bits);
	s->bits &= ~bits;
}

/* Cuts s in two at `at`; s stays the left part. Returns the right one. */
static struct extent_state *state_split(struct extent_state_tree *tree, struct extent_state *s, uint64_t at,
					struct extent_prealloc *p)
{
	struct extent_state *right = s->owner ? node_take_owned(s->owner) : node_take_plain(tree, p);
	uint64_t end = s->end;

	account_split(tree, s, at);
	s->end = at;
	state_link(tree, right, at, end, s->owner);
	right->bits = s->bits;
	return right;
}

static bool states_merge(const struct extent_state *left, const struct extent_state *right)
{
	return left && right && left->end == right->start && left->bits == right->bits &&
	       left->owner == right->owner;
}

/* Joins s with equal neighbours; the leftmost node stays. Returns the state that now holds s. */
static struct extent_state *state_merge(struct extent_state_tree *tree, struct extent_state *s)
{
	struct extent_state *left = RB_PREV(extent_state_root, NULL, s), *right;
	uint64_t end;

	if (!states_merge(left, s))
		left = s;
	for (right = state_next(left); states_merge(left, right); right = state_next(left)) {
		account_merge(tree, left, right);
		end = right->end;
		state_unlink(tree, right);
		left->end = end;
	}
	return left;
}

void extent_state_tree_init(struct extent_state_tree *tree, const struct extent_state_ops *ops, void *ops_arg)
{
	memset(tree, 0, sizeof(*tree));
	lock_init(&tree->lock, LOCK_EXTENT_STATE);
	RB_INIT(&tree->root);
	TAILQ_INIT(&tree->waiters);
	tree->ops = ops;
	tree->ops_arg = ops_arg;
}

void extent_state_tree_fini(struct extent_state_tree *tree)
{
	struct extent_prealloc spare = {.list = tree->spare, .count = tree->spare_count};

	ASSERT(RB_EMPTY(&tree->root) && TAILQ_EMPTY(&tree->waiters));
	ASSERT(!tree->state_count && !tree->delalloc_bytes);
	extent_prealloc_fini(&spare);
	lock_fini(&tree->lock);
}

static void state_check(const struct extent_state *s, const struct extent_state *prev)
{
	const struct extent_lock *lk = s->owner;

	ASSERT(s->start < s->end && s->bits && s->refs >= 1);
	ASSERT(!prev || prev->end <= s->start);
	ASSERT(!states_merge(prev, s));
	ASSERT(!lk == !(s->bits & EXTENT_LOCKED));
	if (!lk)
		return;
	ASSERT(lk->status == EXTENT_LOCK_HELD && lk->start <= s->start && s->end <= lk->end);
	ASSERT(!(s->bits & ~(EXTENT_LOCKED | lk->bits)));
	/* A lock's range is covered without gaps. */
	ASSERT(s->start == lk->start || (prev && prev->owner == lk && prev->end == s->start));
	ASSERT(s >= lk->nodes && s < lk->nodes + EXTENT_LOCK_NODES && lk->used & 1u << (s - lk->nodes));
}

void extent_state_check(struct extent_state_tree *tree)
{
	struct extent_state *s, *prev = NULL;
	uint64_t count = 0, delalloc = 0;

	lock_take(&tree->lock);
	RB_FOREACH(s, extent_state_root, &tree->root)
	{
		state_check(s, prev);
		count++;
		if (s->bits & EXTENT_DELALLOC)
			delalloc += s->end - s->start;
		prev = s;
	}
	ASSERT(count == tree->state_count && delalloc == tree->delalloc_bytes);
	lock_drop(&tree->lock);
}

/* ---- plain bits ------------------------------------------------------------- */

/* The place of the first conflict in [start, end), or end. */
static uint64_t set_find_conflict(struct extent_state *s, uint64_t start, uint64_t end, uint32_t exclusive_bits)
{
	for (; s && s->start < end; s = state_next(s))
		if (s->bits & (exclusive_bits | EXTENT_LOCKED))
			return max_u64(s->start, start);
	return end;
}

/* How many nodes set_apply will take: one for each gap, and one for each end that lies within a state to be changed. */
static unsigned set_count_nodes(struct extent_state *s, uint64_t start, uint64_t end, uint32_t bits)
{
	uint64_t pos = start;
	unsigned n = 0;

	for (; s && s->start < end; s = state_next(s)) {
		n += s->start > pos;
		if ((s->bits & bits) != bits)
			n += (s->start < start) + (s->end > end);
		pos = s->end;
	}
	return n + (pos < end);
}

/* One step of set_apply: sets bits on what begins at pos, up to `end` at most. Returns the state that holds pos. */
static struct extent_state *set_step(struct extent_state_tree *tree, struct extent_state *s, uint64_t pos,
				     uint64_t end, uint32_t bits, struct extent_prealloc *p)
{
	if (!s || s->start > pos) {
		struct extent_state *fresh = node_take_plain(tree, p);

		state_link(tree, fresh, pos, s ? min_u64(s->start, end) : end, NULL);
		s = fresh;
	} else if ((s->bits & bits) == bits) {
		return s;
	} else {
		if (s->start < pos)
			s = state_split(tree, s, pos, p);
		if (s->end > end)
			state_split(tree, s, end, p);
	}
	state_set(tree, s, bits);
	return state_merge(tree, s);
}

/* Returns the state that holds start. */
static struct extent_state *set_apply(struct extent_state_tree *tree, struct extent_state *s, uint64_t start,
				      uint64_t end, uint32_t bits, struct extent_prealloc *p)
{
	struct extent_state *first = NULL;
	uint64_t pos = start;

	while (pos < end) {
		s = set_step(tree, s, pos, end, bits, p);
		if (!first)
			first = s;
		pos = s->end;
		s = state_next(s);
	}
	return first;
}

int set_extent_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits,
		   uint32_t exclusive_bits, struct extent_prealloc *prealloc, uint64_t *failed_start,
		   struct extent_state **cached)
{
	struct extent_state *s;
	uint64_t limit;
	int r;

	ASSERT(start < end && bits && !(bits & EXTENT_LOCKED));
	lock_take(&tree->lock);
	s = state_find(tree, start);
	limit = set_find_conflict(s, start, end, exclusive_bits);
	r = node_reserve(tree, prealloc, set_count_nodes(s, start, limit, bits));
	if (r)
		goto out;
	if (limit > start) {
		s = set_apply(tree, s, start, limit, bits, prealloc);
		if (cached) {
			s->refs++;
			if (*cached)
				node_put(tree, *cached);
			*cached = s;
		}
	}
	if (limit < end) {
		r = -EEXIST;
		if (failed_start)
			*failed_start = limit;
	}
out:
	lock_drop(&tree->lock);
	return r;
}

static bool clear_wants(const struct extent_state *s, uint32_t bits)
{
	return !s->owner && s->bits & bits;
}

static unsigned clear_count_nodes(struct extent_state *s, uint64_t start, uint64_t end, uint32_t bits)
{
	unsigned n = 0;

	for (; s && s->start < end; s = state_next(s))
		if (clear_wants(s, bits))
			n += (s->start < start) + (s->end > end);
	return n;
}

/* Clears bits from the part of s in [start, end). Returns the next state to look at. */
static struct extent_state *clear_step(struct extent_state_tree *tree, struct extent_state *s, uint64_t start,
				       uint64_t end, uint32_t bits, struct extent_prealloc *p)
{
	struct extent_state *next;

	if (s->start < start)
		s = state_split(tree, s, start, p);
	if (s->end > end)
		state_split(tree, s, end, p);
	state_clear(tree, s, bits);
	if (s->bits)
		return state_next(state_merge(tree, s));
	next = state_next(s);
	state_unlink(tree, s);
	return next;
}

static void waiters_retry_locked(struct extent_state_tree *tree, struct extent_lock_list *granted);
static void waiters_run(struct extent_lock_list *granted);

int clear_extent_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits,
		     struct extent_prealloc *prealloc, struct extent_state **cached)
{
	struct extent_lock_list granted = TAILQ_HEAD_INITIALIZER(granted);
	struct extent_state *s = cached ? *cached : NULL;
	int r;

	ASSERT(start < end && bits && !(bits & EXTENT_LOCKED));
	lock_take(&tree->lock);
	if (!s || s->start > start || s->end <= start)
		s = state_find(tree, start);
	r = node_reserve(tree, prealloc, clear_count_nodes(s, start, end, bits));
	if (r)
		goto out;
	while (s && s->start < end)
		s = clear_wants(s, bits) ? clear_step(tree, s, start, end, bits, prealloc) : state_next(s);
	if (cached && *cached) {
		node_put(tree, *cached);
		*cached = NULL;
	}
	waiters_retry_locked(tree, &granted);
out:
	lock_drop(&tree->lock);
	waiters_run(&granted);
	return r;
}

bool test_range_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits, bool filled)
{
	struct extent_state *s;
	uint64_t pos = start;
	bool any = false;

	lock_take(&tree->lock);
	for (s = state_find(tree, start); s && s->start < end && (filled || !any); s = state_next(s)) {
		if (!(s->bits & bits))
			continue;
		any = true;
		if (s->start > pos)
			break;
		pos = s->end;
	}
	lock_drop(&tree->lock);
	return filled ? pos >= end : any;
}

bool find_first_extent_bit(struct extent_state_tree *tree, uint64_t from, uint32_t bits, uint64_t *ret_start,
			   uint64_t *ret_end)
{
	struct extent_state *s;

	lock_take(&tree->lock);
	s = state_find(tree, from);
	while (s && !(s->bits & bits))
		s = state_next(s);
	if (s) {
		*ret_start = s->start;
		*ret_end = s->end;
	}
	lock_drop(&tree->lock);
	return s;
}

void free_extent_state(struct extent_state_tree *tree, struct extent_state *state)
{
	if (!state)
		return;
	lock_take(&tree->lock);
	node_put(tree, state);
	lock_drop(&tree->lock);
}

/* ---- range locks ------------------------------------------------------------ */

static bool locks_overlap(const struct extent_lock *a, const struct extent_lock *b)
{
	return a->start < b->end && b->start < a->end;
}

/* How many other locks, held or waiting, stand before a new one; *ret_plain: plain states do. */
static uint64_t lock_count_blockers(struct extent_state_tree *tree, const struct extent_lock *lk,
				    bool *ret_plain)
{
	struct extent_state *s = state_find(tree, lk->start);
	const struct extent_lock *other = NULL;
	uint64_t n = 0;

	*ret_plain = false;
	for (; s && s->start < lk->end; s = state_next(s)) {
		if (!s->owner)
			*ret_plain = true;
		else
			n += s->owner != other;
		other = s->owner;
	}
	TAILQ_FOREACH(other, &tree->waiters, link)
	n += locks_overlap(lk, other);
	return n;
}

static void lock_grant(struct extent_state_tree *tree, struct extent_lock *lk)
{
	struct extent_state *s = node_take_owned(lk);

	lk->status = EXTENT_LOCK_HELD;
	state_link(tree, s, lk->start, lk->end, lk);
	state_set(tree, s, EXTENT_LOCKED | lk->bits);
}

/* A waiter's turn: takes the lock if no plain state stands in the way, and notes whom to tell. */
static void waiter_try(struct extent_state_tree *tree, struct extent_lock *lk, struct extent_lock_list *granted)
{
	struct extent_state *s = state_find(tree, lk->start);

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

/* After plain states went: tries those whom no lock blocks. */
static void waiters_retry_locked(struct extent_state_tree *tree, struct extent_lock_list *granted)
{
	struct extent_lock *lk, *next;

	lock_assert_held(&tree->lock);
	TAILQ_FOREACH_SAFE(lk, &tree->waiters, link, next)
	if (!lk->blockers)
		waiter_try(tree, lk, granted);
}

static void waiters_run(struct extent_lock_list *granted)
{
	struct extent_lock *lk, *next;

	TAILQ_FOREACH_SAFE(lk, granted, link, next)
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

		state_clear(tree, s, s->bits);
		state_unlink(tree, s);
	}
	lk->status = EXTENT_LOCK_IDLE;
}

void unlock_extent(struct extent_state_tree *tree, struct extent_lock *lk)
{
	struct extent_lock_list granted = TAILQ_HEAD_INITIALIZER(granted);
	struct extent_lock *w, *next;

	lock_take(&tree->lock);
	lock_release(tree, lk);
	TAILQ_FOREACH_SAFE(w, &tree->waiters, link, next)
	{
		if (!locks_overlap(lk, w))
			continue;
		ASSERT(w->blockers);
		if (--w->blockers == 0)
			waiter_try(tree, w, &granted);
	}
	lock_drop(&tree->lock);
	waiters_run(&granted);
}

void extent_lock_clear_bits(struct extent_state_tree *tree, struct extent_lock *lk, uint64_t start,
			    uint64_t end, uint32_t bits)
{
	struct extent_state *s;

	ASSERT(lk->start <= start && start < end && end <= lk->end && !(bits & ~lk->bits));
	lock_take(&tree->lock);
	ASSERT(lk->status == EXTENT_LOCK_HELD);
	s = state_find(tree, start);
	while (s && s->start < end)
		s = s->bits & bits ? clear_step(tree, s, start, end, bits, NULL) : state_next(s);
	lock_drop(&tree->lock);
}
