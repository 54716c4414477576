/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim.c: the simulated device's queues, completions and counters. The model is in
 * device_sim.h.
 */
#include "base/crc32c.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "fs/device/device.h"
#include "fs/device/device_int.h"
#include "fs/device/device_sim_image.h"
#include "fs/device/device_sim_int.h"
#include "fs/device/device_sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int sim_host(struct device *dev, struct device_host *ret_host)
{
	struct sim_device *sim = sim_of(dev);
	int err;

	lock_take(&sim->lock);
	err = sim_host_look(sim, ret_host);
	lock_drop(&sim->lock);
	return err;
}

static const struct device_ops sim_ops;

struct sim_device *sim_of(struct device *dev)
{
	ASSERT(dev->ops == &sim_ops);
	return container_of(dev, struct sim_device, dev);
}

static struct sim_queue *queue_of(struct device_queue *q)
{
	return container_of(q, struct sim_queue, q);
}

/* ---- buffers -------------------------------------------------------------------------- */

/* The request's buffer as a vector: its own, or *one, filled in. */
static const struct iovec *io_vector(const struct device_io *io, struct iovec *one, int *ret_cnt)
{
	if (io->iovcnt) {
		*ret_cnt = io->iovcnt;
		return io->iov;
	}
	*one = (struct iovec){.iov_base = io->buf, .iov_len = io->len};
	*ret_cnt = 1;
	return one;
}

static uint64_t buffer_sum(const struct device_io *io)
{
	struct iovec one;
	int cnt;
	const struct iovec *iov = io_vector(io, &one, &cnt);
	uint64_t sum = 0;

	for (int i = 0; i < cnt; i++)
		sum = sum * 0x9e3779b97f4a7c15u + crc32c(iov[i].iov_base, iov[i].iov_len);
	return sum;
}

static void check_vector(const struct device_io *io)
{
	uint64_t sum = 0;

	for (int i = 0; i < io->iovcnt; i++) {
		ASSERT((uintptr_t)io->iov[i].iov_base % DEVICE_ALIGN == 0 &&
		       io->iov[i].iov_len % DEVICE_ALIGN == 0);
		sum += io->iov[i].iov_len;
	}
	if (io->iovcnt)
		ASSERT(sum == io->len);
	else
		ASSERT((uintptr_t)io->buf % DEVICE_ALIGN == 0);
}

static int do_read(struct sim_device *sim, const struct device_io *io)
{
	struct iovec one;
	int cnt;
	const struct iovec *iov = io_vector(io, &one, &cnt);
	uint64_t pageno = io->off / SIM_PAGE, end = (io->off + io->len) / SIM_PAGE;

	for (uint64_t i = sim_image_next(sim->view, pageno, end); i < end;
	     i = sim_image_next(sim->view, i + 1, end))
		if (sim_image_peek(sim->view, i)->bad)
			return -EIO;
	for (int i = 0; i < cnt; i++)
		for (uint64_t at = 0; at < iov[i].iov_len; at += SIM_PAGE)
			sim_image_read(sim->view, pageno++, (char *)iov[i].iov_base + at);
	sim->stats.read_bytes += io->len;
	return 0;
}

/* ---- completions -------------------------------------------------------------------------- */

static void do_change(struct sim_device *sim, const struct sim_pending *p)
{
	struct sim_event event;

	if (p->io->op == DEVICE_WRITE)
		sim->stats.written_bytes += p->io->len;
	else
		sim->stats.discarded_bytes += p->io->len;
	if (p->io->op == DEVICE_DISCARD)
		sim_host_discard(sim, p->io->off, p->io->len);
	event = sim_event_make(sim, p);
	if (p->torn)
		sim_event_tear(&event, sim->view, &sim->rng);
	else
		sim_event_apply(&event, sim->view);
	event.stable_seq = sim->stable_seq;
	sim_log_append(&sim->log, &event);
}

