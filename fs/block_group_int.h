/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/block_group_int.h: what block_group.c and block_group_load.c share: how a group's bitmaps come to be.
 *
 * Invariant: all memory that a group's free space takes is there when it becomes GROUP_LOADED, and stays until group_free.
 */
#ifndef FS_BLOCK_GROUP_INT_H
#define FS_BLOCK_GROUP_INT_H

#include "fs/block_group.h"

/* Of a bitmap with a bit for each block of the group: `pinned`, `lost`. */
static inline size_t block_group_bitmap_bytes(const struct block_group *g)
{
	return (g->nblocks + 63) / 64 * sizeof(uint64_t);
}

/*
 * Makes the bitmaps of a group whose committed free space is `committed` (taken over on success); all of it is
 * available then, and the group is loaded. -ENOMEM: the group is as it was.
 */
int block_group_set_loaded(struct block_group *g, struct free_space *committed);

#endif
