/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/clock.h: time, waiting and chance. They enter the engine through one table of operations, which
 * pool_open is given: the system's own here, that of a pool without threads in fs/pool/pool_step.c, and the
 * crash simulator has one with its own time.
 *
 * Invariants
 * 1. An open pool asks nothing else for the time, for a pause or for random numbers; only devices, which are
 *    opened before there is a pool, do. (The crash simulator stops at a call that goes past the table.)
 * 2. Whoever waits for others goes through here, since in a pool without threads there are none: there the
 *    calls do the others' work themselves, or return false, and then nothing is going to change.
 */
#ifndef FS_CORE_CLOCK_H
#define FS_CORE_CLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fs;
struct lock;

struct fs_clock {
	/* Threads are started for commits, work and scrubs. Else the pool's owner calls pool_step. */
	bool threads;
	uint64_t (*now_us)(void);
	uint64_t (*wall_ns)(void);
	/* 0 or -EIO. */
	int (*random)(void *buf, size_t len);
	bool (*pause)(uint64_t us);
	void (*await_worker)(struct fs *fs);
	bool (*await_done)(struct fs *fs, const bool *done);
	bool (*await_cond)(struct lock *lock, pthread_cond_t *cond);
	void (*await_fd)(struct fs *fs, int fd);
};

/* The system's clock and random numbers, and threads. */
extern const struct fs_clock fs_clock_system;

/* Microseconds of the monotonic clock: for durations. */
uint64_t fs_now_us(const struct fs *fs);
/* Nanoseconds since 1970, UTC: for what people read. It may jump. */
uint64_t fs_wall_ns(const struct fs *fs);
/* Fills buf. 0 or -EIO. */
int fs_random(const struct fs *fs, void *buf, size_t len);

/* Others go on for so long. False: there are no others, and no time passes. */
bool fs_pause(const struct fs *fs, uint64_t us);
/* A moment for the workers. The caller asks again whether what it waits for is done. */
void fs_await_worker(struct fs *fs);
/*
 * Until *done, which somebody sets under state_lock and tells with done_cond. False: it is not, nothing that
 * could be done without threads helps, and a commit fails.
 */
bool fs_await_done(struct fs *fs, const bool *done);
/* One wait for a condition with its lock held; it may end for no reason. False: nobody will signal it. */
bool fs_await_cond(const struct fs *fs, struct lock *lock, pthread_cond_t *cond);
/* Until the descriptor of a context is ready, for a second at most. */
void fs_await_fd(struct fs *fs, int fd);

#endif
