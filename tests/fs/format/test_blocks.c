/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Superblock, claim, list of spares and items of the flush log: each field that can be wrong is refused when
 * it is, with its reason, and no flipped bit passes for the same block.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/le.h"
#include "base/util.h"
#include "fs/format/backing_format.h"
#include "fs/format/block_group_format.h"
#include "fs/format/claim_format.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/node_format.h"
#include "fs/format/print.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

#define DEVICE_BYTES (1ull << 30)
#define PLACE (64ull << 10)

static void keep_line(void *arg, const char *text)
{
	snprintf(arg, PRINT_LINE_MAX + 1, "%s", text);
}

static void set(void *block, size_t off, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		((uint8_t *)block)[off + i] = (uint8_t)(value >> 8 * i);
}

/* ---- superblock ------------------------------------------------------------ */

static void seal(struct super_block *sb)
{
	sb->crc = cpu_to_le32(super_checksum(sb));
}

static struct super_block good_super(void)
{
	struct super_block sb = {.version = cpu_to_le32(SUPER_VERSION),
				 .magic = cpu_to_le64(SUPER_MAGIC),
				 .offset = cpu_to_le64(PLACE),
				 .generation = cpu_to_le64(7),
				 .device_size = cpu_to_le64(DEVICE_BYTES),
				 .group_step = cpu_to_le64(GROUP_STEP),
				 .block_size = cpu_to_le32(FS_BLOCK_SIZE),
				 .node_size = cpu_to_le32(NODE_SIZE),
				 .log_offset = cpu_to_le64(DEVICE_DATA_START),
				 .log_size = cpu_to_le64(1 << 20)};

	seal(&sb);
	return sb;
}

#define SUPER(f) offsetof(struct super_block, f), sizeof(((struct super_block *)0)->f)

static const struct bad {
	size_t off, bytes;
	uint64_t value;
	const char *why;
} bad_supers[] = {
	{SUPER(magic), 1, "is not that of a Byre pool"},
	{SUPER(offset), 512 << 10, "was written to another place"},
	{SUPER(version), SUPER_VERSION + 1, "is of an unknown version"},
	{SUPER(block_size), 8192, "has an unknown block size"},
	{SUPER(node_size), 4096, "has an unknown block size"},
	{SUPER(device_size), 4096, "has an impossible size"},
	{SUPER(device_size), DEVICE_BYTES - 512, "has an impossible size"},
	{SUPER(device_size), DEVICE_BYTES + 4096, "was truncated"},
	{SUPER(group_step), 0, "has an impossible step of block groups"},
	{SUPER(group_step), GROUP_STEP * 2, "has an impossible step of block groups"},
	{SUPER(group_step), GROUP_STEP_MIN / 2, "has an impossible step of block groups"},
	{SUPER(group_step), 3 << 20, "has an impossible step of block groups"},
	{SUPER(log_offset), DEVICE_DATA_START - 4096, "has an impossible flush log"},
	{SUPER(log_offset), DEVICE_DATA_START + 1, "has an impossible flush log"},
	{SUPER(log_offset), DEVICE_BYTES, "has an impossible flush log"},
	{SUPER(log_offset), UINT64_MAX - 4095, "has an impossible flush log"},
	{SUPER(log_size), 4096, "has an impossible flush log"},
	{SUPER(log_size), (1 << 20) + 8, "has an impossible flush log"},
	{SUPER(log_size), UINT64_MAX - 4095, "has an impossible flush log"},
};

static void test_super_fields(void **state)
{
	struct super_block sb = good_super();
	const char *why = NULL;

	assert_int_equal(super_validate(&sb, PLACE, DEVICE_BYTES, &why), 0);
	assert_int_equal(super_validate(&sb, PLACE, 0, &why), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad_supers); i++) {
		const struct bad *b = &bad_supers[i];

		sb = good_super();
		set(&sb, b->off, (unsigned)b->bytes, b->value);
		seal(&sb);
		assert_int_equal(super_validate(&sb, PLACE, DEVICE_BYTES, &why), -EUCLEAN);
		assert_non_null(strstr(why, b->why));
	}
}

