/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/clock.h"

#include "fs/pool/pool.h"
#include "tests/crash/sim/sched.h"

#define BEGIN_US 1000000u
#define BEGIN_WALL_NS 1700000000000000000u
#define WORKER_POLL_US 1000u

static uint64_t sim_now_us(void)
{
	return BEGIN_US + sched_now_us();
}

static uint64_t sim_wall_ns(void)
{
	return BEGIN_WALL_NS + sched_now_us() * 1000;
}

static int sim_random_bytes(void *buf, size_t len)
{
	static uint64_t state;
	unsigned char *at = buf;

	for (size_t i = 0; i < len; i++)
		at[i] = (unsigned char)rng_next(&state);
	return 0;
}

static bool sim_pause(uint64_t us)
{
	sched_sleep_on(&us, us);
	return true;
}

static void sim_await_worker(struct fs *fs)
{
	(void)sim_pause(WORKER_POLL_US);
}

/* Locks and conditions are threads.c's here. */
static bool sim_await_done(struct fs *fs, const bool *done)
{
	return fs_clock_system.await_done(fs, done);
}

static bool sim_await_cond(struct lock *lock, pthread_cond_t *cond)
{
	return fs_clock_system.await_cond(lock, cond);
}

static void sim_await_fd(struct fs *fs, int fd)
{
	sched_pause();
}

const struct fs_clock sim_clock = {
	.threads = true,
	.now_us = sim_now_us,
	.wall_ns = sim_wall_ns,
	.random = sim_random_bytes,
	.pause = sim_pause,
	.await_worker = sim_await_worker,
	.await_done = sim_await_done,
	.await_cond = sim_await_cond,
	.await_fd = sim_await_fd,
};

const struct fs_clock *sim_clock_alone(void)
{
	static struct fs_clock clock;

	clock = pool_without_threads;
	clock.now_us = sim_now_us;
	clock.wall_ns = sim_wall_ns;
	clock.random = sim_random_bytes;
	return &clock;
}
