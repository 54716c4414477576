/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/extent.h: extent items of a volume's tree: reading one, checking untrusted ones, merging an overlay into them. */
#ifndef FS_EXTENT_H
#define FS_EXTENT_H

#include <stdint.h>

#include "fs/overlay.h"
#include "fs/tree.h"
#include "fs/volume_format.h"

#define EXTENT_KEY_LEN 9u

/* An item, decoded; crc points into the node. */
struct extent {
	uint64_t blk, nblk;
	uint64_t addr; /* bytes */
	uint64_t generation;
	const le32 *crc;
};

void extent_key_pack(uint8_t key[EXTENT_KEY_LEN], uint64_t blk);
/* 0, or -EUCLEAN for an item that cannot be. */
int extent_unpack(struct key key, struct value value, struct extent *ret_extent);

struct extent_piece {
	uint64_t addr; /* of the block asked for; 0: a hole */
	uint64_t nblk; /* to the extent's end, or to the next extent (UINT64_MAX: there is none) */
	uint64_t generation;
	const le32 *crc;	   /* of the block asked for */
	struct cache_entry *entry; /* pins what crc points to: cache_put it */
};

/* As node_read about q. */
int extent_lookup(struct fs *fs, struct device_queue *q, const struct tree_root *root, uint64_t blk,
		  struct extent_piece *ret_piece);

/* Merges an overlay into the volume's tree at *root. *blocks changes by what the tree's extents gain and lose. */
int extent_apply(struct transaction *txn, struct tree_root *root, const struct overlay *overlay, uint64_t *blocks);

#endif
