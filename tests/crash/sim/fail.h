/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/crash/sim/fail.h: how a run of the simulator ends when something is wrong. */
#ifndef TESTS_CRASH_SIM_FAIL_H
#define TESTS_CRASH_SIM_FAIL_H

#define SIM_FAILED 3 /* exit status */

/* Says what is wrong, and in which step of which seed; ends the process. */
_Noreturn void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
