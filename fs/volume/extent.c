/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/volume/extent.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/tree/node.h"

void extent_key_pack(uint8_t key[EXTENT_KEY_LEN], uint64_t blk)
{
	key_pack(key, EXTENT_KEY_TYPE, blk);
}

uint64_t extent_key_blk(struct key key)
{
	return key_number(&key, 0);
}

uint16_t extent_pack(const struct extent *extent, uint8_t *value)
{
	bool lost = !extent->addr;
	struct extent_item item = {.addr = cpu_to_le64(lost ? extent->nblk : extent->addr),
				   .generation = cpu_to_le64(extent->generation),
				   .blocks = cpu_to_le32(lost ? 0 : (uint32_t)extent->nblk),
				   .flags = cpu_to_le32(lost ? EXTENT_LOST : 0)};
	size_t crcs = lost ? 0 : extent->nblk * sizeof(le32);

	memcpy(value, &item, sizeof(item));
	memcpy(value + sizeof(item), extent->crc, crcs);
	return (uint16_t)(sizeof(item) + crcs);
}

int extent_unpack(struct key key, struct value value, struct extent *ret_extent)
{
	struct extent_item item;
	uint64_t n;

	if (key.len != EXTENT_KEY_LEN || key.data[0] != EXTENT_KEY_TYPE || value.len < sizeof(item))
		return -EUCLEAN;
	memcpy(&item, value.data, sizeof(item));
	if (le32_to_cpu(item.flags) == EXTENT_LOST) {
		n = le64_to_cpu(item.addr);
		if (n == 0 || n > UINT64_MAX / FS_BLOCK_SIZE || le32_to_cpu(item.blocks) ||
		    value.len != sizeof(item))
			return -EUCLEAN;
	} else {
		n = le32_to_cpu(item.blocks);
		if (n == 0 || n > EXTENT_BLOCKS_MAX || value.len != sizeof(item) + n * sizeof(le32))
			return -EUCLEAN;
		if (le64_to_cpu(item.addr) == 0 || le64_to_cpu(item.addr) % FS_BLOCK_SIZE ||
		    le32_to_cpu(item.flags))
			return -EUCLEAN;
	}
	ret_extent->blk = extent_key_blk(key);
	if (ret_extent->blk > UINT64_MAX / FS_BLOCK_SIZE - n)
		return -EUCLEAN;
	ret_extent->nblk = n;
	ret_extent->addr = le32_to_cpu(item.flags) ? 0 : le64_to_cpu(item.addr);
	ret_extent->generation = le64_to_cpu(item.generation);
	ret_extent->crc = (const le32 *)((const char *)value.data + sizeof(item));
	return 0;
}

uint64_t extent_blocks_below(uint8_t level)
{
	uint64_t blocks = EXTENT_LEAF_BLOCKS_MAX;

	for (; level > 0 && blocks < UINT64_MAX / NODE_SIZE; level--)
		blocks *= NODE_CAPACITY / node_item_bytes(EXTENT_KEY_LEN, sizeof(struct node_pointer));
	return blocks;
}

/* ---- look-up --------------------------------------------------------------- */

/* A way down the tree. */
struct descent {
	struct node_ident id;	  /* of the node that it has come to */
	uint64_t first, next;	  /* the blocks that it covers: to before `next`, UINT64_MAX: to the end */
	struct cache_entry *leaf; /* NULL: no leaf covers the key */
};

/* To the leaf that covers the key. On failure d->id is the node that could not be read. */
static int find_leaf(struct fs *fs, struct device_queue *q, const struct tree_root *root, struct key key,
		     struct descent *d)
{
	*d = (struct descent){.id = {root->addr, root->generation, root->owner, root->level},
			      .next = UINT64_MAX};
	if (d->id.level >= NODE_LEVEL_MAX || d->id.addr % NODE_SIZE)
		return -EUCLEAN;
	for (;;) {
		const struct node_header *node;
		struct cache_entry *entry;
		int slot, r = node_read(fs, q, &d->id, &entry);

		if (r)
			return r;
		node = node_header(entry);
		if (node->level == 0) {
			d->leaf = entry;
			return 0;
		}
		slot = node_floor(node, key);
		if (slot < 0) { /* before the tree's first key */
			d->next = extent_key_blk(node_key(node, 0));
			cache_put(fs->cache, entry);
			return 0;
		}
		d->first = extent_key_blk(node_key(node, (unsigned)slot));
		if ((unsigned)slot + 1 < node_count(node))
			d->next = extent_key_blk(node_key(node, (unsigned)slot + 1));
		r = node_child(node, (unsigned)slot, root->owner, &d->id);
		cache_put(fs->cache, entry);
		if (r)
			return r;
	}
}

/* The piece of a node that cannot be read. */
static void set_lost(const struct descent *d, uint64_t blk, struct extent_piece *ret_piece)
{
	*ret_piece = (struct extent_piece){.nblk = d->next == UINT64_MAX ? UINT64_MAX : d->next - blk,
					   .lost = true,
					   .lost_node = d->id.addr,
					   .lost_blk = d->first};
}

/* In the leaf, which the piece takes over if it needs it. */
static int lookup_leaf(struct fs *fs, const struct descent *d, struct key key, uint64_t blk,
		       struct extent_piece *ret_piece)
{
	const struct node_header *node = d->leaf ? node_header(d->leaf) : NULL;
	int slot = node ? node_floor(node, key) : -1, r = 0;
	uint64_t next = d->next;
	struct extent e;

	if (slot >= 0) {
		r = extent_unpack(node_key(node, (unsigned)slot), node_value(node, (unsigned)slot), &e);
		if (r == 0 && blk < e.blk + e.nblk) {
			uint64_t skip = blk - e.blk;

			*ret_piece = (struct extent_piece){.addr = e.addr ? e.addr + skip * FS_BLOCK_SIZE : 0,
							   .nblk = e.nblk - skip,
							   .lost = e.addr == 0,
							   .generation = e.generation,
							   .crc = e.addr ? e.crc + skip : NULL,
							   .entry = d->leaf};
			return 0;
		}
	}
	if (r == 0 && node && (unsigned)(slot + 1) < node_count(node))
		next = extent_key_blk(node_key(node, (unsigned)(slot + 1)));
	cache_put(fs->cache, d->leaf);
	*ret_piece = (struct extent_piece){.nblk = next == UINT64_MAX ? UINT64_MAX
						   : next > blk	      ? next - blk
								      : 0};
	return r == 0 && ret_piece->nblk == 0 ? -EUCLEAN : r;
}

int extent_lookup(struct fs *fs, struct device_queue *q, const struct tree_root *root, uint64_t blk,
		  struct extent_piece *ret_piece)
{
	uint8_t bytes[EXTENT_KEY_LEN];
	struct key key = {bytes, sizeof(bytes)};
	struct descent d;
	int r;

	*ret_piece = (struct extent_piece){.nblk = UINT64_MAX};
	if (root->addr == 0)
		return 0;
	extent_key_pack(bytes, blk);
	r = find_leaf(fs, q, root, key, &d);
	if (r == 0)
		r = lookup_leaf(fs, &d, key, blk, ret_piece);
	if (node_is_lost(r) && d.next > blk) {
		set_lost(&d, blk, ret_piece);
		r = 0;
	}
	return r;
}
