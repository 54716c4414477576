/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/loop.h: one event loop: a libevent base, a context of the engine, and tasks that other threads hand
 * over.
 *
 * 1. Only its own thread touches a loop, except for loop_post.
 * 2. The context's completions run inside the loop, followed at once by `after_io`: so all that finished in
 *    one pass can be answered together.
 */
#ifndef SERVER_LOOP_H
#define SERVER_LOOP_H

#include <event2/event.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/lock.h"
#include "server/task.h"

struct fs;
struct fs_ctx;

struct loop {
	unsigned index;
	struct event_base *base;
	struct fs_ctx *ctx;
	void (*after_io)(struct loop *loop); /* may be NULL */
	void *owner;			     /* the caller's */

	struct event *ctx_event, *wake_event;
	int wake_fd;
	struct lock lock; /* protects the queue of tasks */
	struct task *tasks, **tail;
	pthread_t thread;
};

/* `shared`: other threads may activate events of the base (libevent's locks are then on). */
int loop_init(struct loop *loop, struct fs *fs, unsigned index, bool shared);
/* The loop must not run; every request of the context must have finished. Accepts a zeroed loop. */
void loop_fini(struct loop *loop);

/* Runs on the calling thread until loop_stop. */
void loop_run(struct loop *loop);
/* Starts a thread that runs it, with all signals blocked. */
int loop_start(struct loop *loop);
void loop_join(struct loop *loop);
/* From the loop's own thread. */
void loop_stop(struct loop *loop);

/*
 * Runs task->fn on the loop's thread, later. From any thread; also before the loop runs. Tasks keep their
 * order.
 */
void loop_post(struct loop *loop, struct task *task);

#endif
