/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device/test_device_record.c: the recorded device: the log says what happened, in the order of
 * completion, with flushes that cover what they must; replayed, it gives the device's content; it survives
 * being cut off, and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/device/device_record.h"
#include "fs/device/device_sim.h"
#include "tests/lib/device_test.h"
#include "tests/lib/random.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"

struct names {
	char log[64], pool[64];
};

static int make_names(void **state)
{
	struct names *fx = calloc(1, sizeof(*fx));
	int fd;

	strcpy(fx->log, "/tmp/byre-log-XXXXXX");
	strcpy(fx->pool, "/tmp/byre-pool-XXXXXX");
	fd = mkstemp(fx->log);
	close(fd);
	fd = mkstemp(fx->pool);
	if (ftruncate(fd, 16 * MIB))
		return -1;
	close(fd);
	*state = fx;
	return 0;
}

static int remove_names(void **state)
{
	struct names *fx = *state;

	unlink(fx->log);
	unlink(fx->pool);
	free(fx);
	return 0;
}

static struct device *record_on(struct device *inner, struct names *fx)
{
	struct device *dev = NULL;

	assert_int_equal(device_record(inner, fx->log, &dev), 0);
	return dev;
}

static struct record_reader *open_log(struct names *fx)
{
	struct record_reader *reader = NULL;

	assert_int_equal(record_reader_open(fx->log, &reader), 0);
	return reader;
}

/* The image after the records up to `to`, of a device that was full of zeros. */
static uint8_t *replay(struct names *fx, uint64_t size, uint64_t to)
{
	struct record_reader *reader = open_log(fx);
	uint8_t *image = calloc(1, size);
	struct record rec;
	int ret = 0;

	for (uint64_t n = 0; n < to && (ret = record_reader_next(reader, &rec)) > 0; n++) {
		assert_int_equal(rec.seq, n + 1);
		if (rec.type == RECORD_WRITE)
			memcpy(image + rec.off, rec.data, rec.len);
		else if (rec.type == RECORD_DISCARD)
			memset(image + rec.off, 0, rec.len);
	}
	assert_true(ret >= 0);
	assert_int_equal(record_reader_size(reader), size);
	record_reader_close(reader);
	return image;
}

/* ---- the order of the log ---------------------------------------------------------------------- */

#define IOS 3000
#define SIZE_PAGES 256

struct request {
	struct device_io io;
	struct run *run;
	uint64_t seen; /* requests in `done` when it was submitted */
	uint8_t *got;  /* READ */
};

struct run {
	struct request r[IOS];
	struct request *done[IOS]; /* all but reads, in the order of their completion */
	uint64_t done_count, failed, failed_flushes;
};

static void run_done(struct device_io *io)
{
	struct request *r = container_of(io, struct request, io);

	if (io->error) {
		r->run->failed++;
		r->run->failed_flushes += io->op == DEVICE_FLUSH;
	} else if (io->op != DEVICE_READ) {
		r->run->done[r->run->done_count++] = r;
	}
}

static void submit_random(struct run *run, struct request *r, struct device_queue *q, uint64_t *rng,
			  uint8_t *bufs)
{
	uint64_t n = 1 + rnd(rng) % 8, first = rnd(rng) % (SIZE_PAGES - n + 1), kind = rnd(rng) % 10;

	*r = (struct request){.run = run, .seen = run->done_count};
	r->io = (struct device_io){.op = DEVICE_WRITE,
				   .off = first * PAGE,
				   .len = n * PAGE,
				   .done = run_done,
				   .buf = bufs + rnd(rng) % 64 * PAGE};
	if (kind == 0)
		r->io = (struct device_io){.op = DEVICE_FLUSH, .done = run_done};
	else if (kind == 1)
		r->io.op = DEVICE_DISCARD;
	else if (kind == 2)
		r->io.op = DEVICE_READ;
	if (r->io.op == DEVICE_READ)
		r->io.buf = r->got = pages(n);
	q->dev->ops->submit(q, &r->io);
}

