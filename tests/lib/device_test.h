/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/device_test.h: what the tests of devices share: pages, queues, and a pool file in one of several
 * folders.
 */
#ifndef TESTS_LIB_DEVICE_TEST_H
#define TESTS_LIB_DEVICE_TEST_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/device/device.h"

#define PAGE 4096u
#define MIB (1ull << 20)

typedef int (*open_fn)(const char *path, bool writable, struct device **ret_dev, int *ret_holder);

struct fixture {
	open_fn open;
	const char *folder;
	bool plain; /* the host file system has no O_DIRECT, no fallocate and no holes */
	char path[256];
};

/* Zeroed; freed with mem_free. */
void *pages(uint64_t n);

struct device_queue *new_queue(struct device *dev);

/* One request on a queue of its own. */
int run_sync(struct device *dev, enum device_op op, uint64_t off, void *buf, uint64_t len);

const char *test_folder(void);

/* cmocka's setup and teardown of a test: a file of 16 MiB, all hole. */
int make_file(void **state);

int remove_file(void **state);

struct device *open_dev(struct fixture *fx, bool writable);

bool uring_works(void);

#endif
