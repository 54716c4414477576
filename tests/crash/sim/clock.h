/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/clock.h: the engine's clock in the simulator: time is the scheduler's, random numbers come
 * from a state that begins at 0 in each run, and who waits lets other fibers go on.
 *
 * The system's own clock_gettime, nanosleep and getrandom end the program (threads.c): an engine that goes
 * past its table is found by any seed that comes there.
 */
#ifndef TESTS_CRASH_SIM_CLOCK_H
#define TESTS_CRASH_SIM_CLOCK_H

#include "fs/core/clock.h"

extern const struct fs_clock sim_clock;

/* The same without threads: for copies of the pool that are looked at in one go. */
const struct fs_clock *sim_clock_alone(void);

#endif
