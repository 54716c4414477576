/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/io/io.h: a request's way through the engine. io.c starts and ends requests, io_read.c and io_write.c
 * carry them out, and io_zero.c makes larger ones of them.
 *
 * A request runs on its context's thread from state to state. Where it would have to wait, it parks: on a
 * space ticket, in the queue of an extent lock, in a worker that reads nodes, on the device, in the flush
 * log; and what it waited for posts it back. It takes, in this order: the extent lock (a write's has
 * DELALLOC), a reservation, pages, allocations. The lock always comes first, so that a request that waits for
 * space keeps its turn in the range. Every way out gives back exactly what is held (io_end).
 *
 * Invariants
 * 1. Reads hold no lock; they are in an epoch from their first look-up to their last byte.
 * 2. A write's extents enter the overlay only when all of its data is on the device (completed, not flushed).
 * 3. The extent state of a request exists from the grant of its lock to the step that drops it, and never
 *    longer.
 */
#ifndef FS_IO_IO_H
#define FS_IO_IO_H

#include "fs/commit/flush_log.h"
#include "fs/device/executor.h"
#include "fs/fs.h"
#include "fs/space/space_info.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/overlay.h"

struct fs_ctx;

struct cache_entry;
struct fs;
struct fs_volume;

/* In fs_io.flags, for requests that the engine makes itself. */
#define IO_ZEROS (1u << 16)   /* WRITE of zeros; buf is not used */
#define IO_FREEING (1u << 17) /* on behalf of something that frees space */
#define IO_LOCKED (1u << 18)  /* the request that it is a part of has locked the range */

#define IO_INLINE_BLOCKS 8u
#define IO_ZERO_CHUNK (4u << 20)
#define IO_ALLOC_TRIES 1000u

struct read_piece {
	uint64_t addr; /* 0: hole */
	uint64_t nblk;
};

struct io {
	struct fs_io *user;
	struct fs_ctx *ctx;
	struct fs *fs;
	struct fs_volume *vol;
	struct io *next; /* free list */
	struct post post;
	struct fs_work work;

	uint64_t blk, nblk; /* every block that the request touches */
	int error;
	unsigned parts; /* device requests or children under way, and one for the starter */

	/* reads */
	bool in_epoch;
	unsigned epoch;
	uint64_t mapped; /* blocks looked up so far */
	unsigned pieces;
	struct read_piece *piece, piece_inline[IO_INLINE_BLOCKS];
	uint32_t *crc, crc_inline[IO_INLINE_BLOCKS];

	/* writes */
	struct space_ticket ticket; /* ticket.want is what is reserved */
	bool reserved, locked;
	struct extent_lock lock;
	void (*go_locked)(struct io *io); /* next step, once the range is locked */
	struct cache_entry **page, *page_inline[IO_INLINE_BLOCKS];
	uint64_t pages;
	struct pending_list pendings; /* allocated so far */
	uint64_t allocated;	      /* blocks */
	uint64_t items;		      /* most items that the pendings can become */
	unsigned alloc_tries;

	struct flush_waiter flush;
	struct fs_io child[3]; /* edges of unaligned requests, parts of long ones */
	uint64_t zero_pos;
};

struct io *io_new(struct fs_ctx *ctx, struct fs_io *user);
void io_free_all(struct fs_ctx *ctx);

/* Starts a request on its context's thread; user->done runs when it ends, perhaps before this returns. */
void io_start(struct fs_ctx *ctx, struct fs_io *user);

/*
 * Takes its turn in the range of all blocks that the request touches, then calls `then`: perhaps before this
 * returns. `bits` go with the lock (extent_state.h). The lock is dropped by io_unlock_range, or when the
 * request ends.
 */
void io_lock_range(struct io *io, uint32_t bits, void (*then)(struct io *io));
void io_unlock_range(struct io *io);

/* Gives back whatever the request holds, and answers it. */
void io_end(struct io *io, int error);
/* The request succeeded. Unlocks its range, flushes if it has FUA, and answers. */
void io_succeed(struct io *io);

void io_read(struct io *io);
void io_write(struct io *io);
void io_hole(struct io *io);	  /* TRIM, ZERO of whole blocks */
void io_discard(struct io *io);	  /* TRIM, ZERO of any alignment */
void io_zero_fill(struct io *io); /* ZERO with NO_HOLE */

/* Submits the device write that is being put together. */
void io_submit_open_write(struct fs_ctx *ctx);

/* Copies block `index` of the request between the page and the caller's buffer, where they overlap. */
void io_copy_out(struct io *io, uint64_t index, const void *page);
void io_copy_in(struct io *io, uint64_t index, void *page);

#endif
