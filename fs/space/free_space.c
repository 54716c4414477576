/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/free_space.c: see free_space.h.
 *
 * The bitmap is cut into windows of 512 blocks. A segment tree has one leaf for each window (padded to a
 * power of two with empty ones) and keeps {longest run, run at the head, run at the tail} in every node, so
 * that runs across windows are found in O(log) steps. Node 1 is the root, the children of node i are 2i and
 * 2i+1.
 *
 * Invariants
 * 1. Bits at and past nblocks are 0, up to the end of the last window.
 * 2. Between calls every node says the truth about its part of the bitmap.
 */
#include "fs/space/free_space.h"

#include <string.h>

#include "base/mem.h"
#include "base/util.h"

#define WINDOW 512u
#define WORD 64u
#define WINDOW_WORDS (WINDOW / WORD)

struct node {
	uint32_t longest, head, tail;
};

struct free_space {
	uint32_t nblocks;
	uint32_t nfree;
	uint32_t windows;
	uint32_t leaves; /* windows, rounded up to a power of two */
	struct node *nodes;
	uint64_t words[];
};

struct run {
	uint32_t start, len;
};

static uint32_t words_of(const struct free_space *space)
{
	return space->windows * WINDOW_WORDS;
}

/* ---- summaries -------------------------------------------------------------- */

/* The longest run of ones inside of w if it is longer than `best`, else `best`. */
static uint32_t word_longest(uint64_t w, uint32_t best)
{
	uint32_t have = 1;

	/* Erode until each bit left stands for best + 1 ones in a row: most words end here. */
	while (w && have <= best) {
		uint32_t step = have <= best + 1 - have ? have : best + 1 - have;

		w &= w >> step;
		have += step;
	}
	for (; w; w &= w >> 1)
		best = have++;
	return best;
}

static struct node window_summary(const uint64_t *words)
{
	struct node n = {0};
	uint32_t run = 0;
	bool whole = true;

	for (uint32_t i = 0; i < WINDOW_WORDS; i++) {
		uint64_t w = words[i];

		if (w == UINT64_MAX) {
			run += WORD;
			continue;
		}
		run += (uint32_t)__builtin_ctzll(~w);
		if (whole)
			n.head = run;
		whole = false;
		if (run > n.longest)
			n.longest = run;
		n.longest = word_longest(w, n.longest);
		run = (uint32_t)__builtin_clzll(~w);
	}
	n.tail = run;
	if (whole)
		n.head = run;
	if (run > n.longest)
		n.longest = run;
	return n;
}

static struct node combine(const struct node *l, const struct node *r, uint32_t child_span)
{
	uint32_t middle = l->tail + r->head;
	struct node n = {.longest = l->longest > r->longest ? l->longest : r->longest};

	if (middle > n.longest)
		n.longest = middle;
	n.head = l->head == child_span ? l->head + r->head : l->head;
	n.tail = r->tail == child_span ? r->tail + l->tail : r->tail;
	return n;
}

static bool node_equal(const struct node *a, const struct node *b)
{
	return a->longest == b->longest && a->head == b->head && a->tail == b->tail;
}

/* Brings leaves first..last and what stands above them up to date. */
static void summaries_update(struct free_space *space, uint32_t first, uint32_t last)
{
	uint32_t lo = space->leaves + first, hi = space->leaves + last;
	bool changed = false;

	for (uint32_t i = lo; i <= hi; i++) {
		struct node n = window_summary(&space->words[(i - space->leaves) * WINDOW_WORDS]);

		changed |= !node_equal(&n, &space->nodes[i]);
		space->nodes[i] = n;
	}
	for (uint32_t span = WINDOW; changed && lo > 1; span *= 2) {
		changed = false;
		lo /= 2;
		hi /= 2;
		for (uint32_t i = lo; i <= hi; i++) {
			struct node n = combine(&space->nodes[2 * i], &space->nodes[2 * i + 1], span);

			changed |= !node_equal(&n, &space->nodes[i]);
			space->nodes[i] = n;
		}
	}
}

