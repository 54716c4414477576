/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/overlay.h: the pending extents of one volume in one transaction, in memory: what was written,
 * trimmed or zeroed since the last commit and is not in the volume's tree yet. Offsets and lengths are in
 * blocks of FS_BLOCK_SIZE, addresses in bytes of the pool's logical space. Not locked: the volume's lock
 * protects an overlay that takes writes; one that is frozen may be read by many.
 *
 * Invariants
 * 1. Pendings do not overlap and are not empty. The newest write of a block wins.
 * 2. A pending is on exactly one of the lists `unlogged` and `logged`, as p->logged says.
 * 3. A pending has a checksum for each of its blocks, or none at all; a hole (addr 0) has none.
 * 4. Inserting cannot fail: all it can need is one spare, without a checksum array, because the pieces of a
 *    pending share one array. The pieces are of one overlay, so the array's reference count needs no lock of
 *    its own.
 * 5. count, blocks and crc_words are exact.
 */
#ifndef FS_VOLUME_OVERLAY_H
#define FS_VOLUME_OVERLAY_H

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Checksums that the pieces of one pending share. */
struct pending_crcs {
	uint32_t refs;
	uint32_t crc[];
};

/*
 * What a search reads comes first, in one cache line. The struct's size counts in the memory that a
 * transaction takes.
 */
struct pending {
	uint64_t blk;
	uint64_t nblk;
	RB_ENTRY(pending) entry;
	uint64_t addr; /* of the first block; 0: a hole */
	uint64_t gen;
	TAILQ_ENTRY(pending) log_link;
	uint32_t *crc; /* of the first block; NULL when crc_count is 0 */
	union {
		struct pending_crcs *crc_shared;
		uint32_t crc_inline; /* of a pending that was made with one block */
	};
	uint32_t crc_count; /* 0 or nblk */
	bool logged;	    /* is in the flush log */
	bool shares_crcs;   /* crc_shared is in use */
};

RB_HEAD(overlay_root, pending);
TAILQ_HEAD(pending_list, pending);

struct overlay {
	struct overlay_root root;
	struct pending_list unlogged; /* the oldest first */
	struct pending_list logged;
	uint64_t count;	    /* pendings */
	uint64_t blocks;    /* in pendings that are not holes */
	uint64_t crc_words; /* checksums in use; the arrays of cut pendings may hold some more */
};

/* Called for each piece of space that no pending refers to any more. */
typedef void overlay_freed_fn(void *arg, uint64_t addr, uint64_t nblk);

/*
 * A pending of nblk blocks (with_crcs: 2^31 at most), whose blk, addr, gen and crc[] the caller fills in.
 * Zeroed otherwise. NULL: no memory. pending_free is for one that is in no overlay; it accepts NULL.
 */
struct pending *pending_new(uint64_t nblk, bool with_crcs);
void pending_free(struct pending *p);

/* Cannot fail. An empty overlay needs no fini; overlay_clear empties it. */
void overlay_init(struct overlay *ov);

/*
 * Makes sure that *spare (NULL, or a spare left over) holds one for overlay_insert. -ENOMEM. Freed with
 * pending_free.
 */
int overlay_insert_prealloc(struct pending **spare);

/*
 * Inserts p, which becomes the overlay's. Whatever it overlaps is trimmed, split or removed, and freed(arg,
 * ...) is called for each piece of that with space (freed must not call the overlay). Pieces that remain keep
 * their gen and their list; p is unlogged and goes to the end of that list. Takes *spare, which must not be
 * NULL, when p falls into the middle of a pending, and sets it to NULL then.
 */
void overlay_insert(struct overlay *ov, struct pending *p, struct pending **spare, overlay_freed_fn *freed,
		    void *arg);

/* What the overlay knows of a block. */
struct overlay_piece {
	bool found;
	/* found: to the end of the pending; else: to the next pending (UINT64_MAX: there is none) */
	uint64_t nblk;
	uint64_t addr; /* of this block; 0: a hole. The rest is valid when found is true. */
	uint64_t gen;
	/* of this block and those after it; NULL: none. Valid until the overlay changes. */
	const uint32_t *crc;
};

void overlay_lookup(const struct overlay *ov, uint64_t blk, struct overlay_piece *ret_piece);

/*
 * How many of the nblk blocks from blk on are covered when at most `max` overlapping pendings are taken: all,
 * if there are no more.
 */
uint64_t overlay_span(const struct overlay *ov, uint64_t blk, uint64_t nblk, unsigned max);

/* In order of blk; NULL at the end. overlay_find: the first that ends after blk. */
struct pending *overlay_first(const struct overlay *ov);
struct pending *overlay_next(const struct pending *p);
struct pending *overlay_find(const struct overlay *ov, uint64_t blk);

/* The flush log's side: the oldest pending that is not in the log, or NULL; and moving it over. */
struct pending *overlay_unlogged_first(const struct overlay *ov);
/* For tests. */
struct pending *overlay_unlogged_next(const struct pending *p);
void overlay_mark_logged(struct overlay *ov, struct pending *p);

/* Moves everything from src to dst, which is empty. Cannot fail. */
void overlay_move(struct overlay *dst, struct overlay *src);

/* Frees every pending, without calling anyone about the space that they refer to. */
void overlay_clear(struct overlay *ov);

/* For tests. Asserts the invariants by walking everything. O(pendings). */
void overlay_check(const struct overlay *ov);

#endif
