/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/disk.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "tests/crash/sim/sched.h"
#include "fs/device/device_int.h"

#define HELD_MAX 16

struct disk {
	struct device dev;
	struct device *sim;
	unsigned hold_reads, hold_polls;
};

/* A read that is held back. */
struct held {
	struct device_io *io;
	unsigned polls;
};

struct disk_queue {
	struct device_queue q;
	struct device_queue *inner;
	uint64_t under_way;
	struct held held[HELD_MAX];
	unsigned nr_held;
};

static struct disk_queue *queue_of(struct device_queue *q)
{
	return container_of(q, struct disk_queue, q);
}

static void disk_close(struct device *dev)
{
	free(container_of(dev, struct disk, dev));
}

static int disk_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct disk_queue *dq = calloc(1, sizeof(*dq));
	struct device *sim = container_of(dev, struct disk, dev)->sim;
	int r;

	ASSERT(dq);
	dq->q.dev = dev;
	r = sim->ops->queue_new(sim, &dq->inner);
	ASSERT(r == 0);
	*ret_q = &dq->q;
	return 0;
}

static void disk_queue_free(struct device_queue *q)
{
	device_queue_free(queue_of(q)->inner);
	free(queue_of(q));
}

/* A flush on its way: whether it has failed is known before its done runs. */
struct disk_flush {
	struct device_io io, *outer;
	struct device *dev;
};

static void flush_done(struct device_io *io)
{
	struct disk_flush flush = *container_of(io, struct disk_flush, io);

	free(container_of(io, struct disk_flush, io));
	if (device_flush_failed(container_of(flush.dev, struct disk, dev)->sim))
		device_set_flush_failed(flush.dev);
	flush.outer->error = flush.io.error;
	flush.outer->done(flush.outer);
}

static struct device_io *flush_new(struct device *dev, struct device_io *outer)
{
	struct disk_flush *flush = calloc(1, sizeof(*flush));

	ASSERT(flush);
	*flush = (struct disk_flush){
		.io = {.op = DEVICE_FLUSH, .done = flush_done}, .outer = outer, .dev = dev};
	return &flush->io;
}

void disk_hold_reads(struct device *dev, unsigned reads, unsigned polls)
{
	struct disk *disk = container_of(dev, struct disk, dev);

	disk->hold_reads = reads;
	disk->hold_polls = polls;
}

static bool hold_back(struct disk_queue *dq, struct device_io *io)
{
	struct disk *disk = container_of(dq->q.dev, struct disk, dev);

	if (io->op != DEVICE_READ || disk->hold_reads == 0 || dq->nr_held == HELD_MAX)
		return false;
	disk->hold_reads--;
	dq->held[dq->nr_held++] = (struct held){io, 1 + disk->hold_polls};
	return true;
}

/* Those whose time has come go on. */
static void let_go(struct disk_queue *dq)
{
	unsigned kept = 0, gone = 0;

	for (unsigned i = 0; i < dq->nr_held; i++) {
		if (--dq->held[i].polls > 0) {
			dq->held[kept++] = dq->held[i];
		} else {
			dq->inner->dev->ops->submit(dq->inner, dq->held[i].io);
			gone++;
		}
	}
	dq->nr_held = kept;
	if (gone)
		dq->inner->dev->ops->kick(dq->inner);
}

static void disk_submit(struct device_queue *q, struct device_io *io)
{
	struct device_queue *inner = queue_of(q)->inner;

	queue_of(q)->under_way++;
	if (hold_back(queue_of(q), io))
		return;
	inner->dev->ops->submit(inner, io->op == DEVICE_FLUSH ? flush_new(q->dev, io) : io);
}

static void disk_kick(struct device_queue *q)
{
	struct device_queue *inner = queue_of(q)->inner;

	inner->dev->ops->kick(inner);
}

static unsigned disk_poll(struct device_queue *q)
{
	struct device_queue *inner = queue_of(q)->inner;
	unsigned n;

	let_go(queue_of(q));
	n = inner->dev->ops->poll(inner);
	queue_of(q)->under_way -= n;
	q->dev->flushes = device_flushes(inner->dev);
	return n;
}

static unsigned disk_wait(struct device_queue *q)
{
	unsigned n = 0;

	disk_kick(q);
	while (n == 0 && queue_of(q)->under_way) {
		sched_pause();
		n = disk_poll(q);
	}
	return n;
}

static int disk_fd(struct device_queue *q)
{
	(void)q;
	return -ENOSYS;
}

static int disk_grow(struct device *dev, uint64_t size, bool preallocate)
{
	struct device *sim = container_of(dev, struct disk, dev)->sim;
	int r = sim->ops->grow(sim, size, preallocate);

	dev->size = sim->size;
	return r;
}

static int disk_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	struct device *sim = container_of(dev, struct disk, dev)->sim;

	return sim->ops->allocate(sim, off, len, fresh);
}

static int disk_host(struct device *dev, struct device_host *ret_host)
{
	struct device *sim = container_of(dev, struct disk, dev)->sim;

	return sim->ops->host(sim, ret_host);
}

static const struct device_ops disk_ops = {
	.name = "simulated",
	.close = disk_close,
	.queue_new = disk_queue_new,
	.queue_free = disk_queue_free,
	.submit = disk_submit,
	.kick = disk_kick,
	.poll = disk_poll,
	.wait = disk_wait,
	.fd = disk_fd,
	.grow = disk_grow,
	.allocate = disk_allocate,
	.host = disk_host,
};

struct device *disk_new(struct device *sim)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	ASSERT(disk);
	disk->dev = *sim;
	disk->dev.ops = &disk_ops;
	disk->sim = sim;
	return &disk->dev;
}

bool disk_queue_is_busy(const struct device_queue *q)
{
	return container_of(q, const struct disk_queue, q)->under_way > 0;
}
