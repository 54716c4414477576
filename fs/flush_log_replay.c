/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/flush_log_replay.c: the log into the running overlays, at open.
 *
 * A group counts only if all its records are there. Every group but the last one is known to be durable together
 * with its data, since the next was written after its flush had ended. Of the last one, each item's data is read and compared with
 * its checksums, and an item whose data did not arrive is left out: nobody was told that it was safe. Data that
 * cannot be read at all counts as arrived: reads of it fail, which is better than what was there before.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/fault.h"
#include "fs/flush_log.h"
#include "fs/flush_log_format.h"
#include "fs/free_space_cache.h"
#include "fs/fs_int.h"
#include "fs/rebuild.h"

#define WINDOW_BYTES (1u << 20)
#define READ_TRIES 3

/* The bytes of one group's items. */
struct item_buf {
	uint8_t *bytes;
	uint64_t used, cap;
	uint32_t flags;
	uint64_t end; /* position behind the group */
	uint64_t seq; /* of the record behind it */
};

struct replay {
	struct fs *fs;
	struct device_queue *q;
	uint8_t *window; /* of the ring: [window_off, +WINDOW_BYTES) */
	uint64_t window_off, window_len;
	uint8_t *block;
	uint64_t generation; /* committed */
	uint64_t items, skipped;
	struct fs_volume *vol; /* the last one looked up */
	struct pending *spare;
};

/* The record at a position, in the window; NULL: none can be there. -EIO through *ret_error. */
static const struct log_record *record_at(struct replay *rp, uint64_t pos, uint64_t need, int *ret_error)
{
	struct flush_log *log = &rp->fs->log;
	uint64_t at = pos % log->size;

	if (at + need > log->size)
		return NULL;
	if (rp->window_len == 0 || at < rp->window_off || at + need > rp->window_off + rp->window_len) {
		rp->window_off = at;
		rp->window_len = min_u64(WINDOW_BYTES, log->size - at);
		*ret_error = device_sync(rp->q, DEVICE_READ, log->offset + at, rp->window, rp->window_len);
		if (*ret_error) {
			rp->window_len = 0;
			return NULL;
		}
	}
	return (const struct log_record *)(rp->window + (at - rp->window_off));
}

static const struct log_record *valid_record(struct replay *rp, uint64_t pos, uint64_t seq, int *ret_error)
{
	const struct log_record *rec = record_at(rp, pos, LOG_ALIGN, ret_error);
	uint32_t bytes;

	if (!rec || le32_to_cpu(rec->magic) != LOG_MAGIC || memcmp(rec->pool, rp->fs->uuid, sizeof(rec->pool)) != 0 ||
	    le64_to_cpu(rec->seq) != seq)
		return NULL;
	bytes = le32_to_cpu(rec->bytes);
	if (bytes < sizeof(*rec) || bytes > LOG_RECORD_MAX)
		return NULL;
	rec = record_at(rp, pos, round_up_u64(bytes, LOG_ALIGN), ret_error);
	if (!rec || (le32_to_cpu(rec->crc) != crc32c((const char *)rec + 4, bytes - 4) && !FAULT(FAULT_LOG_CHECKSUM)))
		return NULL;
	return rec;
}

static int buf_append(struct item_buf *b, const void *data, uint64_t len)
{
	if (b->used + len > b->cap) {
		uint64_t cap = max_u64(b->used + len, b->cap * 2);
		uint8_t *bytes = mem_realloc(b->bytes, cap);

		if (!bytes)
			return -ENOMEM;
		b->bytes = bytes;
		b->cap = cap;
	}
	memcpy(b->bytes + b->used, data, len);
	b->used += len;
	return 0;
}

/* Collects a whole group from pos on. 1: it is there; 0: it is not; negative: an error. */
static int read_group(struct replay *rp, uint64_t pos, uint64_t seq, struct item_buf *b)
{
	uint64_t start = pos, size = rp->fs->log.size;

	b->used = 0;
	for (;;) {
		int error = 0, r;
		const struct log_record *rec = valid_record(rp, pos, seq, &error);
		uint32_t flags, bytes;

		if (!rec)
			return error;
		flags = le32_to_cpu(rec->flags);
		bytes = le32_to_cpu(rec->bytes);
		r = buf_append(b, rec + 1, bytes - sizeof(*rec));
		if (r)
			return r;
		pos += flags & LOG_PAD ? size - pos % size : round_up_u64(bytes, LOG_ALIGN);
		seq++;
		if (pos - start > size)
			return 0;
		if (flags & LOG_LAST) {
			b->flags = flags;
			b->end = pos;
			b->seq = seq;
			return 1;
		}
	}
}

/* ---- applying -------------------------------------------------------------- */

