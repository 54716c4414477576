/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_threads.c: the device on a small pool of threads with pread and pwrite, for hosts without
 * io_uring.
 *
 * Invariants
 * 1. A request is in one of: fresh (submitted), a flush batch, the device's jobs, a thread's hands, or its
 *    queue's finished list. While it is in jobs or in a thread's hands, io->progress holds the address of its
 *    queue.
 * 2. Only the queue's own thread touches fresh, the flush batch and under_way. The queue's lock protects
 *    finished, event_fd and waiting; the device's lock protects jobs, idle and stop. No thread holds both.
 * 3. From the first call of fd() on, the eventfd is there, and signalled if and only if finished is not
 *    empty.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "fs/device/device.h"
#include "fs/device/device_int.h"

#define POOL_THREADS 8

struct threads_device {
	struct device_file file;
	struct lock lock;
	pthread_cond_t work;
	struct io_list jobs;
	unsigned idle;
	bool stop;
	unsigned thread_count;
	pthread_t threads[POOL_THREADS];
};

struct threads_queue {
	struct device_queue q;
	int fd;
	unsigned under_way;
	struct io_list fresh;
	struct flush_batch flush;

	struct lock lock;
	pthread_cond_t some_finished;
	struct io_list finished;
	int event_fd; /* -1: nobody has asked for it */
	bool waiting;
};

static struct threads_device *threads_of(struct device *dev)
{
	return container_of(dev, struct threads_device, file.dev);
}

/* ---- on the pool's threads ----------------------------------------------------------- */

static ssize_t transfer(int fd, struct device_io *io, uint64_t done)
{
	off_t off = (off_t)(io->off + done);
	struct iovec *iov;
	int cnt;

	if (!io->iovcnt) {
		void *buf = (char *)io->buf + done;

		return io->op == DEVICE_READ ? pread(fd, buf, io->len - done, off)
					     : pwrite(fd, buf, io->len - done, off);
	}
	iov = device_iov_rest(io, &cnt);
	return io->op == DEVICE_READ ? preadv(fd, iov, cnt, off) : pwritev(fd, iov, cnt, off);
}

/*
 * The blocks first: written through the page cache, a hole would get them when it is flushed, and then it is
 * too late to refuse.
 */
static int allocate_first(int fd, const struct device_io *io)
{
	int err;

	do
		err = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)io->off, (off_t)io->len) ? -errno : 0;
	while (err == -EINTR);
	return err == -EOPNOTSUPP ? 0 : err;
}

static int transfer_all(int fd, struct device_io *io)
{
	uint64_t done = 0;

	while (done < io->len) {
		ssize_t n = transfer(fd, io, done);

		if (n == 0)
			return -EIO;
		if (n < 0 && errno == EAGAIN)
			sched_yield();
		else if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		done += (uint64_t)n;
		if (io->iovcnt)
			device_iov_advance(io, (uint64_t)n);
	}
	return 0;
}

static int run_job(struct threads_queue *tq, struct device_io *io)
{
	int err = 0;

	switch (io->op) {
	case DEVICE_FLUSH: return fdatasync(tq->fd) ? -errno : 0;
	case DEVICE_DISCARD: return device_file_discard(&threads_of(tq->q.dev)->file, io->off, io->len);
	default:
		if (io->op == DEVICE_WRITE && tq->q.dev->writes_late)
			err = allocate_first(tq->fd, io);
		return device_host_error(err ? err : transfer_all(tq->fd, io));
	}
}

/* Hands the request back. The queue may be gone when this returns. */
static void threads_finish(struct threads_queue *tq, struct device_io *io, int error)
{
	io->error = error;
	lock_take(&tq->lock);
	if (!tq->finished.head && tq->event_fd >= 0)
		eventfd_write(tq->event_fd, 1);
	io_list_append(&tq->finished, io);
	if (tq->waiting)
		pthread_cond_signal(&tq->some_finished);
	lock_drop(&tq->lock);
}

static struct device_io *next_job(struct threads_device *td)
{
	struct device_io *io;

