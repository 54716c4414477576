/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/pool/pool.h: makes and opens a pool on a device that is already open: fs_create and fs_open do so on
 * files, tests and the crash simulator on simulated devices.
 */
#ifndef FS_POOL_POOL_H
#define FS_POOL_POOL_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct fs;
struct fs_clock;
struct fs_error;
struct fs_options;

/* Writes an empty pool. Everything is durable on return. Waits. */
int pool_format(struct device *dev, bool sparse, struct fs_error *err);
/*
 * For tests. The same with another step of logical addresses, so that groups can be neighbours, and a clock.
 */
int pool_format_step(struct device *dev, bool sparse, uint64_t step, const struct fs_clock *clock,
		     struct fs_error *err);

/*
 * Opens the pool on dev; takes over dev, also on failure. The clock says whether threads are started; where
 * they are not, the caller runs workers and commits with pool_step. Waits.
 */
int pool_open(struct device *dev, const struct fs_options *opt, const struct fs_clock *clock,
	      struct fs **ret_fs, struct fs_error *err);

/* For tests. No threads; who waits does the work meanwhile. */
extern const struct fs_clock pool_without_threads;

/*
 * For tests. In a pool without threads, does one step of what they would do: a piece of work, or a commit
 * that was asked for. False: there is nothing to do.
 */
bool pool_step(struct fs *fs);

/* For tests. Ends without a commit, as a crash of the process would. The device is closed too. */
void pool_abandon(struct fs *fs);

/* ---- pool_format.c, for pool_grow.c ---- */

/*
 * How long the flush log of a pool is: 1/128 of it up to 32 MiB, 1/1024 from 32 GiB on, 256 MiB at the most.
 * The log is what a commit has to keep ahead of: it starts when half is full, and one record of a flush of
 * single blocks takes 4 KiB. So 256 MiB are 32,000 flushes from commit to commit (32 MiB were 4,000, several
 * commits a second on a fast disk). Not more, since replay reads it at the start, which has to take less than
 * a second.
 */
uint64_t pool_log_size(uint64_t pool_bytes);
uint64_t pool_groups_for(uint64_t size, uint64_t step);
/*
 * Writes over the flush log's place once, so that later writes to it change nothing in the host's file
 * system. Otherwise a flush would wait for that file system's journal. Waits.
 */
int pool_write_log_once(struct device *dev, uint64_t off, uint64_t size);

#endif
