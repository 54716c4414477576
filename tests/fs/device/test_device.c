/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device/test_device.c: the devices on files, io_uring and threads alike: data against a model,
 * vectors, limits, errors, the descriptor for event loops, several threads, growing, failing allocations.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/device_test.h"
#include "tests/lib/full_table.h"
#include "tests/lib/random.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"

static void submit(struct device_queue *q, struct device_io *io)
{
	q->dev->ops->submit(q, io);
}

static void kick(struct device_queue *q)
{
	q->dev->ops->kick(q);
}

static unsigned wait_some(struct device_queue *q)
{
	return q->dev->ops->wait(q);
}

static bool is_readable(int fd, int timeout_ms)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	return poll(&pfd, 1, timeout_ms) == 1;
}

/* One round of an event loop: sleeps on the descriptor, then polls. */
static unsigned loop_once(struct device_queue *q)
{
	ASSERT(is_readable(q->dev->ops->fd(q), 20000));
	return q->dev->ops->poll(q);
}

static void count_done(struct device_io *io)
{
	ASSERT(io->error == 0);
	++*(unsigned *)io->arg;
}

/* ---- a model --------------------------------------------------------------------------- */

#define SLOTS 48
#define SLOT_PAGES 80

struct slot {
	struct device_io io;
	struct model *m;
	bool busy;
	uint8_t *buf;
	struct iovec iov[SLOT_PAGES];
};

struct model {
	uint64_t rng, first_page, page_count;
	uint8_t *content, *busy; /* of the pages from first_page on */
	struct device_queue *q;
	bool use_fd;
	unsigned under_way;
	uint64_t completed;
	struct slot slots[SLOTS];
};

static void model_done(struct device_io *io)
{
	struct slot *s = container_of(io, struct slot, io);
	struct model *m = s->m;
	uint64_t first = io->off / PAGE - m->first_page;

	ASSERT(io->error == 0);
	if (io->op == DEVICE_READ)
		ASSERT(memcmp(s->buf, m->content + first * PAGE, io->len) == 0);
	if (io->op != DEVICE_FLUSH)
		memset(m->busy + first, 0, io->len / PAGE);
	s->busy = false;
	m->under_way--;
	m->completed++;
}

/* Cuts the buffer into a vector, with empty elements here and there. */
static void cut_vector(struct slot *s)
{
	struct model *m = s->m;
	uint64_t at = 0;

	s->io.iov = s->iov;
	s->io.iovcnt = 0;
	while (at < s->io.len) {
		uint64_t left = (s->io.len - at) / PAGE;
		uint64_t n = s->io.iovcnt >= 60 ? left : rnd(&m->rng) % (left + 1);

		s->iov[s->io.iovcnt++] = (struct iovec){.iov_base = s->buf + at, .iov_len = n * PAGE};
		at += n * PAGE;
	}
}

static bool pick_range(struct model *m, uint64_t *ret_first, uint64_t *ret_n)
{
	uint64_t n = rnd(&m->rng) % 8 ? 1 + rnd(&m->rng) % 6 : 1 + rnd(&m->rng) % SLOT_PAGES;
	uint64_t first = rnd(&m->rng) % (m->page_count - n);

	for (uint64_t i = 0; i < n; i++)
		if (m->busy[first + i])
			return false;
	*ret_first = first;
	*ret_n = n;
	return true;
}

static void fill_random(struct model *m, uint8_t *buf, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t v = rnd(&m->rng);

		memcpy(buf + i, &v, 8);
	}
}

