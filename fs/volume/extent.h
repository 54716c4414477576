/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/extent.h: extent items of a volume's tree: reading one, checking untrusted ones, and merging an
 * overlay into them.
 */
#ifndef FS_VOLUME_EXTENT_H
#define FS_VOLUME_EXTENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/le.h"
#include "fs/format/key.h"
#include "fs/format/volume_format.h"

struct cache_entry;
struct device_queue;
struct fs;
struct overlay;
struct tree_root;

struct transaction;
struct volume_touches;

/* An item, decoded; crc points into the node. */
struct extent {
	uint64_t blk, nblk;
	uint64_t addr; /* bytes; 0: lost */
	uint64_t generation;
	const le32 *crc;
};

/*
 * Blocks that the extents of one leaf can cover at the most, if they are not lost: 128 of them take 4 bytes
 * each and their item's 39.
 */
#define EXTENT_LEAF_BLOCKS_MAX 3840u

/* The same for a node of any level. */
uint64_t extent_blocks_below(uint8_t level);

void extent_key_pack(uint8_t key[EXTENT_KEY_LEN], uint64_t blk);
/* 0 for a key that is not of this form. */
uint64_t extent_key_blk(struct key key);
/*
 * Into `value`, of sizeof(struct extent_item) and 4 bytes for each block, EXTENT_BLOCKS_MAX at most: its
 * length.
 */
uint16_t extent_pack(const struct extent *extent, uint8_t *value);
/* 0, or -EUCLEAN for an item that cannot be. */
int extent_unpack(struct key key, struct value value, struct extent *ret_extent);

struct extent_piece {
	uint64_t addr;	    /* of the block asked for; 0: a hole, or lost */
	uint64_t nblk;	    /* to the extent's end, or to the next extent (UINT64_MAX: there is none) */
	bool lost;	    /* nobody knows what is there */
	uint64_t lost_node; /* lost because this node cannot be read, now; 0: a commit has found that */
	uint64_t lost_blk;  /* where that node's range begins */
	uint64_t generation;
	const le32 *crc;	   /* of the block asked for */
	struct cache_entry *entry; /* pins what crc points to: cache_put it */
};

/* As node_read about q. If a node cannot be read, what it covers is lost; that is not an error. */
int extent_lookup(struct fs *fs, struct device_queue *q, const struct tree_root *root, uint64_t blk,
		  struct extent_piece *ret_piece);

/* What is in a volume's tree. */
struct extent_counts {
	uint64_t used; /* blocks of extents; a lower bound once a node was lost */
	uint64_t lost; /* blocks of lost ones */
};

/*
 * Merges an overlay into the volume's tree at *root, in which nothing is at or behind block old_end. From
 * `end` on there are only holes afterwards, which the overlay has where the tree had not. What cannot be read
 * and is written to, or is touched (NULL: nothing), becomes lost, but for what is written. Where a hole of
 * CUT_BLOCKS_MIN blocks or more takes whole subtrees with it, at most txn->open_leaves leaves are read; the
 * others come as a tree of their own, *ret_cut, which the caller has to have freed. The root's counts, and
 * `counts`, go on including it.
 */
int extent_apply(struct transaction *txn, struct tree_root *root, const struct overlay *overlay,
		 const struct volume_touches *touches, uint64_t old_end, uint64_t end,
		 struct extent_counts *counts, struct tree_root *ret_cut);

#endif