	lock_take(&td->lock);
	while (!td->jobs.head && !td->stop) {
		td->idle++;
		lock_wait(&td->lock, &td->work);
		td->idle--;
	}
	io = io_list_pop(&td->jobs);
	lock_drop(&td->lock);
	return io;
}

static void *pool_thread(void *arg)
{
	struct threads_device *td = arg;
	struct device_io *io;

	while ((io = next_job(td))) {
		struct threads_queue *tq = (struct threads_queue *)(uintptr_t)io->progress;

		threads_finish(tq, io, run_job(tq, io));
	}
	return NULL;
}

/* ---- on the queue's thread ------------------------------------------------------------- */

static void jobs_add(struct threads_queue *tq, struct io_list *list, unsigned count)
{
	struct threads_device *td = threads_of(tq->q.dev);

	lock_take(&td->lock);
	io_list_splice(&td->jobs, list);
	for (unsigned wake = count < td->idle ? count : td->idle; wake; wake--)
		pthread_cond_signal(&td->work);
	lock_drop(&td->lock);
}

static void job_prepare(struct threads_queue *tq, struct io_list *list, struct device_io *io)
{
	io->progress = (uintptr_t)tq;
	io_list_append(list, io);
}

static void threads_submit(struct device_queue *q, struct device_io *io)
{
	struct threads_queue *tq = container_of(q, struct threads_queue, q);

	io->error = 0;
	io_list_append(&tq->fresh, io);
}

static void threads_kick(struct device_queue *q)
{
	struct threads_queue *tq = container_of(q, struct threads_queue, q);
	struct io_list list = {0};
	struct device_io *io;
	unsigned count = 0;

	while ((io = io_list_pop(&tq->fresh))) {
		int err = device_check(q->dev, io);

		tq->under_way++;
		if (io->op == DEVICE_FLUSH) {
			io_list_append(&tq->flush.waiting, io);
		} else if (err || io->len == 0) {
			threads_finish(tq, io, err);
		} else {
			job_prepare(tq, &list, io);
			count++;
		}
	}
	io = flush_batch_start(&tq->flush);
	if (io) {
		job_prepare(tq, &list, io);
		count++;
	}
	if (count)
		jobs_add(tq, &list, count);
}

static unsigned run_list(struct threads_queue *tq, struct io_list *list)
{
	struct device_io *io;
	unsigned n = 0;

	for (; (io = io_list_pop(list)); n++) {
		tq->under_way--;
		io->done(io);
	}
	return n;
}

/* The pool has finished with these. A flush answers all of its batch. */
static unsigned run_finished(struct threads_queue *tq, struct io_list *finished)
{
	struct io_list ready = {0}, batch;
	struct device_io *io;

	while ((io = io_list_pop(finished))) {
		if (io->op != DEVICE_FLUSH) {
			io_list_append(&ready, io);
			continue;
		}
		batch = flush_batch_end(&tq->flush, tq->q.dev, io->error);
		io_list_splice(&ready, &batch);
	}
	/* Before done runs: the next flush can go on meanwhile. */
	if (tq->flush.waiting.head)
		threads_kick(&tq->q);
	return run_list(tq, &ready);
}

static unsigned threads_poll(struct device_queue *q)
{
	struct threads_queue *tq = container_of(q, struct threads_queue, q);
	struct io_list list = {0};
	eventfd_t val;

	lock_take(&tq->lock);
	io_list_splice(&list, &tq->finished);
	if (tq->event_fd >= 0 && list.head)
		eventfd_read(tq->event_fd, &val);
	lock_drop(&tq->lock);
	return run_finished(tq, &list);
}

static unsigned threads_wait(struct device_queue *q)
{
	struct threads_queue *tq = container_of(q, struct threads_queue, q);

	threads_kick(q);
	if (!tq->under_way)
		return 0;
	lock_take(&tq->lock);
	tq->waiting = true;
	while (!tq->finished.head)
		lock_wait(&tq->lock, &tq->some_finished);
	tq->waiting = false;
	lock_drop(&tq->lock);
	return threads_poll(q);
}

