/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/kept_device.h: a device that outlives the pool on it: a thin wrapper, which is what fs_close and
 * pool_abandon close. A pool can be opened again on what the last one left.
 */
#ifndef TESTS_LIB_KEPT_DEVICE_H
#define TESTS_LIB_KEPT_DEVICE_H

#include "fs/device/device.h"

/*
 * Passes everything on to a simulated device. before_submit (may be NULL) sees each request of each queue on
 * the thread that submits it; it may use other queues of the device, and those requests it sees too.
 */
struct kept_device {
	struct device dev;
	struct device *inner;
	struct device_ops ops;
	void (*before_submit)(void *arg, struct device_queue *q, const struct device_io *io);
	void *arg;
};

struct device *kept_device_new(struct device *inner);

#endif