static void model_submit(struct model *m, struct slot *s)
{
	static const enum device_op ops[] = {DEVICE_READ,  DEVICE_READ,	 DEVICE_READ,	 DEVICE_WRITE,
					     DEVICE_WRITE, DEVICE_WRITE, DEVICE_DISCARD, DEVICE_FLUSH};
	enum device_op op = ops[rnd(&m->rng) % ARRAY_SIZE(ops)];
	uint64_t first = 0, n = 0;

	/* What a disk leaves after a discard is its own affair. */
	if (op == DEVICE_DISCARD && m->q->dev->block_device)
		op = DEVICE_READ;
	if (op != DEVICE_FLUSH && !pick_range(m, &first, &n))
		return;
	s->io = (struct device_io){.op = op,
				   .off = (m->first_page + first) * PAGE,
				   .len = n * PAGE,
				   .buf = s->buf,
				   .done = model_done};
	if (op == DEVICE_WRITE) {
		fill_random(m, s->buf, n * PAGE);
		memcpy(m->content + first * PAGE, s->buf, n * PAGE);
	} else if (op == DEVICE_DISCARD && device_can_discard(m->q->dev)) {
		memset(m->content + first * PAGE, 0, n * PAGE);
	}
	if (op < DEVICE_FLUSH && rnd(&m->rng) % 2)
		cut_vector(s);
	memset(m->busy + first, 1, n);
	s->busy = true;
	m->under_way++;
	submit(m->q, &s->io);
}

static void model_reap(struct model *m)
{
	if (m->use_fd && m->under_way)
		loop_once(m->q);
	else if (rnd(&m->rng) % 4 == 0)
		m->q->dev->ops->poll(m->q);
	else
		wait_some(m->q);
}

static void model_run(struct model *m, struct device_queue *q, uint64_t requests)
{
	m->q = q;
	m->content = calloc(m->page_count, PAGE);
	m->busy = calloc(m->page_count, 1);
	for (unsigned i = 0; i < SLOTS; i++) {
		m->slots[i].buf = pages(SLOT_PAGES);
		m->slots[i].m = m;
	}
	while (m->completed < requests) {
		for (unsigned i = 0; i < SLOTS; i++)
			if (!m->slots[i].busy && rnd(&m->rng) % 3)
				model_submit(m, &m->slots[i]);
		kick(q);
		model_reap(m);
	}
	while (m->under_way)
		wait_some(q);
}

/* What is in the file, read without the device, is what the model says. */
static void model_check_file(struct model *m, const char *path)
{
	uint8_t *got = malloc(m->page_count * PAGE);
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, got, m->page_count * PAGE, (off_t)(m->first_page * PAGE)),
			 m->page_count * PAGE);
	close(fd);
	assert_memory_equal(got, m->content, m->page_count * PAGE);
	free(got);
}

static void model_free(struct model *m)
{
	for (unsigned i = 0; i < SLOTS; i++)
		mem_free(m->slots[i].buf);
	free(m->content);
	free(m->busy);
	free(m);
}

static struct model *model_new(uint64_t seed, uint64_t first_page, uint64_t page_count, bool use_fd)
{
	struct model *m = calloc(1, sizeof(*m));

	m->rng = seed;
	m->first_page = first_page;
	m->page_count = page_count;
	m->use_fd = use_fd;
	return m;
}

static void run_random(struct fixture *fx, bool use_fd)
{
	struct model *m = model_new(test_seed(), 0, 4096, use_fd);
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = new_queue(dev);

	assert_true(!fx->plain || (!dev->direct && !dev->discard));
	print_message("%s on %s: direct %d, discard %d\n", dev->ops->name, fx->folder, dev->direct,
		      dev->discard);
	model_run(m, q, 6000);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), 0);
	device_queue_free(q);
	device_close(dev);
	model_check_file(m, fx->path);
	model_free(m);
}

static void test_device_random_waiting(void **state)
{
	run_random(*state, false);
}

static void test_device_random_by_descriptor(void **state)
{
	run_random(*state, true);
}

struct worker {
	pthread_t thread;
	struct device *dev;
	struct model *m;
};

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct device_queue *q = NULL;
	int err = w->dev->ops->queue_new(w->dev, &q);

	ASSERT(err == 0);
	model_run(w->m, q, 2500);
	device_queue_free(q);
	return NULL;
}

