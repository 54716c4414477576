/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/backing_spare.c: data blocks of a sparse pool that are kept for the edges of trims: invariant 5 of
 * backing.h.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/device/work.h"
#include "fs/format/backing_format.h"
#include "fs/format/block_group_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/pins.h"

#define READ_TRIES 3u
#define SEARCH_BLOCKS 4096u
#define SEARCH_RUN 256u

static bool put_spare_locked(struct backing *b, uint64_t addr)
{
	if (b->spares == b->spares_max)
		return false;
	b->spare[b->spares++] = addr;
	b->spares_changed = true;
	return true;
}

bool backing_take_spare(struct fs *fs, uint64_t *ret_addr)
{
	struct backing *b = fs->backing;
	bool has;

	if (!b->on || b->spares == 0)
		return false;
	lock_take(&b->lock);
	has = b->spares > 0;
	if (has) {
		*ret_addr = b->spare[--b->spares];
		b->spares_changed = true;
	}
	lock_drop(&b->lock);
	return has;
}

bool backing_lacks_spare(struct fs *fs)
{
	return fs->backing->on && fs->backing->spares == 0 && atomic_load(&fs->backing->host_full);
}

uint32_t backing_keep_freed(struct fs *fs, const struct block_group *g, uint64_t addr, uint32_t n)
{
	struct backing *b = fs->backing;
	uint32_t kept = 0;

	if (!b->on || g->type != GROUP_DATA || b->spares == b->spares_max)
		return 0;
	lock_take(&b->lock);
	while (kept < n && put_spare_locked(b, addr + (uint64_t)kept * FS_BLOCK_SIZE))
		kept++;
	lock_drop(&b->lock);
	return kept;
}

void backing_return_spares(struct fs *fs, struct block_group *g)
{
	struct backing *b = fs->backing;
	uint32_t own = 0;
	bool given;

	if (!b->on || g->type != GROUP_DATA)
		return;
	lock_take(&b->lock);
	for (unsigned i = 0; i < b->spares; i++)
		own += b->spare[i] - g->start < g->len;
	if (free_space_count(g->avail) + own < g->nblocks)
		own = 0; /* it cannot go anyway */
	for (unsigned i = 0; own && i < b->spares;) {
		if (b->spare[i] - g->start >= g->len) {
			i++;
			continue;
		}
		given = free_space_give(g->avail, block_group_index(g, b->spare[i]), 1);
		ASSERT(given);
		b->spare[i] = b->spare[--b->spares];
		b->spares_changed = true;
	}
	lock_drop(&b->lock);
	if (own)
		block_group_reorder_locked(fs, g);
}

/* ---- on the device --------------------------------------------------------- */

static uint64_t place(uint64_t generation)
{
	return SPARES_OFFSET + (generation & 1) * SPARES_BYTES;
}

/* One that the list names, if it is still free and has its block. */
static void take_again(struct fs *fs, uint64_t addr)
{
	struct block_group *g = addr % FS_BLOCK_SIZE ? NULL : block_group_find(fs, addr);
	uint64_t off[GROUP_STRIPES_MAX];
	uint32_t blk;
	bool took;

	if (!g || g->type != GROUP_DATA || block_group_load(fs, fs->commit_q, g) || g->state != GROUP_LOADED)
		return;
	blk = block_group_index(g, addr);
	lock_take(&g->lock);
	took = free_space_take(g->avail, blk, 1);
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	if (!took || block_group_map(fs, addr, FS_BLOCK_SIZE, off) != 1)
		return;
	took = fs->dev->ops->allocate(fs->dev, off[0], FS_BLOCK_SIZE, true) == 0;
	lock_take(&fs->backing->lock);
	took = took && put_spare_locked(fs->backing, addr);
	lock_drop(&fs->backing->lock);
	if (!took)
		block_group_give(fs, addr, FS_BLOCK_SIZE);
}

static bool is_valid(const struct fs *fs, const struct spares_block *sb, uint64_t off)
{
	return !spares_fault(sb) && memcmp(sb->pool, fs->uuid, sizeof(sb->pool)) == 0 &&
	       place(le64_to_cpu(sb->generation)) == off;
}

void backing_read_spares(struct fs *fs)
{
	struct spares_block *sb = mem_alloc_aligned(DEVICE_ALIGN, 2 * SPARES_BYTES), *newest = NULL;
	int r = -ENOMEM;

	for (unsigned i = 0; sb && r && i < READ_TRIES; i++)
		r = device_sync(fs->commit_q, DEVICE_READ, SPARES_OFFSET, sb, 2 * SPARES_BYTES);
	/* Without them it waits for what is freed. */
	for (unsigned i = 0; r == 0 && i < 2; i++)
		if (is_valid(fs, &sb[i], place(i)) &&
		    (!newest || le64_to_cpu(sb[i].generation) > le64_to_cpu(newest->generation)))
			newest = &sb[i];
	for (unsigned i = 0; newest && i < le32_to_cpu(newest->count); i++)
		take_again(fs, le64_to_cpu(newest->addr[i]));
	mem_free(sb);
}

