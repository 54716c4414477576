/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/free_space_cache_format.h"

#include <string.h>

#include "base/le.h"
#include "base/util.h"
#include "fs/format/print.h"

/* Whatever the content, a window costs at most one entry and one bitmap. */
uint32_t free_space_cache_slot_bytes(uint32_t nblocks)
{
	uint32_t windows = (nblocks + FREE_SPACE_CACHE_WINDOW - 1) / FREE_SPACE_CACHE_WINDOW;
	size_t each = sizeof(struct free_space_cache_entry) + FREE_SPACE_CACHE_BITMAP_BYTES;

	return (uint32_t)round_up_u64(sizeof(struct free_space_cache_header) + windows * each,
				      FREE_SPACE_CACHE_ALIGN);
}

bool free_space_cache_is_one(const void *slot)
{
	const struct free_space_cache_header *h = slot;

	return le32_to_cpu(h->magic) == FREE_SPACE_CACHE_MAGIC;
}

uint32_t free_space_cache_entries(const void *slot)
{
	const struct free_space_cache_header *h = slot;

	return le32_to_cpu(h->entries);
}

void free_space_cache_print(struct print *p, const void *slot)
{
	const struct free_space_cache_header *h = slot;

	print_hex(p, "crc", le32_to_cpu(h->crc32c));
	print_number(p, "version", le16_to_cpu(h->version));
	print_hex(p, "flags", le32_to_cpu(h->flags));
	print_uuid(p, "pool", h->pool_uuid);
	print_number(p, "group_start", le64_to_cpu(h->group_start));
	print_number(p, "group_len", le64_to_cpu(h->group_len));
	print_number(p, "generation", le64_to_cpu(h->generation));
	print_number(p, "free_bytes", le64_to_cpu(h->free_bytes));
	print_number(p, "entries", le32_to_cpu(h->entries));
	print_number(p, "bitmaps", le32_to_cpu(h->bitmaps));
	print_number(p, "bytes", le32_to_cpu(h->bytes));
}

void free_space_cache_entry_print(struct print *p, const void *slot, uint32_t i)
{
	struct free_space_cache_entry e;
	uint32_t len;

	memcpy(&e, (const char *)slot + sizeof(struct free_space_cache_header) + i * sizeof(e), sizeof(e));
	len = le32_to_cpu(e.len);
	print_begin(p, len & FREE_SPACE_CACHE_BITMAP ? "free_bitmap" : "free_run");
	print_number(p, "start", le32_to_cpu(e.start));
	print_number(p, len & FREE_SPACE_CACHE_BITMAP ? "free" : "units", len & ~FREE_SPACE_CACHE_BITMAP);
	print_end(p);
}