static void test_device_queues_in_parallel(void **state)
{
	struct fixture *fx = *state;
	uint64_t seed = test_seed();
	struct device *dev = open_dev(fx, true);
	struct worker workers[4];

	for (unsigned i = 0; i < 4; i++) {
		workers[i].dev = dev;
		workers[i].m = model_new(seed + i, i * 1024, 1024, i & 1);
		assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(workers[i].thread, NULL);
	device_close(dev);
	for (unsigned i = 0; i < 4; i++) {
		model_check_file(workers[i].m, fx->path);
		model_free(workers[i].m);
	}
}

/* A queue may move from thread to thread. */
static void test_device_queue_changes_thread(void **state)
{
	struct fixture *fx = *state;
	uint64_t seed = test_seed();
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = new_queue(dev);

	for (unsigned i = 0; i < 3; i++) {
		struct worker w = {.dev = dev, .m = model_new(seed + i, 0, 1024, false)};

		assert_int_equal(pthread_create(&w.thread, NULL, worker_main, &w), 0);
		pthread_join(w.thread, NULL);
		for (uint64_t page = 0; page < 1024; page++) {
			uint8_t *buf = pages(1);

			assert_int_equal(device_sync(q, DEVICE_READ, page * PAGE, buf, PAGE), 0);
			assert_memory_equal(buf, w.m->content + page * PAGE, PAGE);
			memset(buf, 0, PAGE);
			assert_int_equal(device_sync(q, DEVICE_WRITE, page * PAGE, buf, PAGE), 0);
			mem_free(buf);
		}
		model_free(w.m);
	}
	device_queue_free(q);
	device_close(dev);
}

/* ---- many, long and odd requests ------------------------------------------------------------ */

static void test_device_many_before_one_kick(void **state)
{
	const unsigned n = 3000;
	struct device *dev = open_dev(*state, true);
	struct device_queue *q = new_queue(dev);
	struct device_io *ios = calloc(n, sizeof(*ios));
	uint8_t *buf = pages(n);
	unsigned done = 0;

	for (unsigned i = 0; i < n; i++) {
		memset(buf + i * PAGE, (int)(i % 251), PAGE);
		ios[i] = (struct device_io){.op = DEVICE_WRITE,
					    .off = i * PAGE,
					    .len = PAGE,
					    .buf = buf + i * PAGE,
					    .done = count_done,
					    .arg = &done};
		submit(q, &ios[i]);
	}
	assert_int_equal(dev->ops->poll(q), 0); /* nothing starts before the kick */
	kick(q);
	while (done < n)
		loop_once(q);
	assert_int_equal(wait_some(q), 0);
	memset(buf, 0, n * PAGE);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, buf, n * PAGE), 0);
	for (unsigned i = 0; i < n * PAGE; i += 512)
		assert_int_equal(buf[i], i / PAGE % 251);
	device_queue_free(q);
	device_close(dev);
	mem_free(buf);
	free(ios);
}

/* More than the kernel transfers in one call: the request has to be continued. */
static void test_device_longer_than_one_transfer(void **state)
{
	struct fixture *fx = *state;
	const uint64_t piece = fx->plain ? 64 * 1024 : 2304 * 1024, len = 1024 * piece;
	struct iovec iov[1024];
	struct device_io io = {.op = DEVICE_READ, .len = len, .iov = iov, .iovcnt = 1024, .done = count_done};
	unsigned done = 0;
	uint8_t *body, *tail = pages(piece / PAGE), *mark = pages(1);
	struct device_queue *q;
	struct device *dev;

	assert_true(fx->plain || len > 0x7ffff000);
	assert_int_equal(truncate(fx->path, (off_t)len), 0);
	dev = open_dev(fx, true);
	q = new_queue(dev);
	body = pages(piece / PAGE);
	memset(mark, 0x5a, PAGE);
	assert_int_equal(device_sync(q, DEVICE_WRITE, len - PAGE, mark, PAGE), 0);
	for (unsigned i = 0; i < 1024; i++)
		iov[i] = (struct iovec){.iov_base = i == 1023 ? tail : body, .iov_len = piece};
	memset(tail, 0xff, piece);
	io.arg = &done;
	submit(q, &io);
	while (!done)
		wait_some(q);
	for (uint64_t i = 0; i < piece; i++)
		ASSERT(tail[i] == (i < piece - PAGE ? 0 : 0x5a));
	device_queue_free(q);
	device_close(dev);
	mem_free(body);
	mem_free(tail);
	mem_free(mark);
}

