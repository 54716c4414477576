/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/free_space_cache_format.h: the bytes of one cache slot.
 *
 * A cache slot holds the free space of one block group as of one committed generation. Every block group has
 * two, written in turn. The block group's item says which generation counts, and the checksum, used length
 * and free blocks that the cache must have. If anything differs, it is not used.
 *
 * *	offset 0	struct free_space_cache_header
 * *	offset 96	`entries` times struct free_space_cache_entry
 * *	then		`bitmaps` times FREE_SPACE_CACHE_BITMAP_BYTES
 * *	offset `bytes`	zeros up to the next multiple of 4096; not covered by the checksum; never read
 *
 * A block is the unit of the group: 4096 bytes in data groups, a node in metadata groups. group_len and
 * free_bytes count 4096 bytes for each block, in metadata groups too: there they are a quarter of the group's
 * bytes.
 *
 * The group is divided into windows of FREE_SPACE_CACHE_WINDOW blocks. Each window is stored either as
 * extents or as one bitmap, whichever is smaller, so that a slot of free_space_cache_slot_bytes() holds any
 * content.
 *
 * Invariants (checked by the decoder)
 * 1. Entries ascend and do not overlap. All numbers are blocks from the group's start.
 * 2. An extent entry is a free run of `len` > 0 blocks within the group. It may span windows, but enters no
 *    window that has a bitmap.
 * 3. A bitmap entry has FREE_SPACE_CACHE_BITMAP set in `len`; its `start` is a multiple of the window, the
 *    other bits of `len` are how many bits are set in the bitmap (> 0). The n-th bitmap entry owns the n-th
 *    bitmap.
 * 4. In a bitmap, bit i of byte b is block start + 8 * b + i; 1 is free. Bits past the end of the group are
 *    0.
 * 5. entries, bitmaps, bytes and free_bytes are exactly what follows from the rest.
 * 6. Reserved bytes and unknown flags are 0.
 */
#ifndef FS_FORMAT_FREE_SPACE_CACHE_FORMAT_H
#define FS_FORMAT_FREE_SPACE_CACHE_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/le.h"

struct print;

#define FREE_SPACE_CACHE_MAGIC 0x43534642u /* "BFSC" */
#define FREE_SPACE_CACHE_VERSION 1u
#define FREE_SPACE_CACHE_WINDOW 4096u	   /* blocks */
#define FREE_SPACE_CACHE_BITMAP_BYTES 512u /* of one window */
#define FREE_SPACE_CACHE_BITMAP 0x80000000u
#define FREE_SPACE_CACHE_ALIGN 4096u

struct free_space_cache_header {
	le32 crc32c; /* of bytes [4, bytes) of the slot */
	le32 magic;
	le16 version;
	uint8_t reserved0[2];
	le32 flags; /* none are defined: 0 */
	uint8_t pool_uuid[16];
	le64 group_start; /* the block group's logical byte address */
	le64 group_len;	  /* 4096 times the group's blocks */
	le64 generation;
	le64 free_bytes; /* 4096 times the free blocks */
	le32 entries;	 /* extents and bitmaps together */
	le32 bitmaps;
	le32 bytes; /* used length of the slot from offset 0 */
	uint8_t reserved1[20];
};
static_assert(sizeof(struct free_space_cache_header) == 96, "free_space_cache_header is 96 bytes");
static_assert(offsetof(struct free_space_cache_header, group_start) == 32, "group_start stands at 32");
static_assert(offsetof(struct free_space_cache_header, entries) == 64, "entries stands at 64");

struct free_space_cache_entry {
	le32 start;
	le32 len; /* blocks; or FREE_SPACE_CACHE_BITMAP | bits set */
};
static_assert(sizeof(struct free_space_cache_entry) == 8, "free_space_cache_entry is 8 bytes");
static_assert(FREE_SPACE_CACHE_BITMAP_BYTES * 8 == FREE_SPACE_CACHE_WINDOW, "a bitmap covers a window");

/* The size of a slot for a group of nblocks: a multiple of 4096 that holds any content. */
uint32_t free_space_cache_slot_bytes(uint32_t nblocks);

/* Whether a slot begins as a cache does: it may still be damaged. */
bool free_space_cache_is_one(const void *slot);
/* How many entries its header says that there are. */
uint32_t free_space_cache_entries(const void *slot);
/* Into a record that was begun. Any bytes are accepted. */
void free_space_cache_print(struct print *p, const void *slot);
/* A record for entry number i of a slot whose length was verified. */
void free_space_cache_entry_print(struct print *p, const void *slot, uint32_t i);

#endif
