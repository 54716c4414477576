/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device/test_device_sim.c: the simulated device: data, order, clones, faults, counters. Crashes:
 * test_device_sim_crash.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/device/device_sim.h"
#include "tests/lib/device_test.h"
#include "tests/lib/random.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"

#define SECTOR DEVICE_SIM_SECTOR

/* ---- data --------------------------------------------------------------------------------------- */

static void test_sim_reads_what_was_written(void **state)
{
	uint64_t seed = test_seed(), rng = seed;
	struct device *dev = device_sim_new(4 * MIB, seed);
	uint8_t *model = pages(1024), *buf = pages(64);

	device_sim_set_discard_zeroes(dev, true);
	for (unsigned i = 0; i < 4000; i++) {
		uint64_t n = 1 + rnd(&rng) % 64, first = rnd(&rng) % (1024 - n + 1);

		switch (rnd(&rng) % 4) {
		case 0:
			memset(buf, (int)i, n * PAGE);
			memcpy(model + first * PAGE, buf, n * PAGE);
			assert_int_equal(run_sync(dev, DEVICE_WRITE, first * PAGE, buf, n * PAGE), 0);
			break;
		case 1:
			memset(model + first * PAGE, 0, n * PAGE);
			assert_int_equal(run_sync(dev, DEVICE_DISCARD, first * PAGE, NULL, n * PAGE), 0);
			break;
		case 2: assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0); break;
		default:
			assert_int_equal(run_sync(dev, DEVICE_READ, first * PAGE, buf, n * PAGE), 0);
			assert_memory_equal(buf, model + first * PAGE, n * PAGE);
		}
	}
	device_close(dev);
	mem_free(model);
	mem_free(buf);
}

static void test_sim_discard_leaves_anything_but_other_pages(void **state)
{
	struct device *dev = device_sim_new(2048 * PAGE, 5), *image;
	uint8_t *buf = pages(2048), *got = pages(1);
	unsigned old = 0, zero = 0, other = 0;

	memset(buf, 7, 2048 * PAGE);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, 2048 * PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(run_sync(dev, DEVICE_DISCARD, PAGE, NULL, 2046 * PAGE), 0);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 0);
	for (unsigned i = 0; i < 2048; i++) {
		device_sim_peek(image, i * PAGE, got, PAGE);
		assert_int_equal(got[i % PAGE], 7); /* a discard is as volatile as a write */
		device_sim_peek(dev, i * PAGE, got, PAGE);
		old += got[0] == 7 && got[1] == 7;
		zero += got[0] == 0 && got[1] == 0;
		other += got[0] != 0 && got[0] != 7;
		if (i == 0 || i == 2047)
			assert_int_equal(got[0], 7);
	}
	assert_true(old > 400 && zero > 400 && other > 400);
	device_close(image);
	device_close(dev);
	mem_free(buf);
	mem_free(got);
}

static void test_sim_clones_are_independent(void **state)
{
	struct device *dev = device_sim_new(64 * MIB, 1), *clone, *second;
	uint8_t *buf = pages(1);

	buf[0] = 1;
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 40 * MIB, buf, PAGE), 0);
	clone = device_sim_clone(dev, 2);
	buf[0] = 2;
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 40 * MIB, buf, PAGE), 0);
	buf[0] = 3;
	assert_int_equal(run_sync(clone, DEVICE_WRITE, 40 * MIB + PAGE, buf, PAGE), 0);
	second = device_sim_crash_image(clone, DEVICE_SIM_CRASH_LOSE_ALL, 0);
	device_sim_peek(second, 40 * MIB, buf, PAGE);
	assert_int_equal(buf[0], 1); /* all of a clone is durable */
	device_sim_peek(dev, 40 * MIB + PAGE, buf, PAGE);
	assert_int_equal(buf[0], 0);
	device_close(dev);
	device_sim_peek(clone, 40 * MIB, buf, PAGE);
	assert_int_equal(buf[0], 1);
	device_close(clone);
	device_close(second);
	mem_free(buf);
}

