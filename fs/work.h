/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/work.h: the threads for what must not wait in an event loop. In a simulated pool there are none, and the
 * caller runs the queue with work_run_one.
 */
#ifndef FS_WORK_H
#define FS_WORK_H

#include <pthread.h>
#include <stdbool.h>

#include "base/lock.h"

#define WORK_THREADS_MAX 64

struct fs;
struct fs_work;
struct device;
struct device_queue;

struct work_pool {
	struct lock lock;
	pthread_cond_t cond;
	struct fs_work *head, **tail;
	pthread_t thread[WORK_THREADS_MAX];
	struct device_queue *queue[WORK_THREADS_MAX];
	unsigned threads, queues;
	bool stop;
};

/* threads 0: none (simulation), but one device queue for work_run_one. */
int work_pool_init(struct work_pool *pool, struct device *dev, unsigned threads);
/* Runs what is queued to its end, then ends the threads. */
void work_pool_fini(struct work_pool *pool);
void work_pool_add(struct work_pool *pool, struct fs_work *work);
/* Without threads: runs the oldest; false: there is none. */
bool work_run_one(struct work_pool *pool);

/* The device queue of the worker that the caller is; only inside a work function. The other: NULL elsewhere. */
struct device_queue *work_queue(void);
struct device_queue *work_queue_if_any(void);

#endif
