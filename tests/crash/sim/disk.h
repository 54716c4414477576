/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/disk.h: a device that passes everything to a simulated one and lets other fibers run where
 * it waits. Closing it leaves the simulated device as it is: what a crash leaves of that is still to be
 * looked at.
 */
#ifndef TESTS_CRASH_SIM_DISK_H
#define TESTS_CRASH_SIM_DISK_H

#include <stdbool.h>

struct device;
struct device_queue;

struct device *disk_new(struct device *sim);
/* The next `reads` reads stay under way for so many polls of their queue, whatever others do meanwhile. */
void disk_hold_reads(struct device *disk, unsigned reads, unsigned polls);
/* Whether poll would find something, now or later. */
bool disk_queue_is_busy(const struct device_queue *q);

#endif
