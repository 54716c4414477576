/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_record.c: a device that passes everything on to another one and records what changes it.
 * Format and guarantees of the log are in device_record.h.
 *
 * Invariants
 * 1. Reads go through as they are. Anything else goes in a slot: a copy of the request whose done records it.
 *    Slots are made with the queue, so that no request fails for memory; when they are all in use, requests
 *    wait in `kicked`.
 * 2. Once the log cannot be written, every write, discard and flush fails with that error: nothing that is
 *    acknowledged is missing from the log.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "fs/device/device.h"
#include "fs/device/device_int.h"
#include "fs/device/device_record.h"

#define SLOT_COUNT 32
#define SLOT_IOV 1024

struct record_device {
	struct device dev;
	struct device *inner;
	int fd;
	struct lock lock; /* of what follows */
	uint64_t seq;	  /* of the last entry */
	int error;
};

struct record_queue;

struct record_slot {
	struct device_io io;
	struct device_io *outer;
	struct record_queue *rq;
	struct record_slot *next;
	/* the inner device's, to change; the outer one still tells where the data is */
	struct iovec iov[SLOT_IOV];
};

struct record_queue {
	struct device_queue q;
	struct device_queue *inner;
	struct io_list fresh, kicked;
	struct record_slot *slots; /* free ones */
	struct record_slot *all;
	unsigned in_slots;
};

static struct record_device *record_of(struct device *dev)
{
	return container_of(dev, struct record_device, dev);
}

/* ---- writing the log ------------------------------------------------------------------- */

static int write_all(int fd, const void *buf, uint64_t len)
{
	const char *at = buf;

	while (len) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
		len -= (uint64_t)n;
	}
	return 0;
}

uint32_t record_crc_block(uint32_t crc, const void *block)
{
	le32 pair[2] = {cpu_to_le32(crc), cpu_to_le32(crc32c(block, DEVICE_ALIGN))};

	return crc32c(pair, sizeof(pair));
}

static const struct iovec *vector_of(const struct device_io *io, struct iovec *one, int *ret_cnt)
{
	*one = (struct iovec){.iov_base = io->buf, .iov_len = io->len};
	*ret_cnt = io->iovcnt ? io->iovcnt : 1;
	return io->iovcnt ? io->iov : one;
}

static uint32_t data_crc(const struct iovec *iov, int cnt)
{
	uint32_t crc = 0;

	for (int i = 0; i < cnt; i++)
		for (uint64_t at = 0; at < iov[i].iov_len; at += DEVICE_ALIGN)
			crc = record_crc_block(crc, (const char *)iov[i].iov_base + at);
	return crc;
}

/* Numbers the entry and appends it with its data. */
static int log_append_locked(struct record_device *rd, struct record_entry *entry, const struct iovec *iov,
			     int cnt)
{
	lock_assert_held(&rd->lock);
	if (rd->error)
		return rd->error;
	entry->seq = cpu_to_le64(rd->seq + 1);
	entry->crc = cpu_to_le32(crc32c(entry, sizeof(*entry)));
	rd->error = write_all(rd->fd, entry, sizeof(*entry));
	for (int i = 0; i < cnt && !rd->error; i++)
		rd->error = write_all(rd->fd, iov[i].iov_base, iov[i].iov_len);
	rd->seq += !rd->error;
	return rd->error;
}

static int log_request(struct record_device *rd, const struct device_io *io)
{
	static const enum record_type types[] = {[DEVICE_WRITE] = RECORD_WRITE,
						 [DEVICE_FLUSH] = RECORD_FLUSH,
						 [DEVICE_DISCARD] = RECORD_DISCARD};
	struct record_entry entry = {.type = cpu_to_le32(types[io->op])};
	struct iovec one;
	int cnt, err;
	const struct iovec *iov = vector_of(io, &one, &cnt);

	if (io->op == DEVICE_FLUSH) {
		entry.covers = cpu_to_le64(io->progress);
	} else {
		entry.off = cpu_to_le64(io->off);
		entry.len = cpu_to_le64(io->len);
	}
	if (io->op == DEVICE_WRITE)
		entry.data_crc = cpu_to_le32(data_crc(iov, cnt));
	else
		cnt = 0;
	lock_take(&rd->lock);
	err = log_append_locked(rd, &entry, iov, cnt);
	lock_drop(&rd->lock);
	return err;
}

