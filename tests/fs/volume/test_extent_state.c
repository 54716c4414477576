/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/volume/test_extent_state.c: extent states and range locks against an array of blocks and a list of
 * waiters, and the locks on threads, where plain counters show whether two ever held the same block.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/volume/extent_state.h"

#define BLOCKS 48
#define BLOCK 4096ull
#define OPS 1000000
#define LOCKS 24
#define PLAIN_BITS (EXTENT_DELALLOC | EXTENT_USER_1 | EXTENT_USER_2)
#define ALL_BITS (EXTENT_LOCKED | PLAIN_BITS)

struct world;

struct test_lock {
	struct extent_lock lk;
	struct world *w;
	unsigned first, last;	      /* blocks, last is beyond the end */
	enum extent_lock_status want; /* the model's */
	uint64_t arrival;
	bool called; /* granted() ran since it was queued */
};

struct world {
	struct extent_state_tree tree;
	uint32_t bits[BLOCKS];
	struct test_lock *owner[BLOCKS];
	struct test_lock locks[LOCKS];
	struct extent_prealloc prealloc;
	struct extent_state *cached;
	uint64_t arrivals, last_granted;
	uint64_t rng;
	uint64_t waits, grants, conflicts, nomem, parts; /* that the interesting things happen at all */
	uint64_t hook_bytes[32];			 /* by bit, as the hooks see it */
	uint64_t splits, merges;
};

static uint64_t rnd_next(uint64_t *rng)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng;
}

static uint64_t rnd(struct world *w, uint64_t n)
{
	return rnd_next(&w->rng) % n;
}

