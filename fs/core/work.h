/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/work.h: the threads for what must not wait in an event loop. In a simulated pool there are none,
 * and the caller runs the queue with work_run_one.
 */
#ifndef FS_CORE_WORK_H
#define FS_CORE_WORK_H

#include <pthread.h>
#include <stdbool.h>

#include "base/lock.h"

#define WORK_THREADS_MAX 64
/* one that waits, a rebuild, and one for what a reader needs whom that waits for */
#define WORK_THREADS_MIN 3

struct fs;
struct fs_work;
struct device;
struct device_queue;

struct work_list {
	struct fs_work *head, **tail;
};

/*
 * Quick work always has half of the threads: what waits runs on the other half at the most, however much of
 * it there is, so that reads that need nodes do not stand behind operations on volumes; and what waits for a
 * commit may be waiting for a reader who waits for quick work. What commits wait for is not held up by what
 * waits for commits: it counts as quick.
 */
struct work_pool {
	struct lock lock;
	pthread_cond_t cond;
	struct work_list quick, waiting;
	unsigned nr_waiting; /* of that, running */
	pthread_t thread[WORK_THREADS_MAX];
	struct device_queue *queue[WORK_THREADS_MAX];
	unsigned threads, queues;
	bool stop;
};

/* threads 0: none (simulation), but one device queue for work_run_one. Else WORK_THREADS_MIN at least. */
int work_pool_init(struct work_pool *pool, struct device *dev, unsigned threads);
/* Runs what is queued to its end, then ends the threads. */
void work_pool_fini(struct work_pool *pool);
/*
 * Quick work waits for the device, and for locks that are held across I/O for a moment, and for nothing else.
 */
void work_pool_add(struct work_pool *pool, struct fs_work *work);
/* For what may wait for a commit, or for long. Some of it at a time. */
void work_pool_add_waiting(struct work_pool *pool, struct fs_work *work);
/* Without threads: runs the oldest; false: there is none. */
bool work_run_one(struct work_pool *pool);

/*
 * The device queue of the worker that the caller is; only inside a work function. The other: NULL elsewhere.
 */
struct device_queue *work_queue(void);
struct device_queue *work_queue_if_any(void);
/* Sets it and returns what it was: for the crash simulator, whose workers share one thread. */
struct device_queue *work_queue_set(struct device_queue *q);

#endif