/* ---- bits ------------------------------------------------------------------- */

/* The bits of word i that belong to [start, end); the word is known to meet the range. */
static uint64_t word_mask(uint32_t i, uint32_t start, uint32_t end)
{
	uint64_t mask = UINT64_MAX;

	if (i == start / WORD)
		mask <<= start % WORD;
	if (i == (end - 1) / WORD)
		mask &= UINT64_MAX >> (WORD - 1 - (end - 1) % WORD);
	return mask;
}

static bool range_is_inside(const struct free_space *space, uint32_t start, uint32_t len)
{
	return start < space->nblocks && len <= space->nblocks - start;
}

static bool bits_are(const struct free_space *space, uint32_t start, uint32_t len, bool free)
{
	uint32_t end = start + len;
	uint64_t flip = free ? UINT64_MAX : 0;

	for (uint32_t i = start / WORD; i <= (end - 1) / WORD; i++)
		if ((space->words[i] ^ flip) & word_mask(i, start, end))
			return false;
	return true;
}

/* All bits of the range change: from free to taken, or the other way. */
static void bits_flip(struct free_space *space, uint32_t start, uint32_t len)
{
	uint32_t end = start + len;

	for (uint32_t i = start / WORD; i <= (end - 1) / WORD; i++)
		space->words[i] ^= word_mask(i, start, end);
	summaries_update(space, start / WINDOW, (end - 1) / WINDOW);
}

/* The end of the free run that block `start` is in, or start + max if that comes first. */
static uint32_t run_end(const struct free_space *space, uint32_t start, uint32_t max)
{
	uint32_t limit = max < space->nblocks - start ? start + max : space->nblocks;
	uint32_t pos = start;

	while (pos < limit) {
		uint64_t taken = ~space->words[pos / WORD] >> pos % WORD;

		if (pos % WINDOW == 0 && space->nodes[space->leaves + pos / WINDOW].head == WINDOW) {
			pos += WINDOW;
			continue;
		}
		if (taken)
			pos += (uint32_t)__builtin_ctzll(taken);
		if (taken)
			break;
		pos = (pos / WORD + 1) * WORD;
	}
	return pos < limit ? pos : limit;
}

/*
 * Looks for `want` free blocks in a row in the window from `pos` on; `carry` free blocks end just before pos.
 * True when found, *ret_start is where. Else *ret_carry is the run that ends with the window.
 */
static bool window_find(const struct free_space *space, uint32_t pos, uint32_t carry, uint32_t want,
			uint32_t *ret_start, uint32_t *ret_carry)
{
	uint32_t end = (pos / WINDOW + 1) * WINDOW;

	while (pos < end) {
		uint32_t left = WORD - pos % WORD;
		uint64_t w = space->words[pos / WORD] >> pos % WORD;
		uint32_t ones = ~w ? (uint32_t)__builtin_ctzll(~w) : WORD;

		if (ones > left)
			ones = left;
		if (carry + ones >= want) {
			*ret_start = pos - carry;
			return true;
		}
		pos += ones;
		if (ones == left) {
			carry += ones;
			continue;
		}
		carry = 0;
		w >>= ones;
		pos += w ? (uint32_t)__builtin_ctzll(w) : left - ones;
	}
	*ret_carry = carry;
	return false;
}

/*
 * The first `want` blocks in a row within node i, whose longest run is that long. `pos` is where the node
 * begins.
 */
static uint32_t descend(const struct free_space *space, uint32_t i, uint32_t pos, uint32_t span,
			uint32_t want)
{
	uint32_t start = 0, carry;
	bool found;

	while (i < space->leaves) {
		const struct node *l = &space->nodes[2 * i], *r = l + 1;

		span /= 2;
		i *= 2;
		if (l->longest >= want)
			continue;
		if (l->tail + r->head >= want)
			return pos + span - l->tail;
		i++;
		pos += span;
	}
	found = window_find(space, pos, 0, want, &start, &carry);
	ASSERT(found);
	return start;
}

