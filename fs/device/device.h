/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device.h: what the engine knows about the pool's device: asynchronous reads, writes, flushes and
 * discards on byte addresses, and nothing else. Implementations: device_uring.c (io_uring), device_threads.c
 * (pread/pwrite on threads), device_sim.c (memory, with faults), and device_record.c, which wraps another one
 * and records its writes and flushes to a file.
 *
 * Invariants
 * 1. A queue is used by one thread at a time; different queues of one device run in parallel.
 * 2. Addresses, lengths and buffers of reads and writes are multiples of 4096 (so that O_DIRECT works).
 * 3. Requests that are under way together have no order. A completed write is durable only after a flush that
 *    was submitted after its completion has itself completed without error.
 * 4. `done` runs only inside device_poll and device_wait of the queue that the request was put on.
 * 5. Callers never see a short read or write: implementations go on until everything is done or it fails.
 * 6. A flush error is reported once to each flush under way and is never retried by the device layer.
 * 7. A buffer that is being written does not change until done.
 *
 * Every implementation reports these errors in the same way: -EINVAL for an address or length that breaks
 * invariant 2 or lies outside the device (a corrupt pool can cause that), -EROFS for a write or discard on a
 * device that was opened read-only, -EIO when a file ends before the device does. A request of length 0
 * completes with 0. A discard that the host does not support completes with 0 and clears `discard`. -ENOSPC
 * for a write that the host has no room for, or no quota.
 */
#ifndef FS_DEVICE_DEVICE_H
#define FS_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define DEVICE_ALIGN 4096u

enum device_op { DEVICE_READ, DEVICE_WRITE, DEVICE_FLUSH, DEVICE_DISCARD };

struct device;
struct device_queue;

struct device_io {
	enum device_op op;
	uint64_t off;
	uint64_t len;
	void *buf;	   /* READ and WRITE; used when iovcnt is 0 */
	struct iovec *iov; /* or a vector, whose sum is len; may be changed until done. iovcnt <= 1024 */
	int iovcnt;
	void (*done)(struct device_io *io);
	void *arg;
	int error;		/* 0 or negative errno, valid in done */
	struct device_io *next; /* the implementation's while under way */
	uint64_t progress;	/* likewise */
};

struct device_host {
	uint64_t used_bytes; /* the file's blocks */
	uint64_t free_bytes; /* that anybody may take; of memory, if the files are in memory */
};

struct device_ops {
	const char *name;
	void (*close)(struct device *dev);
	int (*queue_new)(struct device *dev, struct device_queue **ret_q);
	/* Nothing may be under way. Accepts NULL only through device_queue_free. */
	void (*queue_free)(struct device_queue *q);
	/*
	 * Puts a request on the queue; it may start only at kick. Never waits and never fails: errors come
	 * through done. submit and kick may be called inside done. A flush covers what completed before its
	 * submit.
	 */
	void (*submit)(struct device_queue *q, struct device_io *io);
	void (*kick)(struct device_queue *q);
	/*
	 * Runs what has completed; returns how many. Never waits. Neither poll nor wait may be called inside
	 * done.
	 */
	unsigned (*poll)(struct device_queue *q);
	/* Kicks, waits for at least one completion (if any is under way) and runs what has completed. */
	unsigned (*wait)(struct device_queue *q);
	/*
	 * An eventfd-like descriptor that polls readable when poll() would find something (and sometimes when
	 * it would not). poll() clears it. The first call makes it, so a queue whose thread only ever waits
	 * needs one descriptor less. -ENOSYS: there is none; other errors: it could not be made.
	 */
	int (*fd)(struct device_queue *q);
	/*
	 * Extends the device to size bytes (a multiple of 4096, and no less than its size; else -EINVAL);
	 * preallocate: reserve the new blocks in the host's file system. A block device must already have the
	 * size (else -ENOSPC). Waits. Any thread, also while requests are under way; one at a time. Size 0:
	 * to all that the device has, or the file if it was made larger; -EALREADY if that is no more.
	 */
	int (*grow)(struct device *dev, uint64_t size, bool preallocate);
	/*
	 * Gets blocks from the host for the range: writes to it no longer fail with -ENOSPC, until it is
	 * discarded. This lasts like a write: it survives a crash if a later flush has completed. The content
	 * stays, unless `fresh` says that nobody needs it. (Where the host cannot allocate, zeros are written
	 * with `fresh`; without it the range is taken to have its blocks.) Does nothing if there is nothing
	 * to do. -ENOSPC: the host is full, or a quota is. Waits. Any thread.
	 */
	int (*allocate)(struct device *dev, uint64_t off, uint64_t len, bool fresh);
	/*
	 * How much the file takes of the host's file system, and how much that has left. -ENOTSUP: a block
	 * device. Any thread.
	 */
	int (*host)(struct device *dev, struct device_host *ret_host);
};

