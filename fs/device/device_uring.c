/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_uring.c: the device on io_uring, one ring a queue.
 *
 * Invariants
 * 1. A request is in one of: fresh (submitted), kicked (waits for room in the ring), the ring, a flush batch,
 *    finished (its error is known, done has not run).
 * 2. in_ring counts submission entries filled and completion entries not yet reaped. It never exceeds
 *    RING_ENTRIES, so getting a submission entry never fails and the completion ring (twice as long) never
 *    overflows. RING_DATA_MAX leaves one entry for the flush, of which there is one at a time.
 * 3. From the first call of fd() on, the eventfd is there and signalled whenever a completion is there that
 *    has not been seen by poll: by the kernel for the ring, by us for `finished` and for what poll left over.
 *
 * BLKDISCARD has no io_uring operation on the kernels we support: on a block device a discard blocks inside
 * kick.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_int.h"

#define RING_ENTRIES 256u
#define RING_DATA_MAX (RING_ENTRIES - 1)
#define REAP_BATCH 64u
/* Completions that one poll runs at most, so that a loop with much to do comes round. */
#define POLL_MAX 512u
/* The kernel moves less than 2 GiB at a time. */
#define TRANSFER_MAX (1u << 30)

struct uring_queue {
	struct device_queue q;
	struct io_uring ring;
	int fd;
	bool fixed;   /* fd is registered as the ring's file 0 */
	int event_fd; /* -1: nobody has asked for it */
	unsigned in_ring;
	struct io_list fresh, kicked, finished;
	struct flush_batch flush;
};

static struct device_file *uring_file(struct uring_queue *uq)
{
	return container_of(uq->q.dev, struct device_file, dev);
}

static void uring_signal(struct uring_queue *uq)
{
	if (uq->event_fd >= 0)
		eventfd_write(uq->event_fd, 1);
}

static void uring_finish(struct uring_queue *uq, struct device_io *io, int error)
{
	io->error = error;
	io_list_append(&uq->finished, io);
}

/* ---- into the ring --------------------------------------------------------------- */

static void prep_rw(struct io_uring_sqe *sqe, int fd, struct device_io *io)
{
	uint64_t off = io->off + io->progress, len = io->len - io->progress;
	void *buf = (char *)io->buf + io->progress;
	struct iovec *iov;
	int cnt = 1;

	if (io->iovcnt) {
		iov = device_iov_rest(io, &cnt);
		buf = iov->iov_base;
		len = iov->iov_len;
	}
	if (cnt > 1 && io->op == DEVICE_READ)
		io_uring_prep_readv(sqe, fd, iov, (unsigned)cnt, off);
	else if (cnt > 1)
		io_uring_prep_writev(sqe, fd, iov, (unsigned)cnt, off);
	else if (io->op == DEVICE_READ)
		io_uring_prep_read(sqe, fd, buf, (unsigned)min_u64(len, TRANSFER_MAX), off);
	else
		io_uring_prep_write(sqe, fd, buf, (unsigned)min_u64(len, TRANSFER_MAX), off);
}

static void uring_enter(struct uring_queue *uq, struct device_io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uq->ring);
	int fd = uq->fixed ? 0 : uq->fd;

	ASSERT(sqe);
	switch (io->op) {
	case DEVICE_READ:
	case DEVICE_WRITE: prep_rw(sqe, fd, io); break;
	case DEVICE_FLUSH: io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC); break;
	case DEVICE_DISCARD:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)io->off,
					(off_t)io->len);
		break;
	}
	if (uq->fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, io);
	uq->in_ring++;
}

static void uring_start(struct uring_queue *uq, struct device_io *io)
{
	int err = device_check(uq->q.dev, io);

	if (io->op == DEVICE_FLUSH)
		io_list_append(&uq->flush.waiting, io);
	else if (err || io->len == 0)
		uring_finish(uq, io, err);
	else if (io->op == DEVICE_DISCARD && uq->q.dev->block_device)
		uring_finish(uq, io, device_file_discard(uring_file(uq), io->off, io->len));
	else
		uring_enter(uq, io);
}

static bool error_is_transient(int err)
{
	return err == -EAGAIN || err == -EINTR || err == -EBUSY || err == -ENOMEM;
}

/* Tells the kernel what is in the submission ring. When it has no memory now, a later call tells it. */
static void uring_enter_kernel(struct uring_queue *uq)
{
	int ret;

	while (io_uring_sq_ready(&uq->ring)) {
		ret = io_uring_submit(&uq->ring);
		if (ret == -EINTR)
			continue;
		ASSERT(ret >= 0 || error_is_transient(ret));
		if (ret < 0) {
			uring_signal(uq);
			return;
		}
	}
}