/* The first `want` free blocks in a row at or after `from` (< nblocks). */
static bool find_first(const struct free_space *space, uint32_t from, uint32_t want, uint32_t *ret_start)
{
	uint32_t i = space->leaves + from / WINDOW, pos = round_down_u64(from, WINDOW) + WINDOW;
	uint32_t span = WINDOW, carry;

	if (window_find(space, from, 0, want, ret_start, &carry))
		return true;
	for (; i > 1; i /= 2, span *= 2) {
		const struct node *next = &space->nodes[i + 1];

		if (i % 2)
			continue;
		if (carry + next->head >= want) {
			*ret_start = pos - carry;
			return true;
		}
		if (next->longest >= want) {
			*ret_start = descend(space, i + 1, pos, span, want);
			return true;
		}
		carry = next->tail == span ? carry + span : next->tail;
		pos += span;
	}
	return false;
}

/* ---- making ----------------------------------------------------------------- */

struct free_space *free_space_new(uint32_t nblocks, bool all_free)
{
	uint32_t windows = (nblocks + WINDOW - 1) / WINDOW, leaves = 1;
	struct free_space *space;
	size_t bits;
	bool given;

	ASSERT(nblocks > 0 && nblocks <= FREE_SPACE_MAX_BLOCKS);
	while (leaves < windows)
		leaves *= 2;
	bits = (size_t)windows * WINDOW_WORDS * sizeof(uint64_t);
	space = mem_zalloc(sizeof(*space) + bits + 2 * leaves * sizeof(struct node));
	if (!space)
		return NULL;
	space->nblocks = nblocks;
	space->windows = windows;
	space->leaves = leaves;
	space->nodes = (struct node *)((char *)space->words + bits);
	given = !all_free || free_space_give(space, 0, nblocks);
	ASSERT(given);
	return space;
}

void free_space_free(struct free_space *space)
{
	mem_free(space);
}

void free_space_clone_into(struct free_space *dst, const struct free_space *src)
{
	ASSERT(dst->nblocks == src->nblocks);
	dst->nfree = src->nfree;
	memcpy(dst->words, src->words, words_of(src) * sizeof(uint64_t));
	memcpy(dst->nodes, src->nodes, 2 * src->leaves * sizeof(struct node));
}

uint32_t free_space_nblocks(const struct free_space *space)
{
	return space->nblocks;
}
uint32_t free_space_count(const struct free_space *space)
{
	return space->nfree;
}
uint32_t free_space_largest(const struct free_space *space)
{
	return space->nodes[1].longest;
}

size_t free_space_memory(const struct free_space *space)
{
	return sizeof(*space) + words_of(space) * sizeof(uint64_t) + 2 * space->leaves * sizeof(struct node);
}

/* ---- changing --------------------------------------------------------------- */

uint32_t free_space_alloc(struct free_space *space, uint32_t hint, uint32_t want, uint32_t *ret_start)
{
	uint32_t start = 0;
	bool found;

	ASSERT(want > 0);
	if (want > free_space_largest(space))
		want = free_space_largest(space);
	if (!want)
		return 0;
	found = hint < space->nblocks && find_first(space, hint, want, &start);
	if (!found)
		found = find_first(space, 0, want, &start);
	ASSERT(found);
	bits_flip(space, start, want);
	space->nfree -= want;
	*ret_start = start;
	return want;
}

uint32_t free_space_alloc_near(struct free_space *space, uint32_t hint, uint32_t want, uint32_t *ret_start)
{
	uint32_t start = 0, len;
	bool found;

	ASSERT(want > 0);
	if (!space->nfree)
		return 0;
	found = hint < space->nblocks && find_first(space, hint, 1, &start);
	if (!found)
		found = find_first(space, 0, 1, &start);
	ASSERT(found);
	len = run_end(space, start, want) - start;
	bits_flip(space, start, len);
	space->nfree -= len;
	*ret_start = start;
	return len;
}

