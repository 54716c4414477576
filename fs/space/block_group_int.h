/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_int.h: what the files of block groups share: how a group's bitmaps are made, and the
 * order in which groups give out space.
 *
 * Invariants
 * 1. All memory that a group's free space takes is there when it becomes GROUP_LOADED, and stays until it is
 *    unloaded or freed.
 * 2. Whenever its lock is free, a group is in the list for its order and free units; one that gives nothing
 *    out (being rebuilt, leaving, full) is in none.
 */
#ifndef FS_SPACE_BLOCK_GROUP_INT_H
#define FS_SPACE_BLOCK_GROUP_INT_H

#include "fs/format/block_group_format.h"
#include "fs/space/block_group.h"

struct free_space;
struct fs;

/* Of a bitmap with a bit for each block of the group: `pinned`, `lost`. */
static inline size_t block_group_bitmap_bytes(const struct block_group *g)
{
	return (g->nblocks + 63) / 64 * sizeof(uint64_t);
}

/*
 * Makes the bitmaps of a group whose committed free space is `committed` (taken over on success); all of it
 * is available then, and the group is loaded. -ENOMEM: the group is as it was. -EAGAIN: it is loaded already,
 * or leaves.
 */
int block_group_set_loaded(struct fs *fs, struct block_group *g, struct free_space *committed);

/* Loads a group that is not loaded and of which nothing is used: without I/O. As block_group_set_loaded. */
int block_group_load_empty(struct fs *fs, struct block_group *g);

/* Memory of a loaded group's bitmaps. */
uint64_t block_group_loaded_bytes(const struct block_group *g);

/* A system group was added: more groups fit into the group tree. */
void block_group_system_added(struct fs *fs);

/* Notes whether a group may leave: nothing in it is used, and the group tree has it. The committer's. */
void block_group_note_empty(struct fs *fs, struct block_group *g);

/* ---- block_group_order.c ---- */

/*
 * The group's free units, or its state, changed: brings its place in the lists up to date. Under the group's
 * lock.
 */
void block_group_reorder_locked(struct fs *fs, struct block_group *g);
/* The same, and puts it after the others with as much room. */
void block_group_reorder_last_locked(struct fs *fs, struct block_group *g);

/*
 * The type's group with the most free units (within a factor of two); NULL. The caller is one of invariant 8
 * of block_group.h. *ret_bucket: the power of two.
 */
struct block_group *block_group_most_free(struct fs *fs, uint8_t type, enum group_order order,
					  unsigned *ret_bucket);

/* The index of a type: 0 data, 1 metadata, 2 system. */
static inline unsigned block_group_kind(uint8_t type)
{
	return type == GROUP_DATA ? 0 : type == GROUP_METADATA ? 1 : 2;
}

#endif
