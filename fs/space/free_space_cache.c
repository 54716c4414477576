/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/free_space_cache.c: see free_space_cache.h, and free_space_cache_format.h for the bytes and their
 * invariants.
 *
 * Whatever the content, a window costs at most one entry and one bitmap: MAX_RUNS is where extents stop
 * being smaller. That bounds the slot.
 */
#include "fs/space/free_space_cache.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/util.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/fs.h"
#include "fs/space/free_space.h"

#define WINDOW FREE_SPACE_CACHE_WINDOW
#define WINDOW_WORDS (WINDOW / 64)
#define HEADER_BYTES sizeof(struct free_space_cache_header)
#define ENTRY_BYTES sizeof(struct free_space_cache_entry)
#define BITMAP_COST (ENTRY_BYTES + FREE_SPACE_CACHE_BITMAP_BYTES)
#define MAX_RUNS (BITMAP_COST / ENTRY_BYTES)
#define CRC_FROM sizeof(le32)

/* ---- writing ---------------------------------------------------------------- */

struct writer {
	const struct free_space *space;
	struct free_space_cache_entry *entries;
	uint32_t nentries, nbitmaps;
	uint32_t extent_end; /* of the last entry, when that is an extent; else 0 */
};

static uint32_t window_runs(const uint64_t *words)
{
	uint32_t runs = 0;
	uint64_t before = 0;

	for (uint32_t i = 0; i < WINDOW_WORDS; i++) {
		runs += (uint32_t)__builtin_popcountll(words[i] & ~(words[i] << 1 | before));
		before = words[i] >> 63;
	}
	return runs;
}

static void put_entry(struct writer *w, uint32_t start, uint32_t len)
{
	w->entries[w->nentries++] = (struct free_space_cache_entry){cpu_to_le32(start), cpu_to_le32(len)};
}

static void put_bitmap(struct writer *w, uint32_t start, const uint64_t *words)
{
	uint32_t bits = 0;

	for (uint32_t i = 0; i < WINDOW_WORDS; i++)
		bits += (uint32_t)__builtin_popcountll(words[i]);
	put_entry(w, start, FREE_SPACE_CACHE_BITMAP | bits);
	w->nbitmaps++;
	w->extent_end = 0;
}

/* An extent goes on where the window before ended with one. */
static void put_extents(struct writer *w, uint32_t window_start)
{
	uint32_t window_end = window_start + WINDOW, start, len;

	for (uint32_t pos = window_start; pos < window_end; pos = start + len) {
		if (!free_space_next_free(w->space, pos, &start, &len) || start >= window_end)
			break;
		len = (uint32_t)min_u64(len, window_end - start);
		if (w->extent_end && w->extent_end == start) {
			le32 *last = &w->entries[w->nentries - 1].len;

			*last = cpu_to_le32(le32_to_cpu(*last) + len);
		} else {
			put_entry(w, start, len);
		}
		w->extent_end = start + len;
	}
}

static void put_entries(struct writer *w)
{
	uint64_t words[WINDOW_WORDS];

	for (uint32_t start = 0; start < free_space_nblocks(w->space); start += WINDOW) {
		free_space_get_words(w->space, start / 64, WINDOW_WORDS, words);
		if (window_runs(words) > MAX_RUNS)
			put_bitmap(w, start, words);
		else
			put_extents(w, start);
	}
}

/* The bitmaps follow the entries: they can only be placed when all entries are there. */
static void put_bitmaps(const struct writer *w)
{
	char *to = (char *)&w->entries[w->nentries];

	for (uint32_t i = 0; i < w->nentries; i++) {
		le64 bits[WINDOW_WORDS];
		uint64_t words[WINDOW_WORDS];

		if (!(le32_to_cpu(w->entries[i].len) & FREE_SPACE_CACHE_BITMAP))
			continue;
		free_space_get_words(w->space, le32_to_cpu(w->entries[i].start) / 64, WINDOW_WORDS, words);
		for (uint32_t j = 0; j < WINDOW_WORDS; j++)
			bits[j] = cpu_to_le64(words[j]);
		memcpy(to, bits, sizeof(bits));
		to += sizeof(bits);
	}
}

int free_space_cache_encode(const struct free_space *space, const struct free_space_cache_ident *ident,
			    void *buf, size_t cap, uint32_t *ret_bytes, uint32_t *ret_crc)
{
	struct free_space_cache_header *h = buf;
	struct writer w = {.space = space, .entries = (struct free_space_cache_entry *)(h + 1)};
	uint32_t nblocks = free_space_nblocks(space), bytes, crc;

	if (ident->group_len != (uint64_t)nblocks * FS_BLOCK_SIZE)
		return -EINVAL;
	if (cap < free_space_cache_slot_bytes(nblocks))
		return -ENOSPC;
	put_entries(&w);
	put_bitmaps(&w);
	bytes = (uint32_t)(HEADER_BYTES + w.nentries * ENTRY_BYTES +
			   w.nbitmaps * FREE_SPACE_CACHE_BITMAP_BYTES);
	*h = (struct free_space_cache_header){
		.magic = cpu_to_le32(FREE_SPACE_CACHE_MAGIC),
		.version = cpu_to_le16(FREE_SPACE_CACHE_VERSION),
		.group_start = cpu_to_le64(ident->group_start),
		.group_len = cpu_to_le64(ident->group_len),
		.generation = cpu_to_le64(ident->generation),
		.free_bytes = cpu_to_le64((uint64_t)free_space_count(space) * FS_BLOCK_SIZE),
		.entries = cpu_to_le32(w.nentries),
		.bitmaps = cpu_to_le32(w.nbitmaps),
		.bytes = cpu_to_le32(bytes),
	};
	memcpy(h->pool_uuid, ident->pool_uuid, sizeof(h->pool_uuid));
	crc = crc32c((char *)buf + CRC_FROM, bytes - CRC_FROM);
	h->crc32c = cpu_to_le32(crc);
	memset((char *)buf + bytes, 0, round_up_u64(bytes, FREE_SPACE_CACHE_ALIGN) - bytes);
	*ret_bytes = bytes;
	*ret_crc = crc;
	return 0;
}