static void check_log_is_run(struct names *fx, const struct run *run)
{
	static const enum record_type types[] = {[DEVICE_WRITE] = RECORD_WRITE,
						 [DEVICE_FLUSH] = RECORD_FLUSH,
						 [DEVICE_DISCARD] = RECORD_DISCARD};
	struct record_reader *reader = open_log(fx);
	struct record rec;

	for (uint64_t i = 0; i < run->done_count; i++) {
		const struct request *r = run->done[i];

		assert_int_equal(record_reader_next(reader, &rec), 1);
		assert_int_equal(rec.type, types[r->io.op]);
		assert_int_equal(rec.seq, i + 1);
		if (rec.type == RECORD_FLUSH) {
			assert_int_equal(rec.covers, r->seen);
			continue;
		}
		assert_int_equal(rec.off, r->io.off);
		assert_int_equal(rec.len, r->io.len);
		if (rec.type == RECORD_WRITE)
			assert_memory_equal(rec.data, r->io.buf, rec.len);
	}
	assert_int_equal(record_reader_next(reader, &rec), 0);
	assert_false(record_reader_is_cut(reader));
	record_reader_close(reader);
}

static void run_on_sim(struct names *fx, uint64_t seed, bool faults)
{
	struct device *sim = device_sim_new(SIZE_PAGES * PAGE, seed), *dev = record_on(sim, fx);
	struct device_queue *q[3] = {new_queue(dev), new_queue(dev), new_queue(dev)};
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = ~DEVICE_SIM_OP(DEVICE_READ), .skip = 40, .error = -EIO};
	struct run *run = calloc(1, sizeof(*run));
	uint8_t *bufs = pages(80), *image, *view = malloc(SIZE_PAGES * PAGE);
	uint64_t rng = seed;

	for (unsigned i = 0; i < 80 * PAGE; i++)
		bufs[i] = (uint8_t)(rnd(&rng) | 1);
	device_sim_set_order(sim, DEVICE_SIM_RANDOM, 5);
	device_sim_set_discard_zeroes(sim, true);
	for (unsigned i = 0; i < IOS; i++) {
		struct device_queue *to = q[rnd(&rng) % 3];

		if (faults && i % 500 == 0) {
			fault.count = 20;
			device_sim_fault_add(sim, &fault);
		}
		submit_random(run, &run->r[i], to, &rng, bufs);
		if (rnd(&rng) % 3)
			dev->ops->kick(to);
		if (rnd(&rng) % 4 == 0)
			dev->ops->poll(q[rnd(&rng) % 3]);
	}
	for (unsigned i = 0; i < 3; i++) {
		while (dev->ops->wait(q[i]))
			;
		device_queue_free(q[i]);
	}
	/*
	 * A flush that fails takes those that are under way with it: more flushes fail than were told to,
	 * nothing else.
	 */
	assert_true(faults ? run->failed >= 6 * 20 : run->failed == 0);
	assert_true(run->failed - run->failed_flushes <= 6 * 20);
	assert_int_equal(dev->flushes, sim->flushes);
	check_log_is_run(fx, run);
	image = replay(fx, SIZE_PAGES * PAGE, UINT64_MAX);
	device_sim_peek(sim, 0, view, SIZE_PAGES * PAGE);
	assert_memory_equal(image, view, SIZE_PAGES * PAGE);
	for (unsigned i = 0; i < IOS; i++)
		mem_free(run->r[i].got);
	device_close(dev);
	mem_free(bufs);
	free(image);
	free(view);
	free(run);
}

static void test_record_log_is_in_completion_order(void **state)
{
	uint64_t seed = test_seed();

	for (unsigned i = 0; i < 10; i++)
		run_on_sim(*state, seed + i, false);
}

