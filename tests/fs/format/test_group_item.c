/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Keys and block group items: what is packed is unpacked again, and what cannot be is refused, with a reason.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/format/block_group_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/key.h"
#include "fs/format/print.h"
#include "fs/format/super_format.h"
#include "tests/fs/format/random.h"

#define ROUNDS 20000

#define STEP (4ull << 30)
#define ITEM_BYTES (offsetof(struct group_item, nr_stripes) + 1) /* without the padding */

static const struct group_limits limits = {
	.step = STEP, .end = STEP << 22, .device_size = 1ull << 50, .generation = 1ull << 40};

/* Any that is sound in a pool of these limits. */
static struct group_item some_item(struct random *rnd)
{
	struct group_item item = {
		.start = STEP * random_between(rnd, 1, (1u << 22) - 1),
		.type = random_between(rnd, 1, 2),
		.nr_stripes = (uint8_t)random_between(rnd, 1, 2),
		.generation = random_between(rnd, 0, limits.generation + 1),
		.cache_generation = random_between(rnd, 0, limits.generation),
		.cache_crc = (uint32_t)random_next(rnd),
		.cache_slot = random_between(rnd, 0, 2) ? (uint8_t)random_between(rnd, 0, 1)
							: CACHE_SLOT_NONE,
	};
	uint32_t unit = group_unit(item.type), least;

	item.length = unit * random_between(rnd, 1, STEP / unit);
	item.used = unit * random_between(rnd, 0, item.length / unit);
	least = free_space_cache_slot_bytes((uint32_t)(item.length / unit));
	item.slot_bytes =
		least + 4096 * (uint32_t)random_between(rnd, 0, (GROUP_SLOT_BYTES_MAX - least) / 4096);
	item.cache_bytes = (uint32_t)random_between(rnd, 1, item.slot_bytes);
	for (unsigned i = 0; i < item.nr_stripes; i++)
		item.stripe[i] = random_between(rnd, DEVICE_DATA_START, 1ull << 49);
	return item;
}

struct packed {
	uint8_t key[ITEM_KEY_LEN], value[GROUP_VALUE_MAX];
	uint16_t len;
};

static struct packed pack(const struct group_item *item)
{
	struct packed p;

	memset(&p, 0xa5, sizeof(p));
	group_key_pack(p.key, item->start);
	p.len = group_item_pack(item, p.value);
	return p;
}

static int unpack(const struct packed *p, struct group_item *ret_item, const char **ret_why)
{
	return group_item_unpack((struct key){p->key, ITEM_KEY_LEN}, (struct value){p->value, p->len},
				 ret_item, ret_why);
}

static void test_round_trip(void **state)
{
	struct random rnd = {1};

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct group_item item = some_item(&rnd), back;
		struct packed p = pack(&item);
		const char *why;

		memset(&back, 0x5a, sizeof(back));
		assert_int_equal(unpack(&p, &back, &why), 0);
		assert_memory_equal(&back, &item, ITEM_BYTES);
		assert_int_equal(group_item_validate(&back, &limits, &why), 0);
		assert_null(group_item_doubt(&back, &limits));
	}
}

