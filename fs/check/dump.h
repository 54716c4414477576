/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/dump.h: prints what stands in a pool, structure by structure, for people and for bug reports.
 *
 * Invariants
 * 1. Nothing is written, whatever the pool is like.
 * 2. What cannot be read or makes no sense is said (a `problem` line), and the rest is still printed. Only
 *    what everything else hangs from ends a part: without a superblock there are no trees and no log.
 * 3. It comes to an end: a walk reads at most as many nodes as the device has room for, and levels fall.
 *
 * It judges single structures: checksums, places, fields. Whether they agree with each other is the check's.
 *
 * Growth: memory goes with the number of block groups (under 100 bytes each); the rest is one node for each
 * level and copy, and one record of the log.
 */
#ifndef FS_CHECK_DUMP_H
#define FS_CHECK_DUMP_H

#include <stdint.h>

struct device;
struct fs_dump_options;
struct fs_error;

/* As fs_dump, on a device that is open and that nobody else uses. */
int dump_device(struct device *dev, const struct fs_dump_options *opt, uint64_t *ret_problems,
		struct fs_error *err);

#endif
