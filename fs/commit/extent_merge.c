/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/extent_merge.c: merging an overlay into a volume's tree.
 *
 * A lost extent is merged as any other: pendings cut it, it joins its neighbours, and no space hangs on it.
 * Where a node cannot be read, one lost extent stands for all of its range (extent_lost).
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/util.h"
#include "fs/commit/transaction.h"
#include "fs/commit/volume_touch.h"
#include "fs/core/fault.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/delayed_ref.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/extent.h"
#include "fs/volume/overlay.h"

/* An extent on its way out: joined with its neighbour where that goes on in both spaces. */
struct extent_out {
	uint64_t blk, nblk, addr, generation;
	bool lost; /* of any length */
	le32 crc[EXTENT_BLOCKS_MAX];
};

struct extent_changes {
	struct tree_changes base;
	struct transaction *txn;
	const struct overlay *overlay;
	const struct pending *cur; /* the first that is not done with */
	bool cur_emitted;	   /* it is put out; what it covers from `from` on is still to be dropped */
	uint64_t from;
	const struct volume_touches *touches;
	unsigned touch; /* the first that is not done with */
	struct extent_out out;
	uint64_t old_end; /* nothing of the tree is behind this block, */
	uint64_t end;	  /* and nothing of what it becomes behind this one */
	int64_t blocks;	  /* change to what extents cover */
	int64_t lost;	  /* and lost ones */
	uint64_t unknown; /* most blocks that lost nodes may have referred to */
	uint8_t key[EXTENT_KEY_LEN];
};

static int flush_out(struct extent_changes *ec, struct tree_writer *w)
{
	struct extent_out *o = &ec->out;
	uint8_t key[EXTENT_KEY_LEN], value[sizeof(struct extent_item) + EXTENT_BLOCKS_MAX * sizeof(le32)];
	struct extent extent = {
		.nblk = o->nblk, .addr = o->lost ? 0 : o->addr, .generation = o->generation, .crc = o->crc};
	uint16_t len;

	if (o->nblk == 0)
		return 0;
	extent_key_pack(key, o->blk);
	len = extent_pack(&extent, value);
	o->nblk = 0;
	return tree_emit(w, (struct key){key, sizeof(key)}, (struct value){value, len});
}

/* Room for more blocks of an extent behind what is on its way out; puts that out where they do not join. */
static int out_room(struct extent_changes *ec, struct tree_writer *w, uint64_t blk, uint64_t addr,
		    uint64_t generation, uint64_t *ret_room)
{
	struct extent_out *o = &ec->out;
	bool joins = o->nblk && !o->lost && o->nblk < EXTENT_BLOCKS_MAX && o->blk + o->nblk == blk &&
		     o->addr + o->nblk * FS_BLOCK_SIZE == addr && o->generation == generation;
	int r = 0;

	if (!joins) {
		r = flush_out(ec, w);
		o->blk = blk;
		o->addr = addr;
		o->generation = generation;
		o->lost = false;
	}
	*ret_room = EXTENT_BLOCKS_MAX - o->nblk;
	return r;
}

static int put_lost(struct extent_changes *ec, struct tree_writer *w, uint64_t blk, uint64_t nblk,
		    uint64_t generation)
{
	struct extent_out *o = &ec->out;
	int r = 0;

	if (o->nblk && o->lost && o->blk + o->nblk == blk) {
		o->nblk += nblk;
		return 0;
	}
	r = flush_out(ec, w);
	o->blk = blk;
	o->nblk = nblk;
	o->generation = generation;
	o->lost = true;
	return r;
}

static int put_old(struct extent_changes *ec, struct tree_writer *w, const struct extent *e, uint64_t skip,
		   uint64_t nblk)
{
	if (e->addr == 0)
		return put_lost(ec, w, e->blk + skip, nblk, e->generation);
	while (nblk) {
		uint64_t room, n, addr = e->addr + skip * FS_BLOCK_SIZE;
		int r = out_room(ec, w, e->blk + skip, addr, e->generation, &room);

		if (r)
			return r;
		n = min_u64(room, nblk);
		memcpy(ec->out.crc + ec->out.nblk, e->crc + skip, n * sizeof(le32));
		ec->out.nblk += n;
		skip += n;
		nblk -= n;
	}
	return 0;
}

