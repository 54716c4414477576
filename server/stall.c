/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/stall.h"

#include <time.h>

#include "base/util.h"
#include "server/budget.h"
#include "server/limits.h"

uint64_t stall_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000 + 1;
}

bool stall_look(struct stall *stall, bool owes, uint64_t moved, uint64_t now_ms, unsigned stall_ms)
{
	uint64_t took = now_ms - stall->since_ms;

	if (!owes) {
		stall->since_ms = 0;
		return false;
	}
	if (stall->since_ms && took < stall_ms)
		return false;
	if (stall->since_ms && moved - stall->moved < STALL_RATE_MIN * took / 1000)
		return true;
	stall->since_ms = now_ms;
	stall->moved = moved;
	return false;
}

unsigned stall_time(const struct budget *budget, unsigned stall_ms)
{
	return budget_is_short(budget) ? stall_ms / STALL_SHORT_FACTOR : stall_ms;
}

struct timeval stall_period(unsigned stall_ms)
{
	uint64_t ms = max_u64(stall_ms / STALL_SWEEPS, STALL_SWEEP_MIN_MS);

	return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}
