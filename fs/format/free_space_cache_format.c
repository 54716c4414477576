/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/free_space_cache_format.h"

#include "base/util.h"

/* Whatever the content, a window costs at most one entry and one bitmap. */
uint32_t free_space_cache_slot_bytes(uint32_t nblocks)
{
	uint32_t windows = (nblocks + FREE_SPACE_CACHE_WINDOW - 1) / FREE_SPACE_CACHE_WINDOW;
	size_t each = sizeof(struct free_space_cache_entry) + FREE_SPACE_CACHE_BITMAP_BYTES;

	return (uint32_t)round_up_u64(sizeof(struct free_space_cache_header) + windows * each,
				      FREE_SPACE_CACHE_ALIGN);
}
