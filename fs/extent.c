/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/extent.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "fs/fs_int.h"
#include "fs/transaction.h"

void extent_key_pack(uint8_t key[EXTENT_KEY_LEN], uint64_t blk)
{
	uint64_t be = htobe64(blk);

	key[0] = EXTENT_KEY_TYPE;
	memcpy(key + 1, &be, sizeof(be));
}

static uint64_t key_blk(struct key key)
{
	uint64_t be = 0;

	if (key.len == EXTENT_KEY_LEN)
		memcpy(&be, key.data + 1, sizeof(be));
	return be64toh(be);
}

int extent_unpack(struct key key, struct value value, struct extent *ret_extent)
{
	struct extent_item item;
	uint64_t n;

	if (key.len != EXTENT_KEY_LEN || key.data[0] != EXTENT_KEY_TYPE || value.len < sizeof(item))
		return -EUCLEAN;
	memcpy(&item, value.data, sizeof(item));
	n = le32_to_cpu(item.blocks);
	if (n == 0 || n > EXTENT_BLOCKS_MAX || value.len != sizeof(item) + n * sizeof(le32))
		return -EUCLEAN;
	if (le64_to_cpu(item.addr) == 0 || le64_to_cpu(item.addr) % FS_BLOCK_SIZE || le32_to_cpu(item.flags))
		return -EUCLEAN;
	ret_extent->blk = key_blk(key);
	if (ret_extent->blk > UINT64_MAX / FS_BLOCK_SIZE - n)
		return -EUCLEAN;
	ret_extent->nblk = n;
	ret_extent->addr = le64_to_cpu(item.addr);
	ret_extent->generation = le64_to_cpu(item.generation);
	ret_extent->crc = (const le32 *)((const char *)value.data + sizeof(item));
	return 0;
}

/* ---- look-up --------------------------------------------------------------- */

/* The leaf that covers blk, and the first block of the leaf behind it (UINT64_MAX: none). */
static int find_leaf(struct fs *fs, struct device_queue *q, const struct tree_root *root, struct key key,
		     struct cache_entry **ret_leaf, uint64_t *ret_next)
{
	struct node_ident id = {root->addr, root->generation, root->owner, root->level};
	struct cache_entry *entry;
	int r;

	*ret_next = UINT64_MAX;
	if (id.level >= NODE_LEVEL_MAX || id.addr % NODE_SIZE)
		return -EUCLEAN;
	for (;;) {
		const struct node_header *node;
		int slot;

		r = node_read(fs, q, &id, &entry);
		if (r)
			return r;
		node = node_header(entry);
		if (node->level == 0) {
			*ret_leaf = entry;
			return 0;
		}
		slot = node_floor(node, key);
		slot = slot < 0 ? 0 : slot;
		if ((unsigned)slot + 1 < node_count(node))
			*ret_next = key_blk(node_key(node, (unsigned)slot + 1));
		r = node_child(node, (unsigned)slot, root->owner, &id);
		cache_put(fs->cache, entry);
		if (r)
			return r;
	}
}

int extent_lookup(struct fs *fs, struct device_queue *q, const struct tree_root *root, uint64_t blk,
		  struct extent_piece *ret_piece)
{
	uint8_t bytes[EXTENT_KEY_LEN];
	struct key key = {bytes, sizeof(bytes)};
	struct cache_entry *leaf;
	const struct node_header *node;
	struct extent e;
	uint64_t next;
	int slot, r;

	*ret_piece = (struct extent_piece){.nblk = UINT64_MAX};
	if (root->addr == 0)
		return 0;
	extent_key_pack(bytes, blk);
	r = find_leaf(fs, q, root, key, &leaf, &next);
	if (r)
		return r;
	node = node_header(leaf);
	slot = node_floor(node, key);
	if (slot >= 0) {
		r = extent_unpack(node_key(node, (unsigned)slot), node_value(node, (unsigned)slot), &e);
		if (r == 0 && blk < e.blk + e.nblk) {
			uint64_t skip = blk - e.blk;

			*ret_piece = (struct extent_piece){e.addr + skip * FS_BLOCK_SIZE, e.nblk - skip, e.generation,
							   e.crc + skip, leaf};
			return 0;
		}
	}
	if (r == 0 && (unsigned)(slot + 1) < node_count(node))
		next = key_blk(node_key(node, (unsigned)(slot + 1)));
	cache_put(fs->cache, leaf);
	if (r == 0 && next != UINT64_MAX)
		ret_piece->nblk = next > blk ? next - blk : 0;
	if (ret_piece->nblk == 0)
		r = -EUCLEAN;
	return r;
}

/* ---- merging --------------------------------------------------------------- */

