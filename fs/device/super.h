/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/device/super.h: reading, choosing and writing superblocks. */
#ifndef FS_DEVICE_SUPER_H
#define FS_DEVICE_SUPER_H

#include <stdint.h>

struct device_queue;
struct fs_error;
struct super_block;

/*
 * Reads all copies, and returns the valid one with the highest generation. *ret_bad counts copies that are
 * not valid, *ret_old those that are valid but older. -EINVAL: not a pool; -EUCLEAN: a pool, but no copy is
 * whole; -ENOTSUP: unknown incompatible features.
 */
int super_read(struct device_queue *q, uint64_t device_bytes, struct super_block *ret_sb, unsigned *ret_bad,
	       unsigned *ret_old, struct fs_error *err);

/* Seals the copy for an offset and writes it. Waits. */
int super_write_copy(struct device_queue *q, const struct super_block *sb, unsigned copy);

/*
 * Writes copy 0, flushes, writes the others, flushes. Everything that the superblock names must be durable
 * before. Waits.
 */
int super_write_all(struct device_queue *q, const struct super_block *sb);

#endif
