/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/loop.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/core/lock_rank.h"
#include "fs/fs.h"

static void on_ctx(evutil_socket_t fd, short what, void *arg)
{
	struct loop *loop = arg;

	fs_ctx_run(loop->ctx);
	if (loop->after_io)
		loop->after_io(loop);
}

static struct task *take_tasks(struct loop *loop)
{
	struct task *tasks;

	lock_take(&loop->lock);
	tasks = loop->tasks;
	loop->tasks = NULL;
	loop->tail = &loop->tasks;
	lock_drop(&loop->lock);
	return tasks;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct loop *loop = arg;
	struct task *task, *next;
	eventfd_t value;

	eventfd_read(loop->wake_fd, &value);
	for (task = take_tasks(loop); task; task = next) {
		next = task->next;
		task->fn(task);
	}
	if (loop->after_io)
		loop->after_io(loop);
}

static struct event_base *base_new(bool shared)
{
	struct event_config *config = event_config_new();
	struct event_base *base;

	if (!config)
		return NULL;
	if (!shared)
		event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

static struct event *watch(struct loop *loop, int fd, event_callback_fn fn)
{
	struct event *ev = event_new(loop->base, fd, EV_READ | EV_PERSIST, fn, loop);

	if (ev && event_add(ev, NULL) < 0) {
		event_free(ev);
		return NULL;
	}
	return ev;
}

int loop_init(struct loop *loop, struct fs *fs, unsigned index, bool shared)
{
	int r;

	*loop = (struct loop){.index = index, .wake_fd = -1};
	loop->tail = &loop->tasks;
	lock_init(&loop->lock, LOCK_LOOP);
	loop->base = base_new(shared);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!loop->base || loop->wake_fd < 0) {
		r = loop->base ? -errno : -ENOMEM;
		goto fail;
	}
	r = fs_ctx_new(fs, &loop->ctx);
	if (r < 0)
		goto fail;
	loop->ctx_event = watch(loop, fs_ctx_fd(loop->ctx), on_ctx);
	loop->wake_event = watch(loop, loop->wake_fd, on_wake);
	if (loop->ctx_event && loop->wake_event)
		return 0;
	r = -ENOMEM;
fail:
	loop_fini(loop);
	return r;
}

void loop_fini(struct loop *loop)
{
	if (!loop->tail)
		return;
	if (loop->ctx_event)
		event_free(loop->ctx_event);
	if (loop->wake_event)
		event_free(loop->wake_event);
	fs_ctx_free(loop->ctx);
	if (loop->base)
		event_base_free(loop->base);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	lock_fini(&loop->lock);
	*loop = (struct loop){.wake_fd = -1};
}

void loop_run(struct loop *loop)
{
	event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
}

static void *thread_main(void *arg)
{
	struct loop *loop = arg;
	char name[16];

	snprintf(name, sizeof(name), "loop-%u", loop->index);
	pthread_setname_np(pthread_self(), name);
	loop_run(loop);
	return NULL;
}

int loop_start(struct loop *loop)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&loop->thread, NULL, thread_main, loop);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void loop_join(struct loop *loop)
{
	pthread_join(loop->thread, NULL);
}

void loop_stop(struct loop *loop)
{
	event_base_loopbreak(loop->base);
}

void loop_post(struct loop *loop, struct task *task)
{
	task->next = NULL;
	lock_take(&loop->lock);
	*loop->tail = task;
	loop->tail = &task->next;
	lock_drop(&loop->lock);
	eventfd_write(loop->wake_fd, 1);
}
