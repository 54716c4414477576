/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * base/lock.h: mutexes with ranks. A thread may take a lock only if its rank is greater than
 * that of every lock it holds; debug builds (BYRE_DEBUG) abort on misorder.
 */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct lock {
	pthread_mutex_t mutex;
	int rank;
};

void lock_init(struct lock *lock, int rank);
void lock_fini(struct lock *lock);
void lock_take(struct lock *lock);
void lock_drop(struct lock *lock);
/* Waits on cond with the lock held (and dropped meanwhile), as pthread_cond_wait. */
void lock_wait(struct lock *lock, pthread_cond_t *cond);
/*
 * As lock_wait, for timeout_ms at most (CLOCK_MONOTONIC: init the condition with lock_cond_init). False when
 * the time ran out.
 */
bool lock_wait_ms(struct lock *lock, pthread_cond_t *cond, uint64_t timeout_ms);
void lock_cond_init(pthread_cond_t *cond);
/* Aborts in debug builds unless the calling thread holds the lock. */
void lock_assert_held(const struct lock *lock);

#endif
