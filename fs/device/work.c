/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "fs/device/device.h"
#include "fs/fs.h"
#include "fs/device/work.h"

#include <errno.h>
#include <string.h>

/* Set for the time of a work function only, so that none of them needs it as an argument. */
static __thread struct device_queue *current_queue;

struct device_queue *work_queue(void)
{
	ASSERT(current_queue);
	return current_queue;
}

struct device_queue *work_queue_if_any(void)
{
	return current_queue;
}

struct device_queue *work_queue_set(struct device_queue *q)
{
	struct device_queue *was = current_queue;

	current_queue = q;
	return was;
}

static void list_init(struct work_list *list)
{
	list->head = NULL;
	list->tail = &list->head;
}

static void list_add(struct work_list *list, struct fs_work *work)
{
	work->next = NULL;
	*list->tail = work;
	list->tail = &work->next;
}

static struct fs_work *list_take(struct work_list *list)
{
	struct fs_work *work = list->head;

	if (work) {
		list->head = work->next;
		if (!list->head)
			list->tail = &list->head;
	}
	return work;
}

/* *ret_waiting: it is of what may wait. */
static struct fs_work *take_locked(struct work_pool *pool, bool *ret_waiting)
{
	struct fs_work *work = list_take(&pool->quick);

	*ret_waiting = false;
	if (!work && pool->nr_waiting < max_u64(pool->threads / 2, 1)) {
		work = list_take(&pool->waiting);
		*ret_waiting = work != NULL;
	}
	return work;
}

static void run(struct fs_work *work, struct device_queue *q)
{
	struct device_queue *outer = current_queue;

	current_queue = q;
	work->fn(work);
	current_queue = outer;
}

struct worker_arg {
	struct work_pool *pool;
	unsigned index;
};

static void *worker(void *p)
{
	struct worker_arg arg = *(struct worker_arg *)p;
	struct work_pool *pool = arg.pool;

	mem_free(p);
	lock_take(&pool->lock);
	for (;;) {
		bool waiting;
		struct fs_work *work = take_locked(pool, &waiting);

		if (work) {
			pool->nr_waiting += waiting;
			lock_drop(&pool->lock);
			run(work, pool->queue[arg.index]);
			lock_take(&pool->lock);
			pool->nr_waiting -= waiting;
		} else if (pool->stop) {
			break;
		} else {
			lock_wait(&pool->lock, &pool->cond);
		}
	}
	lock_drop(&pool->lock);
	return NULL;
}

static int start_thread(struct work_pool *pool)
{
	struct worker_arg *arg = mem_alloc(sizeof(*arg));
	int r;

	if (!arg)
		return -ENOMEM;
	*arg = (struct worker_arg){pool, pool->threads};
	r = -pthread_create(&pool->thread[pool->threads], NULL, worker, arg);
	if (r) {
		mem_free(arg);
		return r;
	}
	lock_take(&pool->lock); /* those that run already look at it */
	pool->threads++;
	lock_drop(&pool->lock);
	return 0;
}

int work_pool_init(struct work_pool *pool, struct device *dev, unsigned threads)
{
	int r = 0;

	memset(pool, 0, sizeof(*pool));
	pool->ready = true;
	lock_init(&pool->lock, LOCK_WORK);
	lock_cond_init(&pool->cond);
	list_init(&pool->quick);
	list_init(&pool->waiting);
	if (threads)
		threads = (unsigned)min_u64(max_u64(threads, WORK_THREADS_MIN), WORK_THREADS_MAX);
	for (unsigned i = 0; r == 0 && i < max_u64(threads, 1); i++) {
		r = dev->ops->queue_new(dev, &pool->queue[i]);
		pool->queues += r == 0;
	}
	for (unsigned i = 0; r == 0 && i < threads; i++)
		r = start_thread(pool);
	if (r)
		work_pool_fini(pool);
	return r;
}

void work_pool_fini(struct work_pool *pool)
{
	if (!pool->ready)
		return;
	lock_take(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->cond);
	lock_drop(&pool->lock);
	for (unsigned i = 0; i < pool->threads; i++)
		pthread_join(pool->thread[i], NULL);
	while (work_run_one(pool))
		;
	for (unsigned i = 0; i < pool->queues; i++)
		pool->queue[i]->dev->ops->queue_free(pool->queue[i]);
	pthread_cond_destroy(&pool->cond);
	lock_fini(&pool->lock);
	pool->ready = false;
}

void work_pool_add(struct work_pool *pool, struct fs_work *work)
{
	lock_take(&pool->lock);
	list_add(&pool->quick, work);
	pthread_cond_signal(&pool->cond);
	lock_drop(&pool->lock);
}

void work_pool_add_waiting(struct work_pool *pool, struct fs_work *work)
{
	lock_take(&pool->lock);
	list_add(&pool->waiting, work);
	/* where it is not taken at once, one of those that are takes it when it has ended */
	pthread_cond_signal(&pool->cond);
	lock_drop(&pool->lock);
}

bool work_run_one(struct work_pool *pool)
{
	struct fs_work *work;
	bool waiting;

	lock_take(&pool->lock);
	work = take_locked(pool, &waiting);
	lock_drop(&pool->lock);
	if (work)
		run(work, pool->queue[0]);
	return work != NULL;
}
