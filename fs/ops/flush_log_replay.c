/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/flush_log_replay.c: the log into the running overlays, at open.
 *
 * A group counts only if all its records are there. Every group but the last one is known to be durable
 * together with its data, since the next was written after its flush had ended. Of the last one, each
 * extent's data is read and compared with its checksums, and an extent whose data did not arrive is left out:
 * nobody was told that it was safe. What has no data always counts, so all operations of a group are carried
 * out or none. Data that cannot be read at all counts as arrived: reads of it fail, which is better than what
 * was there before.
 *
 * Where a record is missing that was durable, replay ends as it would after a crash at that moment, and says
 * what is lost (flush_log_reader.h).
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/commit/flush_log.h"
#include "fs/commit/flush_log_reader.h"
#include "fs/commit/rebuild.h"
#include "fs/core/clock.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/claim.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"
#include "fs/ops/flush_log_replay.h"

#define READ_TRIES 3

struct replay {
	struct fs *fs;
	struct device_queue *q;
	struct log_reader reader;
	uint8_t *block;
	uint64_t generation; /* committed */
	uint64_t items, skipped;
	struct pending *spare;
};

/* ---- applying -------------------------------------------------------------- */

static int replay_block_group(struct replay *rp, const struct log_item *item)
{
	const struct log_group_item *gi = (const struct log_group_item *)item;
	struct group_desc d = {.start = le64_to_cpu(item->id),
			       .len = le64_to_cpu(gi->length),
			       .type = GROUP_DATA,
			       .nr_stripes = 1,
			       .stripe = {le64_to_cpu(gi->offset)},
			       .cache_slot = CACHE_SLOT_NONE,
			       .generation = le64_to_cpu(item->generation)};
	struct block_group *g = block_group_find(rp->fs, d.start);
	uint64_t stripe_bytes;
	int r;

	if (g) /* a later commit knew it */
		return g->start == d.start && g->len == d.len && g->stripe[0] == d.stripe[0] ? 0 : -EUCLEAN;
	if (d.len == 0 || d.len > rp->fs->group_step || d.len % FS_BLOCK_SIZE)
		return -EUCLEAN;
	/* The stripe was cut as block_group_create does it: the slots are sized for the whole of it. */
	d.slot_bytes = free_space_cache_slot_bytes((uint32_t)(d.len / FS_BLOCK_SIZE));
	stripe_bytes = round_up_u64(d.len + 2ull * d.slot_bytes, GROUP_QUANTUM_MIN);
	d.slot_bytes = (uint32_t)((stripe_bytes - d.len) / 2);
	r = block_group_add(rp->fs, &d, &g);
	if (r == 0)
		space_loaded_group(rp->fs, GROUP_DATA, d.len, 0);
	return r;
}

static bool extent_arrived(struct replay *rp, const struct log_extent *e)
{
	uint64_t addr = le64_to_cpu(e->addr), n = addr ? le64_to_cpu(e->blocks) : 0;
	const le32 *crc = (const le32 *)(e + 1);

	for (uint64_t i = 0; i < n; i++) {
		uint64_t off[GROUP_STRIPES_MAX];
		int r = -EIO;

		if (block_group_map(rp->fs, addr + i * FS_BLOCK_SIZE, FS_BLOCK_SIZE, off) < 1)
			return false;
		for (int try = 0; r && try < READ_TRIES; try++)
			r = device_sync(rp->q, DEVICE_READ, off[0], rp->block, FS_BLOCK_SIZE);
		if (r) /* it may well be what a flush covered: better a read that fails than old data */
			fs_log(rp->fs, FS_LOG_WARNING,
			       "flush log: data at %llu cannot be read (%s) and is taken as it is",
			       (unsigned long long)(addr + i * FS_BLOCK_SIZE), strerror(-r));
		else if (crc32c(rp->block, FS_BLOCK_SIZE) != le32_to_cpu(crc[i]))
			return false;
	}
	return true;
}

