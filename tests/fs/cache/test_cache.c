/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/cache/test_cache.c: the cache against a model, its limit, its pins, and threads that all use it at
 * once. The timings at the end are printed, not asserted.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache_int.h"
#include "base/lock.h"
#include "fs/cache/cache.h"

#define MIB (1ull << 20)

static const uint32_t class_bytes[] = {[CACHE_DATA] = CACHE_DATA_BYTES, [CACHE_NODE] = CACHE_NODE_BYTES};

static uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* The first and last word of a page say what it is. */
static void stamp(struct cache_entry *e, uint64_t addr, uint64_t version)
{
	uint64_t *words = e->data;
	size_t last = class_bytes[e->class] / 8 - 1;

	words[0] = words[last] = addr ^ version << 48 ^ e->class;
}

static uint64_t stamped_version(const struct cache_entry *e, enum cache_class class, uint64_t addr)
{
	const uint64_t *words = e->data;

	ASSERT(e->addr == addr);
	ASSERT(words[0] == words[class_bytes[class] / 8 - 1]);
	ASSERT(((words[0] ^ addr ^ class) & 0xffffffffffff) == 0);
	return words[0] >> 48;
}

static struct cache *new_cache(uint64_t limit)
{
	struct cache *c = NULL;

	assert_int_equal(cache_new(limit, &c), 0);
	return c;
}

static struct cache_entry *insert(struct cache *c, enum cache_class class, uint64_t addr, uint64_t version)
{
	struct cache_entry *e = cache_alloc(c, class);

	assert_non_null(e);
	stamp(e, addr, version);
	cache_publish(c, e, addr);
	return e;
}

static bool is_cached(struct cache *c, enum cache_class class, uint64_t addr)
{
	struct cache_entry *e = cache_get(c, class, addr);

	cache_put(c, e);
	return e;
}

static uint64_t chunk_bytes(struct cache *c)
{
	struct cache_stats st;

	cache_get_stats(c, &st);
	return st.chunk_bytes;
}

/* ---- single properties ------------------------------------------------------------- */

static void test_cache_get_finds_what_was_published(void **arg)
{
	struct cache *c = new_cache(4 * MIB);
	struct cache_entry *e = cache_alloc(c, CACHE_DATA), *n = cache_alloc(c, CACHE_NODE);
	struct cache_stats st;

	assert_int_equal((uintptr_t)e->data % 4096, 0);
	assert_int_equal((uintptr_t)n->data % 16384, 0);
	memset(e->data, 1, CACHE_DATA_BYTES);
	memset(n->data, 2, CACHE_NODE_BYTES);
	assert_null(cache_get(c, CACHE_DATA, 1 << 20));
	cache_publish(c, e, 1 << 20);
	cache_publish(c, n, 1 << 20);
	assert_ptr_equal(cache_get(c, CACHE_DATA, 1 << 20), e);
	assert_ptr_equal(cache_get(c, CACHE_NODE, 1 << 20), n);
	assert_null(cache_get(c, CACHE_NODE, 2 << 20));
	cache_check(c);
	cache_get_stats(c, &st);
	assert_int_equal(st.hits[CACHE_DATA], 1);
	assert_int_equal(st.misses[CACHE_DATA], 1);
	assert_int_equal(st.hits[CACHE_NODE], 1);
	assert_int_equal(st.misses[CACHE_NODE], 1);
	assert_int_equal(st.entries[CACHE_DATA], 1);
	assert_int_equal(st.bytes[CACHE_NODE], CACHE_NODE_BYTES);
	for (int i = 0; i < 2; i++) {
		cache_put(c, e);
		cache_put(c, n);
	}
	cache_free(c);
	cache_free(NULL);
}

static void test_cache_unpublished_is_freed_with_its_pin(void **arg)
{
	struct cache *c = new_cache(2 * MIB);
	struct cache_entry *e = cache_alloc(c, CACHE_DATA);
	struct cache_stats st;

	cache_pin(e);
	cache_put(c, e);
	cache_get_stats(c, &st);
	assert_int_equal(st.bytes[CACHE_DATA], CACHE_DATA_BYTES);
	cache_put(c, e);
	cache_get_stats(c, &st);
	assert_int_equal(st.bytes[CACHE_DATA], 0);
	cache_check(c);
	cache_free(c);
}