static int put_pending(struct extent_changes *ec, struct tree_writer *w, const struct pending *p)
{
	int r = delayed_ref_add(&ec->txn->refs, p->addr, p->nblk * FS_BLOCK_SIZE, +1);

	ec->blocks += (int64_t)p->nblk;
	for (uint64_t done = 0; r == 0 && done < p->nblk;) {
		uint64_t room, n;

		r = out_room(ec, w, p->blk + done, p->addr + done * FS_BLOCK_SIZE, p->gen, &room);
		n = min_u64(room, p->nblk - done);
		for (uint64_t i = 0; r == 0 && i < n; i++)
			ec->out.crc[ec->out.nblk + i] = cpu_to_le32(p->crc[done + i]);
		ec->out.nblk += n;
		done += n;
	}
	return r;
}

static int drop_old(struct extent_changes *ec, const struct extent *e, uint64_t skip, uint64_t nblk)
{
	if (e->addr == 0) {
		ec->lost -= (int64_t)nblk;
		return 0;
	}
	ec->blocks -= (int64_t)nblk;
	return delayed_ref_add(&ec->txn->refs, e->addr + skip * FS_BLOCK_SIZE, nblk * FS_BLOCK_SIZE, -1);
}

static void advance(struct extent_changes *ec)
{
	ec->cur = overlay_next(ec->cur);
	ec->cur_emitted = false;
	ec->from = ec->cur ? ec->cur->blk : UINT64_MAX;
}

/* UINT64_MAX: there is none. */
static uint64_t next_touch(const struct extent_changes *ec)
{
	return ec->touches && ec->touch < ec->touches->count ? ec->touches->blk[ec->touch] : UINT64_MAX;
}

/* Puts out the current pending if that is still to be done; it then only covers. */
static int emit_current(struct extent_changes *ec, struct tree_writer *w)
{
	if (ec->cur_emitted)
		return 0;
	ec->cur_emitted = true;
	return ec->cur->addr ? put_pending(ec, w, ec->cur) : 0;
}

/* Passes one old extent by the pendings that begin before its end, keeping what none of them covers. */
static int merge_old(struct extent_changes *ec, struct tree_writer *w, const struct extent *e)
{
	uint64_t pos = e->blk, end = e->blk + e->nblk;
	int r = 0;

	while (r == 0 && ec->cur && ec->from < end) {
		uint64_t cur_end = ec->cur->blk + ec->cur->nblk;

		if (ec->from > pos) {
			r = put_old(ec, w, e, pos - e->blk, ec->from - pos);
			pos = ec->from;
		}
		if (r == 0)
			r = emit_current(ec, w);
		if (r == 0 && cur_end > pos) {
			uint64_t upto = min_u64(cur_end, end);

			r = drop_old(ec, e, pos - e->blk, upto - pos);
			pos = upto;
		}
		if (cur_end > end) {
			ec->from = end;
			return r;
		}
		advance(ec);
	}
	return r == 0 && pos < end ? put_old(ec, w, e, pos - e->blk, end - pos) : r;
}

/* What is left of the pendings that begin before the bound, which nothing old stands in the way of. */
static int put_rest(struct extent_changes *ec, struct tree_writer *w, uint64_t bound)
{
	int r = 0;

	while (r == 0 && ec->cur && ec->from < bound) {
		uint64_t cur_end = ec->cur->blk + ec->cur->nblk;

		r = emit_current(ec, w);
		if (cur_end > bound) {
			ec->from = bound; /* the rest of what it covers is in the leaves behind */
			break;
		}
		advance(ec);
	}
	while (next_touch(ec) < bound)
		ec->touch++;
	return r ? r : flush_out(ec, w);
}

static int merge_extent(struct extent_changes *ec, struct tree_writer *w, const struct extent *e)
{
	int r = 0;

	/* Pendings that end before it need nothing of it. */
	while (r == 0 && ec->cur && ec->cur->blk + ec->cur->nblk <= e->blk) {
		r = emit_current(ec, w);
		advance(ec);
	}
	return r ? r : merge_old(ec, w, e);
}

static int extent_merge(struct tree_changes *ch, struct tree_writer *w, const struct node_header *leaf,
			const struct key *upper)
{
	struct extent_changes *ec = container_of(ch, struct extent_changes, base);
	int r = 0;

	for (unsigned i = 0; r == 0 && leaf && i < node_count(leaf); i++) {
		struct extent e;

		r = extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
		if (r == 0)
			r = merge_extent(ec, w, &e);
	}
	return r ? r : put_rest(ec, w, upper ? extent_key_blk(*upper) : UINT64_MAX);
}