/* Every bit counts: a changed one is refused, or comes out as a different item, never as the same one. */
static void test_every_bit(void **state)
{
	struct random rnd = {2};

	for (unsigned i = 0; i < 200; i++) {
		struct group_item item = some_item(&rnd), back;
		struct packed p = pack(&item), again;
		const char *why = NULL;

		for (unsigned bit = 0; bit < p.len * 8u; bit++) {
			p.value[bit / 8] ^= (uint8_t)(1u << bit % 8);
			memset(&back, 0, sizeof(back));
			if (unpack(&p, &back, &why) == 0) {
				assert_memory_not_equal(&back, &item, ITEM_BYTES);
				again = pack(&back);
				assert_int_equal(again.len, p.len);
				assert_memory_equal(again.value, p.value, p.len);
			} else {
				assert_non_null(why);
				assert_int_equal(back.length, 0); /* untouched */
			}
			p.value[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
}

static void test_lengths(void **state)
{
	struct random rnd = {3};
	struct group_item item = some_item(&rnd), back;
	struct packed p = pack(&item);
	uint16_t good = p.len;
	const char *why;

	for (p.len = 0; p.len <= sizeof(p.value); p.len++)
		assert_int_equal(unpack(&p, &back, &why), p.len == good ? 0 : -EUCLEAN);
	for (uint16_t n = 0; n <= ITEM_KEY_LEN; n++)
		assert_int_equal(group_item_unpack((struct key){p.key, n}, (struct value){p.value, good},
						   &back, &why),
				 n == ITEM_KEY_LEN ? 0 : -EUCLEAN);
	p.len = good;
	p.key[0] = 0x10;
	assert_int_equal(unpack(&p, &back, &why), -EUCLEAN);
	assert_string_equal(why, "its key is unknown");
}

/* ---- each field ------------------------------------------------------------ */

/* Bytes of the value that are set to a number, least significant byte first, and what is said of them. */
static const struct bad_bytes {
	size_t off;
	unsigned bytes;
	uint64_t value;
	const char *why;
} bad_bytes[] = {
	{offsetof(struct block_group_item, type), 1, 0, "its type is unknown"},
	{offsetof(struct block_group_item, type), 1, GROUP_SYSTEM, "its type is unknown"},
	{offsetof(struct block_group_item, type), 1, 255, "its type is unknown"},
	{offsetof(struct block_group_item, nr_stripes), 1, 0, "its number of stripes is wrong"},
	{offsetof(struct block_group_item, nr_stripes), 1, 1, "its number of stripes is wrong"},
	{offsetof(struct block_group_item, nr_stripes), 1, 3, "its number of stripes is wrong"},
	{offsetof(struct block_group_item, reserved), 1, 1, "its reserved bytes are not zero"},
	{sizeof(struct block_group_item), 8, 1, "it stands on a device that the pool does not have"},
	{sizeof(struct block_group_item) + sizeof(struct block_group_stripe), 8, 1ull << 63,
	 "it stands on a device that the pool does not have"},
};

static void test_bad_bytes(void **state)
{
	struct random rnd = {4};

	for (size_t i = 0; i < sizeof(bad_bytes) / sizeof(*bad_bytes); i++) {
		const struct bad_bytes *b = &bad_bytes[i];
		struct group_item item, back;
		const char *why = NULL;
		struct packed p;

		do {
			item = some_item(&rnd);
		} while (item.nr_stripes != 2);
		p = pack(&item);
		for (unsigned k = 0; k < b->bytes; k++)
			p.value[b->off + k] = (uint8_t)(b->value >> 8 * k);
		assert_int_equal(unpack(&p, &back, &why), -EUCLEAN);
		assert_string_equal(why, b->why);
	}
}

#define FIELD(f) offsetof(struct group_item, f), sizeof(((struct group_item *)0)->f)

/* Fields of an item of 1 GiB of data with one stripe; `doubt`: it can still be used. */
static const struct bad_field {
	size_t off, bytes;
	uint64_t value;
	bool doubt;
	const char *why;
} bad_fields[] = {
	{FIELD(start), 0, false, "its address is impossible"},
	{FIELD(start), STEP + 4096, false, "its address is impossible"},
	{FIELD(start), STEP << 22, false, "its address is impossible"},
	{FIELD(length), 0, false, "its length is impossible"},
	{FIELD(length), STEP + 4096, false, "its length is impossible"},
	{FIELD(length), (1ull << 30) + 512, false, "its length is impossible"},
	{FIELD(length), STEP, false, "its cache slots are too small"},
	{FIELD(slot_bytes), 4096, false, "its cache slots are too small"},
	{FIELD(slot_bytes), (64u << 10) + 1, false, "its cache slots have an impossible size"},
	{FIELD(slot_bytes), 2u << 20, false, "its cache slots have an impossible size"},
	{FIELD(stripe[0]), 1ull << 50, false, "it lies outside the device"},
	{FIELD(stripe[0]), UINT64_MAX, false, "it lies outside the device"},
	{FIELD(stripe[0]), DEVICE_DATA_START - 4096, true, "it stands in the space of the superblocks"},
	{FIELD(used), (1ull << 30) + 4096, true, "its used bytes are impossible"},
	{FIELD(used), 100, true, "its used bytes are impossible"},
	{FIELD(generation), (1ull << 40) + 2, true, "it is younger than the superblock"},
	{FIELD(cache_generation), (1ull << 40) + 1, true, "it is younger than the superblock"},
	{FIELD(cache_slot), 2, true, "its cache slot is impossible"},
	{FIELD(cache_slot), 254, true, "its cache slot is impossible"},
	{FIELD(cache_bytes), 0, true, "its cache has an impossible length"},
	{FIELD(cache_bytes), (64u << 10) + 1, true, "its cache has an impossible length"},
};

static void test_bad_fields(void **state)
{
	struct group_item good = {.start = STEP,
				  .length = 1ull << 30,
				  .used = 4096,
				  .generation = 5,
				  .cache_generation = 5,
				  .stripe = {DEVICE_DATA_START},
				  .cache_bytes = 100,
				  .slot_bytes = 64u << 10,
				  .type = GROUP_DATA,
				  .nr_stripes = 1};
	const char *why;

	assert_int_equal(group_item_validate(&good, &limits, &why), 0);
	assert_null(group_item_doubt(&good, &limits));
	for (size_t i = 0; i < sizeof(bad_fields) / sizeof(*bad_fields); i++) {
		const struct bad_field *b = &bad_fields[i];
		struct group_item item = good;

		memcpy((char *)&item + b->off, &b->value, b->bytes);
		why = NULL;
		assert_int_equal(group_item_validate(&item, &limits, &why), b->doubt ? 0 : -EUCLEAN);
		if (b->doubt)
			why = group_item_doubt(&item, &limits);
		assert_non_null(why);
		assert_string_equal(why, b->why);
	}
}

/* ---- keys ------------------------------------------------------------------ */

static void test_keys(void **state)
{
	struct random rnd = {5};

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t a = random_next(&rnd) >> random_between(&rnd, 0, 63), b = random_next(&rnd), back;
		uint8_t ka[ITEM_KEY_LEN], kb[ITEM_KEY_LEN], type;
		struct key one = {ka, ITEM_KEY_LEN}, two = {kb, ITEM_KEY_LEN};

		key_pack(ka, 7, a);
		key_pack(kb, 7, b);
		assert_int_equal(key_unpack(one, &type, &back), 0);
		assert_int_equal(type, 7);
		assert_true(back == a);
		assert_int_equal(key_unpack_type(two, 7, &back), 0);
		assert_true(back == b);
		assert_int_equal(key_unpack_type(two, 6, &back), -EUCLEAN);
		assert_true(key_number(&one, 1) == a);
		assert_true((key_cmp(one, two) < 0) == (a < b)); /* the order of the numbers */
		two.len--;
		assert_int_equal(key_unpack(two, &type, &back), -EUCLEAN);
		assert_true(key_number(&two, 1) == 1);
	}
	assert_true(key_number(NULL, 9) == 9);
}

/* ---- printing -------------------------------------------------------------- */

static void keep_line(void *arg, const char *text)
{
	snprintf(arg, PRINT_LINE_MAX + 1, "%s", text);
}

static void test_print(void **state)
{
	struct group_item item = {.start = STEP,
				  .length = 1 << 20,
				  .type = GROUP_DATA,
				  .nr_stripes = 1,
				  .stripe = {77},
				  .cache_slot = CACHE_SLOT_NONE};
	static char line[PRINT_LINE_MAX + 1];
	static struct print p = {.line = keep_line, .arg = line, .indent = 1};

	group_item_print(&p, &item);
	assert_string_equal(
		line, "  group start=4294967296 type=data length=1048576 used=0 generation=0 stripe0=77 "
		      "slot_bytes=0 cache_slot=none");
	p.json = true;
	item.cache_slot = 1;
	group_item_print(&p, &item);
	assert_string_equal(line,
			    "{\"record\":\"group\",\"start\":4294967296,\"type\":\"data\",\"length\":1048576,"
			    "\"used\":0,\"generation\":0,\"stripe0\":77,\"slot_bytes\":0,\"cache_slot\":1,"
			    "\"cache_generation\":0,\"cache_bytes\":0,\"cache_crc\":\"0x0\"}");
}

/* Whatever the bytes are, a line is one line, and fields are whole or not there. */
static void test_print_untrusted(void **state)
{
	static char line[PRINT_LINE_MAX + 1], big[PRINT_LINE_MAX];
	static struct print p = {.line = keep_line, .arg = line, .json = true};
	uint8_t every[256];

	for (unsigned i = 0; i < 256; i++)
		every[i] = (uint8_t)i;
	print_begin(&p, "x");
	print_text(&p, "t", every, sizeof(every));
	print_end(&p);
	for (const char *c = line; *c; c++)
		assert_true(*c >= 0x20 && *c < 0x7f);
	assert_non_null(strstr(line, "\\u0000\\u0001"));
	assert_non_null(strstr(line, "\\u00ff\"}"));
	memset(big, 'a', sizeof(big));
	print_begin(&p, "x");
	print_number(&p, "n", 1);
	print_text(&p, "t", big, sizeof(big));
	print_number(&p, "m", 2);
	print_end(&p);
	assert_string_equal(line, "{\"record\":\"x\",\"n\":1,\"cut\":true}");
	p.json = false;
	print_begin(&p, "x");
	print_text(&p, "t", "a\"b\nc", 5);
	print_flags(&p, "f", 11, (const char *const[]){"one", "two"}, 2);
	print_flags(&p, "none", 0, NULL, 0);
	print_time(&p, "at", 1000000001);
	print_bool(&p, "b", true);
	print_end(&p);
	assert_string_equal(
		line, "x t=\"a\\\"b\\u000ac\" f=one,two,0x8 none=none at=1970-01-01T00:00:01.000000001Z "
		      "b=yes");
	print_problem(&p, "node %u: %s", 7, "is\nbad");
	assert_string_equal(line, "problem text=\"node 7: is\\u000abad\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_every_bit),
		cmocka_unit_test(test_lengths),	   cmocka_unit_test(test_bad_bytes),
		cmocka_unit_test(test_bad_fields), cmocka_unit_test(test_keys),
		cmocka_unit_test(test_print),	   cmocka_unit_test(test_print_untrusted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
