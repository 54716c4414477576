/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/pool.h: making and opening a pool on a device that is already open: what fs_create and fs_open do on files,
 * and what tests and the crash simulator do on simulated devices.
 */
#ifndef FS_POOL_H
#define FS_POOL_H

#include "fs/device.h"
#include "fs/fs.h"

/* Writes an empty pool. Everything is durable on return. Waits. */
int pool_format(struct device *dev, bool sparse, struct fs_error *err);
/* The same with a step of logical addresses of one's own, so that groups can be neighbours: for tests. */
int pool_format_step(struct device *dev, bool sparse, uint64_t step, struct fs_error *err);

/*
 * Opens the pool on dev; takes over dev, also on failure. `simulated`: no threads are started; the caller
 * runs workers and commits with pool_step. Waits.
 */
int pool_open(struct device *dev, const struct fs_options *opt, bool simulated, struct fs **ret_fs, struct fs_error *err);

/* One step of what threads would do in a simulated pool: a piece of work, or a commit that was asked for. False: nothing to do. */
bool pool_step(struct fs *fs);

/* Ends without a commit, as a crash of the process would: for tests. The device is closed too. */
void pool_abandon(struct fs *fs);

#endif