static void test_record_leaves_out_what_failed(void **state)
{
	run_on_sim(*state, test_seed(), true);
}

/* ---- on files, with threads ------------------------------------------------------------------------ */

struct worker {
	pthread_t thread;
	struct device *dev;
	uint64_t seed, first; /* page */
};

static void count_done(struct device_io *io)
{
	ASSERT(io->error == 0);
	++*(unsigned *)io->arg;
}

/* 100 rounds of a few vectored writes on pages of its own, with flushes. */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct device_queue *q = new_queue(w->dev);
	uint8_t *buf = pages(64);
	struct iovec iov[8][8];
	struct device_io ios[8], flush;

	for (unsigned round = 0; round < 100; round++) {
		unsigned done = 0;

		memset(buf, (int)(rnd(&w->seed) | 1), 64 * PAGE);
		for (unsigned i = 0; i < 8; i++) {
			for (unsigned j = 0; j < 8; j++)
				iov[i][j] = (struct iovec){buf + (i * 8 + j) * PAGE, PAGE};
			ios[i] = (struct device_io){.op = DEVICE_WRITE,
						    .off = (w->first + (round * 8 + i) % 64 * 8) * PAGE,
						    .len = 8 * PAGE,
						    .iov = iov[i],
						    .iovcnt = 8,
						    .done = count_done,
						    .arg = &done};
			q->dev->ops->submit(q, &ios[i]);
		}
		flush = (struct device_io){.op = DEVICE_FLUSH, .done = count_done, .arg = &done};
		q->dev->ops->submit(q, &flush);
		q->dev->ops->kick(q);
		while (done < 9) {
			struct pollfd pfd = {.fd = q->dev->ops->fd(q), .events = POLLIN};

			if (round % 2)
				q->dev->ops->wait(q);
			else if (poll(&pfd, 1, 20000) == 1)
				q->dev->ops->poll(q);
		}
	}
	mem_free(buf);
	device_queue_free(q);
	return NULL;
}

static void run_on_file(struct names *fx, struct device *inner)
{
	struct device *dev = record_on(inner, fx);
	struct worker workers[4];
	uint8_t *image, *got = malloc(16 * MIB);
	int fd;

	for (unsigned i = 0; i < 4; i++) {
		workers[i] = (struct worker){.dev = dev, .seed = i, .first = i * 1024};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(workers[i].thread, NULL);
	assert_true(dev->flushes > 0 && dev->flushes == inner->flushes);
	device_close(dev);
	image = replay(fx, 16 * MIB, UINT64_MAX);
	fd = open(fx->pool, O_RDONLY);
	assert_int_equal(pread(fd, got, 16 * MIB, 0), 16 * MIB);
	close(fd);
	assert_memory_equal(image, got, 16 * MIB);
	free(image);
	free(got);
}

static void test_record_on_threads(void **state)
{
	struct names *fx = *state;
	struct device *inner;

	assert_int_equal(device_open_threads(fx->pool, true, &inner, NULL), 0);
	run_on_file(fx, inner);
}

static void test_record_on_uring(void **state)
{
	struct names *fx = *state;
	struct device *inner;
	int err = device_open_uring(fx->pool, true, &inner, NULL);

	if (err == -ENOSYS)
		skip();
	assert_int_equal(err, 0);
	run_on_file(fx, inner);
}

/* ---- limits and errors -------------------------------------------------------------------------------- */

static void test_record_more_requests_than_slots(void **state)
{
	struct device *sim = device_sim_new(4 * MIB, 1), *dev = record_on(sim, *state);
	struct device_queue *q = new_queue(dev);
	struct device_io *ios = calloc(1000, sizeof(*ios));
	uint8_t *buf = pages(1), *image;
	unsigned done = 0;

	memset(buf, 5, PAGE);
	for (unsigned i = 0; i < 1000; i++) {
		ios[i] = (struct device_io){.op = DEVICE_WRITE,
					    .off = i * PAGE,
					    .len = PAGE,
					    .buf = buf,
					    .done = count_done,
					    .arg = &done};
		dev->ops->submit(q, &ios[i]);
	}
	assert_int_equal(dev->ops->poll(q), 0);
	dev->ops->kick(q);
	while (done < 1000) {
		struct pollfd pfd = {.fd = dev->ops->fd(q), .events = POLLIN};

		assert_int_equal(poll(&pfd, 1, 1000), 1);
		assert_true(dev->ops->poll(q) > 0);
	}
	assert_int_equal(dev->ops->wait(q), 0);
	image = replay(*state, 4 * MIB, UINT64_MAX);
	for (unsigned i = 0; i < 1024; i++)
		assert_int_equal(image[i * PAGE], i < 1000 ? 5 : 0);
	free(image);
	mem_free(buf);
	free(ios);
	device_queue_free(q);
	device_close(dev);
}

static void ignore_done(struct device_io *io) {}

static void test_record_refuses_as_the_inner_device_does(void **state)
{
	struct device *dev = record_on(device_sim_new(MIB, 1), *state);
	struct device_queue *q = new_queue(dev);
	struct iovec iov[1] = {{0}};
	struct device_io io = {.op = DEVICE_WRITE, .len = PAGE, .iov = iov, .iovcnt = 2000};
	uint8_t *buf = pages(1), *image;

	io.done = ignore_done;
	dev->ops->submit(q, &io);
	assert_int_equal(dev->ops->wait(q), 1);
	assert_int_equal(io.error, -EINVAL);
	assert_int_equal(device_sync(q, DEVICE_WRITE, MIB, buf, PAGE), -EINVAL);
	assert_int_equal(device_sync(q, DEVICE_READ, MIB, buf, PAGE), -EINVAL);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, 0), 0);
	image = replay(*state, MIB, UINT64_MAX);
	assert_int_equal(image[0], 0);
	free(image);
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
}

