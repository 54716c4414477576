/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/device_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"

void *pages(uint64_t n)
{
	void *buf = mem_alloc_aligned(PAGE, n * PAGE);

	ASSERT(buf);
	memset(buf, 0, n * PAGE);
	return buf;
}

struct device_queue *new_queue(struct device *dev)
{
	struct device_queue *q = NULL;

	ASSERT(dev->ops->queue_new(dev, &q) == 0);
	return q;
}

int run_sync(struct device *dev, enum device_op op, uint64_t off, void *buf, uint64_t len)
{
	struct device_queue *q = new_queue(dev);
	int err = device_sync(q, op, off, buf, len);

	device_queue_free(q);
	return err;
}

/* ---- a pool file ------------------------------------------------------------ */

const char *test_folder(void)
{
	return getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
}

int make_file(void **state)
{
	struct fixture *fx = *state;
	int fd;

	snprintf(fx->path, sizeof(fx->path), "%s/byre-device-XXXXXX", fx->folder);
	fd = mkstemp(fx->path);
	if (fd < 0 || ftruncate(fd, 16 * MIB))
		return -1;
	return close(fd);
}

int remove_file(void **state)
{
	struct fixture *fx = *state;

	return unlink(fx->path);
}

struct device *open_dev(struct fixture *fx, bool writable)
{
	struct device *dev = NULL;
	int holder = -1, err = fx->open(fx->path, writable, &dev, &holder);

	assert_int_equal(err, 0);
	assert_non_null(dev);
	return dev;
}

bool uring_works(void)
{
	struct device *dev;

	return device_open_uring(test_folder(), false, &dev, NULL) != -ENOSYS;
}
