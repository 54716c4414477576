/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_free_space.c: free_space against a model of one byte a block, and its bounds on memory.
 * The timings at the end are printed, not asserted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/space/free_space.h"
#include "fs/fs.h"

/* ---- random numbers, from SEED ------------------------------------------------ */

static uint64_t seed_of_run(void)
{
	const char *env = getenv("SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

static uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Small numbers as often as large ones. */
static uint32_t rnd_len(uint64_t *state, uint32_t max)
{
	uint32_t len = 1 + (uint32_t)(rnd(state) % (1u << rnd(state) % 19));

	return len < max ? len : max;
}

/* ---- the model ------------------------------------------------------------------ */

struct model {
	uint32_t n;
	uint8_t *free;
};

static uint32_t model_run(const struct model *m, uint32_t pos)
{
	uint32_t len = 0;

	while (pos + len < m->n && m->free[pos + len])
		len++;
	return len;
}

static uint32_t model_largest(const struct model *m)
{
	uint32_t best = 0, len;

	for (uint32_t pos = 0; pos < m->n; pos += len + 1) {
		len = model_run(m, pos);
		if (len > best)
			best = len;
	}
	return best;
}

/* The first run of `want` at or after from; m->n when there is none. */
static uint32_t model_find(const struct model *m, uint32_t from, uint32_t want)
{
	uint32_t run = 0;

	for (uint32_t pos = from; pos < m->n; pos++) {
		run = m->free[pos] ? run + 1 : 0;
		if (run == want)
			return pos + 1 - want;
	}
	return m->n;
}

static uint32_t model_find_wrapping(const struct model *m, uint32_t hint, uint32_t want)
{
	uint32_t start = hint < m->n ? model_find(m, hint, want) : m->n;

	return start < m->n ? start : model_find(m, 0, want);
}

static bool model_all(const struct model *m, uint32_t start, uint32_t len, bool free)
{
	if (start > m->n || len > m->n - start)
		return false;
	for (uint32_t i = 0; i < len; i++)
		if (m->free[start + i] != free)
			return false;
	return true;
}

static uint32_t model_count(const struct model *m)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < m->n; i++)
		count += m->free[i];
	return count;
}

static void assert_same(const struct free_space *space, const struct model *m)
{
	uint32_t pos = 0, start, len;

	assert_true(free_space_check(space));
	assert_int_equal(free_space_count(space), model_count(m));
	assert_int_equal(free_space_largest(space), model_largest(m));
	while (free_space_next_free(space, pos, &start, &len)) {
		assert_true(model_all(m, pos, start - pos, false));
		assert_int_equal(len, model_run(m, start));
		pos = start + len;
	}
	assert_true(model_all(m, pos, m->n - pos, false));
}

/* ---- random operations ------------------------------------------------------------- */

static void step_alloc(struct free_space *space, struct model *m, uint64_t *state)
{
	uint32_t hint = (uint32_t)(rnd(state) % (m->n + 2)), want = rnd_len(state, m->n + 5), start = 0;
	uint32_t largest = model_largest(m), expect = want < largest ? want : largest;
	uint32_t len = free_space_alloc(space, hint, want, &start);

	assert_int_equal(len, expect);
	if (!len)
		return;
	assert_int_equal(start, model_find_wrapping(m, hint, expect));
	memset(m->free + start, 0, len);
}

static void step_alloc_near(struct free_space *space, struct model *m, uint64_t *state)
{
	uint32_t hint = (uint32_t)(rnd(state) % (m->n + 2)), want = rnd_len(state, m->n + 5), start = 0;
	uint32_t expect = model_find_wrapping(m, hint, 1);
	uint32_t len = free_space_alloc_near(space, hint, want, &start);

	if (expect == m->n) {
		assert_int_equal(len, 0);
		return;
	}
	assert_int_equal(start, expect);
	assert_int_equal(len, min_u64(want, model_run(m, start)));
	memset(m->free + start, 0, len);
}

/* Of a run that begins at random, so that about half of the calls succeed. */
static void step_take_or_give(struct free_space *space, struct model *m, uint64_t *state, bool give)
{
	uint32_t start = (uint32_t)(rnd(state) % (m->n + 3)), len = rnd_len(state, m->n + 3);
	bool fits;

	while (rnd(state) % 2 && len > 1 && !model_all(m, start, len, !give))
		len /= 2;
	fits = model_all(m, start, len, !give);
	assert_int_equal(free_space_test(space, start, len, !give), fits);
	assert_int_equal(give ? free_space_give(space, start, len) : free_space_take(space, start, len),
			 fits);
	if (fits)
		memset(m->free + start, give, len);
}

