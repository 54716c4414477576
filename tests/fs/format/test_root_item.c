/* SPDX-License-Identifier: BSD-3-Clause */
/* Items of the root tree: what is packed is unpacked again, and what cannot be is refused, with a reason. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/print.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "tests/fs/format/random.h"

#define ROUNDS 20000

static struct tree_root some_root(struct random *rnd, uint64_t owner)
{
	return (struct tree_root){.owner = owner,
				  .addr = random_next(rnd),
				  .generation = random_next(rnd),
				  .nodes = random_next(rnd),
				  .leaves = random_next(rnd),
				  .items = random_next(rnd),
				  .level = (uint8_t)random_next(rnd),
				  .flags = (uint8_t)random_between(rnd, 0, TREE_ROOT_FLAGS_KNOWN)};
}

static void some_label(struct random *rnd, const char *chars, uint64_t least, struct volume_label *label)
{
	label->len = (uint8_t)random_between(rnd, least, 255);
	for (unsigned i = 0; i < label->len; i++)
		label->text[i] = chars[random_between(rnd, 0, strlen(chars) - 1)];
}

static struct volume_fields some_volume(struct random *rnd)
{
	uint64_t id = random_next(rnd);
	struct volume_fields vol = {.id = id,
				    .root = some_root(rnd, id),
				    .size = FS_BLOCK_SIZE *
					    random_between(rnd, 1, FS_VOLUME_SIZE_MAX / FS_BLOCK_SIZE),
				    .used_blocks = random_next(rnd),
				    .lost_blocks = random_next(rnd),
				    .ctime_ns = random_next(rnd),
				    .flags = (uint32_t)random_between(rnd, 0, 7)};

	for (unsigned i = 0; i < sizeof(vol.uuid); i++)
		vol.uuid[i] = (uint8_t)random_next(rnd);
	some_label(rnd, "abzAZ059_", 1, &vol.name);
	some_label(rnd, "words, of any kind", 0, &vol.comment);
	return vol;
}

static void assert_same_root(const struct tree_root *a, const struct tree_root *b)
{
	assert_true(a->owner == b->owner && a->addr == b->addr && a->generation == b->generation &&
		    a->nodes == b->nodes && a->leaves == b->leaves && a->items == b->items &&
		    a->level == b->level && a->flags == b->flags);
}

static void test_volume_round_trip(void **state)
{
	struct random rnd = {1};
	uint8_t value[VOLUME_ITEM_MAX];

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct volume_fields vol = some_volume(&rnd), back;
		const char *doubt;
		uint16_t len = volume_item_pack(&vol, value);

		assert_true(len <= sizeof(value));
		assert_int_equal(volume_item_unpack(vol.id, (struct value){value, len}, &back, &doubt), 0);
		assert_null(doubt);
		assert_same_root(&back.root, &vol.root);
		assert_true(back.id == vol.id && back.size == vol.size &&
			    back.used_blocks == vol.used_blocks && back.lost_blocks == vol.lost_blocks &&
			    back.ctime_ns == vol.ctime_ns && back.flags == vol.flags);
		assert_memory_equal(back.uuid, vol.uuid, sizeof(vol.uuid));
		assert_string_equal(back.name.text, vol.name.text);
		assert_string_equal(back.comment.text, vol.comment.text);
	}
}

/* A changed bit is refused, doubted, or comes out in the fields: packed again they are the changed bytes. */
static void test_volume_every_bit(void **state)
{
	struct random rnd = {2};

	for (unsigned i = 0; i < 50; i++) {
		struct volume_fields vol = some_volume(&rnd), back;
		uint8_t value[VOLUME_ITEM_MAX], again[VOLUME_ITEM_MAX];
		uint16_t len = volume_item_pack(&vol, value);
		const char *doubt;

		for (unsigned bit = 0; bit < len * 8u; bit++) {
			value[bit / 8] ^= (uint8_t)(1u << bit % 8);
			if (volume_item_unpack(vol.id, (struct value){value, len}, &back, &doubt)) {
				assert_non_null(doubt);
			} else if (!doubt) {
				assert_int_equal(volume_item_pack(&back, again), len);
				assert_memory_equal(again, value, len);
			}
			value[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
}

#define ROOT(f) (offsetof(struct volume_item, root) + offsetof(struct tree_root_item, f))

static const struct bad {
	size_t off;
	uint8_t value;
	int error;
	const char *why;
} bad_bytes[] = {
	{offsetof(struct volume_item, name_len), 2, -EUCLEAN, "the length of its name is wrong"},
	{offsetof(struct volume_item, comment_len), 1, -EUCLEAN, "the length of its name is wrong"},
	{sizeof(struct volume_item), '/', -EUCLEAN, "its name is not valid"},
	{sizeof(struct volume_item), 0, -EUCLEAN, "its name is not valid"},
	{sizeof(struct volume_item), '-', -EUCLEAN, "its name is not valid"},
	{sizeof(struct volume_item) + 3, '\n', -EUCLEAN, "its comment is not valid"},
	{offsetof(struct volume_item, size), 1, 0, "its size is impossible"},
	{offsetof(struct volume_item, size) + 7, 0x80, 0, "its size is impossible"},
	{offsetof(struct volume_item, flags), 8, 0, "it has unknown flags"},
	{offsetof(struct volume_item, flags) + 3, 1, 0, "it has unknown flags"},
	{offsetof(struct volume_item, reserved), 1, 0, "its reserved bytes are not zero"},
	{offsetof(struct volume_item, reserved) + 1, 1, 0, "its reserved bytes are not zero"},
	{ROOT(reserved) + 5, 1, 0, "the reserved bytes of its root are not zero"},
	{ROOT(flags), 4, 0, "its root has unknown flags"},
};

static void test_volume_fields(void **state)
{
	struct volume_fields vol = {.id = 256, .size = 1 << 20, .name = {3, "vm1"}, .comment = {2, "ok"}};
	uint8_t value[VOLUME_ITEM_MAX];
	uint16_t len = volume_item_pack(&vol, value);
	struct volume_fields back;
	const char *doubt;

	for (uint16_t n = 0; n <= len + 1; n++)
		assert_int_equal(volume_item_unpack(256, (struct value){value, n}, &back, &doubt),
				 n == len ? 0 : -EUCLEAN);
	for (size_t i = 0; i < sizeof(bad_bytes) / sizeof(*bad_bytes); i++) {
		const struct bad *b = &bad_bytes[i];
		uint8_t was = value[b->off];

		value[b->off] = b->value;
		assert_int_equal(volume_item_unpack(256, (struct value){value, len}, &back, &doubt),
				 b->error);
		assert_non_null(doubt);
		assert_string_equal(doubt, b->why);
		value[b->off] = was;
	}
	vol.size = 0;
	len = volume_item_pack(&vol, value);
	assert_int_equal(volume_item_unpack(256, (struct value){value, len}, &back, &doubt), 0);
	assert_string_equal(doubt, "its size is impossible");
}

static void test_orphans(void **state)
{
	struct random rnd = {3};
	uint8_t value[sizeof(struct orphan_item) + 1];
	const char *doubt;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct orphan_fields o = {.id = random_next(&rnd),
					  .root = some_root(&rnd, random_next(&rnd)),
					  .used_blocks = random_next(&rnd),
					  .progress = random_next(&rnd)},
				     back;
		uint16_t len = orphan_item_pack(&o, value);

		assert_int_equal(orphan_item_unpack(o.id, (struct value){value, len}, &back, &doubt), 0);
		assert_null(doubt);
		assert_same_root(&back.root, &o.root);
		assert_true(back.id == o.id && back.used_blocks == o.used_blocks &&
			    back.progress == o.progress);
		for (uint16_t n = 0; n <= sizeof(value); n++)
			assert_int_equal(orphan_item_unpack(o.id, (struct value){value, n}, &back, &doubt),
					 n == len ? 0 : -EUCLEAN);
		value[offsetof(struct tree_root_item, reserved)] = 1;
		assert_int_equal(orphan_item_unpack(o.id, (struct value){value, len}, &back, &doubt), 0);
		assert_string_equal(doubt, "the reserved bytes of its root are not zero");
	}
}

static void keep_line(void *arg, const char *text)
{
	snprintf(arg, PRINT_LINE_MAX + 1, "%s", text);
}

static void test_print(void **state)
{
	struct volume_fields vol = {.id = 256,
				    .size = 4096,
				    .flags = 5,
				    .name = {2, "vm"},
				    .comment = {3, "a\"b"},
				    .root = {.owner = 256, .addr = 16384, .flags = 1}};
	static char line[PRINT_LINE_MAX + 1];
	static struct print p = {.line = keep_line, .arg = line};

	volume_item_print(&p, &vol);
	assert_string_equal(line,
			    "volume id=256 name=\"vm\" uuid=00000000-0000-0000-0000-000000000000 size=4096 "
			    "used_blocks=0 lost_blocks=0 flags=reserved,read_only created=never "
			    "root_addr=16384 root_generation=0 root_level=0 root_nodes=0 root_leaves=0 "
			    "root_items=0 root_flags=leaf_lost comment=\"a\\\"b\"");
	orphan_item_print(&p, &(struct orphan_fields){.id = 9, .root = {.owner = 8}});
	assert_memory_equal(line, "cut_out id=9 owner=8 ", 21);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_volume_round_trip),
		cmocka_unit_test(test_volume_every_bit),
		cmocka_unit_test(test_volume_fields),
		cmocka_unit_test(test_orphans),
		cmocka_unit_test(test_print),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