static int replay_extent(struct replay *rp, const struct log_item *item)
{
	const struct log_extent *e = (const struct log_extent *)item;
	const le32 *crc = (const le32 *)(e + 1);
	uint64_t blk = le64_to_cpu(e->blk), n = le64_to_cpu(e->blocks), addr = le64_to_cpu(e->addr);
	struct fs_volume *vol = volume_by_id(rp->fs, le64_to_cpu(item->id));
	struct pending *p;
	uint64_t bytes, end;
	int r;

	if (!vol)
		return -EUCLEAN;
	end = atomic_load(&vol->size) / FS_BLOCK_SIZE;
	if (n > end || blk > end - n)
		return -EUCLEAN;
	if (addr) {
		r = block_group_claim(rp->fs, rp->q, addr, n * FS_BLOCK_SIZE);
		/* its cache was bad: what is free has to be known now, not in the background */
		if (r == -EAGAIN) {
			r = rebuild_groups(rp->fs, rp->q);
			if (r == 0)
				r = block_group_claim(rp->fs, rp->q, addr, n * FS_BLOCK_SIZE);
		}
		if (r)
			return r;
	}
	p = pending_new(n, addr != 0);
	r = p ? overlay_insert_prealloc(&rp->spare) : -ENOMEM;
	if (r) {
		pending_free(p);
		return r;
	}
	p->blk = blk;
	p->addr = addr;
	for (uint64_t i = 0; addr && i < n; i++)
		p->crc[i] = le32_to_cpu(crc[i]);
	bytes = addr ? volume_item_bytes(volume_extent_items(n) + 2, n)
		     : volume_item_bytes(2, 0) + space_cut_bytes(rp->fs, n);
	space_replayed(rp->fs, &vol->promise, addr ? n * FS_BLOCK_SIZE : 0,
		       (struct space_pending){n > 1 ? 2 : 1, bytes});
	lock_take(&vol->lock);
	volume_insert_locked(vol, p, &rp->spare);
	lock_drop(&vol->lock);
	rp->items++;
	return 0;
}

/* ---- groups ---------------------------------------------------------------- */

static int apply_extent(struct replay *rp, const struct log_item *item, bool verify)
{
	if (le64_to_cpu(item->generation) <= rp->generation)
		return 0;
	if (verify && !FAULT(FAULT_REPLAY_UNVERIFIED) &&
	    !extent_arrived(rp, (const struct log_extent *)item)) {
		rp->skipped++;
		return 0;
	}
	return replay_extent(rp, item);
}

static int apply_op(struct replay *rp, const struct log_item *item)
{
	struct fs *fs = rp->fs;

	if (le64_to_cpu(item->generation) <= rp->generation)
		return 0;
	rp->items++;
	switch ((enum log_item_type)le16_to_cpu(item->type)) {
	case LOG_CREATE: return volume_replay_create(fs, (const struct log_create *)item);
	case LOG_DELETE: return volume_replay_delete(fs, le64_to_cpu(item->id));
	case LOG_RENAME: return volume_replay_rename(fs, (const struct log_rename *)item);
	case LOG_RESIZE: return volume_replay_resize(fs, (const struct log_resize *)item);
	case LOG_SET: return volume_replay_set(fs, (const struct log_set *)item);
	default: return -EUCLEAN;
	}
}

static int apply_item(struct replay *rp, const struct log_item *item, bool verify)
{
	switch ((enum log_item_type)le16_to_cpu(item->type)) {
	/* whatever its generation: one that no commit knows was made while that commit was under way */
	case LOG_GROUP: return replay_block_group(rp, item);
	case LOG_EXTENT: return apply_extent(rp, item, verify);
	case LOG_CREATE:
	case LOG_DELETE:
	case LOG_RENAME:
	case LOG_RESIZE:
	case LOG_SET: return apply_op(rp, item);
	}
	return -EUCLEAN;
}

