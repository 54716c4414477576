/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crc32c.h"

#include <isa-l/crc.h>

uint32_t crc32c(const void *buf, size_t len)
{
	/* ISA-L neither inverts its seed nor its result, and does not write through the pointer. */
	return ~crc32_iscsi((unsigned char *)(uintptr_t)buf, (int)len, 0xffffffffu);
}
