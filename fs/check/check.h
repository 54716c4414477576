/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check.h: the offline checker: reads a whole pool and verifies every invariant of its format.
 *
 * It shares with the mounting code only what decodes bytes (node_validate, extent_unpack, super_validate,
 * free_space_cache_decode), so that a mistake in the running engine's accounting cannot hide itself.
 *
 * Invariants
 * 1. Nothing that was read is trusted: no pool, however broken, makes it crash, loop or read outside the
 *    device.
 * 2. Every copy of everything is read, not only the first good one.
 * 3. Without `repair` nothing is written.
 * 4. A crash at any moment leaves a pool without findings: a torn end of the flush log, older superblock
 *    copies and a group without a cache are not findings.
 * 5. Neighbouring damage of one kind is one finding; findings come tree by tree, in order of offset. What is
 *    reported, and the memory for it, is bounded however much is broken.
 */
#ifndef FS_CHECK_CHECK_H
#define FS_CHECK_CHECK_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct fs_check_options;
struct fs_error;

/*
 * For tests. As fs_check, on a device that is open and that nobody else uses. With `repair`, free-space
 * caches that contradict the trees are dropped; the next writable open rebuilds them. Waits. Any thread.
 */
int check_device(struct device *dev, const struct fs_check_options *opt, uint64_t *ret_findings,
		 struct fs_error *err);

/*
 * Opens the pool's file or device, locked against other processes. -EBUSY: one has it open, and `err` names
 * it. Waits.
 */
int check_open_device(const char *path, bool writable, struct device **ret_dev, struct fs_error *err);

#endif