static void test_cache_replaced_entry_lives_as_long_as_its_pins(void **arg)
{
	struct cache *c = new_cache(2 * MIB);
	struct cache_entry *old = insert(c, CACHE_DATA, 8192, 1), *new = insert(c, CACHE_DATA, 8192, 2), *e;

	assert_int_equal(stamped_version(old, CACHE_DATA, 8192), 1);
	e = cache_get(c, CACHE_DATA, 8192);
	assert_ptr_equal(e, new);
	cache_put(c, e);
	cache_put(c, new);
	/* Fill the cache several times over: the pinned one keeps its bytes. */
	for (uint64_t i = 0; i < 3000; i++)
		cache_put(c, insert(c, CACHE_DATA, MIB + i * 4096, 3));
	assert_int_equal(stamped_version(old, CACHE_DATA, 8192), 1);
	cache_put(c, old);
	cache_check(c);
	cache_free(c);
}

static void test_cache_invalidate_leaves_pins_alone(void **arg)
{
	struct cache *c = new_cache(2 * MIB);
	struct cache_entry *e = insert(c, CACHE_NODE, 16384, 1);

	cache_invalidate(c, CACHE_DATA, 16384);
	assert_true(is_cached(c, CACHE_NODE, 16384));
	cache_invalidate(c, CACHE_NODE, 16384);
	cache_invalidate(c, CACHE_NODE, 16384);
	assert_false(is_cached(c, CACHE_NODE, 16384));
	assert_int_equal(stamped_version(e, CACHE_NODE, 16384), 1);
	cache_put(c, e);
	cache_check(c);
	cache_free(c);
}

static void test_cache_invalidate_range(void **arg)
{
	static const uint64_t lens[] = {10 * 4096, 1ull << 40};
	struct cache *c = new_cache(2 * MIB);

	for (size_t l = 0; l < ARRAY_SIZE(lens); l++) {
		struct cache_entry *pinned = insert(c, CACHE_DATA, 20 * 4096, 9);

		cache_put(c, insert(c, CACHE_NODE, 24 * 4096, 1));
		for (uint64_t i = 0; i < 40; i++)
			cache_put(c, insert(c, CACHE_DATA, i * 4096, 1));
		cache_invalidate_range(c, 20 * 4096, lens[l]);
		for (uint64_t i = 0; i < 40; i++)
			assert_int_equal(is_cached(c, CACHE_DATA, i * 4096), i < 20 || (i >= 30 && l == 0));
		assert_true(is_cached(c, CACHE_NODE, 24 * 4096));
		assert_int_equal(stamped_version(pinned, CACHE_DATA, 20 * 4096), 9);
		cache_put(c, pinned);
		cache_check(c);
	}
	cache_free(c);
}

/* ---- limit and eviction ------------------------------------------------------------------ */

static void test_cache_keeps_its_limit(void **arg)
{
	struct cache *c = new_cache(6 * MIB);
	uint64_t state = 7;

	for (uint64_t i = 0; i < 50000; i++) {
		/* Phases of mostly data and mostly nodes, so that memory moves between the classes. */
		enum cache_class class = rnd(&state) % 20 == 0 ? !(i / 10000 % 2) : i / 10000 % 2;

		cache_put(c, insert(c, class, i * 16384, 1));
		assert_true(chunk_bytes(c) <= 6 * MIB);
	}
	cache_check(c);
	cache_free(c);
	c = new_cache(0);
	cache_put(c, insert(c, CACHE_NODE, 0, 1));
	assert_int_equal(chunk_bytes(c), CACHE_CHUNK_BYTES);
	cache_free(c);
}