static void test_sim_grows_and_saves(void **state)
{
	char path[] = "/tmp/byre-sim-XXXXXX";
	struct device *dev = device_sim_new(0, 1);
	uint8_t *buf = pages(1), got[PAGE];
	struct stat st;
	int fd;

	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, PAGE), -EINVAL);
	assert_int_equal(dev->ops->grow(dev, 5 * MIB, true), 0);
	assert_int_equal(dev->ops->grow(dev, 4 * MIB, true), -EINVAL);
	memset(buf, 8, PAGE);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 5 * MIB - PAGE, buf, PAGE), 0);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(device_sim_save(dev, path), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 5 * MIB);
	assert_int_equal(pread(fd, got, PAGE, 5 * MIB - PAGE), PAGE);
	assert_memory_equal(got, buf, PAGE);
	close(fd);
	unlink(path);
	assert_int_equal(device_sim_save(dev, "/nowhere/x"), -ENOENT);
	device_close(dev);
	mem_free(buf);
}

static void trace_done(struct device_io *io)
{
	uint64_t *trace = io->arg;

	*trace = *trace * 31 + io->off;
}

static uint64_t order_of(uint64_t seed, enum device_sim_order order)
{
	struct device *dev = device_sim_new(MIB, seed);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(1);
	struct device_io ios[50];
	uint64_t trace = 0;

	device_sim_set_order(dev, order, 3);
	for (unsigned i = 0; i < 50; i++) {
		ios[i] = (struct device_io){.op = i % 2 ? DEVICE_READ : DEVICE_WRITE,
					    .off = i * PAGE,
					    .len = PAGE,
					    .buf = buf,
					    .done = trace_done,
					    .arg = &trace};
		if (i % 2)
			ios[i].buf = pages(1);
		dev->ops->submit(q, &ios[i]);
	}
	dev->ops->kick(q);
	while (dev->ops->wait(q))
		;
	for (unsigned i = 1; i < 50; i += 2)
		mem_free(ios[i].buf);
	mem_free(buf);
	device_queue_free(q);
	device_close(dev);
	return trace;
}

static void test_sim_one_seed_is_one_order(void **state)
{
	uint64_t fifo = 0;

	for (uint64_t i = 0; i < 50; i++)
		fifo = fifo * 31 + i * PAGE;
	assert_int_equal(order_of(7, DEVICE_SIM_RANDOM), order_of(7, DEVICE_SIM_RANDOM));
	assert_int_not_equal(order_of(7, DEVICE_SIM_RANDOM), order_of(8, DEVICE_SIM_RANDOM));
	assert_int_equal(order_of(7, DEVICE_SIM_FIFO), fifo);
	assert_int_equal(order_of(8, DEVICE_SIM_FIFO), fifo);
}

static void test_sim_descriptor(void **state)
{
	struct device *dev = device_sim_new(MIB, 1);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(1);
	uint64_t trace = 0;
	struct device_io io = {.op = DEVICE_READ, .len = PAGE, .buf = buf, .done = trace_done, .arg = &trace},
			 io2 = io;
	struct pollfd pfd = {.fd = dev->ops->fd(q), .events = POLLIN};

	device_sim_set_order(dev, DEVICE_SIM_FIFO, 1);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	dev->ops->submit(q, &io);
	dev->ops->submit(q, &io2);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	dev->ops->kick(q);
	assert_int_equal(poll(&pfd, 1, 0), 1);
	assert_int_equal(dev->ops->poll(q), 1);
	assert_int_equal(poll(&pfd, 1, 0), 1);
	assert_int_equal(dev->ops->poll(q), 1);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	assert_int_equal(dev->ops->poll(q), 0);
	assert_int_equal(dev->ops->wait(q), 0);
	device_queue_free(q);
	device_close(dev);
	mem_free(buf);
}

