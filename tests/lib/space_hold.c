/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/space_hold.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/space/space_info.h"
#include "fs/format/volume_format.h"

struct space_reservation hold_all_but(struct engine *e, uint64_t left, uint64_t n)
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