static void test_cache_pinned_goes_above_the_limit_and_back(void **arg)
{
	struct cache *c = new_cache(4 * MIB);
	struct cache_entry *pinned[8192];
	struct cache_stats st;

	assert_true(cache_alloc_many(c, CACHE_DATA, ARRAY_SIZE(pinned), pinned));
	assert_int_equal(chunk_bytes(c), ARRAY_SIZE(pinned) * 4096ull);
	for (uint64_t i = 0; i < ARRAY_SIZE(pinned); i++) {
		stamp(pinned[i], i * 4096, 5);
		cache_publish(c, pinned[i], i * 4096);
	}
	for (uint64_t i = 0; i < ARRAY_SIZE(pinned); i++) {
		assert_int_equal(stamped_version(pinned[i], CACHE_DATA, i * 4096), 5);
		cache_put(c, pinned[i]);
	}
	/* Nothing is pinned now: the next that finds no free memory brings it back to the limit. */
	cache_put(c, insert(c, CACHE_NODE, 0, 1));
	assert_true(chunk_bytes(c) <= 4 * MIB);
	cache_check(c);
	cache_get_stats(c, &st);
	assert_int_equal(st.limit_bytes, 4 * MIB);
	cache_free(c);
}

static void test_cache_resize(void **arg)
{
	struct cache *c = new_cache(8 * MIB);
	struct cache_entry *pinned = NULL;

	for (uint64_t i = 0; i < 2048; i++) {
		struct cache_entry *e = insert(c, CACHE_DATA, i * 4096, 1);

		if (i == 1000)
			pinned = e;
		else
			cache_put(c, e);
	}
	assert_int_equal(chunk_bytes(c), 8 * MIB);
	cache_resize(c, 2 * MIB);
	cache_check(c);
	assert_true(chunk_bytes(c) <= 4 * MIB);
	assert_int_equal(stamped_version(pinned, CACHE_DATA, 1000 * 4096), 1);
	cache_put(c, pinned);
	for (uint64_t i = 0; i < 2000; i++)
		cache_put(c, insert(c, CACHE_DATA, i * 4096, 1));
	assert_int_equal(chunk_bytes(c), 2 * MIB);
	cache_resize(c, 64 * MIB);
	for (uint64_t i = 0; i < 16384; i++)
		cache_put(c, insert(c, CACHE_DATA, i * 4096, 2));
	for (uint64_t i = 0; i < 16384; i++)
		assert_true(is_cached(c, CACHE_DATA, i * 4096));
	assert_int_equal(chunk_bytes(c), 64 * MIB);
	cache_check(c);
	cache_free(c);
}

static void test_cache_scan_does_not_displace_what_is_used(void **arg)
{
	struct cache *c = new_cache(8 * MIB);
	unsigned hot_left = 0, nodes_left = 0;

	for (uint64_t i = 0; i < 256; i++)
		cache_put(c, insert(c, CACHE_DATA, i * 4096, 1));
	for (uint64_t i = 0; i < 64; i++)
		cache_put(c, insert(c, CACHE_NODE, i * 16384, 1));
	/* A scan of 64 MiB, during which the hot ones are used now and then. */
	for (uint64_t i = 0; i < 16384; i++) {
		cache_put(c, insert(c, CACHE_DATA, (1ull << 30) + i * 4096, 1));
		cache_put(c, cache_get(c, CACHE_DATA, i % 256 * 4096));
		cache_put(c, cache_get(c, CACHE_NODE, i % 64 * 16384));
	}
	for (uint64_t i = 0; i < 256; i++)
		hot_left += is_cached(c, CACHE_DATA, i * 4096);
	for (uint64_t i = 0; i < 64; i++)
		nodes_left += is_cached(c, CACHE_NODE, i * 16384);
	assert_int_equal(hot_left, 256);
	assert_int_equal(nodes_left, 64);
	cache_check(c);
	cache_free(c);
}