/*
 * Blocks that this commit frees, to the end of the list: they become spares when their pins are released.
 * None beside readers, when what running requests free goes to the same set (pins.h).
 */
static unsigned add_pinned(struct fs *fs, uint64_t generation, struct spares_block *sb, unsigned n)
{
	unsigned set = pins_set(fs->pins, generation);

	if (set == pins_set(fs->pins, generation + 1))
		return n;
	for (struct block_group *g = fs->groups->dirty; g && n < fs->backing->spares_max; g = g->dirty_next) {
		const uint64_t *pinned;

		if (g->type != GROUP_DATA)
			continue;
		lock_take(&g->lock);
		pinned = g->pinned_blocks[set] ? g->pinned[set] : NULL;
		for (uint32_t w = 0; pinned && w < (g->nblocks + 63) / 64; w++)
			for (uint64_t bits = pinned[w]; bits && n < fs->backing->spares_max; bits &= bits - 1)
				sb->addr[n++] = cpu_to_le64(
					g->start + (w * 64 + (unsigned)__builtin_ctzll(bits)) * g->unit);
		lock_drop(&g->lock);
	}
	return n;
}

void backing_write_spares(struct fs *fs, struct device_queue *q, uint64_t generation)
{
	struct spares_block sb __attribute__((aligned(DEVICE_ALIGN))) = {
		.magic = cpu_to_le32(SPARES_MAGIC), .generation = cpu_to_le64(generation)};
	struct backing *b = fs->backing;
	unsigned n;
	bool changed;

	if (!b->on)
		return;
	lock_take(&b->lock);
	changed = b->spares_changed || b->spares < b->spares_max;
	b->spares_changed = false;
	n = b->spares;
	for (unsigned i = 0; i < b->spares; i++)
		sb.addr[i] = cpu_to_le64(b->spare[i]);
	lock_drop(&b->lock);
	if (!changed)
		return;
	n = add_pinned(fs, generation, &sb, n);
	sb.count = cpu_to_le32(n);
	memcpy(sb.pool, fs->uuid, sizeof(sb.pool));
	sb.crc = cpu_to_le32(spares_checksum(&sb));
	if (device_sync(q, DEVICE_WRITE, place(generation), &sb, sizeof(sb)))
		b->spares_changed = true; /* by the next one, then */
}

/* ---- filling --------------------------------------------------------------- */

/* Up to n free blocks in a row, taken; 0: none at once. */
static uint32_t take_run(struct fs *fs, uint32_t n, uint64_t *ret_addr, uint64_t *ret_off)
{
	uint64_t off[GROUP_STRIPES_MAX];
	bool unloaded;
	uint32_t got = block_group_take_data(fs, n, ret_addr, &unloaded);

	if (got == 0 && unloaded && block_group_load_next(fs, work_queue()))
		got = block_group_take_data(fs, n, ret_addr, &unloaded);
	if (got && block_group_map(fs, *ret_addr, (uint64_t)got * FS_BLOCK_SIZE, off) == 1)
		*ret_off = off[0];
	return got;
}

/* Makes the block a spare, or available again. */
static void keep_or_give(struct fs *fs, uint64_t addr, bool keep)
{
	lock_take(&fs->backing->lock);
	keep = keep && put_spare_locked(fs->backing, addr);
	lock_drop(&fs->backing->lock);
	if (!keep)
		block_group_give(fs, addr, FS_BLOCK_SIZE);
}

/* While the host has room. */
static void fill_with_new(struct fs *fs)
{
	struct backing *b = fs->backing;
	uint64_t addr, off;
	int r = 0;

	while (r == 0 && b->spares < b->spares_max) {
		uint32_t n = take_run(fs, b->spares_max, &addr, &off);

		if (n == 0)
			return;
		r = fs->dev->ops->allocate(fs->dev, off, (uint64_t)n * FS_BLOCK_SIZE, true);
		for (uint32_t i = 0; i < n; i++)
			keep_or_give(fs, addr + (uint64_t)i * FS_BLOCK_SIZE, r == 0);
	}
	if (r == -ENOSPC)
		backing_set_full(fs);
}

/*
 * On a full host, with none left: among what is free there may be blocks that were written once. The next
 * call goes on where this one ends, since groups give out in order.
 */
static void search_spares(struct fs *fs)
{
	uint64_t addr, off;

	for (uint32_t tried = 0, n; tried < SEARCH_BLOCKS && fs->backing->spares < fs->backing->spares_max;
	     tried += n) {
		n = take_run(fs, SEARCH_RUN, &addr, &off);
		if (n == 0)
			return;
		for (uint32_t i = 0; i < n; i++)
			keep_or_give(fs, addr + (uint64_t)i * FS_BLOCK_SIZE,
				     fs->dev->ops->allocate(fs->dev, off + (uint64_t)i * FS_BLOCK_SIZE,
							    FS_BLOCK_SIZE, true) == 0);
	}
}

void backing_fill_spares(struct fs *fs)
{
	if (!backing_failed_lately(fs, BACKING_RETRY_US))
		fill_with_new(fs);
	if (backing_lacks_spare(fs))
		search_spares(fs);
}