static void run_random(uint32_t n, uint64_t *state, unsigned steps)
{
	bool all_free = rnd(state) % 2;
	struct free_space *space = free_space_new(n, all_free), *copy = free_space_new(n, false);
	struct model m = {.n = n, .free = malloc(n)};

	assert_non_null(space);
	assert_non_null(copy);
	memset(m.free, all_free, n);
	for (unsigned i = 0; i < steps; i++) {
		switch (rnd(state) % 6) {
		case 0: step_alloc(space, &m, state); break;
		case 1: step_alloc_near(space, &m, state); break;
		case 2: step_take_or_give(space, &m, state, false); break;
		default: step_take_or_give(space, &m, state, true); break;
		}
		if (i % 64 == 0 || n < 300)
			assert_same(space, &m);
	}
	assert_same(space, &m);
	free_space_clone_into(copy, space);
	assert_same(copy, &m);
	free(m.free);
	free_space_free(space);
	free_space_free(copy);
}

static void test_free_space_random_against_model(void **arg)
{
	static const uint32_t sizes[] = {1,    2,    63,   64,	 65,   256,  511,   512,  513,
					 1000, 1024, 1025, 1535, 4096, 5000, 16384, 20001};
	uint64_t state = seed_of_run();

	for (unsigned round = 0; round < 4; round++)
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
			run_random(sizes[i], &state, 300);
}

/* ---- single properties ------------------------------------------------------------------ */

static void test_free_space_refuses_and_changes_nothing(void **arg)
{
	struct free_space *space = free_space_new(1000, true);

	assert_false(free_space_give(space, 0, 1));
	assert_false(free_space_take(space, 0, 0));
	assert_false(free_space_take(space, 999, 2));
	assert_false(free_space_take(space, 1000, 1));
	assert_false(free_space_take(space, 5, UINT32_MAX));
	assert_true(free_space_take(space, 500, 100));
	assert_false(free_space_take(space, 400, 101));
	assert_false(free_space_take(space, 599, 10));
	assert_false(free_space_give(space, 499, 101));
	assert_false(free_space_give(space, 500, 101));
	assert_int_equal(free_space_count(space), 900);
	assert_true(free_space_test(space, 0, 500, true));
	assert_true(free_space_test(space, 500, 100, false));
	assert_false(free_space_test(space, 999, 2, true));
	assert_true(free_space_give(space, 500, 100));
	assert_int_equal(free_space_largest(space), 1000);
	assert_true(free_space_check(space));
	free_space_free(space);
	free_space_free(NULL);
}

static void test_free_space_alloc_follows_the_hint(void **arg)
{
	struct free_space *space = free_space_new(4000, true);
	uint32_t start = 0;

	assert_int_equal(free_space_alloc(space, 700, 600, &start), 600);
	assert_int_equal(start, 700);
	assert_int_equal(free_space_alloc(space, 700, 600, &start), 600);
	assert_int_equal(start, 1300);
	assert_int_equal(free_space_alloc(space, 3900, 600, &start), 600);
	assert_int_equal(start, 0);
	/* Left: 600..700 and 1900..4000. More than there is in a row: the longest. */
	assert_int_equal(free_space_alloc(space, 0, 3000, &start), 2100);
	assert_int_equal(start, 1900);
	assert_int_equal(free_space_alloc_near(space, 2000, 64, &start), 64);
	assert_int_equal(start, 600);
	assert_int_equal(free_space_alloc_near(space, 664, 64, &start), 36);
	assert_int_equal(free_space_alloc(space, 0, 1, &start), 0);
	assert_int_equal(free_space_alloc_near(space, 0, 1, &start), 0);
	free_space_free(space);
}

static void test_free_space_words_round_trip(void **arg)
{
	uint64_t state = seed_of_run(), words[40], back[40];

	for (uint32_t n = 1; n < 2000; n += 37) {
		struct free_space *space = free_space_new(n, true);
		uint32_t nwords = (n + 63) / 64;

		for (uint32_t i = 0; i < ARRAY_SIZE(words); i++)
			words[i] = i < nwords ? rnd(&state) & rnd(&state) : 0;
		if (n % 64)
			words[nwords - 1] &= UINT64_MAX >> (64 - n % 64);
		assert_true(free_space_set_words(space, 0, ARRAY_SIZE(words), words));
		assert_true(free_space_check(space));
		free_space_get_words(space, 0, ARRAY_SIZE(back), back);
		assert_memory_equal(words, back, sizeof(words));
		if (n % 64) {
			words[0] = ~words[0];
			words[nwords - 1] |= 1ull << n % 64;
			assert_false(free_space_set_words(space, 0, nwords, words));
		}
		words[nwords] = 1;
		assert_false(free_space_set_words(space, 0, nwords + 1, words));
		free_space_get_words(space, 0, nwords, words);
		assert_memory_equal(words, back, nwords * sizeof(*words));
		free_space_free(space);
	}
}

static struct free_space *every_second_block(uint32_t n)
{
	struct free_space *space = free_space_new(n, true);

	assert_non_null(space);
	for (uint32_t i = 0; i < n; i += 2)
		assert_true(free_space_take(space, i, 1));
	return space;
}