struct device {
	const struct device_ops *ops;
	uint64_t size; /* bytes, a multiple of 4096; grow changes it: device_size() */
	bool writable;
	bool direct;  /* O_DIRECT is in force */
	bool discard; /* discards are not known to do nothing: device_can_discard() */
	bool block_device;
	/* discards work on multiples of this many bytes, counted from there; a multiple of 4096, or 0 */
	uint64_t discard_unit, discard_shift;
	/* a file that had holes when it was opened: writes into them may fail with -ENOSPC */
	bool sparse;
	/* sparse, and the host may notice only at a flush that it is full: device_threads.c deals with it */
	bool writes_late;
	bool flush_failed; /* some flush has failed since open: device_flush_result() */
	/*
	 * flushes completed without error since open; those that were answered together count once:
	 * device_flushes()
	 */
	uint64_t flushes;
};

struct device_queue {
	struct device *dev;
};

/* The fields that may change while other threads look at them. */
static inline uint64_t device_size(const struct device *dev)
{
	return __atomic_load_n(&dev->size, __ATOMIC_RELAXED);
}

static inline bool device_can_discard(const struct device *dev)
{
	return __atomic_load_n(&dev->discard, __ATOMIC_RELAXED);
}

static inline uint64_t device_flushes(const struct device *dev)
{
	return __atomic_load_n(&dev->flushes, __ATOMIC_RELAXED);
}

static inline void device_close(struct device *dev)
{
	if (dev)
		dev->ops->close(dev);
}

static inline void device_queue_free(struct device_queue *q)
{
	if (q)
		q->dev->ops->queue_free(q);
}

/* Does one request and waits for it, on a queue with nothing else under way. Returns its error. */
int device_sync(struct device_queue *q, enum device_op op, uint64_t off, void *buf, uint64_t len);

/*
 * The rule of a failed flush, decided here and nowhere else: what it covered may be lost although later
 * flushes succeed, since hosts forget what they could not write. So once any flush of a device has failed
 * since it was opened, whoever asked for it, no flush counts any more. `error` is what the device says of a
 * flush that has completed; returns what it is worth: 0 or a negative errno. Ask when it has completed, not
 * before.
 */
int device_flush_result(const struct device *dev, int error);

/* Flushes and waits, under that rule. */
int device_flush(struct device_queue *q);

/*
 * Opens a file or block device, O_DIRECT where the host has it. `writable` also takes an exclusive lock (OFD
 * lock on the file, which ends with the process): -EBUSY if another process holds it; *ret_holder is then its
 * pid (0 if unknown). If not writable, it takes a shared lock in the same way. ret_holder may be NULL.
 * device_open_uring: -ENOSYS if the kernel does not let this process use io_uring; then use threads. -EINVAL:
 * neither a file nor a block device. An empty file opens, with size 0. All queues must be freed before close.
 * Waits, up to a second if the lock's holder has just died.
 */
int device_open_uring(const char *path, bool writable, struct device **ret_dev, int *ret_holder);
int device_open_threads(const char *path, bool writable, struct device **ret_dev, int *ret_holder);

/*
 * Wraps `inner`, which then belongs to the new device (not when this fails): every write, discard and flush
 * also goes to log_path, which is created or emptied. fs/device/device_record.h has the format. Waits.
 */
int device_record(struct device *inner, const char *log_path, struct device **ret_dev);

#endif
