/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_free_space_cache.c: a slot of the free-space cache gives back what was put in, for any
 * content, and bytes that are not what the block group's item says are refused, whatever is wrong with them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/space/free_space_cache.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/fs.h"
#include "base/le.h"
#include "fs/space/free_space.h"

#define WINDOW FREE_SPACE_CACHE_WINDOW
#define CRC_FROM sizeof(le32)

/* An encoded slot, in memory of exactly its length so that ASan sees reads past it. */
struct slot {
	struct free_space_cache_ident ident;
	struct free_space_cache_expect expect;
	uint32_t cap;
	uint8_t *buf;
};

static uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static struct slot slot_of(const struct free_space *space)
{
	uint32_t n = free_space_nblocks(space), cap = free_space_cache_slot_bytes(n);
	struct slot s = {
		.ident = {.pool_uuid = "0123456789abcde",
			  .group_start = 5ull << 30,
			  .group_len = (uint64_t)n * 4096,
			  .generation = 77},
		.cap = cap,
		.buf = malloc(cap),
	};

	assert_non_null(s.buf);
	memset(s.buf, 0xa5, cap);
	assert_int_equal(
		free_space_cache_encode(space, &s.ident, s.buf, cap, &s.expect.bytes, &s.expect.crc32c), 0);
	assert_true(s.expect.bytes <= cap);
	s.expect.free_blocks = free_space_count(space);
	return s;
}

static int slot_decode(const struct slot *s, struct free_space **ret_space)
{
	return free_space_cache_decode(s->buf, s->cap, &s->ident, &s->expect, ret_space);
}

static void assert_refused(const struct slot *s, int error)
{
	struct free_space *untouched = (struct free_space *)s, *space = untouched;

	assert_int_equal(slot_decode(s, &space), error);
	assert_ptr_equal(space, untouched);
}

/* As if written so: a valid checksum over what is there, which the item agrees with. */
static void slot_seal(struct slot *s)
{
	struct free_space_cache_header *h = (struct free_space_cache_header *)s->buf;

	s->expect.bytes = le32_to_cpu(h->bytes);
	if (s->expect.bytes < sizeof(*h) || s->expect.bytes > s->cap)
		return;
	s->expect.crc32c = crc32c(s->buf + CRC_FROM, s->expect.bytes - CRC_FROM);
	s->expect.free_blocks = (uint32_t)(le64_to_cpu(h->free_bytes) / FS_BLOCK_SIZE);
	h->crc32c = cpu_to_le32(s->expect.crc32c);
}

static void assert_equal_space(const struct free_space *a, const struct free_space *b)
{
	uint32_t nwords = (free_space_nblocks(a) + 63) / 64;
	uint64_t *wa = malloc(nwords * 8), *wb = malloc(nwords * 8);

	assert_int_equal(free_space_nblocks(a), free_space_nblocks(b));
	free_space_get_words(a, 0, nwords, wa);
	free_space_get_words(b, 0, nwords, wb);
	assert_memory_equal(wa, wb, nwords * 8);
	assert_true(free_space_check(b));
	free(wa);
	free(wb);
}

/* Returns the length used. Frees the space. */
static uint32_t assert_round_trip(struct free_space *space)
{
	struct slot s = slot_of(space);
	struct free_space *back;

	assert_int_equal(slot_decode(&s, &back), 0);
	assert_equal_space(space, back);
	for (uint32_t i = s.expect.bytes; i % FREE_SPACE_CACHE_ALIGN; i++)
		assert_int_equal(s.buf[i], 0);
	free(s.buf);
	free_space_free(back);
	free_space_free(space);
	return s.expect.bytes;
}

/* Free runs of `len` blocks, `period` apart. */
static struct free_space *comb(uint32_t nblocks, uint32_t first, uint32_t len, uint32_t period)
{
	struct free_space *space = free_space_new(nblocks, false);

	assert_non_null(space);
	for (uint32_t pos = first; pos + len <= nblocks; pos += period)
		assert_true(free_space_give(space, pos, len));
	return space;
}

/* ---- what goes in comes out ------------------------------------------------------ */

