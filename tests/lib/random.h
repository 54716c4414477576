/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/random.h: random numbers that a seed gives again, and bytes made of them. Needs the C library
 * alone.
 */
#ifndef TESTS_LIB_RANDOM_H
#define TESTS_LIB_RANDOM_H

#include <stdint.h>

uint64_t rnd(uint64_t *state);

/* 0 to n - 1. */
uint64_t pick(uint64_t *state, uint64_t n);

/* SEED of the environment, or one of the clock; printed, so that a failure can be had again. */
uint64_t test_seed(void);

/* The same for tests that take the same seed every time: SEED of the environment, or `seed`. */
uint64_t test_seed_or(uint64_t seed);

/* Bytes that differ from block to block and from version to version; never all zeros. */
void fill_bytes(void *buf, uint64_t len, uint64_t seed);

/* A clock for measuring. */
double seconds(void);

#endif
