/* SPDX-License-Identifier: BSD-3-Clause */
/* base/size.c: sizes as people type and read them. */
#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char size_units[] = "KMGTPE";

/*
 * The power of two that a suffix stands for: "", "G", "Gi" or "GiB"; negative if it stands for none. E is
 * printed, never read.
 */
static int size_shift(const char *suffix)
{
	if (!suffix[0] || !strcmp(suffix, "B"))
		return 0;
	if (suffix[1] && strcmp(suffix + 1, "i") != 0 && strcmp(suffix + 1, "iB") != 0)
		return -EINVAL; /* "GB" might mean either */

	for (int i = 0; i < 5; i++) {
		if (size_units[i] == (suffix[0] & ~0x20))
			return 10 * (i + 1);
	}
	return -EINVAL;
}

/* Digits behind a point, as a number and its power of ten; what is behind the ninth counts for nothing. */
static const char *parse_fraction(const char *p, uint64_t *ret_value, uint64_t *ret_scale)
{
	*ret_value = 0;
	*ret_scale = 1;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (*ret_scale == 1000000000)
			continue;
		*ret_value = *ret_value * 10 + (uint64_t)(*p - '0');
		*ret_scale *= 10;
	}
	return p;
}

int size_parse(const char *s, uint64_t *ret_bytes)
{
	uint64_t v = 0, bytes, fraction = 0, scale = 1;
	const char *p = s, *point = NULL;
	bool overflow = false;
	int shift;

	for (; *p >= '0' && *p <= '9'; p++) {
		overflow |= __builtin_mul_overflow(v, 10, &v);
		overflow |= __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v);
	}
	if (p == s)
		return -EINVAL;
	if (*p == '.') {
		point = ++p;
		p = parse_fraction(p, &fraction, &scale);
	}

	shift = size_shift(p);
	if (shift < 0)
		return shift;
	if (point && (p == point || !shift)) /* "1.G", or a part of a byte */
		return -EINVAL;

	if (overflow || __builtin_mul_overflow(v, UINT64_C(1) << shift, &bytes))
		return -ERANGE;
	/* Less than one unit, at most 2^50 of them, times less than 10^9: rounded down. */
	if (__builtin_add_overflow(bytes, (uint64_t)((((unsigned __int128)fraction) << shift) / scale),
				   &bytes))
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
