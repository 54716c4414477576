/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/sched.h: the engine's threads as fibers of one thread, scheduled from a seed.
 *
 * threads.c stands in for base/lock.c and for the few pthread calls that the engine makes, so that the commit
 * thread and the workers are the engine's own, unchanged, but run one at a time and are switched only where
 * they wait for a lock, a condition, the clock or the device; and, if `preempt` is set, wherever they take or
 * drop a lock.
 *
 * The program's own thread of control ("main") is no fiber. Where it has to wait it runs the others.
 * Time is virtual: it passes when nobody can run, or when sched_pass_time says so.
 *
 * Invariants
 * 1. One seed gives one order: nothing here looks at the real clock or at addresses.
 * 2. A wait that cannot end (nobody can run, or SCHED_WAIT_MAX_MS of virtual time have passed) ends the
 *    program through sim_fail, with a list of who waits for what.
 */
#ifndef TESTS_CRASH_SIM_SCHED_H
#define TESTS_CRASH_SIM_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#define SCHED_WAIT_MAX_MS (10u * 60 * 1000)
#define SCHED_STEPS_MAX 3000000u /* within one wait of main */

struct fiber;

/* The random numbers of everything under tests/crash. */
uint64_t rng_next(uint64_t *state);
/* Below n > 0. */
uint64_t rng_below(uint64_t *state, uint64_t n);

/*
 * From here on the order is that of this seed; preempt: of 1000 lock operations so many let another fiber
 * run.
 */
void sched_seed(uint64_t seed, unsigned preempt);

struct fiber *sched_start(const char *name, void (*fn)(void *arg), void *arg);
bool sched_has_ended(const struct fiber *f);
/* Waits for its end and frees it. */
void sched_join(struct fiber *f);

/* Lets others run: main runs one of them (if any can), a fiber goes back into the queue. */
void sched_pause(void);
/* Until ready(arg). ready must not wait. */
void sched_wait(bool (*ready)(void *arg), void *arg);
/* As sched_wait, for at most that much virtual time. False: the time ran out. */
bool sched_wait_ms(bool (*ready)(void *arg), void *arg, uint64_t ms);

/* Main only: runs one fiber until it waits. False: none can run. */
bool sched_step(void);
uint64_t sched_now_us(void);
void sched_pass_time(uint64_t ms);

/* Somebody waits for this lock or condition: look again. */
void sched_wake(const void *what);
/* A lock was taken or dropped. */
void sched_preempt(void);
/* Waits until sched_wake(what), or the time (UINT64_MAX: none) is over; may also end for no reason. */
void sched_sleep_on(const void *what, uint64_t timeout_us);

#endif