struct chain {
	struct device_io io;
	struct device_queue *q;
	unsigned left;
};

static void chain_done(struct device_io *io)
{
	struct chain *c = container_of(io, struct chain, io);

	ASSERT(io->error == 0);
	if (--c->left == 0)
		return;
	io->op = c->left % 16 == 0 ? DEVICE_FLUSH : c->left % 2 ? DEVICE_READ : DEVICE_WRITE;
	io->len = c->left % 5 == 0 ? 0 : PAGE;
	submit(c->q, io);
	kick(c->q);
}

static void test_device_done_submits_the_next(void **state)
{
	struct device *dev = open_dev(*state, true);
	struct chain chains[40];
	struct device_queue *q = new_queue(dev);
	uint64_t flushes = dev->flushes;

	for (unsigned i = 0; i < 40; i++) {
		chains[i] = (struct chain){.q = q,
					   .left = 100 + i,
					   .io = {.op = DEVICE_WRITE,
						  .off = i * PAGE,
						  .len = PAGE,
						  .buf = pages(1),
						  .done = chain_done}};
		memset(chains[i].io.buf, 0, PAGE);
		submit(q, &chains[i].io);
	}
	kick(q);
	for (unsigned i = 0; i < 40; i++)
		while (chains[i].left)
			loop_once(q);
	assert_true(dev->flushes > flushes);
	for (unsigned i = 0; i < 40; i++)
		mem_free(chains[i].io.buf);
	device_queue_free(q);
	device_close(dev);
}

static void test_device_flushes_share(void **state)
{
	struct device *dev = open_dev(*state, true);
	struct device_queue *q = new_queue(dev);
	struct device_io ios[100];
	unsigned done = 0;

	for (unsigned i = 0; i < 100; i++) {
		ios[i] = (struct device_io){.op = DEVICE_FLUSH, .done = count_done, .arg = &done};
		submit(q, &ios[i]);
		if (i == 0)
			kick(q);
	}
	kick(q);
	while (done < 100)
		loop_once(q);
	assert_in_range(dev->flushes, 1, 2);
	device_queue_free(q);
	device_close(dev);
}

static unsigned count_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* A queue whose thread only waits needs no descriptor to sleep on. */
static void test_device_descriptor_is_made_when_asked_for(void **state)
{
	struct device *dev = open_dev(*state, true);
	unsigned without = count_open(), done = 0, before;
	struct device_queue *q = new_queue(dev);
	struct device_io io = {
		.op = DEVICE_READ, .len = PAGE, .buf = pages(1), .done = count_done, .arg = &done};
	struct full_table full;
	int fd;

	before = count_open();
	submit(q, &io);
	while (!done)
		q->dev->ops->wait(q);
	assert_int_equal(count_open(), before);
	full_table_begin(&full);
	assert_int_equal(dev->ops->fd(q), -EMFILE);
	full_table_end(&full);
	fd = dev->ops->fd(q);
	assert_true(fd >= 0);
	assert_int_equal(count_open(), before + 1);
	for (unsigned i = 1; i < 4; i++) {
		submit(q, &io);
		kick(q);
		while (done == i)
			loop_once(q);
	}
	mem_free(io.buf);
	device_queue_free(q);
	assert_int_equal(count_open(), without);
	device_close(dev);
}