/* Starts as many of the kicked requests as there is room for. */
static void uring_pump(struct uring_queue *uq)
{
	bool idle = !uq->finished.head;
	struct device_io *io;

	while (uq->in_ring < RING_DATA_MAX && (io = io_list_pop(&uq->kicked)))
		uring_start(uq, io);
	io = flush_batch_start(&uq->flush);
	if (io)
		uring_enter(uq, io);
	uring_enter_kernel(uq);
	if (idle && uq->finished.head)
		uring_signal(uq);
}

static void uring_submit(struct device_queue *q, struct device_io *io)
{
	struct uring_queue *uq = container_of(q, struct uring_queue, q);

	io->error = 0;
	io->progress = 0;
	io_list_append(&uq->fresh, io);
}

static void uring_kick(struct device_queue *q)
{
	struct uring_queue *uq = container_of(q, struct uring_queue, q);

	io_list_splice(&uq->kicked, &uq->fresh);
	uring_pump(uq);
}

/* ---- out of the ring --------------------------------------------------------------- */

static unsigned run_list(struct io_list *list)
{
	struct device_io *io;
	unsigned n = 0;

	for (; (io = io_list_pop(list)); n++)
		io->done(io);
	return n;
}

/* What is finished now; what done adds waits for the next round. */
static unsigned run_finished(struct uring_queue *uq)
{
	struct io_list list = {0};

	io_list_splice(&list, &uq->finished);
	return run_list(&list);
}

static unsigned complete_flush(struct uring_queue *uq, int res)
{
	struct io_list all = flush_batch_end(&uq->flush, uq->q.dev, res < 0 ? res : 0);

	return run_list(&all);
}

/* True: the request has its final error. False: the rest of it has to be transferred. */
static bool transfer_is_complete(struct device_io *io, int res)
{
	if (res == -EAGAIN || res == -EINTR)
		return false;
	if (res <= 0) {
		io->error = res ? device_host_error(res) : -EIO;
		return true;
	}
	io->progress += (unsigned)res;
	if (io->progress >= io->len)
		return true;
	if (io->iovcnt)
		device_iov_advance(io, (unsigned)res);
	return false;
}

static bool discard_is_complete(struct uring_queue *uq, struct device_io *io, int res)
{
	if (res == -EAGAIN || res == -EINTR)
		return false;
	io->error = device_discard_result(uq->q.dev, res);
	return true;
}

static unsigned uring_complete(struct uring_queue *uq, struct device_io *io, int res)
{
	bool complete;

	if (io->op == DEVICE_FLUSH)
		return complete_flush(uq, res);
	complete = io->op == DEVICE_DISCARD ? discard_is_complete(uq, io, res)
					    : transfer_is_complete(io, res);
	if (!complete) {
		io_list_prepend(&uq->kicked, io);
		return 0;
	}
	io->done(io);
	return 1;
}

/*
 * Takes one batch out of the completion ring before it runs any of it, since done may come back here through
 * kick.
 */
static unsigned reap_batch(struct uring_queue *uq, unsigned *ret_ran)
{
	struct io_uring_cqe *cqes[REAP_BATCH];
	struct device_io *ios[REAP_BATCH];
	int res[REAP_BATCH];
	unsigned n = io_uring_peek_batch_cqe(&uq->ring, cqes, REAP_BATCH), ran = 0;

	for (unsigned i = 0; i < n; i++) {
		ios[i] = io_uring_cqe_get_data(cqes[i]);
		res[i] = cqes[i]->res;
	}
	io_uring_cq_advance(&uq->ring, n);
	uq->in_ring -= n;
	for (unsigned i = 0; i < n; i++)
		ran += uring_complete(uq, ios[i], res[i]);
	*ret_ran += ran;
	return n;
}

static bool ring_has_completions(struct uring_queue *uq)
{
	return io_uring_cq_ready(&uq->ring) != 0;
}

/*
 * Runs what is there, about POLL_MAX at most, and starts what waited for room. Returns how many requests
 * completed.
 */
static unsigned uring_drain(struct uring_queue *uq)
{
	unsigned ran = run_finished(uq), reaped = 0, n;

	do {
		n = reap_batch(uq, &ran);
		reaped += n;
	} while (n && reaped < POLL_MAX);
	if (uq->kicked.head || uq->flush.waiting.head || io_uring_sq_ready(&uq->ring))
		uring_pump(uq);
	return ran;
}

static unsigned uring_poll(struct device_queue *q)
{
	struct uring_queue *uq = container_of(q, struct uring_queue, q);
	unsigned ran = uring_drain(uq);
	eventfd_t val;

	if (uq->event_fd < 0)
		return ran;
	/*
	 * Cleared always, since the kernel may signal after we have seen the completion. Cleared after
	 * draining and looked again, since that leaves fewer signals for nothing than clearing first.
	 */
	eventfd_read(uq->event_fd, &val);
	if (uq->finished.head || ring_has_completions(uq) || io_uring_sq_ready(&uq->ring))
		uring_signal(uq);
	return ran;
}

