/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/share.h"

#include "base/util.h"

void share_init(struct share *s, unsigned part, uint64_t now_us)
{
	*s = (struct share){.part = part, .now_us = now_us, .left_us = SHARE_BURST_US};
}

bool share_begin(struct share *s, uint64_t now_us)
{
	uint64_t more = (now_us - s->now_us) / s->part;

	if (more) {
		s->left_us += (int64_t)min_u64(more, 4 * SHARE_BURST_US);
		if (s->left_us > SHARE_BURST_US)
			s->left_us = SHARE_BURST_US;
		s->now_us += more * s->part;
	}
	s->begin_us = now_us;
	return s->left_us > 0;
}

void share_end(struct share *s, uint64_t now_us, size_t bytes)
{
	s->left_us -= (int64_t)(now_us - s->begin_us + 1 + bytes / SHARE_BYTES_PER_US);
}
