/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/io/io_zero.c: trims and zeroes that are made of other requests: whole blocks become holes, edges are
 * overwritten with zeros, and zeros that keep their space are written piece by piece.
 *
 * Invariants
 * 1. A request made of others holds the lock of its whole range from before its first child to after its
 *    last, and nothing else. So it is carried out as a whole, in the order in which it arrived; its children
 *    (IO_LOCKED) take no lock, and hold what else they need.
 * 2. No block is written by two children of one request.
 * 3. Whether an edge lies in a hole is looked up when the range is locked: no earlier write to it is under
 *    way any more.
 */
#include "base/util.h"
#include "fs/core/epoch.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/device/executor.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/io/io.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/volume.h"

static void child_done(struct fs_io *child)
{
	struct io *io = child->arg;

	if (child->error && !io->error)
		io->error = child->error;
	if (--io->parts > 0)
		return;
	if (io->error)
		io_end(io, io->error);
	else
		io_succeed(io);
}

/* A mistake: each child takes its turn by itself, and edges are looked at before. */
static const bool unlocked = FAULT(FAULT_EDGE_UNLOCKED);

static void start_child(struct io *io, unsigned which, enum fs_op op, uint32_t flags, uint64_t off,
			uint64_t len)
{
	if (len == 0)
		return;
	io->child[which] = (struct fs_io){.op = op,
					  .flags = flags | (unlocked ? 0 : IO_LOCKED),
					  .vol = io->vol,
					  .off = off,
					  .len = len,
					  .done = child_done,
					  .arg = io};
	io->parts++;
	io_start(io->ctx, &io->child[which]);
}

/* True when the block is known to be a hole: its edge need not be written. */
static bool is_hole(struct io *io, uint64_t blk)
{
	unsigned epoch = epoch_enter(&io->fs->epoch);
	struct volume_piece vp;
	uint32_t crc;
	bool hole = volume_lookup(io->vol, NULL, blk, 1, &vp, &crc) == 0 && vp.addr == 0 && !vp.lost;

	epoch_leave(&io->fs->epoch, epoch);
	return hole;
}

static void zero_edge(struct io *io, unsigned which, uint64_t off, uint64_t len)
{
	if (len && !is_hole(io, off / FS_BLOCK_SIZE))
		start_child(io, which, FS_WRITE, IO_ZEROS | IO_FREEING, off, len);
}

static void discard_locked(struct io *io)
{
	uint64_t off = io->user->off, end = off + io->user->len;
	uint64_t first = round_up_u64(off, FS_BLOCK_SIZE), last = round_down_u64(end, FS_BLOCK_SIZE);

	io->parts = 1;
	if (first > last) {
		zero_edge(io, 0, off, end - off);
	} else {
		start_child(io, 1, FS_TRIM, 0, first, last - first);
		zero_edge(io, 0, off, first - off);
		zero_edge(io, 2, last, end - last);
	}
	child_done(&(struct fs_io){.arg = io});
}

/* Whole blocks become holes, parts of blocks at the edges are overwritten with zeros. */
void io_discard(struct io *io)
{
	if (unlocked)
		discard_locked(io);
	else
		io_lock_range(io, 0, discard_locked);
}

static void zero_next(struct fs_io *child);

static void zero_chunk(struct io *io)
{
	/* Chunks meet at block borders: no block is written by two of them. */
	uint64_t len = min_u64(io->user->len - io->zero_pos,
			       IO_ZERO_CHUNK - (io->user->off + io->zero_pos) % FS_BLOCK_SIZE);

	io->child[0] = (struct fs_io){.op = FS_WRITE,
				      .flags = IO_ZEROS | IO_LOCKED,
				      .vol = io->vol,
				      .off = io->user->off + io->zero_pos,
				      .len = len,
				      .done = zero_next,
				      .arg = io};
	io->zero_pos += len;
	io_start(io->ctx, &io->child[0]);
}

static void zero_next_posted(struct post *post)
{
	zero_chunk(container_of(post, struct io, post));
}

static void zero_next(struct fs_io *child)
{
	struct io *io = child->arg;

	if (child->error) {
		io_end(io, child->error);
	} else if (io->zero_pos == io->user->len) {
		io_succeed(io);
	} else { /* not from here: a chunk may have ended at once, and its successors would nest */
		io->post.fn = zero_next_posted;
		executor_post(&io->ctx->ex, &io->post);
	}
}

/* Zeros that keep their space: written, some at a time. */
void io_zero_fill(struct io *io)
{
	io->zero_pos = 0;
	io_lock_range(io, EXTENT_DELALLOC, zero_chunk);
}
