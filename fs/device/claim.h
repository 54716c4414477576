/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/claim.h: whether somebody else writes to the pool. Locks (device.c) keep a second daemon on this
 * kernel away from the same file or device. The claim catches writers that come another way: another name of
 * the device, or another machine on the same LUN.
 *
 * Invariants
 * 1. Whoever opens a pool for writing writes its claim once it knows that the pool opens, before it writes
 *    anything else except repairs of bad copies of superblocks and nodes. So a start that fails takes the
 *    pool from nobody. It reads the claim again before each superblock that it writes and at each commit
 *    interval. If it finds another claim, the pool turns read-only: it belongs to the later one.
 * 2. A claim by a live process does not keep the pool from being opened, because a snapshot of a pool in use
 *    has one as well; the log mentions it. The claim cannot catch what both write until the first of them
 *    looks, up to a commit interval.
 *
 * Cost: a read of 4 KiB for each commit.
 */
#ifndef FS_DEVICE_CLAIM_H
#define FS_DEVICE_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

struct fs;
struct fs_error;
struct device_queue;

/*
 * -EIO: no random numbers. If the claim cannot be written, the pool is read-only, and the log says so. Waits.
 */
int claim_take(struct fs *fs, struct fs_error *err);
/* 0; -EBUSY: it is somebody else's; the pool is then read-only, and the log says so. Waits. */
int claim_check(struct fs *fs, struct device_queue *q);
/* At the end, when everything is committed. Waits. */
void claim_give_up(struct fs *fs);
/*
 * Before claim_take: whether the last holder gave its claim up, so that the flush log holds nothing. (A log
 * group is durable only after a flush, and that flush also covers the claim that was taken before it.)
 */
bool claim_was_given_up(struct fs *fs, struct device_queue *q);

/*
 * Says why the pool at path could not be opened (`r`: what opening returned), and what to do. -EBUSY: names
 * the holder, as far as its claim and the lock's owner (0: unknown) tell. Returns r.
 */
int claim_fail_open(const char *path, int r, int holder, struct fs_error *err);

#endif
