/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device/test_device_lock.c: who may open a pool at the same time as whom, and what a refused one is
 * told; block devices.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/device_test.h"
#include "base/mem.h"
#include "fs/device/device.h"

struct holder {
	pid_t pid;
	int pipe;
};

/* A child that opens the pool, uses it, says so, and waits to be killed (or leaves when the pipe closes). */
static struct holder start_holder(struct fixture *fx, bool writable)
{
	int ready[2], stay[2];
	struct holder h;
	char c;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(stay), 0);
	h.pid = fork();
	assert_true(h.pid >= 0);
	if (h.pid == 0) {
		struct device *dev;
		struct device_queue *q;
		int err;

		close(stay[1]);
		err = fx->open(fx->path, writable, &dev, NULL);
		if (!err)
			err = dev->ops->queue_new(dev, &q);
		c = (char)-err;
		if (write(ready[1], &c, 1) != 1 || read(stay[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(stay[0]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	assert_int_equal(c, 0);
	h.pipe = stay[1];
	return h;
}

static void end_holder(struct holder *h, bool kill_it)
{
	int status;

	if (kill_it)
		kill(h->pid, SIGKILL);
	close(h->pipe);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
}

static void assert_busy(struct fixture *fx, bool writable, int pid)
{
	struct device *dev = NULL;
	int holder = -1;

	assert_int_equal(fx->open(fx->path, writable, &dev, &holder), -EBUSY);
	assert_int_equal(holder, pid);
	assert_null(dev);
}

static void test_device_lock_of_a_writer(void **state)
{
	struct fixture *fx = *state;
	struct holder h;

	h = start_holder(fx, true);
	for (unsigned i = 0; i < 3; i++) {
		assert_busy(fx, true, h.pid);
		assert_busy(fx, false, h.pid);
	}
	end_holder(&h, false);
	device_close(open_dev(fx, true));
}

static void test_device_lock_of_readers(void **state)
{
	struct fixture *fx = *state;
	struct device *dev;
	struct holder h;

	h = start_holder(fx, false);
	dev = open_dev(fx, false);
	device_close(dev);
	assert_busy(fx, true, h.pid);
	end_holder(&h, true);
	device_close(open_dev(fx, true));
}

static void test_device_opens_at_once_after_kill(void **state)
{
	struct fixture *fx = *state;

	for (unsigned i = 0; i < 10; i++) {
		struct holder h = start_holder(fx, true);

		end_holder(&h, true);
		device_close(open_dev(fx, i % 2));
	}
}

static void test_device_lock_within_one_process(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = open_dev(fx, true);
	struct device_queue *q;

	assert_busy(fx, true, getpid());
	/* The refused open has dropped the lock that shows the pid; not the one that counts. */
	assert_busy(fx, false, 0);
	q = new_queue(dev);
	device_queue_free(q);
	device_close(dev);
	for (unsigned i = 0; i < 20; i++) {
		dev = open_dev(fx, true);
		q = new_queue(dev);
		assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), 0);
		device_queue_free(q);
		device_close(dev);
	}
}

/* A child that has inherited the descriptor keeps nobody out once we have closed. */
static void test_device_close_unlocks_despite_fork(void **state)
{
	struct fixture *fx = *state;
	struct device *dev = open_dev(fx, true);
	int stay[2], status;
	pid_t pid;
	char c;

	assert_int_equal(pipe(stay), 0);
	pid = fork();
	if (pid == 0) {
		close(stay[1]);
		_exit(read(stay[0], &c, 1) != 0);
	}
	close(stay[0]);
	device_close(dev);
	device_close(open_dev(fx, true));
	close(stay[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* ---- block devices ------------------------------------------------------------------------------ */

/* Runs a command and reads the first word that it prints; false when it fails. */
static bool command_word(const char *command, char *ret_word)
{
	FILE *f = popen(command, "re");
	bool read_it;

	if (!f)
		return false;
	read_it = fscanf(f, "%63s", ret_word) == 1;
	return pclose(f) == 0 && read_it;
}

static void use_block_device(const struct fixture *fx)
{
	struct fixture on = *fx;
	struct device *dev = open_dev(&on, true);
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(4096), *got = pages(4096);

	print_message("%s: direct %d, discard %d\n", fx->path, dev->direct, dev->discard);
	assert_true(dev->block_device);
	assert_int_equal(dev->size, 16 * MIB);
	assert_busy(&on, true, getpid()); /* and the refused open drops the lock that tells the pid */
	for (unsigned i = 0; i < 16 * MIB; i++)
		buf[i] = (uint8_t)(i / 4099);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 0, buf, 16 * MIB), 0);
	assert_int_equal(device_sync(q, DEVICE_DISCARD, 4 * MIB, NULL, 8 * MIB), 0);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, got, 16 * MIB), 0);
	assert_memory_equal(got, buf, 4 * MIB);
	assert_memory_equal(got + 12 * MIB, buf + 12 * MIB, 4 * MIB);
	assert_int_equal(device_sync(q, DEVICE_WRITE, 4 * MIB, buf + 4 * MIB, 8 * MIB), 0);
	assert_int_equal(device_sync(q, DEVICE_READ, 0, got, 16 * MIB), 0);
	assert_memory_equal(got, buf, 16 * MIB);
	assert_int_equal(dev->ops->grow(dev, 16 * MIB, true), 0);
	assert_int_equal(dev->ops->grow(dev, 16 * MIB + PAGE, true), -ENOSPC);
	mem_free(buf);
	mem_free(got);
	device_queue_free(q);
	device_close(dev);
}

/* A loop device, where we may make one. */
static void test_device_block_device(void **state)
{
	struct fixture fx = **(struct fixture **)state;
	char command[512], loop[64];
	bool detached;

	snprintf(command, sizeof(command), "losetup -f --show %s 2>/dev/null", fx.path);
	if (!command_word(command, loop))
		skip();
	snprintf(fx.path, sizeof(fx.path), "%s", loop);
	use_block_device(&fx);
	fx.open = device_open_threads;
	use_block_device(&fx);
	snprintf(command, sizeof(command), "losetup -d %s && echo detached", loop);
	detached = command_word(command, loop);
	assert_true(detached);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_file, remove_file)

static const struct CMUnitTest all_tests[] = {
	TEST(test_device_lock_of_a_writer),	      TEST(test_device_lock_of_readers),
	TEST(test_device_opens_at_once_after_kill),   TEST(test_device_lock_within_one_process),
	TEST(test_device_close_unlocks_despite_fork),
};

static const struct CMUnitTest block_tests[] = {
	TEST(test_device_block_device),
};

static struct fixture fixture;

static int group_setup(void **state)
{
	*state = &fixture;
	return 0;
}

int main(void)
{
	int failed;

	fixture = (struct fixture){.open = device_open_threads, .folder = test_folder()};
	failed = cmocka_run_group_tests_name("locks with threads", all_tests, group_setup, NULL);
	if (uring_works()) {
		fixture.open = device_open_uring;
		failed += cmocka_run_group_tests_name("locks with io_uring", all_tests, group_setup, NULL);
	}
	return failed + cmocka_run_group_tests_name("block device", block_tests, group_setup, NULL) != 0;
}
