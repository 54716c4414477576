/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/core/clock.h"

#include <errno.h>
#include <poll.h>
#include <sys/random.h>
#include <time.h>

#include "base/lock.h"
#include "fs/core/fs_int.h"

#define WORKER_POLL_US 1000u
#define FD_WAIT_MS 1000

static uint64_t system_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t system_wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int system_random(void *buf, size_t len)
{
	return getrandom(buf, len, 0) == (ssize_t)len ? 0 : -EIO;
}

static bool system_pause(uint64_t us)
{
	nanosleep(&(struct timespec){(time_t)(us / 1000000), (long)(us % 1000000) * 1000}, NULL);
	return true;
}

static void system_await_worker(struct fs *fs)
{
	(void)fs_pause(fs, WORKER_POLL_US);
}

static bool system_await_done(struct fs *fs, const bool *done)
{
	lock_take(&fs->state_lock);
	while (!*done)
		lock_wait(&fs->state_lock, &fs->done_cond);
	lock_drop(&fs->state_lock);
	return true;
}

static bool system_await_cond(struct lock *lock, pthread_cond_t *cond)
{
	lock_wait(lock, cond);
	return true;
}

static void system_await_fd(struct fs *fs, int fd)
{
	(void)poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, FD_WAIT_MS);
}

const struct fs_clock fs_clock_system = {
	.threads = true,
	.now_us = system_now_us,
	.wall_ns = system_wall_ns,
	.random = system_random,
	.pause = system_pause,
	.await_worker = system_await_worker,
	.await_done = system_await_done,
	.await_cond = system_await_cond,
	.await_fd = system_await_fd,
};

uint64_t fs_now_us(const struct fs *fs)
{
	return fs->clock->now_us();
}

uint64_t fs_wall_ns(const struct fs *fs)
{
	return fs->clock->wall_ns();
}

int fs_random(const struct fs *fs, void *buf, size_t len)
{
	return fs->clock->random(buf, len);
}

bool fs_pause(const struct fs *fs, uint64_t us)
{
	return fs->clock->pause(us);
}

void fs_await_worker(struct fs *fs)
{
	fs->clock->await_worker(fs);
}

bool fs_await_done(struct fs *fs, const bool *done)
{
	return fs->clock->await_done(fs, done);
}

bool fs_await_cond(const struct fs *fs, struct lock *lock, pthread_cond_t *cond)
{
	return fs->clock->await_cond(lock, cond);
}

void fs_await_fd(struct fs *fs, int fd)
{
	fs->clock->await_fd(fs, fd);
}
