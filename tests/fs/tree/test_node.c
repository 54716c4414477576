/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/tree/test_node.c: node_validate against every broken field, every flipped bit and random garbage;
 * searching.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "base/mem.h"
#include "fs/tree/node.h"
#include "base/le.h"
#include "fs/format/node_format.h"
#include "fs/format/key.h"

static const uint8_t uuid[16] = "0123456789abcdef";
static const struct node_ident ident = {.addr = 5 * NODE_SIZE, .generation = 7, .owner = 300, .level = 0};

static uint64_t rng;

static uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % n;
}

static int setup(void **state)
{
	const char *env = getenv("SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240229;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	rng = seed * 2 + 1;
	*state = mem_alloc_aligned(4096, NODE_SIZE);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	mem_free(*state);
	return 0;
}

/* Four-byte keys 2, 4, 6, ... with values of 20 bytes (of a pointer's size in interior nodes). */
static void fill(struct node_header *node, const struct node_ident *id, unsigned n)
{
	uint8_t value[20];

	node_init(node, id, uuid);
	for (unsigned i = 0; i < n; i++) {
		uint32_t be = htobe32(2 * (i + 1));
		struct node_pointer ptr = {cpu_to_le64((100 + i) * NODE_SIZE), cpu_to_le64(id->generation)};

		memset(value, (int)i, sizeof(value));
		node_append(node, (struct key){(uint8_t *)&be, sizeof(be)},
			    id->level ? (struct value){&ptr, sizeof(ptr)}
				      : (struct value){value, sizeof(value)});
	}
	node_seal(node);
}

static struct node_slot *slot_of(struct node_header *node, unsigned i)
{
	return (struct node_slot *)(node + 1) + i;
}

/* Refused, for this reason, with a checksum that is right. */
static void refused_as(struct node_header *node, const struct node_ident *id, const char *why)
{
	const char *got = NULL;

	node_seal(node);
	assert_int_equal(node_validate(node, id, uuid, &got), -EUCLEAN);
	assert_string_equal(got, why);
}

static void accepted(struct node_header *node, const struct node_ident *id)
{
	const char *got = "untouched";

	assert_int_equal(node_validate(node, id, uuid, &got), 0);
	assert_string_equal(got, "untouched");
}

static void test_node_good_ones_are_accepted(void **state)
{
	struct node_header *node = *state;
	struct node_ident id = ident;

	for (unsigned n = 1; n <= 400; n += 13) {
		fill(node, &ident, n);
		accepted(node, &ident);
		assert_int_equal(node_count(node), n);
	}
	for (id.level = 0; id.level < NODE_LEVEL_MAX; id.level++) {
		fill(node, &id, 30);
		accepted(node, &id);
	}
}

static void test_node_identity_is_checked(void **state)
{
	struct node_header *node = *state;
	struct node_ident id = ident;

	fill(node, &ident, 10);
	node->magic = cpu_to_le32(1);
	refused_as(node, &ident, "not a node");
	fill(node, &ident, 10);
	node->pool[7] ^= 1;
	refused_as(node, &ident, "belongs to another pool");
	fill(node, &ident, 10);
	id.addr += NODE_SIZE;
	refused_as(node, &id, "was written to another address");
	id = ident;
	id.owner++;
	refused_as(node, &id, "belongs to another tree");
	id = ident;
	id.generation--;
	refused_as(node, &id, "is of another generation");
	id = ident;
	id.level = 1;
	refused_as(node, &id, "is of another level");
	id.level = node->level = NODE_LEVEL_MAX;
	refused_as(node, &id, "is of another level");
	fill(node, &ident, 0);
	refused_as(node, &ident, "is empty");
}

static void test_node_items_are_checked(void **state)
{
	struct node_header *node = *state;
	struct node_ident id = ident;

	fill(node, &ident, 10);
	node->nritems = cpu_to_le16(0xffff);
	refused_as(node, &ident, "item array runs into the items");
	fill(node, &ident, 10);
	node->data_off = cpu_to_le32(NODE_SIZE + 1);
	refused_as(node, &ident, "item array runs into the items");
	fill(node, &ident, 10);
	node->data_off = cpu_to_le32(64 + 10 * 6 - 1);
	refused_as(node, &ident, "item array runs into the items");
	fill(node, &ident, 10);
	slot_of(node, 3)->off = cpu_to_le16(NODE_SIZE - 23);
	refused_as(node, &ident, "an item lies outside");
	fill(node, &ident, 10);
	slot_of(node, 9)->off = cpu_to_le16(64);
	refused_as(node, &ident, "an item lies outside");
	fill(node, &ident, 10);
	slot_of(node, 0)->value_len = cpu_to_le16(21);
	refused_as(node, &ident, "an item lies outside");
	fill(node, &ident, 10);
	slot_of(node, 5)->key_len = cpu_to_le16(0);
	refused_as(node, &ident, "a key's length is impossible");
	fill(node, &ident, 400);
	slot_of(node, 399)->key_len = cpu_to_le16(NODE_KEY_MAX + 1);
	refused_as(node, &ident, "a key's length is impossible");
	fill(node, &ident, 10);
	slot_of(node, 4)->off = slot_of(node, 3)->off;
	refused_as(node, &ident, "keys are not in order");
	fill(node, &ident, 10);
	slot_of(node, 4)->value_len = cpu_to_le16(19);
	refused_as(node, &ident, "items do not fill their space");
	fill(node, &ident, 10);
	node->data_off = cpu_to_le32(le32_to_cpu(node->data_off) - 4);
	refused_as(node, &ident, "items do not fill their space");
	id.level = 2;
	fill(node, &id, 10);
	slot_of(node, 4)->value_len = cpu_to_le16(15);
	refused_as(node, &id, "a pointer's length is wrong");
}

static void test_node_every_flipped_bit_is_seen(void **state)
{
	struct node_header *node = *state;
	const char *why;

	fill(node, &ident, 300);
	for (unsigned bit = 0; bit < NODE_SIZE * 8; bit++) {
		((uint8_t *)node)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(node_validate(node, &ident, uuid, &why), -EUCLEAN);
		((uint8_t *)node)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	accepted(node, &ident);
}

/* Garbage under a good checksum: whatever is accepted can be used without leaving the node. */
static void test_node_accepted_garbage_stays_inside(void **state)
{
	struct node_header *node = *state;
	unsigned ok = 0;

	for (unsigned round = 0; round < 200000; round++) {
		const char *why;

		fill(node, &ident, 1 + (unsigned)rnd(8));
		for (unsigned n = 1 + (unsigned)rnd(3); n > 0; n--)
			((uint8_t *)node)[offsetof(struct node_header, nritems) + rnd(100)] =
				(uint8_t)rnd(256);
		node_seal(node);
		if (node_validate(node, &ident, uuid, &why))
			continue;
		ok++;
		for (unsigned i = 0; i < node_count(node); i++) {
			struct key k = node_key(node, i);
			struct value v = node_value(node, i);

			assert_true(k.data >= (uint8_t *)node &&
				    k.data + k.len <= (uint8_t *)node + NODE_SIZE);
			assert_true((uint8_t *)v.data + v.len <= (uint8_t *)node + NODE_SIZE);
			assert_int_equal(node_floor(node, k), (int)i);
		}
	}
	assert_true(ok > 0);
}

static void test_node_floor_finds_the_last_not_greater(void **state)
{
	struct node_header *node = *state;

	fill(node, &ident, 100);
	for (uint32_t want = 0; want < 210; want++) {
		uint32_t be = htobe32(want);
		int slot = node_floor(node, (struct key){(uint8_t *)&be, sizeof(be)});

		assert_int_equal(slot, want > 200 ? 99 : (int)(want / 2) - 1);
	}
}

static void test_node_prefix_sorts_first(void **state)
{
	struct key ab = {(const uint8_t *)"ab", 2}, abc = {(const uint8_t *)"abc", 3},
		   b = {(const uint8_t *)"b", 1};

	assert_true(key_cmp(ab, abc) < 0);
	assert_true(key_cmp(abc, ab) > 0);
	assert_true(key_cmp(abc, b) < 0);
	assert_int_equal(key_cmp(ab, ab), 0);
}

static void test_node_child_refuses_impossible_pointers(void **state)
{
	struct node_header *node = *state;
	struct node_ident id = ident, child;
	struct node_pointer ptr;

	id.level = 3;
	fill(node, &id, 10);
	assert_int_equal(node_child(node, 4, id.owner, &child), 0);
	assert_true(child.addr == 104 * NODE_SIZE && child.generation == 7 && child.owner == 300 &&
		    child.level == 2);
	ptr = (struct node_pointer){cpu_to_le64(104 * NODE_SIZE + 4096), cpu_to_le64(7)};
	memcpy((void *)(uintptr_t)node_value(node, 4).data, &ptr, sizeof(ptr));
	assert_int_equal(node_child(node, 4, id.owner, &child), -EUCLEAN);
	ptr = (struct node_pointer){cpu_to_le64(104 * NODE_SIZE), cpu_to_le64(8)};
	memcpy((void *)(uintptr_t)node_value(node, 4).data, &ptr, sizeof(ptr));
	assert_int_equal(node_child(node, 4, id.owner, &child), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_node_good_ones_are_accepted),
		cmocka_unit_test(test_node_identity_is_checked),
		cmocka_unit_test(test_node_items_are_checked),
		cmocka_unit_test(test_node_every_flipped_bit_is_seen),
		cmocka_unit_test(test_node_accepted_garbage_stays_inside),
		cmocka_unit_test(test_node_floor_finds_the_last_not_greater),
		cmocka_unit_test(test_node_prefix_sorts_first),
		cmocka_unit_test(test_node_child_refuses_impossible_pointers),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
