/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include "base/util.h"
#include "fs/device/work.h"
#include "tests/crash/sim/fail.h"
#include "fs/device/device.h"

#define FIBERS_MAX 16
#define STACK_BYTES (512u << 10)
#define NEVER UINT64_MAX

enum fiber_state { FIBER_READY, FIBER_ASLEEP, FIBER_WAITING, FIBER_ENDED };

struct fiber {
	const char *name;
	void (*fn)(void *arg);
	void *arg;
	ucontext_t context;
	void *stack, *fake_stack;
	enum fiber_state state;
	const void *what;	  /* ASLEEP */
	bool (*ready)(void *arg); /* WAITING */
	void *ready_arg;
	uint64_t deadline_us;
	struct device_queue *queue; /* what fs/device/work.c keeps for a thread */
};

/* The scheduler is the one thing here that has no handle: the engine calls it through pthread functions. */
static struct {
	struct fiber *fiber[FIBERS_MAX];
	unsigned count;
	struct fiber *current; /* NULL: main */
	ucontext_t main_context;
	void *main_fake_stack;
	const void *main_stack;
	size_t main_stack_bytes;
	void *spare_stack[FIBERS_MAX];
	unsigned spare_stacks;
	uint64_t rng, now_us;
	unsigned preempt;
} sched;

uint64_t rng_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint64_t rng_below(uint64_t *state, uint64_t n)
{
	return rng_next(state) % n;
}

void sched_seed(uint64_t seed, unsigned preempt)
{
	sched.rng = seed;
	sched.preempt = preempt;
}

uint64_t sched_now_us(void)
{
	return sched.now_us;
}
void sched_pass_time(uint64_t ms)
{
	sched.now_us += ms * 1000;
}

/* ---- switching ----------------------------------------------------------------- */

static void before_switch(struct fiber *to, void **save)
{
#ifdef __SANITIZE_ADDRESS__
	if (to)
		__sanitizer_start_switch_fiber(save, to->stack, STACK_BYTES);
	else
		__sanitizer_start_switch_fiber(save, sched.main_stack, sched.main_stack_bytes);
#else
	(void)to;
	(void)save;
#endif
}

static void after_switch(void *saved, bool in_fiber)
{
#ifdef __SANITIZE_ADDRESS__
	if (in_fiber)
		__sanitizer_finish_switch_fiber(saved, &sched.main_stack, &sched.main_stack_bytes);
	else
		__sanitizer_finish_switch_fiber(saved, NULL, NULL);
#else
	(void)saved;
	(void)in_fiber;
#endif
}

static void to_main(void)
{
	struct fiber *self = sched.current;

	before_switch(NULL, self->state == FIBER_ENDED ? NULL : &self->fake_stack);
	swapcontext(&self->context, &sched.main_context);
	after_switch(self->fake_stack, true);
}

static void to_fiber(struct fiber *f)
{
	struct device_queue *queue = work_queue_set(f->queue);

	sched.current = f;
	before_switch(f, &sched.main_fake_stack);
	swapcontext(&sched.main_context, &f->context);
	after_switch(sched.main_fake_stack, false);
	sched.current = NULL;
	f->queue = work_queue_set(queue);
}

static void fiber_main(void)
{
	struct fiber *self = sched.current;

	after_switch(NULL, true);
	self->fn(self->arg);
	self->state = FIBER_ENDED;
	to_main();
}

static void *stack_new(void)
{
	void *stack;

	if (sched.spare_stacks)
		return sched.spare_stack[--sched.spare_stacks];
	stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
	ASSERT(stack != MAP_FAILED);
	return stack;
}

struct fiber *sched_start(const char *name, void (*fn)(void *arg), void *arg)
{
	struct fiber *f = calloc(1, sizeof(*f));

	ASSERT(f && sched.count < FIBERS_MAX);
	f->name = name;
	f->fn = fn;
	f->arg = arg;
	f->stack = stack_new();
	f->deadline_us = NEVER;
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->stack;
	f->context.uc_stack.ss_size = STACK_BYTES;
	makecontext(&f->context, fiber_main, 0);
	sched.fiber[sched.count++] = f;
	return f;
}

bool sched_has_ended(const struct fiber *f)
{
	return f->state == FIBER_ENDED;
}

static bool has_ended(void *arg)
{
	return sched_has_ended(arg);
}

void sched_join(struct fiber *f)
{
	unsigned i = 0;

	sched_wait(has_ended, f);
	while (sched.fiber[i] != f)
		i++;
	sched.fiber[i] = sched.fiber[--sched.count];
	sched.spare_stack[sched.spare_stacks++] = f->stack;
	free(f);
}

