/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/block_group_format.h: items of the block group tree.
 * Key: GROUP_KEY_TYPE, be64 logical start. Value: struct block_group_item, followed by its stripes.
 *
 * A stripe is a range of the device: `length` bytes of the group, then two free-space-cache slots of
 * slot_bytes each. The slots belong to no group, so a cache never describes the space that it stands in.
 */
#ifndef FS_FORMAT_BLOCK_GROUP_FORMAT_H
#define FS_FORMAT_BLOCK_GROUP_FORMAT_H

#include <assert.h>

#include "base/le.h"

#define GROUP_KEY_TYPE 0x01

#define GROUP_DATA 1u
#define GROUP_METADATA 2u
#define GROUP_SYSTEM 4u

#define CACHE_SLOT_NONE 0xffu

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

#endif
