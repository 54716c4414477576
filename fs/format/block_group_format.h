/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/block_group_format.h: items of the block group tree.
 * Key: GROUP_KEY_TYPE, be64 logical start. Value: struct block_group_item, followed by its stripes.
 *
 * A stripe is a range of the device: `length` bytes of the group, then two free-space-cache slots of
 * slot_bytes each. The slots belong to no group, so a cache never describes the space that it is in.
 */
#ifndef FS_FORMAT_BLOCK_GROUP_FORMAT_H
#define FS_FORMAT_BLOCK_GROUP_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "base/le.h"
#include "fs/format/key.h"

struct print;

#define GROUP_KEY_TYPE 0x01

#define GROUP_DATA 1u
#define GROUP_METADATA 2u
#define GROUP_SYSTEM 4u

#define CACHE_SLOT_NONE 0xffu

#define GROUP_INDEX_MAX (1u << 22)
#define GROUP_SIZE_MIN (1ull << 20)
#define GROUP_SIZE_MAX (4ull << 30)
/* Of logical addresses. Small ones are for tests, which want groups that are neighbours. */
#define GROUP_STEP_MIN (256ull << 10)
#define GROUP_STEP GROUP_SIZE_MAX

struct block_group_item {
	le64 length;
	le64 used;	 /* bytes that the trees of this generation refer to */
	le64 generation; /* in which the group was made; may be the superblock's plus one */
	le64 cache_generation;
	le32 cache_crc;
	le32 cache_bytes;
	le32 slot_bytes;
	uint8_t cache_slot; /* 0, 1 or CACHE_SLOT_NONE */
	uint8_t type;	    /* one of GROUP_* */
	uint8_t nr_stripes;
	uint8_t reserved;
};
static_assert(sizeof(struct block_group_item) == 48, "block_group_item");

struct block_group_stripe {
	le64 device; /* 0, until pools have several */
	le64 offset;
};
static_assert(sizeof(struct block_group_stripe) == 16, "block_group_stripe");

#define GROUP_ITEM_STRIPES_MAX 2u
#define GROUP_VALUE_MAX \
	(sizeof(struct block_group_item) + GROUP_ITEM_STRIPES_MAX * sizeof(struct block_group_stripe))
#define GROUP_SLOT_BYTES_MAX (1u << 20)

/* ---- the same for the program (block_group_format.c) ----------------------- */

struct group_item {
	uint64_t start; /* from the key */
	uint64_t length, used, generation, cache_generation;
	uint64_t stripe[GROUP_ITEM_STRIPES_MAX];
	uint32_t cache_crc, cache_bytes, slot_bytes;
	uint8_t cache_slot, type, nr_stripes;
};

/* What the items of a pool must fit. */
struct group_limits {
	uint64_t step;	      /* of logical addresses */
	uint64_t end;	      /* of logical addresses */
	uint64_t device_size; /* 0: not known */
	uint64_t generation;  /* of the superblock */
};

/* Bytes that a group of the type gives out at a time. */
uint32_t group_unit(uint8_t type);

void group_key_pack(uint8_t key[ITEM_KEY_LEN], uint64_t start);
/* Returns the value's length; it has room for GROUP_VALUE_MAX. */
uint16_t group_item_pack(const struct group_item *item, uint8_t *value);

/*
 * -EUCLEAN with a constant string: bytes that no version of this program writes, whatever the pool. What
 * depends on the pool is group_item_validate's, and what does not stop the group from being used
 * group_item_doubt's.
 */
int group_item_unpack(struct key key, struct value value, struct group_item *ret_item, const char **ret_why);

/* 0, or -EUCLEAN with a constant string: the group cannot be where the item says. */
int group_item_validate(const struct group_item *item, const struct group_limits *limits,
			const char **ret_why);

/* What is wrong with figures of a group whose place is known; NULL: nothing. */
const char *group_item_doubt(const struct group_item *item, const struct group_limits *limits);

/* Offset in a stripe of the cache slot that the item names. It must name one. */
uint64_t group_item_cache_offset(const struct group_item *item, unsigned stripe);

void group_item_print(struct print *p, const struct group_item *item);

#endif