/* device.h, invariant 6: what they cover may be lost with what the one that failed covers. */
static void fail_flushes(struct sim_device *sim, int error)
{
	for (struct sim_queue *sq = sim->queues; sq; sq = sq->next)
		for (uint64_t i = 0; i < sq->count; i++)
			if (sq->pending[i].io->op == DEVICE_FLUSH && !sq->pending[i].error)
				sq->pending[i].error = error;
}

static void do_flush(struct sim_device *sim, const struct sim_pending *p)
{
	struct sim_event event = {.info = {.op = DEVICE_FLUSH, .start = p->start, .covers = p->start}};

	sim_settle(sim, p->start, p->error != 0);
	if (p->error)
		fail_flushes(sim, p->error);
	event.stable_seq = sim->stable_seq;
	sim_log_append(&sim->log, &event);
	if (p->error)
		device_set_flush_failed(&sim->dev);
	else
		__atomic_fetch_add(&sim->dev.flushes, 1, __ATOMIC_RELAXED);
}

static void check_buffer(const struct sim_pending *p)
{
	if (p->io->op == DEVICE_WRITE && p->sum != buffer_sum(p->io)) {
		fprintf(stderr,
			"device_sim: the buffer of the write at %llu, %llu bytes, changed under way\n",
			(unsigned long long)p->io->off, (unsigned long long)p->io->len);
		abort();
	}
}

/* Does what the request asks for and sets its error. */
static void complete_locked(struct sim_device *sim, const struct sim_pending *p)
{
	struct device_io *io = p->io;

	io->error = p->error;
	if (p->effect)
		check_buffer(p);
	if (p->effect && io->op == DEVICE_READ)
		io->error = do_read(sim, io);
	else if (p->effect && io->op == DEVICE_FLUSH)
		do_flush(sim, p);
	else if (p->effect && io->len)
		do_change(sim, p);
	sim->stats.ops[io->op]++;
	sim->stats.failed += io->error != 0;
}

static bool dies_now(struct sim_device *sim, const struct sim_pending *p)
{
	if (sim->dead || !sim->kill_after || p->io->op == DEVICE_READ || --sim->kill_after)
		return false;
	sim_die_locked(sim);
	return true;
}

/* Completes the request of that index and takes it off the queue. */
static struct device_io *complete_one_locked(struct sim_device *sim, struct sim_queue *sq, uint64_t i)
{
	struct sim_pending p = sq->pending[i];

	dies_now(sim, &p);
	sq->count--;
	if (sim->order == DEVICE_SIM_FIFO)
		memmove(sq->pending + i, sq->pending + i + 1, (sq->count - i) * sizeof(p));
	else
		sq->pending[i] = sq->pending[sq->count];
	if (sim->dead)
		p.io->error = -EIO;
	else
		complete_locked(sim, &p);
	return p.io;
}

static unsigned run_list(struct io_list *list)
{
	struct device_io *io;
	unsigned n = 0;

	for (; (io = io_list_pop(list)); n++)
		io->done(io);
	return n;
}

static unsigned sim_poll(struct device_queue *q)
{
	struct sim_queue *sq = queue_of(q);
	struct sim_device *sim = sim_of(q->dev);
	struct io_list list = {0};
	eventfd_t val;
	uint64_t n;

	lock_take(&sim->lock);
	if (sq->event_fd >= 0)
		eventfd_read(sq->event_fd, &val);
	n = sq->count;
	if (sim->complete_max && !sim->dead)
		n = min_u64(n, 1 + sim_random(&sim->rng) % sim->complete_max);
	while (n--)
		io_list_append(&list, complete_one_locked(sim, sq,
							  sim->order == DEVICE_SIM_FIFO
								  ? 0
								  : sim_random(&sim->rng) % sq->count));
	if (sq->event_fd >= 0 && sq->count)
		eventfd_write(sq->event_fd, 1);
	lock_drop(&sim->lock);
	return run_list(&list);
}

/* ---- submissions ---------------------------------------------------------------------------- */

static void sim_submit(struct device_queue *q, struct device_io *io)
{
	struct sim_device *sim = sim_of(q->dev);

	io->error = 0;
	lock_take(&sim->lock);
	io->progress = sim_log_seq(&sim->log);
	lock_drop(&sim->lock);
	io_list_append(&queue_of(q)->fresh, io);
}