static uint64_t seed_get(void)
{
	const char *env = getenv("SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240229;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed * 2 + 1;
}

/* ---- hooks: a second set of books -------------------------------------------- */

static void hook_count(struct extent_state_tree *tree, const struct extent_state *state, uint32_t bits,
		       int sign)
{
	struct world *w = tree->ops_arg;

	assert_true(state->start < state->end);
	for (int i = 0; i < 32; i++)
		if (bits & 1u << i)
			w->hook_bytes[i] += (uint64_t)sign * (state->end - state->start);
}

static void hook_set(struct extent_state_tree *tree, const struct extent_state *state, uint32_t bits)
{
	assert_int_equal(state->bits & bits, 0);
	hook_count(tree, state, bits, 1);
}

static void hook_clear(struct extent_state_tree *tree, const struct extent_state *state, uint32_t bits)
{
	assert_int_equal(state->bits & bits, bits);
	hook_count(tree, state, bits, -1);
}

static void hook_split(struct extent_state_tree *tree, const struct extent_state *state, uint64_t at)
{
	assert_true(state->start < at && at < state->end);
	((struct world *)tree->ops_arg)->splits++;
}

static void hook_merge(struct extent_state_tree *tree, const struct extent_state *left,
		       const struct extent_state *right)
{
	assert_true(left->end == right->start && left->bits == right->bits && left->owner == right->owner);
	((struct world *)tree->ops_arg)->merges++;
}

static const struct extent_state_ops hooks = {hook_set, hook_clear, hook_split, hook_merge};

static void world_init(struct world *w, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	w->rng = seed;
	extent_state_tree_init(&w->tree, &hooks, w);
}

static void world_fini(struct world *w)
{
	free_extent_state(&w->tree, w->cached);
	extent_prealloc_fini(&w->prealloc);
	extent_state_tree_fini(&w->tree);
}

/* ---- comparing ----------------------------------------------------------------- */

struct seen {
	uint32_t bits[BLOCKS];
	const struct extent_lock *owner[BLOCKS];
};

static void seen_collect(struct seen *seen, const struct extent_state *s)
{
	if (!s)
		return;
	seen_collect(seen, RB_LEFT(s, entry));
	seen_collect(seen, RB_RIGHT(s, entry));
	assert_true(s->start % BLOCK == 0 && s->end % BLOCK == 0 && s->end <= BLOCKS * BLOCK);
	for (uint64_t blk = s->start / BLOCK; blk < s->end / BLOCK; blk++) {
		seen->bits[blk] = s->bits;
		seen->owner[blk] = s->owner;
	}
}

static void world_compare_counters(struct world *w)
{
	uint64_t want[32] = {0};

	for (unsigned blk = 0; blk < BLOCKS; blk++)
		for (int i = 0; i < 8; i++)
			want[i] += w->bits[blk] & 1u << i ? BLOCK : 0;
	assert_memory_equal(want, w->hook_bytes, sizeof(want));
	assert_true(extent_state_delalloc_bytes(&w->tree) == want[__builtin_ctz(EXTENT_DELALLOC)]);
}

/*
 * The tree says of each block and each lock what the model says, and so do the counters and the hooks' books.
 */
static void world_compare(struct world *w)
{
	struct seen seen = {0};

	extent_state_check(&w->tree);
	seen_collect(&seen, RB_ROOT(&w->tree.root));
	assert_memory_equal(seen.bits, w->bits, sizeof(seen.bits));
	for (unsigned blk = 0; blk < BLOCKS; blk++)
		assert_ptr_equal(seen.owner[blk], w->owner[blk] ? &w->owner[blk]->lk : NULL);
	for (int i = 0; i < LOCKS; i++) {
		assert_int_equal(w->locks[i].want, w->locks[i].lk.status);
		assert_int_equal(w->locks[i].called,
				 w->locks[i].arrival && w->locks[i].want == EXTENT_LOCK_HELD);
	}
	world_compare_counters(w);
}

static unsigned model_find(const struct world *w, unsigned first, unsigned last, uint32_t bits)
{
	while (first < last && !(w->bits[first] & bits))
		first++;
	return first;
}

/* ---- plain bits ----------------------------------------------------------------- */

static void random_range(struct world *w, unsigned *ret_first, unsigned *ret_last)
{
	unsigned n = 1 + (unsigned)rnd(w, rnd(w, 4) ? 4 : BLOCKS / 2);

	*ret_first = (unsigned)rnd(w, BLOCKS - n + 1);
	*ret_last = *ret_first + n;
}

static uint32_t random_bits(struct world *w)
{
	uint32_t bits = (uint32_t)rnd(w, ALL_BITS + 1) & PLAIN_BITS;

	return bits ? bits : EXTENT_DELALLOC;
}

/* Takes away what the tree keeps spare, so that changes need the prealloc. */
static void world_drain_spare(struct world *w)
{
	struct extent_prealloc spare = {.list = w->tree.spare, .count = w->tree.spare_count};

	extent_prealloc_fini(&spare);
	w->tree.spare = NULL;
	w->tree.spare_count = 0;
}

/* After -ENOMEM: nothing has changed, filling may fail too, and what `need` says is enough. */
static void world_refill(struct world *w)
{
	w->nomem++;
	world_compare(w);
	mem_fail_at(1 + rnd(w, 3));
	if (extent_prealloc_fill(&w->prealloc, w->prealloc.need) == 0)
		mem_fail_at(0);
	assert_false(mem_fail_pending());
	assert_int_equal(extent_prealloc_fill(&w->prealloc, w->prealloc.need), 0);
}

static int world_set(struct world *w, unsigned first, unsigned last, uint32_t bits, uint32_t exclusive,
		     uint64_t *failed, struct extent_state **cached)
{
	int r;

	mem_fail_at(1);
	r = set_extent_bit(&w->tree, first * BLOCK, last * BLOCK, bits, exclusive, &w->prealloc, failed,
			   cached);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	return r;
}

static void op_set(struct world *w)
{
	uint32_t bits = random_bits(w), exclusive = rnd(w, 2) ? random_bits(w) : 0;
	struct extent_state **cached = rnd(w, 2) ? &w->cached : NULL;
	uint64_t failed = 12345;
	unsigned first, last, limit;
	int r;

	random_range(w, &first, &last);
	limit = model_find(w, first, last, exclusive | EXTENT_LOCKED);
	r = world_set(w, first, last, bits, exclusive, &failed, cached);
	if (r == -ENOMEM) {
		world_refill(w);
		r = world_set(w, first, last, bits, exclusive, &failed, cached);
	}
	assert_int_equal(r, limit < last ? -EEXIST : 0);
	assert_true(failed == (limit < last ? limit * BLOCK : 12345));
	w->conflicts += limit < last;
	if (cached && limit > first)
		assert_true(w->cached->start <= first * BLOCK && w->cached->end > first * BLOCK);
	for (; first < limit; first++)
		w->bits[first] |= bits;
}

static void model_retry(struct world *w);

static int world_clear(struct world *w, unsigned first, unsigned last, uint32_t bits,
		       struct extent_state **cached)
{
	int r;

	mem_fail_at(1);
	w->last_granted = 0;
	r = clear_extent_bit(&w->tree, first * BLOCK, last * BLOCK, bits, &w->prealloc, cached);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	return r;
}

static void clear_range(struct world *w, unsigned first, unsigned last, uint32_t bits,
			struct extent_state **cached)
{
	if (world_clear(w, first, last, bits, cached)) {
		world_refill(w);
		assert_true(w->prealloc.need <= 2);
		assert_int_equal(world_clear(w, first, last, bits, cached), 0);
	}
	for (; first < last; first++)
		if (!w->owner[first])
			w->bits[first] &= ~bits;
	model_retry(w);
}

static void op_clear(struct world *w)
{
	unsigned first, last;

	random_range(w, &first, &last);
	clear_range(w, first, last, rnd(w, 2) ? PLAIN_BITS : random_bits(w), rnd(w, 2) ? &w->cached : NULL);
}

static void op_look(struct world *w)
{
	uint32_t bits = random_bits(w) | (rnd(w, 4) ? 0 : EXTENT_LOCKED);
	unsigned first, last, blk, have = 0, at;
	uint64_t start = 0, end = 0;

	random_range(w, &first, &last);
	for (blk = first; blk < last; blk++)
		have += (w->bits[blk] & bits) != 0;
	assert_int_equal(test_range_bit(&w->tree, first * BLOCK, last * BLOCK, bits, false), have > 0);
	assert_int_equal(test_range_bit(&w->tree, first * BLOCK, last * BLOCK, bits, true),
			 have == last - first);

	at = model_find(w, first, BLOCKS, bits);
	assert_int_equal(find_first_extent_bit(&w->tree, first * BLOCK, bits, &start, &end), at < BLOCKS);
	if (at == BLOCKS)
		return;
	assert_true(start <= at * BLOCK && end > at * BLOCK);
	for (blk = (unsigned)(start / BLOCK); blk < end / BLOCK; blk++)
		assert_true(w->bits[blk] == w->bits[at] && w->owner[blk] == w->owner[at]);
}

/* ---- locks ------------------------------------------------------------------------ */

static void note_granted(struct extent_lock *lk)
{
	struct test_lock *t = container_of(lk, struct test_lock, lk);

	assert_false(t->called);
	assert_true(t->w->last_granted < t->arrival);
	t->w->last_granted = t->arrival;
	t->called = true;
	t->w->grants++;
}

static bool test_locks_overlap(const struct test_lock *a, const struct test_lock *b)
{
	return a->first < b->last && b->first < a->last;
}

static bool model_may_lock(const struct world *w, const struct test_lock *t)
{
	if (model_find(w, t->first, t->last, ALL_BITS) < t->last)
		return false;
	for (int i = 0; i < LOCKS; i++) {
		const struct test_lock *o = &w->locks[i];

		if (o->want == EXTENT_LOCK_WAITING && o->arrival < t->arrival && test_locks_overlap(o, t))
			return false;
	}
	return true;
}

static void model_grant(struct world *w, struct test_lock *t)
{
	t->want = EXTENT_LOCK_HELD;
	for (unsigned blk = t->first; blk < t->last; blk++) {
		w->bits[blk] = EXTENT_LOCKED | t->lk.bits;
		w->owner[blk] = t;
	}
}

/* Grants whom it may, the oldest first. */
static void model_retry(struct world *w)
{
	struct test_lock *best;

	do {
		best = NULL;
		for (int i = 0; i < LOCKS; i++) {
			struct test_lock *t = &w->locks[i];

			if (t->want == EXTENT_LOCK_WAITING && model_may_lock(w, t) &&
			    (!best || t->arrival < best->arrival))
				best = t;
		}
		if (best)
			model_grant(w, best);
	} while (best);
}

static void op_lock(struct world *w, struct test_lock *t)
{
	bool wait = rnd(w, 4), may;
	uint64_t arrival = ++w->arrivals;

	random_range(w, &t->first, &t->last);
	extent_lock_init(&t->lk, t->first * BLOCK, t->last * BLOCK, rnd(w, 3) ? random_bits(w) : 0,
			 note_granted);
	t->w = w;
	t->called = false;
	t->arrival = arrival;
	may = model_may_lock(w, t);
	mem_fail_at(1);
	assert_int_equal(wait ? lock_extent_async(&w->tree, &t->lk) : try_lock_extent(&w->tree, &t->lk), may);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	if (may || !wait)
		t->arrival = 0;
	else
		w->waits++;
	if (may)
		model_grant(w, t);
	else
		t->want = wait ? EXTENT_LOCK_WAITING : EXTENT_LOCK_IDLE;
}

static void op_unlock(struct world *w, struct test_lock *t)
{
	w->last_granted = 0;
	mem_fail_at(1);
	unlock_extent(&w->tree, &t->lk);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	t->want = EXTENT_LOCK_IDLE;
	t->arrival = 0;
	t->called = false;
	for (unsigned blk = t->first; blk < t->last; blk++) {
		w->bits[blk] = 0;
		w->owner[blk] = NULL;
	}
	model_retry(w);
}

static void op_clear_part(struct world *w, struct test_lock *t)
{
	unsigned n = t->last - t->first, first = t->first + (unsigned)rnd(w, n), pieces = 1;
	unsigned last = first + 1 + (unsigned)rnd(w, t->last - first);
	uint32_t bits = random_bits(w) & t->lk.bits, after[BLOCKS];

	if (rnd(w, 2))
		first = t->first;
	memcpy(after, w->bits, sizeof(after));
	for (unsigned blk = first; blk < last; blk++)
		after[blk] &= ~bits;
	for (unsigned blk = t->first + 1; blk < t->last; blk++)
		pieces += after[blk] != after[blk - 1];
	if (pieces >= EXTENT_LOCK_NODES)
		return;
	mem_fail_at(1);
	extent_lock_clear_bits(&w->tree, &t->lk, first * BLOCK, last * BLOCK, bits);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	w->parts += pieces > 1;
	memcpy(w->bits, after, sizeof(after));
}

static void op_some_lock(struct world *w)
{
	struct test_lock *t = &w->locks[rnd(w, LOCKS)];

	for (int i = 0; i < 3 && t->want == EXTENT_LOCK_WAITING; i++)
		t = &w->locks[rnd(w, LOCKS)];
	if (t->want == EXTENT_LOCK_IDLE)
		op_lock(w, t);
	else if (t->want == EXTENT_LOCK_HELD && rnd(w, 3) == 0)
		op_unlock(w, t);
	else if (t->want == EXTENT_LOCK_HELD)
		op_clear_part(w, t);
}

/* Clears and unlocks until nothing is left; everybody who waited must have had a turn. */
static void world_quiesce(struct world *w)
{
	bool busy = true;

	clear_range(w, 0, BLOCKS, PLAIN_BITS, &w->cached);
	while (busy) {
		busy = false;
		for (int i = 0; i < LOCKS; i++) {
			if (w->locks[i].want != EXTENT_LOCK_HELD)
				continue;
			op_unlock(w, &w->locks[i]);
			busy = true;
		}
		world_compare(w);
	}
	assert_int_equal(extent_state_count(&w->tree), 0);
	assert_true(TAILQ_EMPTY(&w->tree.waiters));
}

static void world_random_op(struct world *w, bool locks)
{
	switch (rnd(w, 16)) {
	case 0: op_set(w); break;
	case 1:
	case 2: op_clear(w); break;
	case 3: op_look(w); break;
	case 4: world_drain_spare(w); break;
	default:
		if (locks)
			op_some_lock(w);
		else if (rnd(w, 2))
			op_set(w);
		else
			op_clear(w);
	}
}

static void test_extent_state_random_against_model(void **state)
{
	struct world w;

	world_init(&w, seed_get());
	for (int i = 0; i < OPS; i++) {
		/* Now mostly locks, now mostly plain bits. */
		world_random_op(&w, i / 1000 % 4);
		world_compare(&w);
		if (i % 5000 == 0)
			world_quiesce(&w);
	}
	world_quiesce(&w);
	print_message(
		"waits %llu, conflicts %llu, out of memory %llu, parts %llu, splits %llu, merges %llu\n",
		(unsigned long long)w.waits, (unsigned long long)w.conflicts, (unsigned long long)w.nomem,
		(unsigned long long)w.parts, (unsigned long long)w.splits, (unsigned long long)w.merges);
	assert_true(w.grants == w.waits);
	assert_true(w.waits > 1000 && w.conflicts > 1000 && w.nomem > 1000 && w.parts > 1000);
	world_fini(&w);
}

/* Without any memory at all: each change fails and changes nothing; locks work. */
static void test_extent_state_without_memory(void **state)
{
	struct extent_state_tree tree;
	struct extent_prealloc p = {0};
	struct extent_lock lk;

	extent_state_tree_init(&tree, NULL, NULL);
	assert_int_equal(set_extent_bit(&tree, 0, 100, EXTENT_DELALLOC, 0, NULL, NULL, NULL), -ENOMEM);
	assert_int_equal(set_extent_bit(&tree, 0, 100, EXTENT_DELALLOC, 0, &p, NULL, NULL), -ENOMEM);
	assert_int_equal(p.need, 1);
	for (unsigned n = 1; n <= 3; n++) {
		mem_fail_at(n);
		assert_int_equal(extent_prealloc_fill(&p, 3), -ENOMEM);
		assert_int_equal(p.count, n - 1);
		extent_prealloc_fini(&p);
	}
	assert_int_equal(extent_prealloc_fill(&p, 1), 0);
	assert_int_equal(set_extent_bit(&tree, 0, 100, EXTENT_DELALLOC, 0, &p, NULL, NULL), 0);
	assert_int_equal(clear_extent_bit(&tree, 10, 20, EXTENT_DELALLOC, &p, NULL), -ENOMEM);
	assert_true(p.need == 2 && extent_state_count(&tree) == 1 &&
		    extent_state_delalloc_bytes(&tree) == 100);
	assert_int_equal(clear_extent_bit(&tree, 0, 100, EXTENT_DELALLOC, &p, NULL), 0);
	mem_fail_at(1);
	extent_lock_init(&lk, 0, 100, EXTENT_DELALLOC, NULL);
	assert_true(try_lock_extent(&tree, &lk));
	extent_lock_clear_bits(&tree, &lk, 30, 40, EXTENT_DELALLOC);
	assert_true(extent_state_count(&tree) == 3 && extent_state_delalloc_bytes(&tree) == 90);
	unlock_extent(&tree, &lk);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	extent_prealloc_fini(&p);
	extent_state_tree_fini(&tree);
}

static void test_extent_state_cached_outlives_its_state(void **state)
{
	struct extent_state_tree tree;
	struct extent_prealloc p = {0};
	struct extent_state *a = NULL, *b = NULL;

	extent_state_tree_init(&tree, NULL, NULL);
	assert_int_equal(extent_prealloc_fill(&p, 4), 0);
	assert_int_equal(set_extent_bit(&tree, 10, 20, EXTENT_DELALLOC, 0, &p, NULL, &a), 0);
	assert_int_equal(set_extent_bit(&tree, 0, 10, EXTENT_DELALLOC, 0, &p, NULL, &b), 0);
	/* a was merged into b, and a third one must not be taken for it. */
	assert_int_equal(clear_extent_bit(&tree, 0, 20, EXTENT_DELALLOC, &p, NULL), 0);
	assert_int_equal(set_extent_bit(&tree, 12, 14, EXTENT_DELALLOC, 0, &p, NULL, NULL), 0);
	assert_int_equal(clear_extent_bit(&tree, 12, 14, EXTENT_DELALLOC, &p, &a), 0);
	assert_null(a);
	assert_int_equal(extent_state_count(&tree), 0);
	free_extent_state(&tree, b);
	extent_prealloc_fini(&p);
	extent_state_tree_fini(&tree);
}

static void lock_at(struct world *w, int i, unsigned first, unsigned last, bool want)
{
	struct test_lock *t = &w->locks[i];

	t->w = w;
	t->arrival = ++w->arrivals;
	extent_lock_init(&t->lk, first * BLOCK, last * BLOCK, 0, note_granted);
	assert_int_equal(lock_extent_async(&w->tree, &t->lk), want);
}

static void unlock_at(struct world *w, int i)
{
	w->last_granted = 0;
	unlock_extent(&w->tree, &w->locks[i].lk);
}

static void test_extent_lock_grants_in_order_of_arrival(void **state)
{
	struct world w;
	struct extent_lock lk;

	world_init(&w, 1);
	lock_at(&w, 0, 0, 10, true);
	lock_at(&w, 1, 5, 15, false);
	lock_at(&w, 2, 12, 20, false); /* free, but 1 came earlier */
	lock_at(&w, 3, 20, 30, true);  /* overlaps nobody: not delayed */
	lock_at(&w, 4, 10, 12, false);
	extent_lock_init(&lk, 14 * BLOCK, 15 * BLOCK, 0, NULL);
	assert_false(try_lock_extent(&w.tree, &lk));
	unlock_at(&w, 0);
	assert_true(w.locks[1].called && !w.locks[2].called && !w.locks[4].called);
	unlock_at(&w, 3);
	assert_int_equal(w.grants, 1);
	unlock_at(&w, 1);
	assert_true(w.locks[2].called && w.locks[4].called);
	unlock_at(&w, 2);
	unlock_at(&w, 4);
	assert_int_equal(w.grants, 3);
	world_fini(&w);
}

static void test_extent_lock_waits_for_plain_states(void **state)
{
	struct world w;

	world_init(&w, 1);
	assert_int_equal(extent_prealloc_fill(&w.prealloc, 3), 0);
	assert_int_equal(set_extent_bit(&w.tree, 0, 2 * BLOCK, EXTENT_USER_1, 0, &w.prealloc, NULL, NULL), 0);
	lock_at(&w, 0, 1, 3, false);
	lock_at(&w, 1, 2, 4, false);
	assert_int_equal(clear_extent_bit(&w.tree, 0, BLOCK, EXTENT_USER_1, &w.prealloc, NULL), 0);
	assert_false(w.locks[0].called);
	assert_int_equal(clear_extent_bit(&w.tree, 0, 2 * BLOCK, EXTENT_USER_1, &w.prealloc, NULL), 0);
	assert_true(w.locks[0].called && !w.locks[1].called);
	unlock_at(&w, 0);
	assert_true(w.locks[1].called);
	unlock_at(&w, 1);
	world_fini(&w);
}

/* ---- threads ------------------------------------------------------------------------ */

#define THREADS 4
#define ROUNDS 15000
#define STRESS_BLOCKS 64

struct stress {
	struct extent_state_tree tree;
	/* Not atomic on purpose: the locks protect them. */
	uint64_t count[STRESS_BLOCKS];
	int holder[STRESS_BLOCKS];
};

struct stress_thread {
	struct stress *s;
	pthread_t thread;
	int id;
	uint64_t rng, done; /* blocks counted */
	struct extent_prealloc prealloc;
};

struct stress_lock {
	struct extent_lock lk;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool granted;
};

static void stress_granted(struct extent_lock *lk)
{
	struct stress_lock *l = container_of(lk, struct stress_lock, lk);

	pthread_mutex_lock(&l->mutex);
	l->granted = true;
	pthread_cond_signal(&l->cond);
	pthread_mutex_unlock(&l->mutex);
}

/* What one may do only alone. */
static void stress_use(struct stress_thread *t, uint64_t first, uint64_t last)
{
	struct stress *s = t->s;

	for (uint64_t blk = first; blk < last; blk++) {
		ASSERT(s->holder[blk] == 0);
		s->holder[blk] = t->id;
	}
	if (rnd_next(&t->rng) % 8 == 0)
		sched_yield();
	for (uint64_t blk = first; blk < last; blk++) {
		ASSERT(s->holder[blk] == t->id);
		s->holder[blk] = 0;
		s->count[blk]++;
	}
	t->done += last - first;
}

static void stress_async(struct stress_thread *t, struct stress_lock *l)
{
	l->granted = false;
	if (lock_extent_async(&t->s->tree, &l->lk))
		return;
	pthread_mutex_lock(&l->mutex);
	while (!l->granted)
		pthread_cond_wait(&l->cond, &l->mutex);
	pthread_mutex_unlock(&l->mutex);
}

static void stress_plain(struct stress_thread *t, uint64_t first, uint64_t last)
{
	struct extent_state *cached = NULL;
	uint64_t failed;
	int r;

	ASSERT(extent_prealloc_fill(&t->prealloc, 4) == 0);
	r = set_extent_bit(&t->s->tree, first * BLOCK, last * BLOCK, EXTENT_USER_1, EXTENT_USER_1,
			   &t->prealloc, &failed, &cached);
	ASSERT(r == 0 || r == -EEXIST);
	if (r)
		last = failed / BLOCK;
	if (first == last)
		return;
	stress_use(t, first, last);
	r = clear_extent_bit(&t->s->tree, first * BLOCK, last * BLOCK, EXTENT_USER_1, &t->prealloc, &cached);
	ASSERT(r == 0);
}

static void stress_round(struct stress_thread *t, struct stress_lock *l)
{
	uint64_t n = 1 + rnd_next(&t->rng) % 8, first = rnd_next(&t->rng) % (STRESS_BLOCKS - n);
	struct extent_state_tree *tree = &t->s->tree;

	extent_lock_init(&l->lk, first * BLOCK, (first + n) * BLOCK, EXTENT_DELALLOC, stress_granted);
	switch (rnd_next(&t->rng) % 4) {
	case 0: stress_plain(t, first, first + n); return;
	case 1:
		if (!try_lock_extent(tree, &l->lk))
			return;
		break;
	case 2: lock_extent(tree, &l->lk); break;
	default: stress_async(t, l);
	}
	stress_use(t, first, first + n);
	extent_lock_clear_bits(tree, &l->lk, first * BLOCK, (first + 1) * BLOCK, EXTENT_DELALLOC);
	unlock_extent(tree, &l->lk);
}

static void *stress_run(void *arg)
{
	struct stress_lock l = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	struct stress_thread *t = arg;

	for (int i = 0; i < ROUNDS; i++)
		stress_round(t, &l);
	extent_prealloc_fini(&t->prealloc);
	return NULL;
}

static void test_extent_lock_excludes_threads(void **state)
{
	static struct stress s;
	struct stress_thread threads[THREADS];
	uint64_t seed = seed_get(), done = 0;

	extent_state_tree_init(&s.tree, NULL, NULL);
	for (int i = 0; i < THREADS; i++) {
		threads[i] = (struct stress_thread){.s = &s, .id = i + 1, .rng = seed + (uint64_t)i * 7919};
		assert_int_equal(pthread_create(&threads[i].thread, NULL, stress_run, &threads[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i].thread, NULL);
		done += threads[i].done;
	}
	for (int blk = 0; blk < STRESS_BLOCKS; blk++)
		done -= s.count[blk];
	assert_int_equal(done, 0);
	extent_state_check(&s.tree);
	extent_state_tree_fini(&s.tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extent_state_random_against_model),
		cmocka_unit_test(test_extent_state_without_memory),
		cmocka_unit_test(test_extent_state_cached_outlives_its_state),
		cmocka_unit_test(test_extent_lock_grants_in_order_of_arrival),
		cmocka_unit_test(test_extent_lock_waits_for_plain_states),
		cmocka_unit_test(test_extent_lock_excludes_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