/* ---- who can run --------------------------------------------------------------- */

static bool can_run(struct fiber *f)
{
	if (f->state == FIBER_READY)
		return true;
	if (f->state == FIBER_ENDED)
		return false;
	if (f->deadline_us <= sched.now_us)
		return true;
	return f->state == FIBER_WAITING && f->ready(f->ready_arg);
}

bool sched_step(void)
{
	struct fiber *can[FIBERS_MAX];
	unsigned n = 0;

	ASSERT(!sched.current);
	for (unsigned i = 0; i < sched.count; i++)
		if (can_run(sched.fiber[i]))
			can[n++] = sched.fiber[i];
	if (n == 0)
		return false;
	to_fiber(can[n == 1 ? 0 : rng_below(&sched.rng, n)]);
	return true;
}

/* To the next moment at which somebody wants to run. */
static bool skip_time(uint64_t limit_us)
{
	uint64_t next = limit_us;

	for (unsigned i = 0; i < sched.count; i++)
		if (sched.fiber[i]->state != FIBER_ENDED)
			next = min_u64(next, sched.fiber[i]->deadline_us);
	if (next == NEVER)
		return false;
	sched.now_us = max_u64(sched.now_us, next);
	return true;
}

static void list_waiters(void)
{
	static const char *const names[] = {"ready", "asleep", "waiting", "ended"};

	for (unsigned i = 0; i < sched.count; i++)
		fprintf(stderr, "  fiber %s: %s%s\n", sched.fiber[i]->name, names[sched.fiber[i]->state],
			sched.fiber[i]->deadline_us != NEVER ? ", with a time-out" : "");
}

static void stuck(const char *why)
{
	list_waiters();
	sim_fail("hang: %s", why);
}

/* ---- waiting ------------------------------------------------------------------- */

static bool fiber_wait(enum fiber_state state, uint64_t timeout_us)
{
	struct fiber *self = sched.current;

	self->state = state;
	self->deadline_us = timeout_us == NEVER ? NEVER : sched.now_us + timeout_us;
	to_main();
	self->state = FIBER_READY;
	self->deadline_us = NEVER;
	return true;
}

static bool main_wait(bool (*ready)(void *arg), void *arg, uint64_t timeout_us)
{
	uint64_t start = sched.now_us, limit = timeout_us == NEVER ? NEVER : start + timeout_us;
	unsigned steps = 0;

	while (!ready(arg)) {
		if (sched.now_us >= limit)
			return false;
		if (sched_step()) {
			if (++steps > SCHED_STEPS_MAX)
				stuck("something turns in a circle");
		} else if (!skip_time(limit)) {
			stuck("nobody can run");
		}
		if (sched.now_us - start > SCHED_WAIT_MAX_MS * 1000ull)
			stuck("no end after ten minutes of virtual time");
	}
	return true;
}

bool sched_wait_ms(bool (*ready)(void *arg), void *arg, uint64_t ms)
{
	uint64_t limit = sched.now_us + ms * 1000;

	if (!sched.current)
		return main_wait(ready, arg, ms * 1000);
	while (!ready(arg) && sched.now_us < limit) {
		sched.current->ready = ready;
		sched.current->ready_arg = arg;
		fiber_wait(FIBER_WAITING, limit - sched.now_us);
	}
	return ready(arg);
}

void sched_wait(bool (*ready)(void *arg), void *arg)
{
	if (!sched.current) {
		(void)main_wait(ready, arg, NEVER);
		return;
	}
	while (!ready(arg)) {
		sched.current->ready = ready;
		sched.current->ready_arg = arg;
		fiber_wait(FIBER_WAITING, NEVER);
	}
}

void sched_pause(void)
{
	if (sched.current)
		fiber_wait(FIBER_READY, NEVER);
	else
		(void)sched_step();
}

void sched_wake(const void *what)
{
	for (unsigned i = 0; i < sched.count; i++)
		if (sched.fiber[i]->state == FIBER_ASLEEP && sched.fiber[i]->what == what)
			sched.fiber[i]->state = FIBER_READY;
}

static bool once(void *arg)
{
	bool *seen = arg, was = *seen;

	*seen = true;
	return was;
}

void sched_sleep_on(const void *what, uint64_t timeout_us)
{
	bool seen = false;

	if (sched.current) {
		sched.current->what = what;
		fiber_wait(FIBER_ASLEEP, timeout_us);
	} else { /* one step of the others, or of time, and main looks again */
		(void)main_wait(once, &seen, timeout_us);
	}
}

void sched_preempt(void)
{
	if (sched.preempt && rng_below(&sched.rng, 1000) < sched.preempt)
		sched_pause();
}