static void test_device_descriptor_follows_completions(void **state)
{
	struct device *dev = open_dev(*state, true);
	struct device_queue *q = new_queue(dev);
	struct device_io io = {.op = DEVICE_READ, .len = PAGE, .buf = pages(1), .done = count_done};
	struct device_io bad = {.op = DEVICE_READ, .len = 0, .done = count_done};
	unsigned done = 0;
	int fd;

	io.arg = bad.arg = &done;
	submit(q, &io);
	kick(q);
	usleep(50000);
	fd = dev->ops->fd(q); /* asked for after the completion */
	assert_true(fd >= 0);
	assert_int_equal(dev->ops->fd(q), fd);
	for (unsigned i = 0; i < 200; i++) {
		assert_true(is_readable(fd, 20000));
		dev->ops->poll(q);
		while (done < i + 1)
			loop_once(q);
		/* It may be signalled once for nothing, but polling clears it. */
		dev->ops->poll(q);
		assert_false(is_readable(fd, 0));
		submit(q, i % 3 == 0 ? &bad : &io);
		kick(q);
	}
	while (done < 201)
		loop_once(q);
	mem_free(io.buf);
	device_queue_free(q);
	device_close(dev);
}

/* ---- errors -------------------------------------------------------------------------------- */

static void test_device_refuses_bad_requests(void **state)
{
	struct device *dev = open_dev(*state, true);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(2);

	memset(buf, 0, 2 * PAGE);
	for (enum device_op op = DEVICE_READ; op <= DEVICE_DISCARD; op++) {
		if (op == DEVICE_FLUSH)
			continue;
		assert_int_equal(device_sync(q, op, 512, buf, PAGE), -EINVAL);
		assert_int_equal(device_sync(q, op, 0, buf, 512), -EINVAL);
		assert_int_equal(device_sync(q, op, 16 * MIB, buf, PAGE), -EINVAL);
		assert_int_equal(device_sync(q, op, 16 * MIB - PAGE, buf, 2 * PAGE), -EINVAL);
		assert_int_equal(device_sync(q, op, UINT64_MAX - PAGE + 1, buf, 2 * PAGE), -EINVAL);
		assert_int_equal(device_sync(q, op, 0, buf, UINT64_MAX - PAGE + 1), -EINVAL);
		assert_int_equal(device_sync(q, op, 16 * MIB, buf, 0), 0);
		assert_int_equal(device_sync(q, op, 16 * MIB - PAGE, buf, PAGE), 0);
	}
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
}

static void test_device_read_only(void **state)
{
	struct device *dev = open_dev(*state, false);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(1);

	assert_false(dev->writable);
	memset(buf, 1, PAGE);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, buf, PAGE), 0);
	assert_int_equal(buf[0], 0);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, PAGE), -EROFS);
	assert_int_equal(device_sync(q, DEVICE_DISCARD, 0, NULL, PAGE), -EROFS);
	assert_int_equal(dev->ops->grow(dev, 32 * MIB, false), -EROFS);
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
}

static void test_device_file_ends_early(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(4);

	assert_int_equal(truncate(fx->path, 2 * PAGE), 0);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, buf, 2 * PAGE), 0);
	assert_int_equal(device_sync(q, DEVICE_READ, PAGE, buf, 2 * PAGE), -EIO);
	assert_int_equal(device_sync(q, DEVICE_READ, 8 * PAGE, buf, PAGE), -EIO);
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
}

/* A write that the host cuts short goes on, and then tells the error that it meets. */
static void test_device_short_write_then_error(void **state)
{
	struct fixture *fx = *state;
	struct rlimit old, limit;
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(4), *got = pages(4);
	struct iovec iov[2] = {{buf, PAGE}, {buf + PAGE, 3 * PAGE}};
	struct device_io io = {.op = DEVICE_WRITE, .off = MIB, .len = 4 * PAGE, .iov = iov, .iovcnt = 2};
	void (*old_handler)(int) = signal(SIGXFSZ, SIG_IGN);
	unsigned tried = 0;

	memset(buf, 0x77, 4 * PAGE);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = MIB + 2 * PAGE;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(device_sync(q, DEVICE_WRITE, MIB, buf, 4 * PAGE), -EFBIG);
	io.done = count_done;
	io.arg = &tried;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(device_sync(q, DEVICE_READ, MIB, got, 4 * PAGE), 0);
	assert_memory_equal(got, buf, 2 * PAGE);
	assert_int_equal(got[2 * PAGE], 0);
	submit(q, &io);
	while (!tried)
		wait_some(q);
	assert_int_equal(device_sync(q, DEVICE_READ, MIB, got, 4 * PAGE), 0);
	assert_memory_equal(got, buf, 4 * PAGE);
	signal(SIGXFSZ, old_handler);
	mem_free(buf);
	mem_free(got);
	device_queue_free(q);
	device_close(dev);
}

