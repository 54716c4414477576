/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/ops/flush_log_replay.h: the flush log is done again when the pool is opened. */
#ifndef FS_OPS_FLUSH_LOG_REPLAY_H
#define FS_OPS_FLUSH_LOG_REPLAY_H

#include <stdint.h>

struct device_queue;
struct fs;

/*
 * At open: brings the log into the running overlays. *ret_items and *ret_groups for the log line.
 * Nothing is written. -EUCLEAN when the log contradicts the trees.
 */
int flush_log_replay(struct fs *fs, struct device_queue *q, uint64_t *ret_groups, uint64_t *ret_items);

#endif
