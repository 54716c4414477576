/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/lib/space_hold.h: for the tests of space: a pool that is full as far as reservations go. */
#ifndef TESTS_LIB_SPACE_HOLD_H
#define TESTS_LIB_SPACE_HOLD_H

#include "fs/space/space_info.h"
#include "tests/lib/engine.h"

/*
 * Takes all space but `left` bytes out of the market, by the measure of writes of n blocks each: data leaves
 * the metadata what such a one needs, and not more.
 */
struct space_reservation hold_all_but(struct engine *e, uint64_t left, uint64_t n);

#endif
