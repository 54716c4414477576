/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/executor.h: a thread that does I/O, as others see it: its device queue, and what they want to
 * have run there. An event loop's context is one (fs/io/ctx.h).
 *
 * Invariants
 * 1. Posts run on the executor's thread alone, in the order in which they were made.
 * 2. event_fd is readable exactly while posts wait, so that an event loop can sleep on it.
 * Growth: a post is its caller's memory; posting and taking are constant.
 */
#ifndef FS_DEVICE_EXECUTOR_H
#define FS_DEVICE_EXECUTOR_H

#include "base/lock.h"

struct device;
struct device_queue;

/* Something to be run on the executor's thread. */
struct post {
	void (*fn)(struct post *post);
	struct post *next;
};

struct executor {
	struct device_queue *q;
	int event_fd;
	struct lock lock;
	struct post *posts, **posts_tail;
};

/* A negative errno; fini is due in any case. */
int executor_init(struct executor *ex, struct device *dev);
/* Nothing may be under way. */
void executor_fini(struct executor *ex);
/* Runs post->fn on the executor's thread, soon. Any thread. */
void executor_post(struct executor *ex, struct post *post);
/* Runs what was posted. The executor's thread. */
void executor_run(struct executor *ex);

#endif
