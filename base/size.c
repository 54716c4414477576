/* SPDX-License-Identifier: BSD-3-Clause */
/* base/size.c: sizes as people type and read them. */
#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

static const char size_units[] = "KMGTPE";

/* The power of two that a suffix stands for; negative if it stands for none. E is printed, never read. */
static int size_shift(const char *suffix)
{
	if (!suffix[0])
		return 0;
	if (suffix[1])
		return -EINVAL;

	for (int i = 0; i < 5; i++) {
		if (size_units[i] == (suffix[0] & ~0x20))
			return 10 * (i + 1);
	}
	return -EINVAL;
}

int size_parse(const char *s, uint64_t *ret_bytes)
{
	uint64_t v = 0, bytes;
	const char *p = s;
	bool overflow = false;
	int shift;

	for (; *p >= '0' && *p <= '9'; p++) {
		overflow |= __builtin_mul_overflow(v, 10, &v);
		overflow |= __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v);
	}
	if (p == s)
		return -EINVAL;

	shift = size_shift(p);
	if (shift < 0)
		return shift;

	if (overflow || __builtin_mul_overflow(v, UINT64_C(1) << shift, &bytes))
		return -ERANGE;

	*ret_bytes = bytes;
	return 0;
}

char *size_format(uint64_t bytes, char *buf, size_t len)
{
	uint64_t whole, tenths;
	int unit = -1, shift = 0;

	while (unit < 5 && bytes >> shift >= 1024) {
		unit++;
		shift += 10;
	}
	if (unit < 0) {
		snprintf(buf, len, "%" PRIu64 " B", bytes);
		return buf;
	}

	/* Rounded down: "1024.0 MiB" cannot come out, and no size looks larger than it is. */
	whole = bytes >> shift;
	tenths = ((bytes >> (shift - 10)) & 1023) * 10 / 1024;
	if (tenths)
		snprintf(buf, len, "%" PRIu64 ".%" PRIu64 " %ciB", whole, tenths, size_units[unit]);
	else
		snprintf(buf, len, "%" PRIu64 " %ciB", whole, size_units[unit]);
	return buf;
}
