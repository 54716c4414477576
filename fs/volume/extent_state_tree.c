/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/extent_state_tree.c: the tree of states itself: its nodes and where they come from, look-up,
 * cutting and joining, the counters, and the check of the invariants. It knows of locks only that a state may
 * belong to one.
 */
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/extent_state_int.h"

#include <errno.h>
#include <string.h>

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

int extent_state_reserve(const struct extent_state_tree *tree, struct extent_prealloc *p, unsigned need)
{
	if (need <= tree->spare_count + (p ? p->count : 0))
		return 0;
	if (p)
		p->need = need;
	return -ENOMEM;
}

struct extent_state *extent_state_take_plain(struct extent_state_tree *tree, struct extent_prealloc *p)
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

struct extent_state *extent_state_take_owned(struct extent_lock *lk)
{
	int i = __builtin_ctz(~lk->used);

	ASSERT(i < EXTENT_LOCK_NODES);
	lk->used |= 1u << i;
	return &lk->nodes[i];
}

void extent_state_put(struct extent_state_tree *tree, struct extent_state *s)
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

struct extent_state *extent_state_find(struct extent_state_tree *tree, uint64_t pos)
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

struct extent_state *extent_state_next(struct extent_state *s)
{
	return RB_NEXT(extent_state_root, NULL, s);
}

void extent_state_link(struct extent_state_tree *tree, struct extent_state *s, uint64_t start, uint64_t end,
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
void extent_state_unlink(struct extent_state_tree *tree, struct extent_state *s)
{
	RB_REMOVE(extent_state_root, &tree->root, s);
	counter_add(&tree->state_count, (uint64_t)-1);
	s->start = s->end = 0;
	if (s->owner)
		s->owner->used &= ~(1u << (s - s->owner->nodes));
	else
		extent_state_put(tree, s);
}

void extent_state_set(struct extent_state_tree *tree, struct extent_state *s, uint32_t bits)
{
	account_set(tree, s, bits & ~s->bits);
	s->bits |= bits;
}

void extent_state_clear(struct extent_state_tree *tree, struct extent_state *s, uint32_t bits)
{
	account_clear(tree, s, bits & s->bits);
	s->bits &= ~bits;
}

struct extent_state *extent_state_split(struct extent_state_tree *tree, struct extent_state *s, uint64_t at,
					struct extent_prealloc *p)
{
	struct extent_state *right = s->owner ? extent_state_take_owned(s->owner)
					      : extent_state_take_plain(tree, p);
	uint64_t end = s->end;

	account_split(tree, s, at);
	s->end = at;
	extent_state_link(tree, right, at, end, s->owner);
	right->bits = s->bits;
	return right;
}

static bool states_merge(const struct extent_state *left, const struct extent_state *right)
{
	return left && right && left->end == right->start && left->bits == right->bits &&
	       left->owner == right->owner;
}

struct extent_state *extent_state_merge(struct extent_state_tree *tree, struct extent_state *s)
{
	struct extent_state *left = RB_PREV(extent_state_root, NULL, s), *right;
	uint64_t end;

	if (!states_merge(left, s))
		left = s;
	for (right = extent_state_next(left); states_merge(left, right); right = extent_state_next(left)) {
		account_merge(tree, left, right);
		end = right->end;
		extent_state_unlink(tree, right);
		left->end = end;
	}
	return left;
}

struct extent_state *extent_state_clear_part(struct extent_state_tree *tree, struct extent_state *s,
					     uint64_t start, uint64_t end, uint32_t bits,
					     struct extent_prealloc *p)
{
	struct extent_state *next;

	if (s->start < start)
		s = extent_state_split(tree, s, start, p);
	if (s->end > end)
		extent_state_split(tree, s, end, p);
	extent_state_clear(tree, s, bits);
	if (s->bits)
		return extent_state_next(extent_state_merge(tree, s));
	next = extent_state_next(s);
	extent_state_unlink(tree, s);
	return next;
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
	RB_FOREACH (s, extent_state_root, &tree->root) {
		state_check(s, prev);
		count++;
		if (s->bits & EXTENT_DELALLOC)
			delalloc += s->end - s->start;
		prev = s;
	}
	ASSERT(count == tree->state_count && delalloc == tree->delalloc_bytes);
	lock_drop(&tree->lock);
}