static struct sim_pending make_pending_locked(struct sim_device *sim, struct device_io *io)
{
	struct sim_pending p = {.io = io, .start = sim_log_seq(&sim->log)};

	if (io->op == DEVICE_FLUSH)
		p.start = io->progress;
	p.error = device_check(&sim->dev, io);
	p.effect = !p.error;
	if (p.error || sim->dead)
		return p;
	if (io->op == DEVICE_WRITE)
		p.error = sim_host_allocate(sim, io->off, io->len);
	p.effect = !p.error;
	if (p.error)
		return p;
	if (io->op == DEVICE_READ || io->op == DEVICE_WRITE)
		check_vector(io);
	sim_fault_apply_locked(sim, &p);
	if (p.effect && io->op == DEVICE_WRITE)
		p.sum = buffer_sum(io);
	return p;
}

static void pending_append(struct sim_queue *sq, const struct sim_pending *p)
{
	if (sq->count == sq->room) {
		sq->room = max_u64(16, sq->room * 2);
		sq->pending = realloc(sq->pending, sq->room * sizeof(*p));
		ASSERT(sq->pending);
	}
	sq->pending[sq->count++] = *p;
}

static void sim_kick(struct device_queue *q)
{
	struct sim_queue *sq = queue_of(q);
	struct sim_device *sim = sim_of(q->dev);
	struct device_io *io;
	struct sim_pending p;

	if (!sq->fresh.head)
		return;
	lock_take(&sim->lock);
	while ((io = io_list_pop(&sq->fresh))) {
		p = make_pending_locked(sim, io);
		pending_append(sq, &p);
	}
	if (sq->event_fd >= 0)
		eventfd_write(sq->event_fd, 1);
	lock_drop(&sim->lock);
}

static unsigned sim_wait(struct device_queue *q)
{
	sim_kick(q);
	return sim_poll(q);
}

static int sim_fd(struct device_queue *q)
{
	struct sim_queue *sq = queue_of(q);

	if (sq->event_fd < 0)
		sq->event_fd = eventfd(sq->count != 0, EFD_CLOEXEC | EFD_NONBLOCK);
	return sq->event_fd < 0 ? -errno : sq->event_fd;
}

/* ---- queues and devices ---------------------------------------------------------------------- */

static int sim_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct sim_device *sim = sim_of(dev);
	struct sim_queue *sq = sim_alloc(sizeof(*sq));

	*sq = (struct sim_queue){.q = {.dev = dev}, .event_fd = -1};
	lock_take(&sim->lock);
	sq->next = sim->queues;
	sim->queues = sq;
	lock_drop(&sim->lock);
	*ret_q = &sq->q;
	return 0;
}

static void sim_queue_free(struct device_queue *q)
{
	struct sim_queue *sq = queue_of(q), **at;
	struct sim_device *sim = sim_of(q->dev);

	lock_take(&sim->lock);
	ASSERT(sim->dead || (!sq->count && !sq->fresh.head));
	for (at = &sim->queues; *at != sq; at = &(*at)->next)
		;
	*at = sq->next;
	lock_drop(&sim->lock);
	if (sq->event_fd >= 0)
		close(sq->event_fd);
	free(sq->pending);
	free(sq);
}

static void sim_close(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);

	ASSERT(!sim->queues);
	sim_crash_fini(sim);
	sim_image_free(sim->view);
	sim_image_free(sim->stable);
	free(sim->blocks);
	lock_fini(&sim->lock);
	free(sim);
}

static int sim_grow(struct device *dev, uint64_t size, bool preallocate)
{
	struct sim_device *sim = sim_of(dev);
	int err = 0;

	lock_take(&sim->lock);
	if (size % DEVICE_ALIGN || size < dev->size) {
		err = -EINVAL;
	} else if (sim->dead) {
		err = -EIO;
	} else {
		sim_image_grow(sim->view, size);
		sim_image_grow(sim->stable, size);
		sim_host_grow(sim, dev->size, size);
		__atomic_store_n(&dev->size, size, __ATOMIC_RELAXED);
	}
	lock_drop(&sim->lock);
	return err;
}

