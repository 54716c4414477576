/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/pool_watch.h: looks at the pool every few seconds and says, once for each change, how full it is.
 *
 * 1. A threshold is told when it is reached from below, and again when the use has fallen 2 % below it: at
 *    the edge of one the log stays quiet.
 * 2. "Full" begins with a request that was refused for want of space, and ends when none was for a minute and
 *    there is room.
 *
 * The look runs on a worker of the engine: it walks the volumes for the sum of their sizes, O(volumes).
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
	_Atomic uint64_t provisioned; /* sizes of all volumes together, as of the last look */

	/* The look's own. */
	unsigned level; /* thresholds that are reached */
	bool full;
	uint64_t enospc, refused_ms;
};

/* Of what can hold data, how much is used or promised; 0 to 100, rounded down. */
unsigned pool_used_percent(const struct fs_info *info);
/* What can be written now: free_bytes, but for what the host of a sparse pool has no room for. */
uint64_t pool_free_bytes(const struct fs_info *info);
/* The sum of the volumes' sizes; UINT64_MAX when it is more. Waits for nothing, O(volumes). */
uint64_t pool_provisioned(struct fs *fs);

/* The caller has set fs, log and config. The first look is made at once. -ENOMEM. */
int pool_watch_start(struct pool_watch *w, struct event_base *base);
/*
 * No look is begun any more; one may be under way until the pool is closed. Accepts one that was not started.
 */
void pool_watch_stop(struct pool_watch *w);

/* One look, at `now_ms`: what a worker does; tests call it. */
void pool_watch_look(struct pool_watch *w, const struct fs_info *info, uint64_t provisioned, uint64_t now_ms);

#endif
