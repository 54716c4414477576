/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/threads.c: base/lock.h and the pthread calls of the engine on fibers. The program defines
 * them itself, so the library's lock.o is not linked and the C library's are not called. The system's clock
 * and random numbers are traps here: the engine has clock.h.
 *
 * Ranks are not checked here: a fiber holds its locks while another one runs on the same thread. Debug builds
 * of the other tests do that.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"

/* ---- base/lock.h --------------------------------------------------------------- */

void lock_init(struct lock *lock, int rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->rank = rank;
}

void lock_fini(struct lock *lock)
{
	int err = pthread_mutex_destroy(&lock->mutex);

	ASSERT(!err);
}

/* What the device does is one step. */
static bool may_preempt(const struct lock *lock)
{
	return lock->rank != LOCK_DEVICE;
}

void lock_take(struct lock *lock)
{
	if (may_preempt(lock))
		sched_preempt();
	while (pthread_mutex_trylock(&lock->mutex))
		sched_sleep_on(lock, UINT64_MAX);
}

static void drop(struct lock *lock)
{
	int err = pthread_mutex_unlock(&lock->mutex);

	ASSERT(!err);
	sched_wake(lock);
}

void lock_drop(struct lock *lock)
{
	drop(lock);
	if (may_preempt(lock))
		sched_preempt();
}

void lock_wait(struct lock *lock, pthread_cond_t *cond)
{
	drop(lock);
	sched_sleep_on(cond, UINT64_MAX);
	lock_take(lock);
}

bool lock_wait_ms(struct lock *lock, pthread_cond_t *cond, uint64_t timeout_ms)
{
	uint64_t end = sched_now_us() + timeout_ms * 1000;

	drop(lock);
	sched_sleep_on(cond, timeout_ms * 1000);
	lock_take(lock);
	return sched_now_us() < end;
}

void lock_cond_init(pthread_cond_t *cond)
{
	pthread_cond_init(cond, NULL);
}

void lock_assert_held(const struct lock *lock)
{
	(void)lock;
}

/* ---- pthread ------------------------------------------------------------------- */

struct thread_start {
	void *(*fn)(void *arg);
	void *arg;
};

static void thread_fiber(void *p)
{
	struct thread_start start = *(struct thread_start *)p;

	free(p);
	(void)start.fn(start.arg);
}

int pthread_create(pthread_t *ret_thread, const pthread_attr_t *attr, void *(*fn)(void *arg), void *arg)
{
	struct thread_start *start = malloc(sizeof(*start));

	ASSERT(start && !attr);
	*start = (struct thread_start){fn, arg};
	*ret_thread = (pthread_t)(uintptr_t)sched_start("thread", thread_fiber, start);
	return 0;
}

int pthread_join(pthread_t thread, void **ret)
{
	sched_join((struct fiber *)(uintptr_t)thread);
	if (ret)
		*ret = NULL;
	return 0;
}

int pthread_cond_signal(pthread_cond_t *cond)
{
	sched_wake(cond);
	return 0;
}

int pthread_cond_broadcast(pthread_cond_t *cond)
{
	sched_wake(cond);
	return 0;
}

/* ---- what the engine does not call, since it has a clock of its own ------------ */

int nanosleep(const struct timespec *req, struct timespec *rem)
{
	sim_fail("nanosleep was called: the engine waits through fs/core/clock.h");
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	if (clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME)
		sim_fail("clock_gettime was called: the engine's time comes from fs/core/clock.h");
	return (int)syscall(SYS_clock_gettime, clock, ts);
}

ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
	sim_fail("getrandom was called: the engine's random numbers come from fs/core/clock.h");
}