/* Ten times the cache is fetched ahead, several requests at once: others keep nearly all, read or not. */
static void test_cache_fetching_ahead_displaces_its_own(void **state)
{
	enum { BLOCKS = 32 * MIB / CACHE_DATA_BYTES, BATCH = 128, BATCHES = 10 * BLOCKS / BATCH };
	const uint64_t ahead = 1ull << 40;
	struct cache *c = new_cache(32 * MIB);
	struct cache_entry *e[3][BATCH];
	unsigned kept = 0, of_ahead = 0;

	for (uint64_t i = 0; i < BLOCKS * 7 / 8; i++)
		cache_put(c, insert(c, CACHE_DATA, i * CACHE_DATA_BYTES, 1));
	for (uint64_t b = 0; b + 3 <= BATCHES; b += 3) {
		for (unsigned k = 0; k < 3; k++)
			assert_true(cache_alloc_ahead(c, BATCH, e[k]));
		for (unsigned k = 0; k < 3; k++) {
			for (unsigned i = 0; i < BATCH; i++) {
				uint64_t addr = ahead + ((b + k) * BATCH + i) * CACHE_DATA_BYTES;

				stamp(e[k][i], addr, 2);
				cache_publish_ahead(c, e[k][i], addr);
				assert_true(cache_has(c, addr));
				if (b == 0 && k == 0) /* this one is read, and again and again: it stays */
					assert_true(is_cached(c, CACHE_DATA, addr));
				cache_put(c, e[k][i]);
			}
		}
		for (unsigned i = 0; i < BATCH; i++)
			assert_true(is_cached(c, CACHE_DATA, ahead + i * CACHE_DATA_BYTES));
	}
	for (uint64_t i = 0; i < BLOCKS * 7 / 8; i++)
		kept += cache_has(c, i * CACHE_DATA_BYTES);
	for (uint64_t i = 0; i < BATCHES * BATCH; i++)
		of_ahead += cache_has(c, ahead + i * CACHE_DATA_BYTES);
	assert_true(kept >= BLOCKS * 7 / 8 - 4 * BATCH);
	assert_true(of_ahead >= BATCH);
	cache_check(c);
	cache_resize(c, 2 * MIB);
	assert_true(cache_alloc_ahead(c, BATCH, e[0]));
	for (unsigned i = 0; i < BATCH; i++) {
		cache_publish_ahead(c, e[0][i], i * CACHE_DATA_BYTES);
		cache_put(c, e[0][i]);
	}
	cache_check(c);
	cache_free(c);
}

static void test_cache_evicts_hot_entries_when_all_are(void **arg)
{
	struct cache *c = new_cache(2 * MIB);

	for (uint64_t i = 0; i < 128; i++)
		cache_put(c, insert(c, CACHE_NODE, i * 16384, 1));
	for (uint64_t i = 0; i < 1000; i++) {
		for (uint64_t j = 0; j < 128; j++)
			cache_put(c, cache_get(c, CACHE_NODE, j * 16384));
		cache_put(c, insert(c, CACHE_DATA, i * 4096, 1));
		assert_true(is_cached(c, CACHE_DATA, i * 4096));
		assert_int_equal(chunk_bytes(c), 2 * MIB);
	}
	cache_free(c);
}

/* Whether the kernel has given it all its pages. */
static bool is_resident(const struct cache_chunk *chunk)
{
	unsigned char pages[CACHE_CHUNK_BYTES / 4096];

	assert_int_equal(mincore(chunk->mem, CACHE_CHUNK_BYTES, pages), 0);
	for (size_t i = 0; i < sizeof(pages); i++)
		if (!(pages[i] & 1))
			return false;
	return true;
}

static size_t wait_for_spares(struct cache *c, size_t n)
{
	size_t count = 0;

	for (unsigned ms = 0; ms < 60000 && count < n; ms++) { /* its thread comes last */
		lock_take(&c->lock);
		count = c->spare.count;
		lock_drop(&c->lock);
		usleep(1000);
	}
	return count;
}

