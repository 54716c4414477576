/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/claim.h: whether somebody else writes to the pool. Locks (device.c) keep a second daemon of this
 * kernel away from the same file or device; who comes another way (another name of the device, another
 * machine on the same LUN) is noticed by the claim.
 *
 * Invariants
 * 1. Who opens a pool for writing writes its claim when it has found that it can be opened, before anything
 *    but bad copies of superblocks and nodes that it mends (so a start that fails takes the pool from
 *    nobody), and reads it again before each superblock that it writes and at each commit interval. Where it
 *    finds another one the pool turns read-only: it is the later one's.
 * 2. A claim by a process that lives does not keep the pool from being opened: a snapshot of a pool in use
 *    has one as well. The log tells of it.
 * What it does not see: what both write until the first of them looks, up to a commit interval.
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
 * -EIO: no random numbers. Where the claim cannot be written the pool is read-only, and the log says so.
 * Waits.
 */
int claim_take(struct fs *fs, struct fs_error *err);
/* 0; -EBUSY: it is somebody else's, the pool is read-only now, and the log says so. Waits. */
int claim_check(struct fs *fs, struct device_queue *q);
/* At the end, when all is committed. Waits. */
void claim_give_up(struct fs *fs);
/*
 * Before claim_take: whether whoever had it last did that, so that the flush log holds nothing. (A group of
 * the log is durable only after a flush, which the claim taken before it was under, too.)
 */
bool claim_was_given_up(struct fs *fs, struct device_queue *q);

/*
 * Says why the pool at path could not be opened (`r`: what opening returned), and what to do. -EBUSY: who
 * holds it, as far as its claim and the lock's owner (0: unknown) tell. Returns r.
 */
int claim_fail_open(const char *path, int r, int holder, struct fs_error *err);

#endif
