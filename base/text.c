/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/text.h"

#include <stdint.h>

/* The length of the character at p, and its number; 0: none that is well-formed within `len` bytes. */
static size_t decode(const uint8_t *p, size_t len, uint32_t *ret_char)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = *p < 0x80 ? 1 : *p < 0xc0 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf8 ? 4 : 0;
	uint32_t c = n == 1 ? *p : *p & (0x7fu >> n);

	if (!n || n > len)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	*ret_char = c;
	return n;
}

bool text_is_plain(const char *text, size_t len)
{
	const uint8_t *p = (const uint8_t *)text;
	uint32_t c;

	while (len) {
		size_t n = decode(p, len, &c);

		if (!n || c < 0x20 || (c >= 0x7f && c < 0xa0))
			return false;
		p += n;
		len -= n;
	}
	return true;
}