static void test_cache_has_memory_ready(void **arg)
{
	struct cache *c = new_cache(64 * MIB);

	assert_int_equal(cache_start_thread(c), 0);
	usleep(10000);
	assert_int_equal(chunk_bytes(c), 0); /* a cache that nobody uses takes no memory */
	cache_put(c, insert(c, CACHE_NODE, 0, 1));
	assert_int_equal(wait_for_spares(c, CACHE_SPARES), CACHE_SPARES);
	assert_int_equal(chunk_bytes(c), (1 + CACHE_SPARES) * CACHE_CHUNK_BYTES);
	lock_take(&c->lock);
	for (size_t i = 0; i < c->spare.count; i++)
		assert_true(is_resident(c->spare.chunk[i]));
	lock_drop(&c->lock);
	/* They are what is used next, and the limit holds with them. */
	for (uint64_t i = 0; i < 3 * 64 * MIB / CACHE_NODE_BYTES; i++) {
		cache_put(c, insert(c, CACHE_NODE, i * CACHE_NODE_BYTES, 1));
		assert_true(chunk_bytes(c) <= 64 * MIB);
	}
	cache_resize(c, 128 * MIB);
	cache_put(c, insert(c, CACHE_NODE, 1ull << 40, 1));
	for (uint64_t i = 0; i < CACHE_CHUNK_FRAMES; i++)
		cache_put(c, insert(c, CACHE_NODE, (2ull << 40) + i * CACHE_NODE_BYTES, 1));
	assert_int_equal(wait_for_spares(c, CACHE_SPARES), CACHE_SPARES);
	cache_resize(c, 4 * MIB);
	assert_int_equal(chunk_bytes(c), 4 * MIB);
	cache_check(c);
	cache_free(c);
}

static void test_cache_metadata_is_small(void **arg)
{
	/* The hash table has the most spare room just above a power of two. */
	static const uint64_t limits[] = {2, 100, 1024, 1026};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct cache *c = new_cache(limits[i] * MIB);
		uint64_t blocks = limits[i] * MIB / 4096;
		struct cache_stats st;

		for (uint64_t j = 0; j < blocks; j++) {
			struct cache_entry *e = cache_alloc(c, CACHE_DATA); /* its page is never touched */

			assert_non_null(e);
			cache_publish(c, e, j * 4096);
			cache_put(c, e);
		}
		cache_get_stats(c, &st);
		assert_int_equal(st.entries[CACHE_DATA], blocks);
		assert_true(st.metadata_bytes <= blocks * CACHE_METADATA_PER_BLOCK + CACHE_METADATA_FIXED);
		cache_free(c);
	}
}

/* ---- memory runs out --------------------------------------------------------------------------- */

static void test_cache_allocation_failures(void **arg)
{
	struct cache_entry *entries[1000] = {0}, *pinned[100];
	struct cache *c = NULL;
	struct cache_stats st;
	uint64_t n;

	for (n = 1;; n++) {
		mem_fail_at(n);
		if (!cache_new(4 * MIB, &c))
			break;
		assert_null(c);
	}
	assert_true(n > 2);
	mem_fail_at(0);
	assert_true(cache_alloc_many(c, CACHE_NODE, ARRAY_SIZE(pinned), pinned));
	/* All or nothing: the first chunk has room for some of them. */
	for (n = 1; n < 10; n++) {
		mem_fail_at(n);
		if (cache_alloc_many(c, CACHE_DATA, ARRAY_SIZE(entries), entries))
			break;
		cache_get_stats(c, &st);
		assert_int_equal(st.bytes[CACHE_DATA], 0);
		cache_check(c);
	}
	mem_fail_at(0);
	for (size_t i = 0; i < ARRAY_SIZE(entries) && n < 10; i++)
		cache_put(c, entries[i]);
	for (size_t i = 0; i < ARRAY_SIZE(pinned); i++)
		cache_put(c, pinned[i]);
	cache_check(c);
	cache_free(c);
}

static void test_cache_resize_without_memory_still_works(void **arg)
{
	struct cache *c = new_cache(2 * MIB);

	mem_fail_at(1);
	cache_resize(c, 256 * MIB);
	assert_false(mem_fail_pending());
	for (uint64_t i = 0; i < 10000; i++)
		cache_put(c, insert(c, CACHE_DATA, i * 4096, 1));
	for (uint64_t i = 0; i < 10000; i++)
		assert_true(is_cached(c, CACHE_DATA, i * 4096));
	cache_check(c);
	cache_free(c);
}

/* ---- against a model ------------------------------------------------------------------------------ */

enum { MODEL_ADDRS = 700, MODEL_PINS = 50 };

struct model {
	struct cache *c;
	uint64_t state;
	uint64_t latest[CACHE_CLASSES][MODEL_ADDRS]; /* version; 0: not there */
	struct {
		struct cache_entry *e;
		uint64_t addr, version;
	} pins[MODEL_PINS];
};