static void test_record_grows(void **state)
{
	struct device *dev = record_on(device_sim_new(MIB, 1), *state);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(1), *image;

	memset(buf, 6, PAGE);
	assert_int_equal(dev->ops->grow(dev, MIB / 2, false), -EINVAL);
	assert_int_equal(dev->ops->grow(dev, 2 * MIB, false), 0);
	assert_int_equal(dev->size, 2 * MIB);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 2 * MIB - PAGE, buf, PAGE), 0);
	image = replay(*state, 2 * MIB, UINT64_MAX);
	assert_int_equal(image[2 * MIB - 1], 6);
	free(image);
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
}

/* When the log is full, what it does not hold is not acknowledged, from then on. */
static void test_record_log_cannot_be_written(void **state)
{
	struct names *fx = *state;
	struct device *dev = record_on(device_sim_new(MIB, 1), fx);
	struct device_queue *q = new_queue(dev);
	struct rlimit old, limit;
	struct record_reader *reader;
	struct record rec;
	void (*old_handler)(int) = signal(SIGXFSZ, SIG_IGN);
	uint8_t *buf = pages(1);
	unsigned acked = 0, recorded = 0;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = old;
	limit.rlim_cur = 50000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (unsigned i = 0; i < 20; i++) {
		int err = device_sync(q, DEVICE_WRITE, i * PAGE, buf, PAGE);

		assert_true(err == 0 || err == -EFBIG);
		acked += !err;
	}
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, old_handler);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, PAGE), -EFBIG);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), -EFBIG);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, buf, PAGE), 0);
	reader = open_log(fx);
	while (record_reader_next(reader, &rec) == 1)
		recorded++;
	assert_true(record_reader_is_cut(reader));
	assert_int_equal(recorded, acked);
	assert_in_range(acked, 10, 15);
	record_reader_close(reader);
	device_queue_free(q);
	device_close(dev);
	mem_free(buf);
}

