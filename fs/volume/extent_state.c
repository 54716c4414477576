/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/extent_state.c: plain bits on ranges. See the header for the invariants.
 *
 * Changes run in two passes: one that counts the nodes and finds conflicts, and one that cannot fail.
 */
#include "fs/volume/extent_state.h"

#include <errno.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/volume/extent_state_int.h"

/* The place of the first conflict in [start, end), or end. */
static uint64_t set_find_conflict(struct extent_state *s, uint64_t start, uint64_t end,
				  uint32_t exclusive_bits)
{
	for (; s && s->start < end; s = extent_state_next(s))
		if (s->bits & (exclusive_bits | EXTENT_LOCKED))
			return max_u64(s->start, start);
	return end;
}

/*
 * How many nodes set_apply will take: one for each gap, and one for each end that lies within a state to be
 * changed.
 */
static unsigned set_count_nodes(struct extent_state *s, uint64_t start, uint64_t end, uint32_t bits)
{
	uint64_t pos = start;
	unsigned n = 0;

	for (; s && s->start < end; s = extent_state_next(s)) {
		n += s->start > pos;
		if ((s->bits & bits) != bits)
			n += (s->start < start) + (s->end > end);
		pos = s->end;
	}
	return n + (pos < end);
}

/*
 * One step of set_apply: sets bits on what begins at pos, up to `end` at most. Returns the state that holds
 * pos.
 */
static struct extent_state *set_step(struct extent_state_tree *tree, struct extent_state *s, uint64_t pos,
				     uint64_t end, uint32_t bits, struct extent_prealloc *p)
{
	if (!s || s->start > pos) {
		struct extent_state *fresh = extent_state_take_plain(tree, p);

		extent_state_link(tree, fresh, pos, s ? min_u64(s->start, end) : end, NULL);
		s = fresh;
	} else if ((s->bits & bits) == bits) {
		return s;
	} else {
		if (s->start < pos)
			s = extent_state_split(tree, s, pos, p);
		if (s->end > end)
			extent_state_split(tree, s, end, p);
	}
	extent_state_set(tree, s, bits);
	return extent_state_merge(tree, s);
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
		s = extent_state_next(s);
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
	s = extent_state_find(tree, start);
	limit = set_find_conflict(s, start, end, exclusive_bits);
	r = extent_state_reserve(tree, prealloc, set_count_nodes(s, start, limit, bits));
	if (r)
		goto out;
	if (limit > start) {
		s = set_apply(tree, s, start, limit, bits, prealloc);
		if (cached) {
			s->refs++;
			if (*cached)
				extent_state_put(tree, *cached);
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

	for (; s && s->start < end; s = extent_state_next(s))
		if (clear_wants(s, bits))
			n += (s->start < start) + (s->end > end);
	return n;
}

int clear_extent_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits,
		     struct extent_prealloc *prealloc, struct extent_state **cached)
{
	struct extent_lock_list granted = TAILQ_HEAD_INITIALIZER(granted);
	struct extent_state *s = cached ? *cached : NULL;
	int r;

	ASSERT(start < end && bits && !(bits & EXTENT_LOCKED));
	lock_take(&tree->lock);
	if (!s || s->start > start || s->end <= start)
		s = extent_state_find(tree, start);
	r = extent_state_reserve(tree, prealloc, clear_count_nodes(s, start, end, bits));
	if (r)
		goto out;
	while (s && s->start < end)
		s = clear_wants(s, bits) ? extent_state_clear_part(tree, s, start, end, bits, prealloc)
					 : extent_state_next(s);
	if (cached && *cached) {
		extent_state_put(tree, *cached);
		*cached = NULL;
	}
	extent_lock_retry_locked(tree, &granted);
out:
	lock_drop(&tree->lock);
	extent_lock_run_granted(&granted);
	return r;
}

bool test_range_bit(struct extent_state_tree *tree, uint64_t start, uint64_t end, uint32_t bits, bool filled)
{
	struct extent_state *s;
	uint64_t pos = start;
	bool any = false;

	lock_take(&tree->lock);
	for (s = extent_state_find(tree, start); s && s->start < end && (filled || !any);
	     s = extent_state_next(s)) {
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
	s = extent_state_find(tree, from);
	while (s && !(s->bits & bits))
		s = extent_state_next(s);
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
	extent_state_put(tree, state);
	lock_drop(&tree->lock);
}
