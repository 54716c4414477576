/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/lock.h"

#include <time.h>

#include "base/util.h"

#ifdef BYRE_DEBUG
#define HELD_MAX 16
static __thread const struct lock *held[HELD_MAX];
static __thread int held_count;

static void held_push(const struct lock *lock)
{
	ASSERT(held_count < HELD_MAX);
	for (int i = 0; i < held_count; i++)
		ASSERT(held[i]->rank < lock->rank);
	held[held_count++] = lock;
}

static void held_pop(const struct lock *lock)
{
	for (int i = held_count - 1; i >= 0; i--) {
		if (held[i] == lock) {
			held[i] = held[--held_count];
			return;
		}
	}
	ASSERT(!"a lock that is not held was dropped");
}
#else
static void held_push(const struct lock *lock)
{
	(void)lock;
}
static void held_pop(const struct lock *lock)
{
	(void)lock;
}
#endif

void lock_init(struct lock *lock, int rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->rank = rank;
}

void lock_fini(struct lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void lock_take(struct lock *lock)
{
	held_push(lock);
	pthread_mutex_lock(&lock->mutex);
}

void lock_drop(struct lock *lock)
{
	pthread_mutex_unlock(&lock->mutex);
	held_pop(lock);
}

void lock_wait(struct lock *lock, pthread_cond_t *cond)
{
	lock_assert_held(lock);
	pthread_cond_wait(cond, &lock->mutex);
}

bool lock_wait_ms(struct lock *lock, pthread_cond_t *cond, uint64_t timeout_ms)
{
	struct timespec ts;

	lock_assert_held(lock);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += (time_t)(timeout_ms / 1000);
	ts.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	return pthread_cond_timedwait(cond, &lock->mutex, &ts) == 0;
}

void lock_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

void lock_assert_held(const struct lock *lock)
{
#ifdef BYRE_DEBUG
	for (int i = 0; i < held_count; i++)
		if (held[i] == lock)
			return;
	ASSERT(!"lock not held");
#else
	(void)lock;
#endif
}