static void test_free_space_cache_simple_contents(void **arg)
{
	uint32_t header = sizeof(struct free_space_cache_header);

	assert_int_equal(assert_round_trip(free_space_new(262144, false)), header);
	assert_int_equal(assert_round_trip(free_space_new(262144, true)), header + 8);
	assert_int_equal(assert_round_trip(free_space_new(1, true)), header + 8);
	/* Two runs, each through many windows, are two extents. */
	assert_int_equal(assert_round_trip(comb(262144, WINDOW - 1, 100000, 150000)), header + 16);
}

static void test_free_space_cache_slot_holds_any_content(void **arg)
{
	static const uint32_t sizes[] = {1, 100, 4095, 4096, 4097, 8191, 20001, 262144};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(free_space_cache_slot_bytes(sizes[i]) % FREE_SPACE_CACHE_ALIGN, 0);
		for (uint32_t period = 2; period < 140; period++)
			for (uint32_t first = 0; first < 3; first++)
				assert_round_trip(comb(sizes[i], first, 1 + period / 3, period));
	}
	/* As many runs as are still extents, in every window: the dearest content there is. */
	assert_true(assert_round_trip(comb(262144, 1, 1, 63)) >
		    free_space_cache_slot_bytes(262144) - FREE_SPACE_CACHE_ALIGN);
}

static struct free_space *random_space(uint64_t *state)
{
	uint32_t n = 1 + (uint32_t)(rnd(state) % (rnd(state) % 4 ? 20000 : 262144));
	struct free_space *space = free_space_new(n, rnd(state) % 2);

	for (unsigned i = (unsigned)(rnd(state) % 3000); i-- > 0;) {
		uint32_t start = (uint32_t)(rnd(state) % n),
			 len = 1 + (uint32_t)(rnd(state) % (1u << rnd(state) % 12));

		/* Some windows get fragmented, others stay whole. */
		if (start / WINDOW % 3 == 1)
			start = start / WINDOW * WINDOW;
		if (!free_space_take(space, start, len))
			free_space_give(space, start, len);
	}
	return space;
}

static void test_free_space_cache_random_round_trip(void **arg)
{
	const char *env = getenv("SEED");
	uint64_t state = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);

	print_message("SEED=%llu\n", (unsigned long long)state);
	for (unsigned i = 0; i < 300; i++)
		assert_round_trip(random_space(&state));
}

static void test_free_space_cache_encode_checks_its_arguments(void **arg)
{
	struct free_space *space = free_space_new(5000, true);
	struct slot s = slot_of(space);
	uint32_t bytes = 1, crc = 2;

	assert_int_equal(free_space_cache_encode(space, &s.ident, s.buf, s.cap - 1, &bytes, &crc), -ENOSPC);
	s.ident.group_len -= 4096;
	assert_int_equal(free_space_cache_encode(space, &s.ident, s.buf, s.cap, &bytes, &crc), -EINVAL);
	assert_int_equal(bytes, 1);
	assert_int_equal(crc, 2);
	free(s.buf);
	free_space_free(space);
}

/* ---- what is wrong is refused ------------------------------------------------------ */

/* 3 extents, a window with a bitmap, and a last window cut short by the group's end. */
static struct slot small_slot(void)
{
	struct free_space *space = free_space_new(2 * WINDOW + 100, false);
	struct slot s;

	assert_true(free_space_give(space, 10, 20));
	assert_true(free_space_give(space, 40, 1));
	for (uint32_t i = 0; i < 400; i += 2)
		assert_true(free_space_give(space, WINDOW + i, 1));
	assert_true(free_space_give(space, 2 * WINDOW + 90, 10));
	s = slot_of(space);
	free_space_free(space);
	return s;
}

