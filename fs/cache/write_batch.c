/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/cache/write_batch.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/cache/cache_int.h"
#include "fs/device/device.h"
#include "fs/format/node_format.h"

struct write_vector {
	struct device_io io;
	struct write_batch *wb;
	int *error; /* of a buffer; NULL: nodes */
	struct cache_entry *entry[WRITE_BATCH_NODES];
	struct iovec iov[WRITE_BATCH_NODES];
};

void write_batch_init(struct write_batch *wb, struct cache *cache, struct device_queue *q)
{
	memset(wb, 0, sizeof(*wb));
	wb->cache = cache;
	wb->q = q;
}

static void vector_done(struct device_io *io)
{
	struct write_vector *v = container_of(io, struct write_vector, io);
	struct write_batch *wb = v->wb;

	if (io->error && v->error)
		*v->error = io->error;
	else if (io->error && !wb->error)
		wb->error = io->error;
	for (unsigned i = 0; !v->error && i < WRITE_BATCH_NODES && v->entry[i]; i++)
		cache_put(wb->cache, v->entry[i]);
	wb->under_way--;
	mem_free(v);
}

static void submit(struct write_batch *wb, struct write_vector *v)
{
	struct device_queue *q = wb->q;

	while (wb->under_way >= WRITE_BATCH_UNDER_WAY)
		q->dev->ops->wait(q);
	wb->under_way++;
	wb->bytes += v->io.len;
	q->dev->ops->submit(q, &v->io);
	q->dev->ops->kick(q);
}

static void submit_open(struct write_batch *wb, int copy)
{
	struct write_vector *v = wb->open[copy];

	wb->open[copy] = NULL;
	if (v)
		submit(wb, v);
}

static struct write_vector *vector_new(struct write_batch *wb, uint64_t off)
{
	struct write_vector *v = mem_zalloc(sizeof(*v));

	if (!v)
		return NULL;
	v->wb = wb;
	v->io.op = DEVICE_WRITE;
	v->io.off = off;
	v->io.done = vector_done;
	return v;
}

static int add_node(struct write_batch *wb, struct cache_entry *entry, uint64_t off, int copy)
{
	struct write_vector *v = wb->open[copy];

	if (v && (v->io.off + v->io.len != off || v->io.iovcnt == (int)WRITE_BATCH_NODES)) {
		submit_open(wb, copy);
		v = NULL;
	}
	if (!v) {
		v = wb->open[copy] = vector_new(wb, off);
		if (!v)
			return -ENOMEM;
		v->io.iov = v->iov;
	}
	cache_pin(entry);
	v->entry[v->io.iovcnt] = entry;
	v->iov[v->io.iovcnt++] = (struct iovec){entry->data, NODE_SIZE};
	v->io.len += NODE_SIZE;
	return 0;
}

int write_batch_node(struct write_batch *wb, struct cache_entry *entry, const uint64_t *off, int n)
{
	int r = 0;

	for (int i = 0; r == 0 && i < n; i++)
		r = add_node(wb, entry, off[i], i);
	cache_put(wb->cache, entry);
	return r;
}

int write_batch_buffer(struct write_batch *wb, void *buf, uint64_t len, uint64_t off, int *error)
{
	struct write_vector *v = vector_new(wb, off);

	if (!v)
		return -ENOMEM;
	v->io.buf = buf;
	v->io.len = len;
	v->error = error;
	submit(wb, v);
	return 0;
}

int write_batch_wait(struct write_batch *wb)
{
	int r;

	submit_open(wb, 0);
	submit_open(wb, 1);
	while (wb->under_way > 0)
		wb->q->dev->ops->wait(wb->q);
	r = wb->error;
	wb->error = 0;
	return r;
}
