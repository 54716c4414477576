/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/commit/flush_log_int.h: what flush_log.c and flush_log_build.c share. */
#ifndef FS_COMMIT_FLUSH_LOG_INT_H
#define FS_COMMIT_FLUSH_LOG_INT_H

#include <stdint.h>

struct flush_log;
struct fs;
struct log_group;

/*
 * Collects everything that is not logged into the group's buffer and moves the head. The lock is dropped
 * meanwhile. 0: records are in the buffer (or there was nothing). -ENOSPC: the log has no room. Any error:
 * flushes must commit.
 */
int flush_log_build_locked(struct fs *fs, struct log_group *g);

/*
 * Takes operations that this generation has committed, or all (UINT64_MAX), off the list for the next group.
 */
void flush_log_unlist_ops_locked(struct flush_log *log, uint64_t generation);

#endif