bool free_space_take(struct free_space *space, uint32_t start, uint32_t len)
{
	if (!len || !range_is_inside(space, start, len) || !bits_are(space, start, len, true))
		return false;
	bits_flip(space, start, len);
	space->nfree -= len;
	return true;
}

bool free_space_give(struct free_space *space, uint32_t start, uint32_t len)
{
	if (!len || !range_is_inside(space, start, len) || !bits_are(space, start, len, false))
		return false;
	bits_flip(space, start, len);
	space->nfree += len;
	return true;
}

/* ---- looking ---------------------------------------------------------------- */

bool free_space_test(const struct free_space *space, uint32_t start, uint32_t len, bool free)
{
	return !len || (range_is_inside(space, start, len) && bits_are(space, start, len, free));
}

bool free_space_next_free(const struct free_space *space, uint32_t from, uint32_t *ret_start,
			  uint32_t *ret_len)
{
	uint32_t start;

	if (from >= space->nblocks || !find_first(space, from, 1, &start))
		return false;
	*ret_start = start;
	*ret_len = run_end(space, start, space->nblocks) - start;
	return true;
}

/* ---- storing and loading ------------------------------------------------------ */

void free_space_get_words(const struct free_space *space, uint32_t first, uint32_t count, uint64_t *ret_words)
{
	uint32_t have = first < words_of(space) ? words_of(space) - first : 0;

	if (have > count)
		have = count;
	if (have)
		memcpy(ret_words, &space->words[first], have * sizeof(uint64_t));
	memset(ret_words + have, 0, (count - have) * sizeof(uint64_t));
}

bool free_space_set_words(struct free_space *space, uint32_t first, uint32_t count, const uint64_t *words)
{
	uint64_t before = 0, after = 0;
	uint32_t usable = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t start = ((uint64_t)first + i) * WORD;
		uint64_t left = start < space->nblocks ? space->nblocks - start : 0;

		if (left < WORD && words[i] >> left)
			return false;
		if (!left)
			continue;
		before += (uint64_t)__builtin_popcountll(space->words[first + i]);
		after += (uint64_t)__builtin_popcountll(words[i]);
		usable = i + 1;
	}
	if (!usable)
		return true;
	memcpy(&space->words[first], words, usable * sizeof(uint64_t));
	space->nfree = (uint32_t)(space->nfree + after - before);
	summaries_update(space, first / WINDOW_WORDS, (first + usable - 1) / WINDOW_WORDS);
	return true;
}

/* Bit by bit, sharing no code with the summaries that it checks. */
static struct node slow_summary(const struct free_space *space, uint64_t start, uint64_t len)
{
	struct node n = {0};
	uint32_t run = 0;
	bool whole = true;

	for (uint64_t pos = start; pos < start + len; pos++) {
		bool free = pos < space->nblocks && (space->words[pos / WORD] >> pos % WORD & 1);

		run = free ? run + 1 : 0;
		whole &= free;
		if (whole)
			n.head = run;
		if (run > n.longest)
			n.longest = run;
	}
	n.tail = run;
	return n;
}

bool free_space_check(const struct free_space *space)
{
	uint64_t span = (uint64_t)space->leaves * WINDOW;
	uint32_t nfree = 0;

	for (uint32_t i = 0; i < words_of(space); i++)
		nfree += (uint32_t)__builtin_popcountll(space->words[i]);
	if (nfree != space->nfree)
		return false;
	for (uint32_t pos = space->nblocks; pos < words_of(space) * WORD; pos++)
		if (space->words[pos / WORD] >> pos % WORD & 1)
			return false;
	for (uint32_t i = 1; i < 2 * space->leaves; i++) {
		uint32_t depth = 31 - (uint32_t)__builtin_clz(i);
		struct node n = slow_summary(space, (i - (1u << depth)) * (span >> depth), span >> depth);

		if (!node_equal(&n, &space->nodes[i]))
			return false;
	}
	return true;
}