/* Counts the records of the log; a negative errno when it is not one to its end. */
static int count_records(struct names *fx, bool *ret_cut)
{
	struct record_reader *reader;
	struct record rec;
	int ret = record_reader_open(fx->log, &reader), n = 0;

	if (ret)
		return ret;
	while ((ret = record_reader_next(reader, &rec)) > 0)
		n++;
	*ret_cut = record_reader_is_cut(reader);
	record_reader_close(reader);
	return ret ? ret : n;
}

static void test_record_reader_of_damaged_logs(void **state)
{
	struct names *fx = *state;
	struct device *dev = record_on(device_sim_new(MIB, 1), fx);
	struct device_queue *q = new_queue(dev);
	const off_t header = sizeof(struct record_header), entry = sizeof(struct record_entry);
	const off_t ends[] = {header, header + entry + PAGE, header + 2 * entry + PAGE,
			      header + 3 * entry + 3 * PAGE};
	uint8_t *buf = pages(2), byte;
	struct stat st;
	bool cut;
	int fd, n = 0;

	memset(buf, 3, 2 * PAGE);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, PAGE), 0);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(device_sync(q, DEVICE_WRITE, PAGE, buf, 2 * PAGE), 0);
	device_queue_free(q);
	device_close(dev);
	assert_int_equal(stat(fx->log, &st), 0);
	assert_int_equal(st.st_size, ends[3]);
	assert_int_equal(count_records(fx, &cut), 3);

	fd = open(fx->log, O_RDWR);
	for (off_t at = 0; at < st.st_size; at += at % 512 ? 1 : 37) { /* any byte that changes is noticed */
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 0x40;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		n = count_records(fx, &cut);
		/* A length that grows looks like a cut, but its entry's checksum says no. */
		assert_int_equal(n, -EBADMSG);
		byte ^= 0x40;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	for (off_t len = st.st_size; len >= 0; len--) {
		n = 0;
		while (n < 3 && ends[n + 1] <= len)
			n++;
		assert_int_equal(ftruncate(fd, len), 0);
		assert_int_equal(count_records(fx, &cut), len < header ? -EBADMSG : n);
		if (len >= header)
			assert_true(cut == (len != ends[n]));
	}
	close(fd);
	unlink(fx->log);
	assert_int_equal(count_records(fx, &cut), -ENOENT);
	mem_free(buf);
}

static void test_record_allocation_fails(void **state)
{
	struct names *fx = *state;
	struct device *sim = device_sim_new(MIB, 1), *dev = NULL;
	struct device_queue *q = NULL;
	int err = -ENOMEM;
	uint64_t n;

	for (n = 1; err; n++) {
		mem_fail_at(n);
		err = device_record(sim, fx->log, &dev);
		mem_fail_at(0);
		assert_true(err == 0 || err == -ENOMEM);
	}
	assert_true(n > 2);
	err = -ENOMEM;
	for (n = 1; err; n++) {
		mem_fail_at(n);
		err = dev->ops->queue_new(dev, &q);
		mem_fail_at(0);
		assert_true(err == 0 || err == -ENOMEM);
	}
	assert_true(n > 3);
	device_queue_free(q);
	device_close(dev);
	sim = device_sim_new(MIB, 1);
	assert_int_equal(device_record(sim, "/nowhere/log", &dev), -ENOENT);
	device_close(sim); /* still the caller's */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_names, remove_names)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_record_log_is_in_completion_order),
		TEST(test_record_leaves_out_what_failed),
		TEST(test_record_on_threads),
		TEST(test_record_on_uring),
		TEST(test_record_more_requests_than_slots),
		TEST(test_record_refuses_as_the_inner_device_does),
		TEST(test_record_grows),
		TEST(test_record_log_cannot_be_written),
		TEST(test_record_reader_of_damaged_logs),
		TEST(test_record_allocation_fails),
	};

	return cmocka_run_group_tests_name("recorded device", tests, NULL, NULL);
}
