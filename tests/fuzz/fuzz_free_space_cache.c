/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_free_space_cache.c: any bytes as a slot of the free-space cache. Checksum and identity are
 * taken from the bytes themselves, or else no mutation would get past them. What is accepted must be sound
 * and come back from a slot of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/util.h"
#include "fs/space/free_space_cache.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/fs.h"
#include "base/le.h"
#include "fs/space/free_space.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An accepted space, written and read again, is the same. */
static void encode_and_compare(const struct free_space *space, const struct free_space_cache_ident *ident)
{
	uint32_t cap = free_space_cache_slot_bytes(free_space_nblocks(space));
	struct free_space_cache_expect expect = {.free_blocks = free_space_count(space)};
	struct free_space *again = NULL;
	void *buf = malloc(cap);

	ASSERT(buf);
	ASSERT(free_space_cache_encode(space, ident, buf, cap, &expect.bytes, &expect.crc32c) == 0);
	ASSERT(free_space_cache_decode(buf, cap, ident, &expect, &again) == 0);
	ASSERT(free_space_largest(again) == free_space_largest(space));
	free_space_free(again);
	free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct free_space_cache_header *h;
	struct free_space_cache_ident ident;
	struct free_space_cache_expect expect;
	struct free_space *space = NULL;
	uint8_t *buf;

	if (size < sizeof(*h) || size > 1u << 20)
		return 0;
	buf = malloc(size);
	ASSERT(buf);
	memcpy(buf, data, size);
	h = (struct free_space_cache_header *)buf;
	memcpy(ident.pool_uuid, h->pool_uuid, sizeof(ident.pool_uuid));
	ident.group_start = le64_to_cpu(h->group_start);
	ident.group_len = le64_to_cpu(h->group_len);
	ident.generation = le64_to_cpu(h->generation);
	expect.bytes = le32_to_cpu(h->bytes);
	expect.free_blocks = (uint32_t)(le64_to_cpu(h->free_bytes) / FS_BLOCK_SIZE);
	if (expect.bytes >= sizeof(*h) && expect.bytes <= size)
		h->crc32c = cpu_to_le32(crc32c(buf + sizeof(le32), expect.bytes - sizeof(le32)));
	expect.crc32c = le32_to_cpu(h->crc32c);
	if (free_space_cache_decode(buf, size, &ident, &expect, &space) == 0) {
		ASSERT(free_space_check(space) && free_space_count(space) == expect.free_blocks);
		encode_and_compare(space, &ident);
		free_space_free(space);
	}
	free(buf);
	return 0;
}