static int extent_lost(struct tree_changes *ch, struct tree_writer *w, const struct key *first,
		       const struct key *upper, uint8_t level)
{
	struct extent_changes *ec = container_of(ch, struct extent_changes, base);
	uint64_t bound = upper ? extent_key_blk(*upper) : UINT64_MAX, end = min_u64(bound, ec->end),
		 old_end = min_u64(bound, ec->old_end);
	struct extent e = {.blk = first ? extent_key_blk(*first) : 0, .generation = ec->txn->generation};
	int r = 0;

	if (old_end > e.blk)
		ec->unknown += min_u64(old_end - e.blk, extent_blocks_below(level));
	if (end > e.blk) {
		e.nblk = end - e.blk;
		ec->lost += (int64_t)e.nblk;
		transaction_note_lost(ec->txn, tree_writer_owner(w), e.blk, e.nblk);
		r = merge_extent(ec, w, &e);
	}
	return r ? r : put_rest(ec, w, bound);
}

static bool extent_leaf_is_sane(const struct tree_changes *ch, const struct node_header *leaf)
{
	uint64_t end = 0;

	(void)ch;
	for (unsigned i = 0; i < node_count(leaf); i++) {
		struct extent e;

		if (extent_unpack(node_key(leaf, i), node_value(leaf, i), &e) || e.blk < end)
			return false;
		end = e.blk + e.nblk;
	}
	return true;
}

/* A hole that is long enough to have been charged for what cutting costs (space_cut_bytes). */
static bool extent_drops(const struct tree_changes *ch, const struct key *first, const struct key *upper)
{
	const struct extent_changes *ec = container_of(ch, struct extent_changes, base);
	uint64_t end = upper ? extent_key_blk(*upper) : ec->old_end;

	return ec->cur && ec->cur->addr == 0 && ec->cur->nblk >= CUT_BLOCKS_MIN &&
	       ec->from <= (first ? extent_key_blk(*first) : 0) && ec->cur->blk + ec->cur->nblk >= end;
}

static bool extent_touches(const struct tree_changes *ch, const struct key *first, const struct key *upper)
{
	const struct extent_changes *ec = container_of(ch, struct extent_changes, base);
	uint64_t blk = extent_key_blk(*first), end = upper ? extent_key_blk(*upper) : UINT64_MAX;
	const struct pending *p = overlay_find(ec->overlay, blk);

	if (!p || p->blk >= end)
		return false;
	/* What is cut out is not read. */
	return *ec->base.open_leaves || p->addr || p->nblk < CUT_BLOCKS_MIN || p->blk > blk ||
	       p->blk + p->nblk < end;
}

static bool extent_next(struct tree_changes *ch, struct key *ret_key)
{
	struct extent_changes *ec = container_of(ch, struct extent_changes, base);

	uint64_t blk = min_u64(ec->cur ? ec->from : UINT64_MAX, next_touch(ec));

	if (blk == UINT64_MAX)
		return false;
	extent_key_pack(ec->key, blk);
	*ret_key = (struct key){ec->key, sizeof(ec->key)};
	return true;
}

int extent_apply(struct transaction *txn, struct tree_root *root, const struct overlay *overlay,
		 const struct volume_touches *touches, uint64_t old_end, uint64_t end,
		 struct extent_counts *counts, struct tree_root *ret_cut)
{
	struct extent_changes ec = {
		.base = {.next = extent_next, .merge = extent_merge, .is_sane = extent_leaf_is_sane},
		.txn = txn,
		.overlay = overlay,
		.cur = overlay_first(overlay),
		.touches = touches,
		.old_end = old_end,
		.end = min_u64(end, old_end)};
	int r;

	*ret_cut = (struct tree_root){.owner = root->owner};
	if (!FAULT(FAULT_LOST_NODE))
		ec.base.lost = extent_lost;
	ec.base.drops = extent_drops;
	ec.base.touches = extent_touches;
	ec.base.open_leaves = &txn->open_leaves;
	ec.from = ec.cur ? ec.cur->blk : UINT64_MAX;
	r = tree_apply(&txn->store, root, &ec.base);
	if (r)
		return r;
	counts->used = add_clamped(counts->used, ec.blocks - (int64_t)ec.unknown);
	counts->lost = add_clamped(counts->lost, ec.lost);
	*ret_cut = ec.base.cut;
	return 0;
}