static void model_unpin(struct model *m, unsigned i)
{
	if (!m->pins[i].e)
		return;
	assert_int_equal(stamped_version(m->pins[i].e, m->pins[i].e->class, m->pins[i].addr),
			 m->pins[i].version);
	cache_put(m->c, m->pins[i].e);
	m->pins[i].e = NULL;
}

/* Keeps the pin in a random place, and drops the one that was there. */
static void model_pin(struct model *m, struct cache_entry *e, uint64_t addr, uint64_t version)
{
	unsigned i = (unsigned)(rnd(&m->state) % MODEL_PINS);

	model_unpin(m, i);
	m->pins[i].e = e;
	m->pins[i].addr = addr;
	m->pins[i].version = version;
}

/* What is found is the latest; what was invalidated is not found. Eviction may take anything away. */
static void model_get(struct model *m, enum cache_class class, uint64_t addr)
{
	struct cache_entry *e = cache_get(m->c, class, addr);

	if (!e)
		return;
	assert_true(m->latest[class][addr / 16384] > 0);
	assert_int_equal(stamped_version(e, class, addr), m->latest[class][addr / 16384]);
	model_pin(m, e, addr, m->latest[class][addr / 16384]);
}

static void model_step(struct model *m)
{
	enum cache_class class = rnd(&m->state) % 3 == 0 ? CACHE_NODE : CACHE_DATA;
	uint64_t i = rnd(&m->state) % MODEL_ADDRS, addr = i * 16384, n;

	switch (rnd(&m->state) % 16) {
	case 0:
		cache_invalidate(m->c, class, addr);
		m->latest[class][i] = 0;
		break;
	case 1:
		n = rnd(&m->state) % 20;
		cache_invalidate_range(m->c, addr, n * 16384);
		for (uint64_t j = i; j < i + n && j < MODEL_ADDRS; j++)
			m->latest[CACHE_DATA][j] = 0;
		break;
	case 2:
		if (rnd(&m->state) % 50 == 0)
			cache_resize(m->c, (2 + rnd(&m->state) % 5) * MIB);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
	case 7:
	case 8:
		m->latest[class][i] = m->latest[class][i] % 60000 + 1;
		model_pin(m, insert(m->c, class, addr, m->latest[class][i]), addr, m->latest[class][i]);
		break;
	default: model_get(m, class, addr);
	}
}

static void test_cache_random_against_model(void **arg)
{
	const char *env = getenv("SEED");
	struct model *m = calloc(1, sizeof(*m));

	m->state = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
	print_message("SEED=%llu\n", (unsigned long long)m->state);
	m->c = new_cache(4 * MIB);
	for (unsigned i = 0; i < 60000; i++) {
		model_step(m);
		if (i % 1000 == 0)
			cache_check(m->c);
	}
	for (unsigned i = 0; i < MODEL_PINS; i++)
		model_unpin(m, i);
	cache_check(m->c);
	cache_free(m->c);
	free(m);
}

/* ---- threads ------------------------------------------------------------------------------------------ */

enum { THREADS = 4, THREAD_STEPS = 40000, THREAD_ADDRS = 2000 };

struct worker {
	pthread_t thread;
	struct cache *c;
	uint64_t state;
};

static void worker_miss(struct worker *w, enum cache_class class, uint64_t addr)
{
	struct cache_entry *many[9];
	size_t n = 1 + rnd(&w->state) % ARRAY_SIZE(many);

	ASSERT(cache_alloc_many(w->c, class, n, many));
	for (size_t i = 0; i < n; i++) {
		stamp(many[i], addr + i * 16384, 1);
		/* Some reads fail, and are never published. */
		if (rnd(&w->state) % 8)
			cache_publish(w->c, many[i], addr + i * 16384);
	}
	for (size_t i = 0; i < n; i++)
		cache_put(w->c, many[i]);
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < THREAD_STEPS; i++) {
		enum cache_class class = rnd(&w->state) % 4 == 0 ? CACHE_NODE : CACHE_DATA;
		uint64_t addr = rnd(&w->state) % THREAD_ADDRS * 16384;
		struct cache_entry *e = cache_get(w->c, class, addr);

		if (e) {
			ASSERT(stamped_version(e, class, addr) == 1);
			cache_put(w->c, e);
		} else {
			worker_miss(w, class, addr);
		}
		if (i % 64 == 0)
			cache_invalidate(w->c, class, addr);
		if (i % 1024 == 0)
			cache_invalidate_range(w->c, addr, i % 4096 ? 20 * 16384 : 1ull << 40);
		if (i % 5000 == 0)
			cache_resize(w->c, (2 + rnd(&w->state) % 4 * 2) * MIB);
	}
	return NULL;
}