static void test_device_refuses_what_is_no_pool(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = NULL;
	char fifo[300];

	snprintf(fifo, sizeof(fifo), "%s.fifo", fx->path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(fx->open(fifo, true, &dev, NULL), -EINVAL);
	unlink(fifo);
	assert_int_equal(fx->open(fifo, true, &dev, NULL), -ENOENT);
	assert_int_equal(fx->open(fx->folder, true, &dev, NULL), -EINVAL);
	assert_int_equal(fx->open("/dev/null", true, &dev, NULL), -EINVAL);
	assert_null(dev);
}

static void test_device_allocation_fails(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = NULL;
	int err = -ENOMEM;

	for (uint64_t n = 1; err; n++) {
		mem_fail_at(n);
		err = dev->ops->queue_new(dev, &q);
		mem_fail_at(0);
		assert_true(err == 0 || err == -ENOMEM);
	}
	device_queue_free(q);
	device_close(dev);
	err = -ENOMEM;
	for (uint64_t n = 1; err; n++) {
		mem_fail_at(n);
		err = fx->open(fx->path, true, &dev, NULL);
		mem_fail_at(0);
		assert_true(err == 0 || err == -ENOMEM);
	}
	device_close(dev);
}

/* Queues may have files of their own; closing those must not make the holder unknown. */
static void test_device_queues_leave_the_pid_shown(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = new_queue(dev);
	int status;
	pid_t pid;

	device_queue_free(new_queue(dev));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct device *other;
		int holder = -1, err = fx->open(fx->path, true, &other, &holder);

		_exit(err != -EBUSY || holder != getppid());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	device_queue_free(q);
	device_close(dev);
}

/* ---- size ------------------------------------------------------------------------------------- */

static uint64_t allocated_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_device_grows(void **state)
{
	struct fixture *fx = *state;
	struct device *dev;
	struct device_queue *q;
	uint8_t *buf = pages(1);

	assert_int_equal(truncate(fx->path, 0), 0);
	dev = open_dev(fx, true);
	assert_int_equal(dev->size, 0);
	q = new_queue(dev);
	memset(buf, 3, PAGE);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, PAGE), -EINVAL);
	assert_int_equal(dev->ops->grow(dev, MIB, true), 0);
	assert_int_equal(dev->size, MIB);
	assert_true(allocated_bytes(fx->path) >= MIB);
	assert_int_equal(device_sync(q, DEVICE_WRITE, MIB - PAGE, buf, PAGE), 0);
	assert_int_equal(dev->ops->grow(dev, 64 * MIB, false), 0);
	assert_true(allocated_bytes(fx->path) < 2 * MIB);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 64 * MIB - PAGE, buf, PAGE), 0);
	assert_int_equal(device_sync(q, DEVICE_READ, 32 * MIB, buf, PAGE), 0);
	assert_int_equal(buf[17], 0);
	assert_int_equal(device_sync(q, DEVICE_READ, MIB - PAGE, buf, PAGE), 0);
	assert_int_equal(buf[17], 3);
	assert_int_equal(dev->ops->grow(dev, 64 * MIB + 1, false), -EINVAL);
	assert_int_equal(dev->ops->grow(dev, 32 * MIB, false), -EINVAL);
	assert_int_equal(dev->ops->grow(dev, 64 * MIB, true), 0);
	/* No host has that much: the file keeps its size. */
	if (!fx->plain)
		assert_true(dev->ops->grow(dev, 1ull << 60, true) < 0);
	assert_int_equal(dev->size, 64 * MIB);
	device_queue_free(q);
	device_close(dev);
	dev = open_dev(fx, true);
	assert_int_equal(dev->size, 64 * MIB);
	device_close(dev);
	mem_free(buf);
}