/* ---- reading ---------------------------------------------------------------- */

static bool all_zero(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (bytes[i])
			return false;
	return true;
}

/* Every field of the header; `h` is a copy. The body is known to lie within cap afterwards. */
static int header_validate(const struct free_space_cache_header *h, const void *buf, size_t cap,
			   const struct free_space_cache_ident *ident,
			   const struct free_space_cache_expect *expect)
{
	uint64_t entries = le32_to_cpu(h->entries), bitmaps = le32_to_cpu(h->bitmaps),
		 bytes = le32_to_cpu(h->bytes);

	if (le32_to_cpu(h->magic) != FREE_SPACE_CACHE_MAGIC ||
	    le16_to_cpu(h->version) != FREE_SPACE_CACHE_VERSION)
		return -EUCLEAN;
	if (bitmaps > entries || bytes > cap ||
	    bytes != HEADER_BYTES + entries * ENTRY_BYTES + bitmaps * FREE_SPACE_CACHE_BITMAP_BYTES)
		return -EUCLEAN;
	if (crc32c((const char *)buf + CRC_FROM, bytes - CRC_FROM) != le32_to_cpu(h->crc32c))
		return -EUCLEAN;
	if (memcmp(h->pool_uuid, ident->pool_uuid, sizeof(h->pool_uuid)) ||
	    le64_to_cpu(h->group_start) != ident->group_start ||
	    le64_to_cpu(h->group_len) != ident->group_len)
		return -EUCLEAN;
	if (le32_to_cpu(h->flags) || !all_zero(h->reserved0, sizeof(h->reserved0)) ||
	    !all_zero(h->reserved1, sizeof(h->reserved1)))
		return -EUCLEAN;
	if (le64_to_cpu(h->generation) != ident->generation)
		return -ESTALE;
	if (le32_to_cpu(h->crc32c) != expect->crc32c || bytes != expect->bytes ||
	    le64_to_cpu(h->free_bytes) != (uint64_t)expect->free_blocks * FS_BLOCK_SIZE)
		return -EUCLEAN;
	return 0;
}

struct reader {
	struct free_space *space;
	const char *bitmap, *bitmaps_end; /* the next bitmap, and where the slot ends */
	uint64_t pos;			  /* all blocks before it are decided */
};

static bool get_extent(struct reader *r, uint64_t start, uint32_t len)
{
	if (start < r->pos)
		return false;
	r->pos = start + len;
	return free_space_give(r->space, (uint32_t)start, len);
}

static bool get_bitmap(struct reader *r, uint64_t start, uint32_t nbits)
{
	le64 bits[WINDOW_WORDS];
	uint64_t words[WINDOW_WORDS];
	uint32_t found = 0;

	if (start < r->pos || start % WINDOW || start >= free_space_nblocks(r->space) ||
	    r->bitmap == r->bitmaps_end)
		return false;
	memcpy(bits, r->bitmap, sizeof(bits));
	for (uint32_t i = 0; i < WINDOW_WORDS; i++) {
		words[i] = le64_to_cpu(bits[i]);
		found += (uint32_t)__builtin_popcountll(words[i]);
	}
	r->bitmap += sizeof(bits);
	r->pos = start + WINDOW;
	return found && found == nbits &&
	       free_space_set_words(r->space, (uint32_t)start / 64, WINDOW_WORDS, words);
}

/*
 * An extent may end inside of a window only if no bitmap of that window follows: get_bitmap sees start < pos.
 */
static bool get_entries(struct reader *r, const char *entries, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct free_space_cache_entry e;
		uint32_t len;

		memcpy(&e, entries + i * ENTRY_BYTES, sizeof(e));
		len = le32_to_cpu(e.len);
		if (len & FREE_SPACE_CACHE_BITMAP) {
			if (!get_bitmap(r, le32_to_cpu(e.start), len & ~FREE_SPACE_CACHE_BITMAP))
				return false;
		} else if (!get_extent(r, le32_to_cpu(e.start), len)) {
			return false;
		}
	}
	return r->bitmap == r->bitmaps_end;
}

int free_space_cache_decode(const void *buf, size_t cap, const struct free_space_cache_ident *ident,
			    const struct free_space_cache_expect *expect, struct free_space **ret_space)
{
	struct free_space_cache_header h;
	struct reader r;
	const char *entries = (const char *)buf + HEADER_BYTES;
	int error;

	if (cap < HEADER_BYTES || !ident->group_len || ident->group_len % FS_BLOCK_SIZE ||
	    ident->group_len / FS_BLOCK_SIZE > FREE_SPACE_MAX_BLOCKS)
		return -EUCLEAN;
	memcpy(&h, buf, sizeof(h));
	error = header_validate(&h, buf, cap, ident, expect);
	if (error)
		return error;
	r = (struct reader){
		.space = free_space_new((uint32_t)(ident->group_len / FS_BLOCK_SIZE), false),
		.bitmap = entries + le32_to_cpu(h.entries) * ENTRY_BYTES,
		.bitmaps_end = (const char *)buf + le32_to_cpu(h.bytes),
	};
	if (!r.space)
		return -ENOMEM;
	if (!get_entries(&r, entries, le32_to_cpu(h.entries)) ||
	    free_space_count(r.space) != expect->free_blocks) {
		free_space_free(r.space);
		return -EUCLEAN;
	}
	*ret_space = r.space;
	return 0;
}
