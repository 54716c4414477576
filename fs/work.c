/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/work.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/device.h"
#include "fs/fs.h"
#include "fs/lock_rank.h"

/* Set for the time of a work function only, so that none of them needs it as an argument. */
static __thread struct device_queue *current_queue;

struct device_queue *work_queue(void)
{
	ASSERT(current_queue);
	return current_queue;
}

struct device_queue *work_queue_if_any(void) { return current_queue; }

static struct fs_work *take_locked(struct work_pool *pool)
{
	struct fs_work *work = pool->head;

	if (work) {
		pool->head = work->next;
		if (!pool->head)
			pool->tail = &pool->head;
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
		struct fs_work *work = take_locked(pool);

		if (work) {
			lock_drop(&pool->lock);
			run(work, pool->queue[arg.index]);
			lock_take(&pool->lock);
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
	if (r)
		mem_free(arg);
	else
		pool->threads++;
	return r;
}

int work_pool_init(struct work_pool *pool, struct device *dev, unsigned threads)
{
	int r = 0;

	memset(pool, 0, sizeof(*pool));
	lock_init(&pool->lock, LOCK_WORK);
	lock_cond_init(&pool->cond);
	pool->tail = &pool->head;
	threads = (unsigned)min_u64(threads, WORK_THREADS_MAX);
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
	if (!pool->tail)
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
	pool->tail = NULL;
}

void work_pool_add(struct work_pool *pool, struct fs_work *work)
{
	work->next = NULL;
	lock_take(&pool->lock);
	*pool->tail = work;
	pool->tail = &work->next;
	pthread_cond_signal(&pool->cond);
	lock_drop(&pool->lock);
}

bool work_run_one(struct work_pool *pool)
{
	struct fs_work *work;

	lock_take(&pool->lock);
	work = take_locked(pool);
	lock_drop(&pool->lock);
	if (work)
		run(work, pool->queue[0]);
	return work != NULL;
}