static int sim_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	struct sim_device *sim = sim_of(dev);
	int err = -EINVAL;

	lock_take(&sim->lock);
	if ((off | len) % DEVICE_ALIGN == 0 && off <= dev->size && len <= dev->size - off)
		err = sim->dead ? -EIO : sim_host_allocate(sim, off, len);
	lock_drop(&sim->lock);
	return err;
}

static const struct device_ops sim_ops = {
	.name = "simulated",
	.close = sim_close,
	.queue_new = sim_queue_new,
	.queue_free = sim_queue_free,
	.submit = sim_submit,
	.kick = sim_kick,
	.poll = sim_poll,
	.wait = sim_wait,
	.fd = sim_fd,
	.grow = sim_grow,
	.allocate = sim_allocate,
	.host = sim_host,
};

struct device *sim_device_new(struct sim_image *image, uint64_t size, uint64_t seed)
{
	struct sim_device *sim = sim_alloc(sizeof(*sim));

	*sim = (struct sim_device){
		.dev = {.ops = &sim_ops, .size = size, .writable = true, .direct = true, .discard = true},
		.rng = seed,
		.order = DEVICE_SIM_RANDOM,
		.log = {.first = 1},
		.view = image,
		.stable = sim_image_clone(image),
	};
	lock_init(&sim->lock, LOCK_DEVICE);
	return &sim->dev;
}

struct device *device_sim_new(uint64_t size, uint64_t seed)
{
	ASSERT(size % DEVICE_ALIGN == 0);
	return sim_device_new(sim_image_new(size), size, seed);
}

struct device *device_sim_clone(struct device *dev, uint64_t seed)
{
	struct sim_device *sim = sim_of(dev);
	struct device *clone;

	lock_take(&sim->lock);
	clone = sim_device_new(sim_image_clone(sim->view), dev->size, seed);
	lock_drop(&sim->lock);
	return clone;
}

static int save_pages(const struct sim_image *view, int fd, uint64_t size)
{
	uint64_t end = size / SIM_PAGE;

	if (ftruncate(fd, (off_t)size))
		return -errno;
	for (uint64_t i = sim_image_next(view, 0, end); i < end; i = sim_image_next(view, i + 1, end)) {
		ssize_t n = pwrite(fd, sim_image_peek(view, i)->data, SIM_PAGE, (off_t)(i * SIM_PAGE));

		if (n != SIM_PAGE)
			return n < 0 ? -errno : -EIO;
	}
	return 0;
}

int device_sim_save(struct device *dev, const char *path)
{
	struct sim_device *sim = sim_of(dev);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int err;

	if (fd < 0)
		return -errno;
	lock_take(&sim->lock);
	err = save_pages(sim->view, fd, dev->size);
	lock_drop(&sim->lock);
	if (close(fd) && !err)
		err = -errno;
	return err;
}

void device_sim_set_order(struct device *dev, enum device_sim_order order, unsigned complete_max)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim->order = order;
	sim->complete_max = complete_max;
	lock_drop(&sim->lock);
}

void device_sim_set_discard_zeroes(struct device *dev, bool zeroes)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim->discard_zeroes = zeroes;
	lock_drop(&sim->lock);
}

/* ---- counters ------------------------------------------------------------ */

void device_sim_get_stats(struct device *dev, struct device_sim_stats *ret_stats)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	*ret_stats = sim->stats;
	for (uint64_t i = 0; i < sim->log.count; i++)
		ret_stats->unstable_events += sim->log.events[i].changes &&
					      sim->log.first + i > sim->stable_seq;
	for (struct sim_queue *sq = sim->queues; sq; sq = sq->next)
		ret_stats->under_way += sq->count;
	ret_stats->pages = sim_image_pages(sim->view);
	lock_drop(&sim->lock);
}