static void test_sim_refuses_bad_requests(void **state)
{
	struct device *dev = device_sim_new(MIB, 1);
	uint8_t *buf = pages(1);

	for (enum device_op op = DEVICE_READ; op <= DEVICE_DISCARD; op++) {
		if (op == DEVICE_FLUSH)
			continue;
		assert_int_equal(run_sync(dev, op, MIB, buf, PAGE), -EINVAL);
		assert_int_equal(run_sync(dev, op, 512, buf, PAGE), -EINVAL);
		assert_int_equal(run_sync(dev, op, 0, buf, 512), -EINVAL);
		assert_int_equal(run_sync(dev, op, MIB, buf, 0), 0);
	}
	device_close(dev);
	mem_free(buf);
}

static void test_sim_aborts_on_a_changed_buffer(void **state)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct device *dev = device_sim_new(MIB, 1);
		struct device_queue *q = new_queue(dev);
		uint8_t *buf = pages(1);
		struct device_io io = {.op = DEVICE_WRITE, .len = PAGE, .buf = buf, .done = trace_done};

		signal(SIGABRT, SIG_DFL);
		close(2);
		dev->ops->submit(q, &io);
		dev->ops->kick(q);
		buf[100] = 1;
		dev->ops->wait(q);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- faults --------------------------------------------------------------------------------------- */

static void test_sim_fails_the_nth(void **state)
{
	struct device *dev = device_sim_new(MIB, 1);
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL,
					 .ops = DEVICE_SIM_OP(DEVICE_WRITE),
					 .skip = 2,
					 .count = 2,
					 .error = -ENOSPC};
	const int expected[] = {0, 0, -ENOSPC, -ENOSPC, 0, 0};
	struct device_sim_stats stats;
	uint8_t *buf = pages(1), got[1];
	unsigned id;

	device_sim_fault_add(dev, &fault);
	for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
		buf[0] = (uint8_t)(i + 1);
		assert_int_equal(run_sync(dev, DEVICE_WRITE, i * PAGE, buf, PAGE), expected[i]);
		device_sim_peek(dev, i * PAGE, got, 1);
		assert_int_equal(got[0], expected[i] ? 0 : i + 1);
		assert_int_equal(run_sync(dev, DEVICE_READ, 0, buf, PAGE), 0);
	}
	fault = (struct device_sim_fault){.kind = DEVICE_SIM_FAIL,
					  .ops = DEVICE_SIM_ALL_OPS,
					  .off = 8 * PAGE,
					  .len = 2 * PAGE,
					  .error = -EIO};
	id = device_sim_fault_add(dev, &fault);
	assert_int_equal(run_sync(dev, DEVICE_READ, 7 * PAGE, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_READ, 8 * PAGE, buf, PAGE), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_DISCARD, 0, NULL, 9 * PAGE), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_READ, 10 * PAGE, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), -EIO);
	device_sim_fault_remove(dev, id);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(dev->flushes, 1);
	device_sim_get_stats(dev, &stats);
	assert_int_equal(stats.ops[DEVICE_FLUSH], 2);
	assert_int_equal(stats.ops[DEVICE_WRITE], 6);
	assert_int_equal(stats.failed, 5);
	assert_int_equal(stats.written_bytes, 4 * PAGE);
	assert_int_equal(stats.unstable_events, 0);
	device_close(dev);
	mem_free(buf);
}