static void test_free_space_cache_every_bit_flip_is_detected(void **arg)
{
	struct slot s = small_slot();
	struct free_space *space;

	for (uint32_t bit = 0; bit < s.expect.bytes * 8; bit++) {
		s.buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_refused(&s, -EUCLEAN);
		s.buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(slot_decode(&s, &space), 0);
	free_space_free(space);
	free(s.buf);
}

/* The same flips with a checksum that agrees: nothing may crash, and what passes is a sound free space. */
static void test_free_space_cache_every_sealed_bit_flip_is_harmless(void **arg)
{
	struct slot s = small_slot();
	struct free_space_cache_expect expect = s.expect;
	uint8_t *copy = malloc(s.cap);
	unsigned passed = 0;

	memcpy(copy, s.buf, s.cap);
	for (uint32_t bit = 0; bit < expect.bytes * 8; bit++) {
		struct free_space *space;

		s.buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		slot_seal(&s);
		if (slot_decode(&s, &space) == 0) {
			assert_true(free_space_check(space));
			assert_int_equal(free_space_count(space), s.expect.free_blocks);
			free_space_free(space);
			passed++;
		}
		memcpy(s.buf, copy, s.cap);
		s.expect = expect;
	}
	/* Flips of the checksum are mended by the seal; some flips of a start give another valid content. */
	assert_true(passed >= 32 && passed < 32 + 4 * 32);
	free(copy);
	free(s.buf);
}

static void test_free_space_cache_truncated_is_refused(void **arg)
{
	struct slot s = small_slot();

	for (uint32_t cap = 0; cap < s.expect.bytes; cap++) {
		struct slot cut = {.ident = s.ident, .expect = s.expect, .cap = cap, .buf = malloc(cap + 1)};

		memcpy(cut.buf, s.buf, cap);
		assert_refused(&cut, -EUCLEAN);
		free(cut.buf);
	}
	free(s.buf);
}

static void test_free_space_cache_other_generation_is_stale(void **arg)
{
	struct slot s = small_slot();

	s.ident.generation++;
	assert_refused(&s, -ESTALE);
	/* The item of the newer generation has another checksum too: still stale, not corrupt. */
	s.expect.crc32c++;
	assert_refused(&s, -ESTALE);
	s.ident.generation -= 2;
	assert_refused(&s, -ESTALE);
	s.buf[200] ^= 1;
	assert_refused(&s, -EUCLEAN);
	free(s.buf);
}

static void test_free_space_cache_other_identity_is_refused(void **arg)
{
	struct slot s = small_slot(), t = s;

	t.ident.group_start += 4096;
	assert_refused(&t, -EUCLEAN);
	t = s;
	t.ident.group_len += 4096;
	assert_refused(&t, -EUCLEAN);
	t.ident.group_len = 0;
	assert_refused(&t, -EUCLEAN);
	t.ident.group_len = UINT64_MAX;
	assert_refused(&t, -EUCLEAN);
	t = s;
	t.ident.pool_uuid[15] ^= 1;
	assert_refused(&t, -EUCLEAN);
	t = s;
	t.expect.crc32c ^= 1;
	assert_refused(&t, -EUCLEAN);
	t = s;
	t.expect.bytes--;
	assert_refused(&t, -EUCLEAN);
	t = s;
	t.expect.free_blocks++;
	assert_refused(&t, -EUCLEAN);
	free(s.buf);
}

/*
 * A sealed slot of 2 windows and 100 blocks with these entries and bitmaps all of ones in their first byte.
 */
static void assert_entries_refused(const uint32_t (*entries)[2], uint32_t n, uint32_t bitmaps,
				   uint32_t free_blocks)
{
	struct slot s = small_slot();
	struct free_space_cache_header *h = (struct free_space_cache_header *)s.buf;
	struct free_space_cache_entry *e = (struct free_space_cache_entry *)(h + 1);
	uint8_t *bitmap = (uint8_t *)(e + n);

	for (uint32_t i = 0; i < n; i++)
		e[i] = (struct free_space_cache_entry){cpu_to_le32(entries[i][0]),
						       cpu_to_le32(entries[i][1])};
	memset(bitmap, 0, bitmaps * FREE_SPACE_CACHE_BITMAP_BYTES);
	for (uint32_t i = 0; i < bitmaps; i++)
		bitmap[i * FREE_SPACE_CACHE_BITMAP_BYTES] = 0xff;
	h->entries = cpu_to_le32(n);
	h->bitmaps = cpu_to_le32(bitmaps);
	h->free_bytes = cpu_to_le64((uint64_t)free_blocks * FS_BLOCK_SIZE);
	h->bytes = cpu_to_le32(
		(uint32_t)(sizeof(*h) + n * sizeof(*e) + bitmaps * FREE_SPACE_CACHE_BITMAP_BYTES));
	slot_seal(&s);
	assert_refused(&s, -EUCLEAN);
	free(s.buf);
}

#define REFUSED(bitmaps, free_blocks, ...)                                                  \
	do {                                                                                \
		const uint32_t entries[][2] = {__VA_ARGS__};                                \
		assert_entries_refused(entries, ARRAY_SIZE(entries), bitmaps, free_blocks); \
	} while (0)
#define BITMAP(bits) (FREE_SPACE_CACHE_BITMAP | (bits))

static void test_free_space_cache_wrong_entries_are_refused(void **arg)
{
	REFUSED(0, 20, {50, 10}, {10, 10});	/* out of order */
	REFUSED(0, 20, {10, 10}, {19, 10});	/* overlap */
	REFUSED(0, 0, {10, 0});			/* empty */
	REFUSED(0, 10, {2 * WINDOW + 91, 10});	/* past the end */
	REFUSED(0, 10, {2 * WINDOW + 100, 10}); /* outside */
	REFUSED(0, 10, {UINT32_MAX, 10});
	REFUSED(0, 2, {5, 0x7fffffff});
	REFUSED(0, 11, {10, 10});		/* another count */
	REFUSED(1, 8, {1, BITMAP(8)});		/* not at a window */
	REFUSED(1, 9, {0, BITMAP(9)});		/* another count of bits */
	REFUSED(1, 8, {3 * WINDOW, BITMAP(8)}); /* outside */
	REFUSED(1, 8, {UINT32_MAX & ~(WINDOW - 1), BITMAP(8)});
	REFUSED(1, 18, {10, 10}, {0, BITMAP(8)}); /* an extent in the bitmap's window */
	REFUSED(1, 18, {0, BITMAP(8)}, {10, 10});
	REFUSED(1, 16, {0, BITMAP(8)}, {WINDOW, BITMAP(8)}); /* fewer bitmaps than entries of them */
	REFUSED(2, 8, {0, BITMAP(8)}, {WINDOW, 8});	     /* more */
	REFUSED(2, 16, {0, BITMAP(8)}, {0, BITMAP(8)});	     /* twice the same */
	REFUSED(1, 0, {0, BITMAP(0)});
}

static void test_free_space_cache_bits_past_the_end_are_refused(void **arg)
{
	struct free_space *small = comb(100, 0, 1, 2), *space = comb(WINDOW, 0, 1, 2);
	struct slot s = slot_of(small);

	/* A whole window of single blocks, claimed to be of a group of 100 blocks. */
	assert_int_equal(
		free_space_cache_encode(space,
					&(struct free_space_cache_ident){.group_len = (uint64_t)WINDOW * 4096,
									 .generation = 77},
					s.buf, s.cap, &s.expect.bytes, &s.expect.crc32c),
		0);
	s.ident.group_len = 100 * 4096;
	memcpy(s.buf + offsetof(struct free_space_cache_header, pool_uuid), s.ident.pool_uuid, 16);
	memcpy(s.buf + offsetof(struct free_space_cache_header, group_start),
	       &(le64){htole64(s.ident.group_start)}, 8);
	memcpy(s.buf + offsetof(struct free_space_cache_header, group_len),
	       &(le64){htole64(s.ident.group_len)}, 8);
	slot_seal(&s);
	assert_refused(&s, -EUCLEAN);
	free_space_free(small);
	free_space_free(space);
	free(s.buf);
}

static void test_free_space_cache_decode_without_memory(void **arg)
{
	struct slot s = small_slot();

	mem_fail_at(1);
	assert_refused(&s, -ENOMEM);
	assert_false(mem_fail_pending());
	free(s.buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_free_space_cache_simple_contents),
		cmocka_unit_test(test_free_space_cache_slot_holds_any_content),
		cmocka_unit_test(test_free_space_cache_random_round_trip),
		cmocka_unit_test(test_free_space_cache_encode_checks_its_arguments),
		cmocka_unit_test(test_free_space_cache_every_bit_flip_is_detected),
		cmocka_unit_test(test_free_space_cache_every_sealed_bit_flip_is_harmless),
		cmocka_unit_test(test_free_space_cache_truncated_is_refused),
		cmocka_unit_test(test_free_space_cache_other_generation_is_stale),
		cmocka_unit_test(test_free_space_cache_other_identity_is_refused),
		cmocka_unit_test(test_free_space_cache_wrong_entries_are_refused),
		cmocka_unit_test(test_free_space_cache_bits_past_the_end_are_refused),
		cmocka_unit_test(test_free_space_cache_decode_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