static int threads_fd(struct device_queue *q)
{
	struct threads_queue *tq = container_of(q, struct threads_queue, q);
	int fd;

	lock_take(&tq->lock);
	if (tq->event_fd < 0)
		tq->event_fd = eventfd(tq->finished.head != NULL, EFD_CLOEXEC | EFD_NONBLOCK);
	fd = tq->event_fd < 0 ? -errno : tq->event_fd;
	lock_drop(&tq->lock);
	return fd;
}

/* ---- queues and devices ------------------------------------------------------------------- */

static int threads_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct threads_queue *tq = mem_zalloc(sizeof(*tq));
	int err;

	if (!tq)
		return -ENOMEM;
	tq->q.dev = dev;
	tq->event_fd = -1;
	tq->fd = device_file_queue_fd(&threads_of(dev)->file);
	if (tq->fd < 0) {
		err = tq->fd;
		mem_free(tq);
		return err;
	}
	lock_init(&tq->lock, LOCK_DEVICE);
	lock_cond_init(&tq->some_finished);
	*ret_q = &tq->q;
	return 0;
}

static void threads_queue_free(struct device_queue *q)
{
	struct threads_queue *tq = container_of(q, struct threads_queue, q);

	ASSERT(!tq->under_way && !tq->fresh.head);
	device_file_queue_fd_close(&threads_of(q->dev)->file, tq->fd);
	if (tq->event_fd >= 0)
		close(tq->event_fd);
	pthread_cond_destroy(&tq->some_finished);
	lock_fini(&tq->lock);
	mem_free(tq);
}

static void pool_stop(struct threads_device *td)
{
	lock_take(&td->lock);
	td->stop = true;
	pthread_cond_broadcast(&td->work);
	lock_drop(&td->lock);
	for (unsigned i = 0; i < td->thread_count; i++)
		pthread_join(td->threads[i], NULL);
	pthread_cond_destroy(&td->work);
	lock_fini(&td->lock);
}

/* Signals are for the program's own threads. One thread is enough to work. */
static int pool_start(struct threads_device *td)
{
	sigset_t all, old;
	int err = 0;

	lock_init(&td->lock, LOCK_DEVICE);
	lock_cond_init(&td->work);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (td->thread_count < POOL_THREADS && !err) {
		err = -pthread_create(&td->threads[td->thread_count], NULL, pool_thread, td);
		if (!err)
			pthread_setname_np(td->threads[td->thread_count++], "byre-device");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (td->thread_count)
		return 0;
	pool_stop(td);
	return err;
}

static void threads_close(struct device *dev)
{
	struct threads_device *td = threads_of(dev);

	pool_stop(td);
	device_file_close(&td->file);
	mem_free(td);
}

static int threads_grow(struct device *dev, uint64_t size, bool preallocate)
{
	return device_file_grow(&threads_of(dev)->file, size, preallocate);
}

static int threads_host(struct device *dev, struct device_host *ret_host)
{
	return device_file_host(&threads_of(dev)->file, ret_host);
}

static int threads_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	return device_file_allocate(&threads_of(dev)->file, off, len, fresh);
}

static const struct device_ops threads_ops = {
	.name = "threads",
	.close = threads_close,
	.queue_new = threads_queue_new,
	.queue_free = threads_queue_free,
	.submit = threads_submit,
	.kick = threads_kick,
	.poll = threads_poll,
	.wait = threads_wait,
	.fd = threads_fd,
	.grow = threads_grow,
	.allocate = threads_allocate,
	.host = threads_host,
};

int device_open_threads(const char *path, bool writable, struct device **ret_dev, int *ret_holder)
{
	struct threads_device *td = mem_zalloc(sizeof(*td));
	int err;

	if (!td)
		return -ENOMEM;
	err = device_file_open(&td->file, path, writable, ret_holder);
	if (err)
		goto out_free;
	err = pool_start(td);
	if (err)
		goto out_close;
	td->file.dev.ops = &threads_ops;
	*ret_dev = &td->file.dev;
	return 0;
out_close:
	device_file_close(&td->file);
out_free:
	mem_free(td);
	return err;
}