static void test_sim_loses_and_tears_writes(void **state)
{
	struct device *dev = device_sim_new(MIB, 3), *image;
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_LOSE, .ops = DEVICE_SIM_OP(DEVICE_WRITE), .count = 1};
	uint8_t *buf = pages(16), *got = pages(16);
	unsigned there = 0;

	memset(buf, 1, 16 * PAGE);
	device_sim_fault_add(dev, &fault);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, got, PAGE), 0);
	assert_int_equal(got[0], 0);

	fault = (struct device_sim_fault){
		.kind = DEVICE_SIM_FAIL_TORN, .ops = DEVICE_SIM_OP(DEVICE_WRITE), .count = 20, .error = -EIO};
	device_sim_fault_add(dev, &fault);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, 16 * PAGE), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, got, 16 * PAGE), 0);
	for (unsigned i = 0; i < 16 * PAGE; i += SECTOR)
		there += got[i];
	assert_true(there > 0);

	/* A flush that lies: it succeeds, and the write is not there after the crash. */
	fault = (struct device_sim_fault){
		.kind = DEVICE_SIM_LOSE, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .count = 1};
	device_sim_fault_add(dev, &fault);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 32 * PAGE, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 0);
	device_sim_peek(image, 32 * PAGE, got, 1);
	assert_int_equal(got[0], 0);
	device_close(image);
	device_close(dev);
	mem_free(buf);
	mem_free(got);
}

static int refuse_page_five(void *arg, const struct device_io *io)
{
	++*(unsigned *)arg;
	return io->op == DEVICE_WRITE && io->off == 5 * PAGE ? -ENOSPC : 0;
}

static void test_sim_hook(void **state)
{
	struct device *dev = device_sim_new(MIB, 3);
	unsigned calls = 0;
	uint8_t *buf = pages(1);

	device_sim_set_hook(dev, refuse_page_five, &calls);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 5 * PAGE, buf, PAGE), -ENOSPC);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 4 * PAGE, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(calls, 3);
	device_sim_fault_clear(dev);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 5 * PAGE, buf, PAGE), 0);
	assert_int_equal(calls, 3);
	device_close(dev);
	mem_free(buf);
}

static void test_sim_bad_pages_heal_when_written(void **state)
{
	struct device *dev = device_sim_new(MIB, 3), *image;
	uint8_t *buf = pages(4);

	memset(buf, 1, 4 * PAGE);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, 4 * PAGE), 0);
	device_sim_bad_range(dev, PAGE, 2 * PAGE);
	device_sim_bad_range(dev, 100 * PAGE, PAGE); /* where nothing was written */
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, buf, 2 * PAGE), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_READ, 100 * PAGE, buf, PAGE), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 0);
	assert_int_equal(run_sync(image, DEVICE_READ, PAGE, buf, PAGE), -EIO);
	assert_int_equal(run_sync(image, DEVICE_WRITE, PAGE, buf, PAGE), 0);
	assert_int_equal(run_sync(image, DEVICE_READ, PAGE, buf, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_READ, PAGE, buf, PAGE), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, PAGE, buf, 2 * PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, buf, 4 * PAGE), 0);
	device_close(image);
	device_close(dev);
	mem_free(buf);
}

static void test_sim_bit_rot_is_in_every_image(void **state)
{
	struct device *dev = device_sim_new(MIB, 3), *image;
	uint8_t *buf = pages(1), got[2];

	buf[9] = 0x10;
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, PAGE), 0);
	device_sim_flip(dev, 9, 4); /* completed and not flushed */
	device_sim_flip(dev, 77 * PAGE, 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	device_sim_flip(dev, 10, 7);
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, buf, PAGE), 0);
	assert_int_equal(buf[9], 0);
	assert_int_equal(buf[10], 0x80);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 0);
	device_sim_peek(image, 9, got, 2);
	assert_int_equal(got[0], 0);
	assert_int_equal(got[1], 0x80);
	device_sim_peek(image, 77 * PAGE, got, 1);
	assert_int_equal(got[0], 1);
	device_sim_poke(dev, PAGE - 1, "ab", 2);
	device_sim_peek(dev, PAGE - 1, got, 2);
	assert_memory_equal(got, "ab", 2);
	device_close(image);
	device_close(dev);
	mem_free(buf);
}

