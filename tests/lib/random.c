/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint64_t pick(uint64_t *state, uint64_t n)
{
	return rnd(state) % n;
}

static uint64_t said(uint64_t seed)
{
	printf("SEED=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

uint64_t test_seed(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return test_seed_or(((uint64_t)ts.tv_nsec + (uint64_t)ts.tv_sec * 1000000000u) % 1000000);
}

uint64_t test_seed_or(uint64_t seed)
{
	const char *env = getenv("SEED");

	return said(env ? strtoull(env, NULL, 0) : seed);
}

void fill_bytes(void *buf, uint64_t len, uint64_t seed)
{
	uint8_t *p = buf;
	uint64_t v = 0;

	seed = seed * 2 + 1;
	for (uint64_t i = 0; i < len; i++) {
		if (i % 8 == 0)
			v = rnd(&seed) | 1;
		p[i] = (uint8_t)(v >> (i % 8 * 8));
	}
}

double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}
