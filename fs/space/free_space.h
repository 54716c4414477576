/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/free_space.h: the free blocks of one block group, in memory.
 *
 * A bitmap of the whole group (a set bit is a free block) with a tree of summaries above it. All of it is
 * allocated by free_space_new; no later call allocates, so none can fail for memory, and fragmentation
 * costs nothing: free_space_memory() is at most nblocks * 4096 / FREE_SPACE_MEMORY_RATIO bytes (plus
 * FREE_SPACE_MEMORY_FIXED) for any content.
 *
 * Units: blocks of FS_BLOCK_SIZE bytes, counted from the start of the group. Groups have 1 to
 * FREE_SPACE_MAX_BLOCKS blocks; any number, not only powers of two.
 *
 * Threads: no lock of its own. The group's lock protects it.
 */
#ifndef FS_SPACE_FREE_SPACE_H
#define FS_SPACE_FREE_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FREE_SPACE_MAX_BLOCKS 1048576u
#define FREE_SPACE_MEMORY_RATIO 16000u
#define FREE_SPACE_MEMORY_FIXED 256u

struct free_space;

/* NULL: memory is out. All blocks are free, or all are taken. */
struct free_space *free_space_new(uint32_t nblocks, bool all_free);
/* Accepts NULL. */
void free_space_free(struct free_space *space);

/* Makes dst equal to src. Both have the same number of blocks. */
void free_space_clone_into(struct free_space *dst, const struct free_space *src);

uint32_t free_space_nblocks(const struct free_space *space);
/* How many blocks are free. */
uint32_t free_space_count(const struct free_space *space);
/* The length of the longest free run; 0 when nothing is free. */
uint32_t free_space_largest(const struct free_space *space);
/* Bytes of memory held. */
size_t free_space_memory(const struct free_space *space);

/*
 * Takes the first `want` (> 0) free blocks in a row at or after hint, else the first ones from the start of
 * the group. If no run is that long: the longest one, the first such at or after hint, else from the start. A
 * hint inside of a free run counts the rest of that run. A hint past the end is 0. Returns the length taken,
 * 0 when no block is free (*ret_start untouched).
 */
uint32_t free_space_alloc(struct free_space *space, uint32_t hint, uint32_t want, uint32_t *ret_start);

/*
 * For tests. Takes from the next free run at or after hint (then from the start of the group), whatever its
 * length, up to want (> 0) blocks: fills fragmented space in order. Returns as free_space_alloc.
 */
uint32_t free_space_alloc_near(struct free_space *space, uint32_t hint, uint32_t want, uint32_t *ret_start);

/*
 * take: [start, start+len) must be all free and becomes taken. give: all taken, becomes free. False, with
 * nothing changed, if that is not so, if len is 0, or if the range leaves the group. The caller knows whether
 * that is a bug or a corrupt tree.
 */
bool free_space_take(struct free_space *space, uint32_t start, uint32_t len);
bool free_space_give(struct free_space *space, uint32_t start, uint32_t len);

/*
 * True when every block of the range is free (`free`) or taken (`!free`), and for len 0; false past the
 * group's end.
 */
bool free_space_test(const struct free_space *space, uint32_t start, uint32_t len, bool free);

/*
 * The first free run at or after `from`, whole from there on (a run that starts before `from` is reported
 * from `from` on). False when there is none. To walk: from = *ret_start + *ret_len.
 */
bool free_space_next_free(const struct free_space *space, uint32_t from, uint32_t *ret_start,
			  uint32_t *ret_len);

/*
 * The bits of 64-block words, bit i of a word being block 64 * word + i, for storing and loading. `first` and
 * `count` are in words; words past the end of the group read as 0. Loading bits past the group's end is
 * refused (false, nothing changed).
 */
void free_space_get_words(const struct free_space *space, uint32_t first, uint32_t count,
			  uint64_t *ret_words);
bool free_space_set_words(struct free_space *space, uint32_t first, uint32_t count, const uint64_t *words);

/* For tests. True when every summary and count agrees with the bitmap. Costly. */
bool free_space_check(const struct free_space *space);

#endif
