/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/work.h: worker threads, for what must not wait in an event loop. A pool without threads has none,
 * and the caller runs the queue with work_run_one.
 */
#ifndef FS_DEVICE_WORK_H
#define FS_DEVICE_WORK_H

#include <pthread.h>
#include <stdbool.h>

#include "base/lock.h"

#define WORK_THREADS_MAX 64
/* one for waiting work, one for a rebuild, and one for the reads of a reader that the first may wait for */
#define WORK_THREADS_MIN 3

struct fs;
struct fs_work;
struct device;
struct device_queue;

struct work_list {
	struct fs_work *head, **tail;
};

/*
 * Quick work always has half of the threads: waiting work takes at most the other half, however much of it
 * there is. So reads that need nodes do not queue behind operations on volumes. (Waiting work may wait for a
 * commit, the commit for a reader, and the reader for quick work.) Whatever commits wait for counts as quick,
 * so that what waits for commits cannot hold it up.
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
	bool ready; /* between init and fini, whose callers alone look at it */
};

/* threads 0: none (simulation), but one device queue for work_run_one. Else WORK_THREADS_MIN at least. */
int work_pool_init(struct work_pool *pool, struct device *dev, unsigned threads);
/* Runs everything that is queued, then ends the threads. */
void work_pool_fini(struct work_pool *pool);
/*
 * Quick work may wait for the device, and for locks that are briefly held across I/O, and for nothing else.
 */
void work_pool_add(struct work_pool *pool, struct fs_work *work);
/* For work that may wait for a commit, or take long. Runs on half of the threads at most. */
void work_pool_add_waiting(struct work_pool *pool, struct fs_work *work);
/* Without threads: runs the oldest; false: there is none. */
bool work_run_one(struct work_pool *pool);

/* The calling worker's device queue; only inside a work function. The second returns NULL elsewhere. */
struct device_queue *work_queue(void);
struct device_queue *work_queue_if_any(void);
/* For tests. Sets it and returns what it was: for the crash simulator, whose workers share one thread. */
struct device_queue *work_queue_set(struct device_queue *q);

#endif