static void test_super_every_bit(void **state)
{
	struct super_block sb = good_super();
	const char *why;

	for (unsigned bit = 0; bit < SUPER_SIZE * 8; bit++) {
		((uint8_t *)&sb)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(super_validate(&sb, PLACE, DEVICE_BYTES, &why), -EUCLEAN);
		((uint8_t *)&sb)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* Every byte of a copy, but for the few that each copy has of its own, is compared, and prints as a line. */
static void test_super_compare(void **state)
{
	static char line[PRINT_LINE_MAX + 1];
	static struct print p = {.line = keep_line, .arg = line};
	struct super_block a = good_super(), b = a;
	size_t own = offsetof(struct super_block, offset) + sizeof(a.offset);

	assert_int_equal(super_compare(NULL, &a, &b), 0);
	for (size_t i = own; i < SUPER_SIZE; i++) {
		((uint8_t *)&b)[i] ^= 0x10;
		assert_int_equal(super_compare(NULL, &a, &b), 1);
		((uint8_t *)&b)[i] ^= 0x10;
	}
	b.log_seq = cpu_to_le64(9);
	print_begin(&p, "differ");
	super_compare(&p, &a, &b);
	print_end(&p);
	assert_string_equal(line, "differ 1_log_seq=0 2_log_seq=9");
	memset(&b, 0xff, sizeof(b)); /* any bytes */
	print_begin(&p, "x");
	super_print(&p, &b);
	print_end(&p);
	assert_null(strstr(line, "cut=yes"));
	assert_non_null(strstr(line, "flags=sparse,leaked,0xfffffffffffffffc"));
}

/* ---- claim and spares ------------------------------------------------------- */

static void test_claim(void **state)
{
	struct claim_block c = {.magic = cpu_to_le32(CLAIM_MAGIC), .held = 1};
	static char line[PRINT_LINE_MAX + 1];
	static struct print p = {.line = keep_line, .arg = line};

	memset(c.host, 'h', sizeof(c.host)); /* no zero byte behind it */
	c.crc = cpu_to_le32(claim_checksum(&c));
	assert_null(claim_fault(&c));
	claim_print(&p, &c);
	assert_non_null(strstr(line, "valid=yes held=yes "));
	assert_non_null(strstr(line, "hhhh\""));
	for (unsigned bit = 0; bit < CLAIM_BYTES * 8; bit++) {
		((uint8_t *)&c)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_non_null(claim_fault(&c));
		((uint8_t *)&c)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void test_spares(void **state)
{
	struct spares_block sb = {.magic = cpu_to_le32(SPARES_MAGIC), .count = cpu_to_le32(2), .addr = {{0}}};
	static char line[PRINT_LINE_MAX + 1];
	static struct print p = {.line = keep_line, .arg = line};

	sb.addr[1] = cpu_to_le64(8192);
	sb.crc = cpu_to_le32(spares_checksum(&sb));
	assert_null(spares_fault(&sb));
	spares_print(&p, SPARES_OFFSET, &sb);
	assert_non_null(strstr(line, "count=2 blocks=0:1,8192:1"));
	for (unsigned bit = 0; bit < SPARES_BYTES * 8; bit++) {
		((uint8_t *)&sb)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_non_null(spares_fault(&sb));
		((uint8_t *)&sb)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	sb.count = cpu_to_le32(SPARES_MAX + 1);
	sb.crc = cpu_to_le32(spares_checksum(&sb));
	assert_string_equal(spares_fault(&sb), "it is longer than there is room");
}

/* ---- items of the log -------------------------------------------------------- */

static union {
	uint8_t bytes[256];
	struct log_item item;
	struct log_extent extent;
	struct log_group_item group;
	struct log_create create;
	struct log_rename rename;
	struct log_resize resize;
	struct log_set set;
} u;

static int check(uint64_t left)
{
	const struct log_item *item;

	return log_item_check(u.bytes, left, &item);
}

static void begin(enum log_item_type type, uint32_t bytes)
{
	memset(&u, 0, sizeof(u));
	u.item.type = cpu_to_le16(type);
	u.item.bytes = cpu_to_le32(bytes);
	u.item.id = cpu_to_le64(300);
	u.item.generation = cpu_to_le64(5);
}

static uint32_t make(enum log_item_type type)
{
	static const uint32_t bytes[] = {
		[LOG_EXTENT] = 56, [LOG_GROUP] = 40,  [LOG_CREATE] = 72, [LOG_DELETE] = 24,
		[LOG_RENAME] = 40, [LOG_RESIZE] = 32, [LOG_SET] = 40};

	begin(type, bytes[type]);
	switch (type) {
	case LOG_EXTENT:
		u.extent.blocks = cpu_to_le64(2);
		u.extent.addr = cpu_to_le64(1 << 20);
		break;
	case LOG_GROUP: u.group.length = cpu_to_le64(1 << 20); break;
	case LOG_CREATE:
		u.create.size = cpu_to_le64(4096);
		u.create.name_len = 3;
		memcpy(&u.create + 1, "vm1", 3);
		break;
	case LOG_DELETE: break;
	case LOG_RENAME:
		u.rename.name_len = 3;
		memcpy(&u.rename + 1, "vm1", 3);
		break;
	case LOG_RESIZE: u.resize.size = cpu_to_le64(4096); break;
	case LOG_SET:
		u.set.comment_len = 2;
		memcpy(&u.set + 1, "ok", 2);
		break;
	}
	return bytes[type];
}

static const char *const printed[] = {
	[LOG_EXTENT] = "i type=extent volume=300 generation=5 blk=0 blocks=2 addr=1048576",
	[LOG_GROUP] = "i type=group start=300 generation=5 length=1048576 stripe0=0",
	[LOG_CREATE] = "i type=create volume=300 generation=5 name=\"vm1\" size=4096 "
		       "uuid=00000000-0000-0000-0000-000000000000 flags=0x0 created=never",
	[LOG_DELETE] = "i type=delete volume=300 generation=5",
	[LOG_RENAME] = "i type=rename volume=300 generation=5 name=\"vm1\"",
	[LOG_RESIZE] = "i type=resize volume=300 generation=5 size=4096",
	[LOG_SET] = "i type=set volume=300 generation=5 flags=0x0 comment=\"ok\"",
};

static void test_log_items(void **state)
{
	static char line[PRINT_LINE_MAX + 1];
	static struct print p = {.line = keep_line, .arg = line};

	for (enum log_item_type type = LOG_EXTENT; type <= LOG_SET; type++) {
		uint32_t bytes = make(type);

		assert_int_equal(check(bytes), 0);
		assert_int_equal(check(bytes + 64), 0);
		print_begin(&p, "i");
		log_item_print(&p, &u.item);
		print_end(&p);
		assert_string_equal(line, printed[type]);
		for (uint64_t left = 0; left < bytes; left++)
			assert_int_equal(check(left), -EUCLEAN);
		/* of its length there is one that is right */
		for (uint32_t said = 0; said <= sizeof(u); said++) {
			u.item.bytes = cpu_to_le32(said);
			assert_int_equal(check(sizeof(u)), said == bytes ? 0 : -EUCLEAN);
		}
		make(type);
		u.item.reserved = cpu_to_le16(1);
		assert_int_equal(check(bytes), -EUCLEAN);
	}
	begin(LOG_SET + 1, 24);
	assert_int_equal(check(24), -EUCLEAN);
	begin(0, 24);
	assert_int_equal(check(24), -EUCLEAN);
}

static const struct bad_item {
	enum log_item_type type;
	size_t off, bytes;
	uint64_t value;
} bad_items[] = {
#define ITEM(s, f) offsetof(struct s, f), sizeof(((struct s *)0)->f)
	{LOG_EXTENT, ITEM(log_extent, blocks), 0},
	{LOG_EXTENT, ITEM(log_extent, blocks), 5}, /* its checksums would be longer */
	{LOG_EXTENT, ITEM(log_extent, blocks), UINT64_MAX},
	{LOG_EXTENT, ITEM(log_extent, addr), 0}, /* a hole has no checksums */
	{LOG_EXTENT, ITEM(log_extent, addr), 4097},
	{LOG_GROUP, ITEM(log_group_item, length), 0},
	{LOG_GROUP, ITEM(log_group_item, length), 100},
	{LOG_CREATE, ITEM(log_create, size), 0},
	{LOG_CREATE, ITEM(log_create, size), 4095},
	{LOG_CREATE, ITEM(log_create, size), FS_VOLUME_SIZE_MAX + 4096},
	{LOG_CREATE, ITEM(log_create, name_len), 0},
	{LOG_CREATE, ITEM(log_create, name_len), 9},
	{LOG_CREATE, sizeof(struct log_create) + 1, 1, 0},
	{LOG_RENAME, ITEM(log_rename, name_len), 0},
	{LOG_RENAME, ITEM(log_rename, name_len), 255},
	{LOG_RENAME, sizeof(struct log_rename), 1, 0},
	{LOG_RESIZE, ITEM(log_resize, size), 0},
	{LOG_RESIZE, ITEM(log_resize, size), UINT64_MAX},
	{LOG_SET, ITEM(log_set, comment_len), 9},
	{LOG_SET, ITEM(log_set, comment_len), 0},
	{LOG_SET, sizeof(struct log_set) + 1, 1, 0},
#undef ITEM
};

static void test_log_item_fields(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_items); i++) {
		const struct bad_item *b = &bad_items[i];
		uint32_t bytes = make(b->type);

		set(&u, b->off, (unsigned)b->bytes, b->value);
		assert_int_equal(check(bytes), -EUCLEAN);
	}
}

static void test_log_record(void **state)
{
	struct {
		struct log_record rec;
		uint8_t items[72];
	} r = {.rec = {.magic = cpu_to_le32(LOG_MAGIC), .bytes = cpu_to_le32(128)}};
	uint32_t crc = log_record_checksum(&r.rec);

	for (unsigned bit = 32; bit < sizeof(r) * 8; bit++) {
		if (bit / 8 >= offsetof(struct log_record, bytes) &&
		    bit / 8 < offsetof(struct log_record, items))
			continue; /* how far it reaches */
		((uint8_t *)&r)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_true(log_record_checksum(&r.rec) != crc);
		((uint8_t *)&r)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_super_fields),	cmocka_unit_test(test_super_every_bit),
		cmocka_unit_test(test_super_compare),	cmocka_unit_test(test_claim),
		cmocka_unit_test(test_spares),		cmocka_unit_test(test_log_items),
		cmocka_unit_test(test_log_item_fields), cmocka_unit_test(test_log_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