static void test_cache_threads(void **arg)
{
	struct cache *c = new_cache(4 * MIB);
	struct worker w[THREADS];

	assert_int_equal(cache_start_thread(c), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		w[i].c = c;
		w[i].state = i + 1;
		assert_int_equal(pthread_create(&w[i].thread, NULL, worker_run, &w[i]), 0);
	}
	for (unsigned i = 0; i < 300; i++) {
		cache_resize(c, (4 + i % 12) * MIB);
		usleep(1000);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
	cache_check(c);
	cache_resize(c, 2 * MIB);
	assert_true(chunk_bytes(c) <= 2 * MIB);
	cache_free(c);
}

/*
 * ---- timings ----------------------------------------------------------------------------------------------
 */

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void time_gets(struct cache *c, uint64_t blocks)
{
	enum { N = 2000000 };
	double from = now_ns();
	uint64_t state = 3;

	for (unsigned i = 0; i < N; i++)
		cache_put(c, cache_get(c, CACHE_DATA, rnd(&state) % blocks * 4096));
	print_message("hit among %7llu blocks: %5.0f ns a get and put\n", (unsigned long long)blocks,
		      (now_ns() - from) / N);
}

static void test_cache_timings(void **arg)
{
	enum { LIMIT_MIB = 256, BLOCKS = LIMIT_MIB * 256, N = 500000 };
	struct cache *c = new_cache(LIMIT_MIB * MIB);
	double from = now_ns();

	for (uint64_t i = 0; i < BLOCKS; i++) {
		struct cache_entry *e = cache_alloc(c, CACHE_DATA);

		assert_non_null(e);
		cache_publish(c, e, i * 4096);
		cache_put(c, e);
	}
	print_message("fill: %.0f ns a block, pages untouched\n", (now_ns() - from) / BLOCKS);
	time_gets(c, 1000);
	time_gets(c, BLOCKS);
	from = now_ns();
	for (uint64_t i = 0; i < N; i++) {
		struct cache_entry *e = cache_alloc(c, CACHE_DATA);

		cache_publish(c, e, (BLOCKS + i) * 4096);
		cache_put(c, e);
	}
	print_message("evict, allocate, publish: %.0f ns\n", (now_ns() - from) / N);
	cache_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cache_get_finds_what_was_published),
		cmocka_unit_test(test_cache_unpublished_is_freed_with_its_pin),
		cmocka_unit_test(test_cache_replaced_entry_lives_as_long_as_its_pins),
		cmocka_unit_test(test_cache_invalidate_leaves_pins_alone),
		cmocka_unit_test(test_cache_invalidate_range),
		cmocka_unit_test(test_cache_keeps_its_limit),
		cmocka_unit_test(test_cache_pinned_goes_above_the_limit_and_back),
		cmocka_unit_test(test_cache_resize),
		cmocka_unit_test(test_cache_scan_does_not_displace_what_is_used),
		cmocka_unit_test(test_cache_fetching_ahead_displaces_its_own),
		cmocka_unit_test(test_cache_evicts_hot_entries_when_all_are),
		cmocka_unit_test(test_cache_has_memory_ready),
		cmocka_unit_test(test_cache_metadata_is_small),
		cmocka_unit_test(test_cache_allocation_failures),
		cmocka_unit_test(test_cache_resize_without_memory_still_works),
		cmocka_unit_test(test_cache_random_against_model),
		cmocka_unit_test(test_cache_threads),
		cmocka_unit_test(test_cache_timings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