static unsigned uring_wait(struct device_queue *q)
{
	struct uring_queue *uq = container_of(q, struct uring_queue, q);
	unsigned ran;
	int ret;

	uring_kick(q);
	for (;;) {
		ran = uring_drain(uq);
		if (ran || (!uq->in_ring && !uq->finished.head))
			return ran;
		if (uq->finished.head)
			continue;
		ret = io_uring_submit_and_wait(&uq->ring, 1);
		ASSERT(ret >= 0 || error_is_transient(ret));
	}
}

static int uring_fd(struct device_queue *q)
{
	struct uring_queue *uq = container_of(q, struct uring_queue, q);
	int fd, err;

	if (uq->event_fd >= 0)
		return uq->event_fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	err = io_uring_register_eventfd(&uq->ring, fd);
	if (err) {
		close(fd);
		return err;
	}
	uq->event_fd = fd;
	/* The kernel tells only of what completes from now on. */
	if (uq->finished.head || ring_has_completions(uq) || io_uring_sq_ready(&uq->ring))
		uring_signal(uq);
	return fd;
}

/* ---- queues and devices ------------------------------------------------------------- */

static int ring_init(struct io_uring *ring, unsigned entries)
{
	/*
	 * Completions are handed over when the thread is in the kernel anyway, not by interrupting it. Linux
	 * 5.19.
	 */
	int err = io_uring_queue_init(entries, ring, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);

	if (err == -EINVAL)
		err = io_uring_queue_init(entries, ring, 0);
	return err;
}

static int queue_init(struct uring_queue *uq)
{
	int err = ring_init(&uq->ring, RING_ENTRIES);

	if (err)
		return err;
	uq->event_fd = -1;
	uq->fd = device_file_queue_fd(uring_file(uq));
	if (uq->fd < 0) {
		io_uring_queue_exit(&uq->ring);
		return uq->fd;
	}
	uq->fixed = io_uring_register_files(&uq->ring, &uq->fd, 1) == 0;
	return 0;
}

static int uring_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct uring_queue *uq = mem_zalloc(sizeof(*uq));
	int err;

	if (!uq)
		return -ENOMEM;
	uq->q.dev = dev;
	err = queue_init(uq);
	if (err) {
		mem_free(uq);
		return err;
	}
	*ret_q = &uq->q;
	return 0;
}

static void uring_queue_free(struct device_queue *q)
{
	struct uring_queue *uq = container_of(q, struct uring_queue, q);

	ASSERT(!uq->in_ring && !uq->fresh.head && !uq->kicked.head && !uq->finished.head);
	io_uring_queue_exit(&uq->ring);
	if (uq->event_fd >= 0)
		close(uq->event_fd);
	device_file_queue_fd_close(uring_file(uq), uq->fd);
	mem_free(uq);
}

static void uring_close(struct device *dev)
{
	struct device_file *file = container_of(dev, struct device_file, dev);

	device_file_close(file);
	mem_free(file);
}

static int uring_grow(struct device *dev, uint64_t size, bool preallocate)
{
	return device_file_grow(container_of(dev, struct device_file, dev), size, preallocate);
}

static int uring_host(struct device *dev, struct device_host *ret_host)
{
	return device_file_host(container_of(dev, struct device_file, dev), ret_host);
}

static int uring_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	return device_file_allocate(container_of(dev, struct device_file, dev), off, len, fresh);
}

static const struct device_ops uring_ops = {
	.name = "io_uring",
	.close = uring_close,
	.queue_new = uring_queue_new,
	.queue_free = uring_queue_free,
	.submit = uring_submit,
	.kick = uring_kick,
	.poll = uring_poll,
	.wait = uring_wait,
	.fd = uring_fd,
	.grow = uring_grow,
	.allocate = uring_allocate,
	.host = uring_host,
};

static bool ring_has_ops(struct io_uring *ring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool has;

	if (!probe)
		return false;
	has = io_uring_opcode_supported(probe, IORING_OP_READ) &&
	      io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
	      io_uring_opcode_supported(probe, IORING_OP_FALLOCATE);
	io_uring_free_probe(probe);
	return has;
}

/* Asked first, so that a pool is not locked for nothing. */
static int uring_probe(void)
{
	struct io_uring ring;
	int err = ring_init(&ring, 4);
	bool has;

	if (err)
		return -ENOSYS;
	has = ring_has_ops(&ring) && (ring.features & IORING_FEAT_NODROP);
	io_uring_queue_exit(&ring);
	return has ? 0 : -ENOSYS;
}

int device_open_uring(const char *path, bool writable, struct device **ret_dev, int *ret_holder)
{
	struct device_file *file;
	int err = uring_probe();

	if (err)
		return err;
	file = mem_zalloc(sizeof(*file));
	if (!file)
		return -ENOMEM;
	err = device_file_open(file, path, writable, ret_holder);
	if (err) {
		mem_free(file);
		return err;
	}
	file->dev.ops = &uring_ops;
	*ret_dev = &file->dev;
	return 0;
}
