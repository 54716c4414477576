/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/kept_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/util.h"
#include "fs/device/device_int.h"

static struct kept_device *kept_of(struct device_queue *q)
{
	return container_of(q->dev, struct kept_device, dev);
}

static void kept_close(struct device *dev)
{
	free(container_of(dev, struct kept_device, dev));
}

static int kept_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;
	int r = inner->ops->queue_new(inner, ret_q);

	if (r == 0)
		(*ret_q)->dev = dev;
	return r;
}

/* For the time of a call the queue is the inner device's again. */
#define KEPT_CALL(q, call)                               \
	do {                                             \
		struct kept_device *kept = kept_of(q);   \
		const struct device_ops *ops;            \
		q->dev = kept->inner;                    \
		ops = kept->inner->ops;                  \
		call;                                    \
		q->dev = &kept->dev;                     \
		if (device_flush_failed(kept->inner))    \
			device_set_flush_failed(q->dev); \
	} while (0)

static void kept_queue_free(struct device_queue *q)
{
	struct device *inner = kept_of(q)->inner;

	q->dev = inner;
	inner->ops->queue_free(q);
}

static void kept_submit(struct device_queue *q, struct device_io *io)
{
	struct kept_device *k = kept_of(q);
	/* a test may begin to watch while threads run: `arg` is set first */
	__typeof__(k->before_submit) before = __atomic_load_n(&k->before_submit, __ATOMIC_ACQUIRE);

	if (before)
		before(k->arg, q, io);
	KEPT_CALL(q, ops->submit(q, io));
}

static void kept_kick(struct device_queue *q)
{
	KEPT_CALL(q, ops->kick(q));
}

/*
 * Completions run in here, and they may submit: the queue is the engine's meanwhile, so the inner ops are
 * called on it.
 */
static unsigned kept_poll(struct device_queue *q)
{
	unsigned n;

	KEPT_CALL(q, n = ops->poll(q));
	return n;
}

static unsigned kept_wait(struct device_queue *q)
{
	unsigned n;

	KEPT_CALL(q, n = ops->wait(q));
	return n;
}

static int kept_fd(struct device_queue *q)
{
	int fd;

	KEPT_CALL(q, fd = ops->fd(q));
	return fd;
}

static int kept_grow(struct device *dev, uint64_t size, bool preallocate)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;
	int r = inner->ops->grow(inner, size, preallocate);

	__atomic_store_n(&dev->size, device_size(inner), __ATOMIC_RELAXED);
	return r;
}

static int kept_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;

	return inner->ops->allocate(inner, off, len, fresh);
}

static int kept_host(struct device *dev, struct device_host *ret_host)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;

	return inner->ops->host(inner, ret_host);
}

struct device *kept_device_new(struct device *inner)
{
	struct kept_device *k = calloc(1, sizeof(*k));

	assert_non_null(k);
	k->dev = *inner;
	k->inner = inner;
	k->ops = (struct device_ops){inner->ops->name, kept_close, kept_queue_new, kept_queue_free,
				     kept_submit,      kept_kick,  kept_poll,	   kept_wait,
				     kept_fd,	       kept_grow,  kept_allocate,  kept_host};
	k->dev.ops = &k->ops;
	return &k->dev;
}