/* Regression: rot that was written over, but not durably, was not mended, and came back with a crash. */
static void test_sim_mended_rot_stays_away_when_a_write_over_it_is_lost(void **state)
{
	struct device *dev = device_sim_new(MIB, 3), *image;
	uint8_t *good = pages(1), *bad = pages(1), *other = pages(1), got[PAGE];

	memset(good, 5, PAGE);
	memset(other, 6, PAGE);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, good, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, PAGE, good, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	device_sim_flip(dev, 100, 1);
	device_sim_peek(dev, 0, bad, PAGE);
	assert_memory_not_equal(bad, good, PAGE);
	/* on top of it, completed, not flushed */
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, good, PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, PAGE, other, PAGE), 0);
	device_sim_mend(dev, 0, bad, good);
	device_sim_mend(dev, PAGE, bad, good); /* is something else */
	device_sim_peek(dev, PAGE, got, PAGE);
	assert_memory_equal(got, other, PAGE);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 0);
	device_sim_peek(image, 0, got, PAGE);
	assert_memory_equal(got, good, PAGE);
	device_sim_peek(image, PAGE, got, PAGE);
	assert_memory_equal(got, good, PAGE);
	device_close(image);
	device_close(dev);
	mem_free(good);
	mem_free(bad);
	mem_free(other);
}

/* ---- speed (printed, not asserted) ------------------------------------------------------------------ */

static void test_sim_many_seeds(void **state)
{
	struct device *base = device_sim_new(256 * MIB, 1);
	uint8_t *buf = pages(16);
	struct timespec a, b;
	struct device_sim_stats stats;

	for (uint64_t i = 0; i < 500; i++)
		assert_int_equal(run_sync(base, DEVICE_WRITE, i * 128 * PAGE, buf, 4 * PAGE), 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (uint64_t seed = 0; seed < 500; seed++) {
		struct device *dev = device_sim_clone(base, seed), *image;
		struct device_queue *q = new_queue(dev);

		for (uint64_t i = 0; i < 200; i++) {
			buf[0] = (uint8_t)i;
			ASSERT(device_sync(q, DEVICE_WRITE, (seed * 31 + i * 97) % 65000 * PAGE, buf,
					   4 * PAGE) == 0);
			if (i % 20 == 19)
				ASSERT(device_sync(q, DEVICE_FLUSH, 0, NULL, 0) == 0);
		}
		image = device_sim_crash(dev, DEVICE_SIM_CRASH_RANDOM, seed);
		device_sim_get_stats(image, &stats);
		assert_true(stats.pages >= 2000);
		device_queue_free(q);
		device_close(dev);
		device_close(image);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	print_message("500 seeds of 200 writes of 16 KiB: %.3f s\n",
		      (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
	device_close(base);
	mem_free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sim_reads_what_was_written),
		cmocka_unit_test(test_sim_discard_leaves_anything_but_other_pages),
		cmocka_unit_test(test_sim_clones_are_independent),
		cmocka_unit_test(test_sim_grows_and_saves),
		cmocka_unit_test(test_sim_one_seed_is_one_order),
		cmocka_unit_test(test_sim_descriptor),
		cmocka_unit_test(test_sim_refuses_bad_requests),
		cmocka_unit_test(test_sim_aborts_on_a_changed_buffer),
		cmocka_unit_test(test_sim_fails_the_nth),
		cmocka_unit_test(test_sim_loses_and_tears_writes),
		cmocka_unit_test(test_sim_hook),
		cmocka_unit_test(test_sim_bad_pages_heal_when_written),
		cmocka_unit_test(test_sim_bit_rot_is_in_every_image),
		cmocka_unit_test(test_sim_mended_rot_stays_away_when_a_write_over_it_is_lost),
		cmocka_unit_test(test_sim_many_seeds),
	};

	return cmocka_run_group_tests_name("simulated device", tests, NULL, NULL);
}
