/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/volume_format.h: items of the root tree and of the volumes' trees.
 *
 * Root tree:   VOLUME_KEY_TYPE, be64 id -> struct volume_item, name (name_len bytes), comment (comment_len
 *              bytes)
 *              ORPHAN_KEY_TYPE, be64 id -> struct orphan_item (a deleted volume whose space is being freed,
 *              or a part of a living one's tree, cut out by a trim)
 * Volume tree: EXTENT_KEY_TYPE, be64 first block -> struct extent_item, one CRC32C for each block
 *              EXTENT_KEY_TYPE, be64 first block -> struct extent_item with EXTENT_LOST, and nothing behind
 *              it
 * A range of a volume without an extent is a hole and reads as zeros. Extents do not overlap. A lost one
 * stands for a range whose extents stood in a node that could not be read in any copy: nobody knows what it
 * held, and reading it is an error.
 */
#ifndef FS_FORMAT_VOLUME_FORMAT_H
#define FS_FORMAT_VOLUME_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/le.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"

struct print;

#define TREE_ID_ROOT 1ull
#define TREE_ID_GROUP 2ull
#define TREE_ID_REFCOUNT 3ull /* of snapshots; not in use yet */
#define TREE_ID_FIRST_FREE 256ull

#define VOLUME_KEY_TYPE 0x01
#define ORPHAN_KEY_TYPE 0x02
#define EXTENT_KEY_TYPE 0x10

#define EXTENT_BLOCKS_MAX 128u
#define EXTENT_KEY_LEN ITEM_KEY_LEN
#define EXTENT_LOST 1u

struct volume_item {
	struct tree_root_item root;
	le64 size;
	/* that the tree and what was cut out of it refer to; at least, where the root has flags */
	le64 used_blocks;
	le64 lost_blocks; /* in lost extents, of any length */
	le64 ctime_ns;
	uint8_t uuid[16];
	le32 flags; /* enum fs_volume_flags */
	uint8_t name_len;
	uint8_t comment_len; /* UTF-8 without control characters; 0: none */
	uint8_t reserved[2];
};
static_assert(sizeof(struct volume_item) == 104, "volume_item");
#define VOLUME_ITEM_MAX (sizeof(struct volume_item) + 255 + 255)

struct orphan_item {
	/* its counts are of what is left; of a part that was cut out they are 0 */
	struct tree_root_item root;
	le64 used_blocks; /* still to be freed; as the counts */
	le64 progress;	  /* everything before this block is freed, with the nodes that held it */
	/* the volume. Not the item's own id: a part of its tree, which counts in the volume's item */
	le64 owner;
};
static_assert(sizeof(struct orphan_item) == 72, "orphan_item");

struct extent_item {
	le64 addr;	 /* logical, a multiple of 4096, never 0. EXTENT_LOST: how many blocks, any number */
	le64 generation; /* of birth; EXTENT_LOST: of the commit that found it */
	le32 blocks;	 /* 1 to EXTENT_BLOCKS_MAX; EXTENT_LOST: 0 */
	le32 flags;	 /* EXTENT_LOST or 0 */
};
static_assert(sizeof(struct extent_item) == 24, "extent_item");

/* ---- the same for the program (volume_format.c) ---------------------------- */

/* Text from an item, with a zero byte behind it. */
struct volume_label {
	uint8_t len;
	char text[256];
};
static_assert(FS_NAME_MAX < 256 && FS_COMMENT_MAX < 256, "any name and comment fits");

struct volume_fields {
	uint64_t id; /* from the key */
	struct tree_root root;
	uint64_t size, used_blocks, lost_blocks, ctime_ns;
	uint8_t uuid[16];
	uint32_t flags; /* enum fs_volume_flags */
	struct volume_label name, comment;
};

struct orphan_fields {
	uint64_t id; /* from the key */
	struct tree_root root;
	uint64_t used_blocks, progress;
};

/* Of a volume: what create and resize accept. */
bool volume_size_is_valid(uint64_t size);

/* Returns the value's length; it has room for VOLUME_ITEM_MAX. */
uint16_t volume_item_pack(const struct volume_fields *vol, uint8_t *value);
/*
 * -EUCLEAN with a constant string: it cannot be used. 0 with *ret_doubt not NULL: the tree is there, but the
 * item says something that nobody writes.
 */
int volume_item_unpack(uint64_t id, struct value value, struct volume_fields *ret_vol,
		       const char **ret_doubt);
void volume_item_print(struct print *p, const struct volume_fields *vol);

/* The same for deleted ones. */
uint16_t orphan_item_pack(const struct orphan_fields *orphan, uint8_t *value);
int orphan_item_unpack(uint64_t id, struct value value, struct orphan_fields *ret_orphan,
		       const char **ret_doubt);
void orphan_item_print(struct print *p, const struct orphan_fields *orphan);

/*
 * For reservations: how many items a pending of so many blocks becomes at the most, and the bytes of so many
 * items with `blocks` altogether. A request counts two more than its own: the second piece of what it cuts in
 * the middle, in an overlay or in the tree, and one to spare.
 */
static inline uint64_t volume_extent_items(uint64_t blocks)
{
	return (blocks + EXTENT_BLOCKS_MAX - 1) / EXTENT_BLOCKS_MAX;
}
static inline uint64_t volume_item_bytes(uint64_t items, uint64_t blocks)
{
	return items * (sizeof(struct node_slot) + EXTENT_KEY_LEN + sizeof(struct extent_item)) +
	       blocks * sizeof(le32);
}

#endif
