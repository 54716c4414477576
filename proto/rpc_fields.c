/* SPDX-License-Identifier: BSD-3-Clause */
#include "proto/rpc_fields.h"

#include <errno.h>
#include <stdbool.h>

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
#define VARINT_BYTES_MAX 10

struct reader {
	const uint8_t *pos, *end;
};

static bool read_varint(struct reader *r, uint64_t *ret_value)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < VARINT_BYTES_MAX && r->pos < r->end; i++) {
		uint8_t byte = *r->pos++;

		if (i < 9 || byte <= 1)
			value |= (uint64_t)(byte & 0x7f) << (7 * i);
		if (!(byte & 0x80)) {
			*ret_value = value;
			return true;
		}
	}
	return false;
}

static bool skip(struct reader *r, uint64_t len)
{
	if (len > (uint64_t)(r->end - r->pos))
		return false;
	r->pos += len;
	return true;
}

static bool skip_field(struct reader *r)
{
	uint64_t tag, value;

	if (!read_varint(r, &tag))
		return false;
	switch (tag & 7) {
	case WIRE_VARINT: return read_varint(r, &value);
	case WIRE_FIXED64: return skip(r, 8);
	case WIRE_BYTES: return read_varint(r, &value) && skip(r, value);
	case WIRE_FIXED32: return skip(r, 4);
	default: return false;
	}
}

int rpc_fields_count(const uint8_t *message, size_t len, unsigned max)
{
	struct reader r = {message, message + len};
	unsigned n = 0;

	while (r.pos < r.end && n <= max) {
		if (!skip_field(&r))
			return -EINVAL;
		n++;
	}
	return (int)n;
}