static int apply_group(struct replay *rp, const struct log_group_read *g, bool verify)
{
	const struct log_item *item;

	for (uint64_t at = 0; at < g->used; at += le32_to_cpu(item->bytes)) {
		int r = log_item_check(g->bytes + at, g->used - at, &item);

		if (r == 0)
			r = apply_item(rp, item, verify);
		if (r)
			return r;
	}
	return 0;
}

/* Behind the last group, at the head: what should be there and is not. */
static bool something_is_lost(struct replay *rp, uint64_t pos, uint64_t seq)
{
	struct fs *fs = rp->fs;
	struct log_lost lost;

	log_reader_lost(&rp->reader, pos, seq, &lost);
	if (!lost.records || FAULT(FAULT_LOG_ROT_SILENT))
		return false;
	fs_log(fs, FS_LOG_ERROR,
	       "flush log: record %llu at offset %llu is damaged: at least %llu acknowledged flushes are lost, all volumes are as of the one before: check what is in them, and restore what is missing",
	       (unsigned long long)seq, (unsigned long long)(fs->log->offset + pos % fs->log->size),
	       (unsigned long long)lost.flushes + 1);
	fs->super->log_lost_flushes =
		cpu_to_le64(le64_to_cpu(fs->super->log_lost_flushes) + lost.flushes + 1);
	fs->super->log_lost_ns = cpu_to_le64(fs_wall_ns(fs));
	return true;
}

static int replay_all(struct replay *rp, uint64_t *ret_groups)
{
	struct flush_log *log = rp->fs->log;
	struct log_group_read group[2] = {{0}, {0}};
	unsigned cur = 0;
	bool lost = false;
	int have, r = 0;

	have = log_reader_group(&rp->reader, log->tail, log->seq, &group[cur]);
	/* else all was committed, and nothing can be missing */
	if (have == 0 && !claim_was_given_up(rp->fs, rp->q))
		(void)something_is_lost(rp, log->tail, log->seq);
	while (have == 1 && r == 0) {
		int next = log_reader_group(&rp->reader, group[cur].end, group[cur].seq, &group[!cur]);

		if (next == 0) /* then this one was durable, data and all */
			lost = something_is_lost(rp, group[cur].end, group[cur].seq);
		r = next < 0 ? next
			     : apply_group(rp, &group[cur],
					   next == 0 && !lost && !(group[cur].flags & LOG_DATA_DURABLE));
		log->head = group[cur].end;
		log->seq = group[cur].seq;
		(*ret_groups)++;
		cur = !cur;
		have = next;
	}
	log_group_read_fini(&group[0]);
	log_group_read_fini(&group[1]);
	return have < 0 ? have : r;
}

int flush_log_replay(struct fs *fs, struct device_queue *q, uint64_t *ret_groups, uint64_t *ret_items)
{
	struct replay rp = {.fs = fs, .q = q, .generation = le64_to_cpu(fs->super->generation)};
	int r = log_reader_init(&rp.reader, q, fs->super);

	*ret_groups = *ret_items = 0;
	rp.block = mem_alloc_aligned(DEVICE_ALIGN, FS_BLOCK_SIZE);
	if (r == 0)
		r = rp.block ? replay_all(&rp, ret_groups) : -ENOMEM;
	if (r == -EIO && rp.reader.bad_offset)
		fs_log(fs, FS_LOG_ERROR,
		       "flush log: offset %llu cannot be read, and may hold what was flushed: 'byre pool check --repair' gives that up",
		       (unsigned long long)rp.reader.bad_offset);
	if (rp.skipped)
		fs_log(fs, FS_LOG_NOTICE,
		       "flush log: %llu items of its last group left out: their data had not arrived",
		       (unsigned long long)rp.skipped);
	*ret_items = rp.items;
	pending_free(rp.spare);
	log_reader_fini(&rp.reader);
	mem_free(rp.block);
	return r;
}
