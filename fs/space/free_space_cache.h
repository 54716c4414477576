/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/free_space_cache.h: converts the free space of one block group to and from the bytes of a cache
 * slot. Bytes only: where slots are, when they are written, and what a group does when one cannot be used, is
 * the caller's business.
 *
 * Threads: pure functions on what they are given.
 */
#ifndef FS_SPACE_FREE_SPACE_CACHE_H
#define FS_SPACE_FREE_SPACE_CACHE_H

#include <stddef.h>
#include <stdint.h>

struct free_space;

/* Which group a cache slot belongs to. */
struct free_space_cache_ident {
	uint8_t pool_uuid[16];
	uint64_t group_start; /* logical byte address */
	uint64_t group_len;   /* bytes: FS_BLOCK_SIZE times the blocks of the free space */
	uint64_t generation;
};

/* What the slot holds, according to the block group's item. */
struct free_space_cache_expect {
	uint32_t crc32c;
	uint32_t bytes;
	uint32_t free_blocks;
};

/*
 * Writes the free space into buf, whose cap is at least free_space_cache_slot_bytes(). *ret_bytes is the used
 * length, *ret_crc the checksum, for the group's item. The bytes from *ret_bytes to the next multiple of 4096
 * are zeroed: write that many. -ENOSPC: cap is too small. -EINVAL: group_len is not that of the free space.
 */
int free_space_cache_encode(const struct free_space *space, const struct free_space_cache_ident *ident,
			    void *buf, size_t cap, uint32_t *ret_bytes, uint32_t *ret_crc);

/*
 * Reads a cache slot (untrusted bytes, cap of them readable) into a new free space, which the caller frees.
 * -ESTALE: a valid slot of this group, of another generation. -EUCLEAN: anything else that is not what ident
 * and expect say. -ENOMEM. *ret_space is untouched on failure.
 */
int free_space_cache_decode(const void *buf, size_t cap, const struct free_space_cache_ident *ident,
			    const struct free_space_cache_expect *expect, struct free_space **ret_space);

#endif