static int replay_block_group(struct replay *rp, const struct log_item *item)
{
	struct group_desc d = {.start = le64_to_cpu(item->blk), .len = le64_to_cpu(item->blocks), .type = GROUP_DATA,
			       .nr_stripes = 1, .stripe = {le64_to_cpu(item->addr)}, .cache_slot = CACHE_SLOT_NONE,
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

static bool data_arrived(struct replay *rp, const struct log_item *item, const le32 *crc)
{
	uint64_t addr = le64_to_cpu(item->addr), n = le64_to_cpu(item->blocks);

	for (uint64_t i = 0; i < n; i++) {
		uint64_t off[GROUP_STRIPES_MAX];
		int r = -EIO;

		if (block_group_map(rp->fs, addr + i * FS_BLOCK_SIZE, FS_BLOCK_SIZE, off) < 1)
			return false;
		for (int try = 0; r && try < READ_TRIES; try++)
			r = device_sync(rp->q, DEVICE_READ, off[0], rp->block, FS_BLOCK_SIZE);
		if (r) /* it may well be what a flush covered: better a read that fails than old data */
			fs_log(rp->fs, FS_LOG_WARNING, "flush log: data at %llu cannot be read (%s) and is taken as it is",
			       (unsigned long long)(addr + i * FS_BLOCK_SIZE), strerror(-r));
		else if (crc32c(rp->block, FS_BLOCK_SIZE) != le32_to_cpu(crc[i]))
			return false;
	}
	return true;
}

static struct fs_volume *find_volume(struct replay *rp, uint64_t id)
{
	if (!rp->vol || rp->vol->id != id)
		rp->vol = volume_by_id(rp->fs, id);
	return rp->vol;
}

static int replay_extent(struct replay *rp, const struct log_item *item, const le32 *crc)
{
	uint64_t blk = le64_to_cpu(item->blk), n = le64_to_cpu(item->blocks), addr = le64_to_cpu(item->addr);
	struct fs_volume *vol = find_volume(rp, le64_to_cpu(item->volume));
	struct pending *p;
	uint64_t bytes;
	int r;

	if (!vol || n == 0 || n > UINT64_MAX / FS_BLOCK_SIZE - blk || (blk + n) * FS_BLOCK_SIZE > atomic_load(&vol->size))
		return -EUCLEAN;
	if (addr) {
		r = block_group_claim(rp->fs, rp->q, addr, n * FS_BLOCK_SIZE);
		if (r == -EAGAIN) { /* its cache was bad: what is free has to be known now, not in the background */
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
	bytes = addr ? volume_item_bytes(volume_extent_items(n) + 2, n) : volume_item_bytes(2, 0);
	space_replayed(rp->fs, &vol->promise, addr ? n * FS_BLOCK_SIZE : 0, (struct space_pending){n > 1 ? 2 : 1, bytes});
	lock_take(&vol->lock);
	volume_insert_locked(vol, p, &rp->spare);
	lock_drop(&vol->lock);
	rp->items++;
	return 0;
}

static int apply_group(struct replay *rp, const struct item_buf *b, bool verify)
{
	for (uint64_t at = 0; at < b->used;) {
		const struct log_item *item = (const struct log_item *)(b->bytes + at);
		uint64_t n, crcs;
		int r = 0;

		if (b->used - at < sizeof(*item))
			return -EUCLEAN;
		n = le64_to_cpu(item->blocks);
		crcs = le64_to_cpu(item->volume) != LOG_VOLUME_GROUP && le64_to_cpu(item->addr) ? n : 0;
		if (crcs > (b->used - at - sizeof(*item)) / sizeof(le32))
			return -EUCLEAN;
		if (le64_to_cpu(item->volume) == LOG_VOLUME_GROUP) {
			/* Whatever its generation: one that no commit knows was made while that commit was under way. */
			r = replay_block_group(rp, item);
		} else if (le64_to_cpu(item->generation) > rp->generation) {
			if (verify && crcs && !FAULT(FAULT_REPLAY_UNVERIFIED) && !data_arrived(rp, item, (const le32 *)(item + 1)))
				rp->skipped++;
			else
				r = replay_extent(rp, item, (const le32 *)(item + 1));
		}
		if (r)
			return r;
		at += sizeof(*item) + crcs * sizeof(le32);
	}
	return 0;
}

static int replay_all(struct replay *rp, uint64_t *ret_groups)
{
	struct flush_log *log = &rp->fs->log;
	struct item_buf buf[2] = {{0}, {0}};
	unsigned cur = 0;
	int have, r = 0;

	have = read_group(rp, log->tail, log->seq, &buf[cur]);
	while (have == 1 && r == 0) {
		int next = read_group(rp, buf[cur].end, buf[cur].seq, &buf[!cur]);

		if (next < 0)
			r = next;
		else if (buf[cur].end - log->tail > log->size)
			break;
		else
			r = apply_group(rp, &buf[cur], next == 0 && !(buf[cur].flags & LOG_DATA_DURABLE));
		log->head = buf[cur].end;
		log->seq = buf[cur].seq;
		(*ret_groups)++;
		cur = !cur;
		have = next;
	}
	mem_free(buf[0].bytes);
	mem_free(buf[1].bytes);
	return have < 0 ? have : r;
}

int flush_log_replay(struct fs *fs, struct device_queue *q, uint64_t *ret_groups, uint64_t *ret_items)
{
	struct replay rp = {.fs = fs, .q = q, .generation = le64_to_cpu(fs->super.generation)};
	int r = -ENOMEM;

	*ret_groups = *ret_items = 0;
	rp.window = mem_alloc_aligned(DEVICE_ALIGN, WINDOW_BYTES);
	rp.block = mem_alloc_aligned(DEVICE_ALIGN, FS_BLOCK_SIZE);
	if (rp.window && rp.block)
		r = replay_all(&rp, ret_groups);
	if (rp.skipped)
		fs_log(fs, FS_LOG_NOTICE, "flush log: %llu items of its last group left out: their data had not arrived",
		       (unsigned long long)rp.skipped);
	*ret_items = rp.items;
	pending_free(rp.spare);
	mem_free(rp.window);
	mem_free(rp.block);
	return r;
}