static void test_device_odd_file_size(void **state)
{
	struct fixture *fx = *state;
	struct device *dev;
	struct device_queue *q;
	uint8_t *buf = pages(4);

	assert_int_equal(truncate(fx->path, 3 * PAGE + 700), 0);
	dev = open_dev(fx, true);
	assert_int_equal(dev->size, 3 * PAGE);
	assert_int_equal(dev->ops->grow(dev, 4 * PAGE, true), 0);
	q = new_queue(dev);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, buf, 4 * PAGE), 0);
	device_queue_free(q);
	device_close(dev);
	mem_free(buf);
}

static void test_device_discard_frees_and_zeroes(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = open_dev(fx, true);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(1024);

	memset(buf, 9, 1024 * PAGE);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, 1024 * PAGE), 0);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_true(allocated_bytes(fx->path) >= 4 * MIB);
	assert_int_equal(device_sync(q, DEVICE_DISCARD, MIB, NULL, 3 * MIB), 0);
	if (dev->discard) {
		assert_true(allocated_bytes(fx->path) < 2 * MIB);
		assert_int_equal(device_sync(q, DEVICE_READ, 0, buf, 1024 * PAGE), 0);
		assert_int_equal(buf[MIB - 1], 9);
		for (uint64_t i = MIB; i < 4 * MIB; i++)
			ASSERT(buf[i] == 0);
	}
	assert_int_equal(dev->size, 16 * MIB);
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_file, remove_file)

static const struct CMUnitTest all_tests[] = {
	TEST(test_device_random_waiting),
	TEST(test_device_random_by_descriptor),
	TEST(test_device_queues_in_parallel),
	TEST(test_device_queue_changes_thread),
	TEST(test_device_many_before_one_kick),
	TEST(test_device_longer_than_one_transfer),
	TEST(test_device_done_submits_the_next),
	TEST(test_device_flushes_share),
	TEST(test_device_descriptor_follows_completions),
	TEST(test_device_descriptor_is_made_when_asked_for),
	TEST(test_device_refuses_bad_requests),
	TEST(test_device_read_only),
	TEST(test_device_file_ends_early),
	TEST(test_device_short_write_then_error),
	TEST(test_device_refuses_what_is_no_pool),
	TEST(test_device_allocation_fails),
	TEST(test_device_queues_leave_the_pid_shown),
	TEST(test_device_grows),
	TEST(test_device_odd_file_size),
	TEST(test_device_discard_frees_and_zeroes),
};

static struct fixture fixture;

static int group_setup(void **state)
{
	*state = &fixture;
	return 0;
}

static int run_in(const char *folder, bool plain)
{
	int failed = 0;

	if (access(folder, W_OK))
		return 0;
	fixture = (struct fixture){.open = device_open_uring, .folder = folder, .plain = plain};
	if (!uring_works())
		print_message("no io_uring here\n");
	else
		failed += cmocka_run_group_tests_name("device on io_uring", all_tests, group_setup, NULL);
	fixture = (struct fixture){.open = device_open_threads, .folder = folder, .plain = plain};
	return failed + cmocka_run_group_tests_name("device on threads", all_tests, group_setup, NULL);
}

/*
 * ramfs has neither O_DIRECT nor fallocate. Mounted where only this process sees it; not at all without the
 * right to.
 */
static int run_in_ramfs(const char *tmp)
{
	char folder[256];
	int failed = 0;

	snprintf(folder, sizeof(folder), "%s/byre-device-XXXXXX", tmp);
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || !mkdtemp(folder)) {
		print_message("no ramfs here: %s\n", strerror(errno));
		return 0;
	}
	if (mount("none", folder, "ramfs", 0, NULL) == 0) {
		failed = run_in(folder, true);
		umount2(folder, MNT_DETACH);
	}
	rmdir(folder);
	return failed;
}

int main(void)
{
	int failed = run_in(test_folder(), false);

	failed += run_in("/dev/shm", false);
	return failed + run_in_ramfs(test_folder()) != 0;
}
