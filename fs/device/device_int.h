/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_int.h: what the device implementations share: lists of requests, checks, the open and
 * locked file behind a device, and flushes that are answered together.
 */
#ifndef FS_DEVICE_DEVICE_INT_H
#define FS_DEVICE_DEVICE_INT_H

#include "fs/device/device.h"

/* ---- lists of requests, first in, first out, through device_io.next ---------- */

struct io_list {
	struct device_io *head, *tail;
};

static inline void io_list_append(struct io_list *list, struct device_io *io)
{
	io->next = NULL;
	if (list->head)
		list->tail->next = io;
	else
		list->head = io;
	list->tail = io;
}

static inline void io_list_prepend(struct io_list *list, struct device_io *io)
{
	io->next = list->head;
	list->head = io;
	if (!io->next)
		list->tail = io;
}

static inline struct device_io *io_list_pop(struct io_list *list)
{
	struct device_io *io = list->head;

	if (io) {
		list->head = io->next;
		io->next = NULL;
	}
	return io;
}

/* Appends all of `from`, which is empty afterwards. */
static inline void io_list_splice(struct io_list *list, struct io_list *from)
{
	if (!from->head)
		return;
	if (list->head)
		list->tail->next = from->head;
	else
		list->head = from->head;
	list->tail = from->tail;
	from->head = NULL;
}

/* ---- failed flushes: the rule is in device_flush_result ------------------------ */

/* For devices on top of another one. True from before the failed flush is answered. */
static inline bool device_flush_failed(const struct device *dev)
{
	return __atomic_load_n(&dev->flush_failed, __ATOMIC_SEQ_CST);
}

static inline void device_set_flush_failed(struct device *dev)
{
	__atomic_store_n(&dev->flush_failed, true, __ATOMIC_SEQ_CST);
}

/* ---- checks and vectors ------------------------------------------------------- */

/* Whether the device can take the request at all: 0, -EINVAL or -EROFS. */
int device_check(const struct device *dev, const struct device_io *io);

/* The first element of the request's vector that is not used up, and *ret_cnt of them. */
struct iovec *device_iov_rest(struct device_io *io, int *ret_cnt);
/* Marks n bytes of the vector as transferred, by changing it. */
void device_iov_advance(struct device_io *io, uint64_t n);

/* ---- flushes ------------------------------------------------------------------- */

/*
 * Linux reports a write-back error to only one fsync of an open file. So a queue has one fsync under way at a
 * time, flushes that come meanwhile share the next, and each queue has an open file of its own if there is a
 * page cache (device_file_queue_fd). Invariant 6 of device.h rests on this.
 */
struct flush_batch {
	struct io_list waiting;
	struct device_io *leader; /* whose fsync is under way; NULL: none is */
	struct io_list followers; /* that are answered with it */
};

/*
 * Makes one batch of the waiting flushes. Returns the leader to start; NULL if there is none or one is under
 * way.
 */
struct device_io *flush_batch_start(struct flush_batch *batch);
/*
 * The leader has completed: returns all that its result answers, with their error set, and counts the flush.
 */
struct io_list flush_batch_end(struct flush_batch *batch, struct device *dev, int error);

/* ---- the file -------------------------------------------------------------------- */

struct device_file {
	struct device dev;
	int fd;
	int behind_fd; /* the file behind a loop device, locked; -1 */
};

/* Opens, locks, measures and probes; see device_open_uring. Fills in all of file->dev but ops. */
int device_file_open(struct device_file *file, const char *path, bool writable, int *ret_holder);
void device_file_close(struct device_file *file);
int device_file_grow(struct device_file *file, uint64_t size, bool preallocate);
int device_file_allocate(struct device_file *file, uint64_t off, uint64_t len, bool fresh);
int device_file_host(struct device_file *file, struct device_host *ret_host);
/* The errno to report for one of the host's. */
int device_host_error(int err);

/* A descriptor for one queue, or a negative errno. */
int device_file_queue_fd(struct device_file *file);
void device_file_queue_fd_close(struct device_file *file, int fd);

/* Discards and waits. Any thread. */
int device_file_discard(struct device_file *file, uint64_t off, uint64_t len);
/* The result to report for a discard. */
int device_discard_result(struct device *dev, int error);

#endif
