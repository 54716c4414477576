/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/device/executor.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "fs/device/device.h"

int executor_init(struct executor *ex, struct device *dev)
{
	int r;

	*ex = (struct executor){.event_fd = -1};
	ex->posts_tail = &ex->posts;
	lock_init(&ex->lock, LOCK_CTX_POST);
	r = dev->ops->queue_new(dev, &ex->q);
	if (r)
		return r;
	ex->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return ex->event_fd >= 0 ? 0 : -errno;
}

void executor_fini(struct executor *ex)
{
	ASSERT(!ex->posts);
	if (ex->q)
		ex->q->dev->ops->queue_free(ex->q);
	if (ex->event_fd >= 0)
		close(ex->event_fd);
	lock_fini(&ex->lock);
}

void executor_post(struct executor *ex, struct post *post)
{
	uint64_t one = 1;
	bool first;

	post->next = NULL;
	lock_take(&ex->lock);
	first = !ex->posts;
	*ex->posts_tail = post;
	ex->posts_tail = &post->next;
	/* Under the lock: when it is dropped the executor may run the post, end, and be freed. */
	if (first && write(ex->event_fd, &one, sizeof(one)) < 0)
		ASSERT(errno == EAGAIN);
	lock_drop(&ex->lock);
}

static struct post *take_posts(struct executor *ex)
{
	struct post *list;
	uint64_t count;

	lock_take(&ex->lock);
	list = ex->posts;
	ex->posts = NULL;
	ex->posts_tail = &ex->posts;
	if (list && read(ex->event_fd, &count, sizeof(count)) < 0)
		ASSERT(errno == EAGAIN);
	lock_drop(&ex->lock);
	return list;
}

void executor_run(struct executor *ex)
{
	struct post *post = take_posts(ex), *next;

	for (; post; post = next) {
		next = post->next;
		post->fn(post);
	}
}