static void test_free_space_worst_pattern_stays_small_and_exact(void **arg)
{
	struct free_space *space = every_second_block(FREE_SPACE_MAX_BLOCKS);
	uint32_t start = 0, taken = 0;

	assert_int_equal(free_space_count(space), FREE_SPACE_MAX_BLOCKS / 2);
	assert_int_equal(free_space_largest(space), 1);
	assert_true(free_space_memory(space) <= FREE_SPACE_MAX_BLOCKS * 4096ull / FREE_SPACE_MEMORY_RATIO);
	/* One give joins three blocks: only that place has room for three, from wherever one looks. */
	assert_true(free_space_give(space, 200000, 1));
	assert_int_equal(free_space_alloc(space, 200002, 3, &start), 3);
	assert_int_equal(start, 199999);
	assert_true(free_space_check(space));
	while (free_space_alloc_near(space, start, 16, &start) == 1)
		taken++;
	assert_int_equal(taken, FREE_SPACE_MAX_BLOCKS / 2 - 2);
	assert_int_equal(free_space_count(space), 0);
	free_space_free(space);
}

static void test_free_space_memory_is_bounded(void **arg)
{
	for (uint32_t n = 1; n <= FREE_SPACE_MAX_BLOCKS; n += n / 61 + 1) {
		struct free_space *space = free_space_new(n, true);
		uint64_t bound = (uint64_t)n * FS_BLOCK_SIZE / FREE_SPACE_MEMORY_RATIO;

		assert_non_null(space);
		assert_true(free_space_memory(space) <= bound + FREE_SPACE_MEMORY_FIXED);
		/* From 64 MiB up, the smallest group of a real pool, without the fixed part. */
		if (n >= 16384)
			assert_true(free_space_memory(space) <= bound);
		free_space_free(space);
	}
}

static void test_free_space_only_new_allocates(void **arg)
{
	struct free_space *space, *copy = free_space_new(5000, false);
	uint32_t start;

	mem_fail_at(1);
	assert_null(free_space_new(5000, true));
	space = free_space_new(5000, true);
	mem_fail_at(1);
	assert_int_equal(free_space_alloc(space, 0, 77, &start), 77);
	assert_int_equal(free_space_alloc_near(space, 0, 77, &start), 77);
	assert_true(free_space_take(space, 1000, 1000));
	assert_true(free_space_give(space, 1500, 1));
	free_space_clone_into(copy, space);
	assert_true(free_space_check(copy));
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	free_space_free(space);
	free_space_free(copy);
}

/* ---- timings ------------------------------------------------------------------------------ */

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void time_allocs(const char *what, struct free_space *space, uint32_t want, bool near, uint64_t *state)
{
	enum { N = 200000 };
	double from = now_ns();
	uint32_t hint = 0;

	for (unsigned i = 0; i < N; i++) {
		uint32_t start = 0, len;

		len = near ? free_space_alloc_near(space, hint, want, &start)
			   : free_space_alloc(space, hint, want, &start);
		assert_true(len > 0);
		assert_true(free_space_give(space, start, len));
		hint = (uint32_t)(rnd(state) % FREE_SPACE_MAX_BLOCKS);
	}
	print_message("%-44s %6.0f ns a take and give\n", what, (now_ns() - from) / N);
}

static void test_free_space_timings(void **arg)
{
	uint64_t state = 1;
	struct free_space *space = free_space_new(FREE_SPACE_MAX_BLOCKS, true);
	double from;

	time_allocs("empty group, 1 block", space, 1, false, &state);
	time_allocs("empty group, 256 blocks", space, 256, false, &state);
	free_space_free(space);
	space = every_second_block(FREE_SPACE_MAX_BLOCKS);
	time_allocs("every second block, 1 block", space, 1, false, &state);
	assert_true(free_space_give(space, 0, 1));
	time_allocs("every second block, the only run of 2", space, 2, false, &state);
	time_allocs("every second block, near", space, 64, true, &state);
	from = now_ns();
	for (unsigned i = 0; i < 100; i++) {
		uint32_t start = 0, len = 0;

		for (uint32_t pos = 0; free_space_next_free(space, pos, &start, &len); pos = start + len)
			;
	}
	print_message("%-44s %6.1f ns a run\n", "every second block, walk",
		      (now_ns() - from) / 100 / (FREE_SPACE_MAX_BLOCKS / 2));
	free_space_free(space);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_free_space_random_against_model),
		cmocka_unit_test(test_free_space_refuses_and_changes_nothing),
		cmocka_unit_test(test_free_space_alloc_follows_the_hint),
		cmocka_unit_test(test_free_space_words_round_trip),
		cmocka_unit_test(test_free_space_worst_pattern_stays_small_and_exact),
		cmocka_unit_test(test_free_space_memory_is_bounded),
		cmocka_unit_test(test_free_space_only_new_allocates),
		cmocka_unit_test(test_free_space_timings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