static int log_start(struct record_device *rd)
{
	struct record_header header = {.version = cpu_to_le32(RECORD_VERSION),
				       .size = cpu_to_le64(rd->dev.size)};

	memcpy(header.magic, RECORD_MAGIC, sizeof(header.magic));
	header.crc = cpu_to_le32(crc32c(&header, sizeof(header)));
	return write_all(rd->fd, &header, sizeof(header));
}

/* ---- requests ------------------------------------------------------------------------------ */

/* What the inner device says of itself has to be seen here too. */
static void mirror(struct record_device *rd)
{
	if (device_flush_failed(rd->inner))
		device_set_flush_failed(&rd->dev);
	__atomic_store_n(&rd->dev.flushes, device_flushes(rd->inner), __ATOMIC_RELAXED);
	__atomic_store_n(&rd->dev.discard, device_can_discard(rd->inner), __ATOMIC_RELAXED);
}

static void slot_done(struct device_io *io)
{
	struct record_slot *slot = container_of(io, struct record_slot, io);
	struct record_queue *rq = slot->rq;
	struct record_device *rd = record_of(rq->q.dev);
	struct device_io *outer = slot->outer;
	int err = io->error;

	mirror(rd);
	if (!err && (outer->len || outer->op == DEVICE_FLUSH))
		err = log_request(rd, outer);
	slot->next = rq->slots;
	rq->slots = slot;
	rq->in_slots--;
	outer->error = err;
	outer->done(outer);
}

static void start_in_slot(struct record_queue *rq, struct device_io *outer)
{
	struct record_slot *slot = rq->slots;

	rq->slots = slot->next;
	rq->in_slots++;
	slot->outer = outer;
	slot->io = (struct device_io){
		.op = outer->op, .off = outer->off, .len = outer->len, .buf = outer->buf, .done = slot_done};
	/* A count that is out of bounds is the inner device's to refuse. */
	slot->io.iovcnt = outer->iovcnt;
	slot->io.iov = slot->iov;
	if (outer->iovcnt > 0 && outer->iovcnt <= SLOT_IOV)
		memcpy(slot->iov, outer->iov, (size_t)outer->iovcnt * sizeof(*outer->iov));
	rq->inner->dev->ops->submit(rq->inner, &slot->io);
}

static void pump(struct record_queue *rq)
{
	struct device_io *io;

	while ((io = rq->kicked.head) && (io->op == DEVICE_READ || rq->slots)) {
		io_list_pop(&rq->kicked);
		if (io->op == DEVICE_READ)
			rq->inner->dev->ops->submit(rq->inner, io);
		else
			start_in_slot(rq, io);
	}
	rq->inner->dev->ops->kick(rq->inner);
}

static void record_submit(struct device_queue *q, struct device_io *io)
{
	struct record_device *rd = record_of(q->dev);

	io->error = 0;
	lock_take(&rd->lock);
	io->progress = rd->seq; /* what a flush covers */
	lock_drop(&rd->lock);
	io_list_append(&container_of(q, struct record_queue, q)->fresh, io);
}

static void record_kick(struct device_queue *q)
{
	struct record_queue *rq = container_of(q, struct record_queue, q);

	io_list_splice(&rq->kicked, &rq->fresh);
	pump(rq);
}

static unsigned record_poll(struct device_queue *q)
{
	struct record_queue *rq = container_of(q, struct record_queue, q);
	unsigned n = rq->inner->dev->ops->poll(rq->inner);

	if (rq->kicked.head)
		pump(rq);
	return n;
}

