/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/fs/format/random.h: numbers that are the same in every run. */
#ifndef TESTS_FS_FORMAT_RANDOM_H
#define TESTS_FS_FORMAT_RANDOM_H

#include <stdint.h>

/* Start with any number (splitmix64). */
struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *rnd)
{
	uint64_t z = rnd->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* Both ends are possible. */
static inline uint64_t random_between(struct random *rnd, uint64_t low, uint64_t high)
{
	uint64_t range = high - low + 1;

	return range ? low + random_next(rnd) % range : random_next(rnd);
}

#endif
