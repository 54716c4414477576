/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device_test.h: what the tests of devices share: random numbers, pages, queues, and a pool file in
 * one of several folders. Included after <cmocka.h>.
 */
#ifndef TESTS_FS_DEVICE_TEST_H
#define TESTS_FS_DEVICE_TEST_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"

#define PAGE 4096u
#define MIB (1ull << 20)

static inline uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline uint64_t test_seed(void)
{
	const char *env = getenv("SEED");
	struct timespec ts;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &ts);
	seed = env ? strtoull(env, NULL, 0) : (uint64_t)ts.tv_nsec + (uint64_t)ts.tv_sec * 1000000000u;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

/* Zeroed; freed with mem_free. */
static inline void *pages(uint64_t n)
{
	void *buf = mem_alloc_aligned(PAGE, n * PAGE);

	ASSERT(buf);
	memset(buf, 0, n * PAGE);
	return buf;
}

static inline struct device_queue *new_queue(struct device *dev)
{
	struct device_queue *q = NULL;

	ASSERT(dev->ops->queue_new(dev, &q) == 0);
	return q;
}

/* One request on a queue of its own. */
static inline int run_sync(struct device *dev, enum device_op op, uint64_t off, void *buf, uint64_t len)
{
	struct device_queue *q = new_queue(dev);
	int err = device_sync(q, op, off, buf, len);

	device_queue_free(q);
	return err;
}

/* ---- a pool file ------------------------------------------------------------------ */

typedef int (*open_fn)(const char *path, bool writable, struct device **ret_dev, int *ret_holder);

struct fixture {
	open_fn open;
	const char *folder;
	bool plain; /* the host file system has no O_DIRECT, no fallocate and no holes */
	char path[256];
};

static inline const char *test_folder(void)
{
	return getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
}

/* cmocka's setup and teardown of a test: a file of 16 MiB, all hole. */
static inline int make_file(void **state)
{
	struct fixture *fx = *state;
	int fd;

	snprintf(fx->path, sizeof(fx->path), "%s/byre-device-XXXXXX", fx->folder);
	fd = mkstemp(fx->path);
	if (fd < 0 || ftruncate(fd, 16 * MIB))
		return -1;
	return close(fd);
}

static inline int remove_file(void **state)
{
	struct fixture *fx = *state;

	return unlink(fx->path);
}

static inline struct device *open_dev(struct fixture *fx, bool writable)
{
	struct device *dev = NULL;
	int holder = -1, err = fx->open(fx->path, writable, &dev, &holder);

	assert_int_equal(err, 0);
	assert_non_null(dev);
	return dev;
}

static inline bool uring_works(void)
{
	struct device *dev;

	return device_open_uring(test_folder(), false, &dev, NULL) != -ENOSYS;
}

#endif