/* An extent on its way out: joined with its neighbour where that goes on in both spaces. */
struct extent_out {
	uint64_t blk, nblk, addr, generation;
	le32 crc[EXTENT_BLOCKS_MAX];
};

struct extent_changes {
	struct tree_changes base;
	struct transaction *txn;
	const struct pending *cur; /* the first that is not done with */
	bool cur_emitted;	   /* it is put out; what it covers from `from` on is still to be dropped */
	uint64_t from;
	struct extent_out out;
	uint64_t blocks;
	uint8_t key[EXTENT_KEY_LEN];
};

static int flush_out(struct extent_changes *ec, struct tree_writer *w)
{
	struct extent_out *o = &ec->out;
	uint8_t key[EXTENT_KEY_LEN], value[sizeof(struct extent_item) + EXTENT_BLOCKS_MAX * sizeof(le32)];
	struct extent_item item = {cpu_to_le64(o->addr), cpu_to_le64(o->generation), cpu_to_le32((uint32_t)o->nblk), {0}};
	size_t crcs = o->nblk * sizeof(le32);

	if (o->nblk == 0)
		return 0;
	extent_key_pack(key, o->blk);
	memcpy(value, &item, sizeof(item));
	memcpy(value + sizeof(item), o->crc, crcs);
	o->nblk = 0;
	return tree_emit(w, (struct key){key, sizeof(key)}, (struct value){value, (uint16_t)(sizeof(item) + crcs)});
}

/* Room for more blocks of an extent behind what is on its way out; puts that out where they do not join. */
static int out_room(struct extent_changes *ec, struct tree_writer *w, uint64_t blk, uint64_t addr, uint64_t generation,
		    uint64_t *ret_room)
{
	struct extent_out *o = &ec->out;
	bool joins = o->nblk && o->nblk < EXTENT_BLOCKS_MAX && o->blk + o->nblk == blk &&
		     o->addr + o->nblk * FS_BLOCK_SIZE == addr && o->generation == generation;
	int r = 0;

	if (!joins) {
		r = flush_out(ec, w);
		o->blk = blk;
		o->addr = addr;
		o->generation = generation;
	}
	*ret_room = EXTENT_BLOCKS_MAX - o->nblk;
	return r;
}

static int put_old(struct extent_changes *ec, struct tree_writer *w, const struct extent *e, uint64_t skip, uint64_t nblk)
{
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

	ec->blocks += p->nblk;
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
	ec->blocks -= nblk;
	return delayed_ref_add(&ec->txn->refs, e->addr + skip * FS_BLOCK_SIZE, nblk * FS_BLOCK_SIZE, -1);
}

static void advance(struct extent_changes *ec)
{
	ec->cur = overlay_next(ec->cur);
	ec->cur_emitted = false;
	ec->from = ec->cur ? ec->cur->blk : UINT64_MAX;
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

static int extent_merge(struct tree_changes *ch, struct tree_writer *w, const struct node_header *leaf,
			const struct key *upper)
{
	struct extent_changes *ec = container_of(ch, struct extent_changes, base);
	uint64_t bound = upper ? key_blk(*upper) : UINT64_MAX;
	int r = 0;

	for (unsigned i = 0; r == 0 && leaf && i < node_count(leaf); i++) {
		struct extent e;

		r = extent_unpack(node_key(leaf, i), node_value(leaf, i), &e);
		/* Pendings that end before it need nothing of it. */
		while (r == 0 && ec->cur && ec->cur->blk + ec->cur->nblk <= e.blk) {
			r = emit_current(ec, w);
			advance(ec);
		}
		if (r == 0)
			r = merge_old(ec, w, &e);
	}
	while (r == 0 && ec->cur && ec->from < bound) {
		uint64_t cur_end = ec->cur->blk + ec->cur->nblk;

		r = emit_current(ec, w);
		if (cur_end > bound) {
			ec->from = bound; /* the rest of what it covers is in the leaves behind */
			break;
		}
		advance(ec);
	}
	return r ? r : flush_out(ec, w);
}

static bool extent_next(struct tree_changes *ch, struct key *ret_key)
{
	struct extent_changes *ec = container_of(ch, struct extent_changes, base);

	if (!ec->cur)
		return false;
	extent_key_pack(ec->key, ec->from);
	*ret_key = (struct key){ec->key, sizeof(ec->key)};
	return true;
}

int extent_apply(struct transaction *txn, struct tree_root *root, const struct overlay *overlay, uint64_t *blocks)
{
	struct extent_changes ec = {.base = {extent_next, extent_merge}, .txn = txn, .cur = overlay_first(overlay)};
	int r;

	ec.from = ec.cur ? ec.cur->blk : UINT64_MAX;
	r = tree_apply(txn, root, &ec.base);
	if (r == 0)
		*blocks += ec.blocks;
	return r;
}
