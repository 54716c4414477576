/* SPDX-License-Identifier: BSD-3-Clause */
/* base/util.h: the few macros and helpers that every unit uses. */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Stays in release builds: for what only a bug can break. Never for bytes from disk or wire. */
#define ASSERT(cond)                                                                                       \
	do {                                                                                               \
		if (__builtin_expect(!(cond), 0)) {                                                        \
			fprintf(stderr, "%s:%d: %s: assertion failed: %s\n", __FILE__, __LINE__, __func__, \
				#cond);                                                                    \
			abort();                                                                           \
		}                                                                                          \
	} while (0)

#ifdef BYRE_DEBUG
#define DEBUG_ASSERT(cond) ASSERT(cond)
#else
#define DEBUG_ASSERT(cond) ((void)0)
#endif

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}
/* v + change, but never below 0. */
static inline uint64_t add_clamped(uint64_t v, int64_t change)
{
	return change < 0 && v < -(uint64_t)change ? 0 : v + (uint64_t)change;
}
/* `to` is a power of two. */
static inline uint64_t round_up_u64(uint64_t v, uint64_t to)
{
	return (v + to - 1) & ~(to - 1);
}
static inline uint64_t round_down_u64(uint64_t v, uint64_t to)
{
	return v & ~(to - 1);
}

#endif