static unsigned record_wait(struct device_queue *q)
{
	struct record_queue *rq = container_of(q, struct record_queue, q);
	unsigned n;

	record_kick(q);
	n = rq->inner->dev->ops->wait(rq->inner);
	if (rq->kicked.head)
		pump(rq);
	return n;
}

static int record_fd(struct device_queue *q)
{
	struct record_queue *rq = container_of(q, struct record_queue, q);

	return rq->inner->dev->ops->fd(rq->inner);
}

/* ---- queues and devices ------------------------------------------------------------------------ */

static int record_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct record_queue *rq = mem_zalloc(sizeof(*rq));
	struct record_slot *all = mem_zalloc(SLOT_COUNT * sizeof(*all));
	struct device *inner = record_of(dev)->inner;
	int err = rq && all ? inner->ops->queue_new(inner, &rq->inner) : -ENOMEM;

	if (err) {
		mem_free(all);
		mem_free(rq);
		return err;
	}
	rq->q.dev = dev;
	rq->all = all;
	for (unsigned i = 0; i < SLOT_COUNT; i++) {
		all[i].rq = rq;
		all[i].next = rq->slots;
		rq->slots = &all[i];
	}
	*ret_q = &rq->q;
	return 0;
}

static void record_queue_free(struct device_queue *q)
{
	struct record_queue *rq = container_of(q, struct record_queue, q);

	ASSERT(!rq->in_slots && !rq->fresh.head && !rq->kicked.head);
	device_queue_free(rq->inner);
	mem_free(rq->all);
	mem_free(rq);
}

static void record_close(struct device *dev)
{
	struct record_device *rd = record_of(dev);

	device_close(rd->inner);
	close(rd->fd);
	lock_fini(&rd->lock);
	mem_free(rd);
}

static int record_grow(struct device *dev, uint64_t size, bool preallocate)
{
	struct record_entry entry = {.type = cpu_to_le32(RECORD_SIZE)};
	struct record_device *rd = record_of(dev);
	int err;

	/* Under the lock: no write to the new part may come before it in the log. */
	lock_take(&rd->lock);
	err = rd->inner->ops->grow(rd->inner, size, preallocate);
	if (!size)
		size = device_size(rd->inner);
	entry.len = cpu_to_le64(size);
	if (!err)
		err = log_append_locked(rd, &entry, NULL, 0);
	if (!err)
		__atomic_store_n(&dev->size, size, __ATOMIC_RELAXED);
	lock_drop(&rd->lock);
	return err;
}

static int record_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	struct device *inner = record_of(dev)->inner;

	return inner->ops->allocate(inner, off, len, fresh);
}

static int record_host(struct device *dev, struct device_host *ret_host)
{
	struct device *inner = record_of(dev)->inner;

	return inner->ops->host(inner, ret_host);
}

static const struct device_ops record_ops = {
	.name = "recorded",
	.close = record_close,
	.queue_new = record_queue_new,
	.queue_free = record_queue_free,
	.submit = record_submit,
	.kick = record_kick,
	.poll = record_poll,
	.wait = record_wait,
	.fd = record_fd,
	.grow = record_grow,
	.allocate = record_allocate,
	.host = record_host,
};

int device_record(struct device *inner, const char *log_path, struct device **ret_dev)
{
	struct record_device *rd = mem_zalloc(sizeof(*rd));
	int err;

	if (!rd)
		return -ENOMEM;
	rd->fd = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
	if (rd->fd < 0) {
		err = -errno;
		mem_free(rd);
		return err;
	}
	rd->inner = inner;
	rd->dev = *inner;
	rd->dev.ops = &record_ops;
	err = log_start(rd);
	if (err) {
		close(rd->fd);
		mem_free(rd);
		return err;
	}
	lock_init(&rd->lock, LOCK_RECORD);
	*ret_dev = &rd->dev;
	return 0;
}
