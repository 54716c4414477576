/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/fs/space_hold.h: for the tests of space: a pool that is full as far as reservations go. */
#ifndef TESTS_FS_SPACE_HOLD_H
#define TESTS_FS_SPACE_HOLD_H

#include "tests/fs/engine.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

/*
 * Takes all space but `left` bytes out of the market, by the measure of writes of n blocks each: data leaves
 * the metadata what such a one needs, and not more.
 */
static inline struct space_reservation hold_all_but(struct engine *e, uint64_t left, uint64_t n)
{
	struct space_reservation held = {0}, rest = {.data_bytes = left};

	for (uint64_t bytes = 64 * MIB; bytes >= BLOCK;) {
		struct space_pending pending = {n > 1 ? 2 : 1, volume_item_bytes(n + 2, n)};
		struct space_ticket t = {.flags = SPACE_NOTICKET,
					 .want = {.data_bytes = bytes, .pending = pending}};

		if (space_reserve(e->fs, &t) == 0) {
			struct space_reservation metadata = {.pending = pending};

			held.data_bytes += bytes;
			space_unreserve(e->fs, &metadata);
		} else {
			bytes /= 2;
		}
	}
	assert_true(held.data_bytes >= left);
	held.data_bytes -= left;
	space_unreserve(e->fs, &rest);
	return held;
}

#endif
