/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/pool_watch.h: looks at the pool every few seconds and says, once for each change, how full it is.
 *
 * 1. A threshold is told when it is reached from below, and again when the use has fallen 2 % below it: at
 *    the edge of one the log stays quiet.
 * 2. "Full" begins with a request that was refused for want of space, and ends when none was for a minute and
 *    there is room.
 *
 * The look runs on a worker of the engine, which asks the host of a sparse pool. It is O(1).
 */
#ifndef SERVER_POOL_WATCH_H
#define SERVER_POOL_WATCH_H

#include <event2/event.h>
#include <stdatomic.h>

#include "base/log.h"
#include "fs/fs.h"
#include "server/config.h"

#define POOL_WATCH_MS 5000
#define POOL_WATCH_QUIET_MS 60000

struct pool_watch {
	struct fs *fs;
	struct log *log;
	const struct config *config; /* its pool and its thresholds */
	struct event *timer;
	struct fs_work work;
	atomic_bool busy;

	/* The look's own. */
	unsigned level; /* thresholds that are reached */
	bool full;
	uint64_t enospc, refused_ms;
};

/* Of what can hold data, how much is used or promised; 0 to 100, rounded down. */
unsigned pool_used_percent(const struct fs_info *info);
/* Of that, what is used or promised, and what can be written now: what the host has no room for is not. */
uint64_t pool_used_bytes(const struct fs_info *info);
uint64_t pool_left_bytes(const struct fs_info *info);

/* The caller has set fs, log and config. The first look is made at once. -ENOMEM. */
int pool_watch_start(struct pool_watch *w, struct event_base *base);
/*
 * No look is begun any more; one may be under way until the pool is closed. Accepts one that was not started.
 */
void pool_watch_stop(struct pool_watch *w);

/* One look, at `now_ms`: what a worker does; tests call it. */
void pool_watch_look(struct pool_watch *w, const struct fs_info *info, uint64_t now_ms);

#endif
