/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check_log.c: the flush log, as replay would read it. Items whose generation is committed say nothing any more.
 * The last group may lack data (nobody was told that it is safe); what comes before it may not.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/check_int.h"
#include "fs/flush_log_format.h"

typedef unsigned long long ull;

#define NAME "flush log"

/* Where a live item puts blocks of a volume. */
struct placed {
	uint64_t addr, len, volume, off;
};

/* A group's items, and the place behind them. */
struct log_items {
	uint8_t *bytes;
	uint64_t used, cap;
	uint32_t flags;
	uint64_t end, seq;
};

struct log_check {
	struct check *c;
	uint64_t offset, size;
	void *record;
	const struct check_volume *reading; /* whose data is under way */
	struct placed *placed;
	size_t count, cap;
};

/* The record at pos, read into lc->record; NULL: there is no valid one. */
static const struct log_record *read_record(struct log_check *lc, uint64_t pos, uint64_t seq)
{
	uint64_t at = pos % lc->size, len;
	const struct log_record *rec = lc->record;
	uint32_t bytes;

	if (device_sync(lc->c->q, DEVICE_READ, lc->offset + at, lc->record, LOG_ALIGN))
		return NULL;
	bytes = le32_to_cpu(rec->bytes);
	len = round_up_u64(bytes, LOG_ALIGN);
	if (le32_to_cpu(rec->magic) != LOG_MAGIC || memcmp(rec->pool, lc->c->sb.uuid, sizeof(rec->pool)) ||
	    le64_to_cpu(rec->seq) != seq || bytes < sizeof(*rec) || bytes > LOG_RECORD_MAX || at + len > lc->size)
		return NULL;
	if (len > LOG_ALIGN && device_sync(lc->c->q, DEVICE_READ, lc->offset + at, lc->record, len))
		return NULL;
	return le32_to_cpu(rec->crc) == crc32c((const char *)rec + 4, bytes - 4) ? rec : NULL;
}

static int append(struct log_items *li, const void *data, uint64_t len)
{
	if (li->used + len > li->cap) {
		uint64_t cap = max_u64(li->used + len, li->cap * 2);
		uint8_t *bytes = mem_realloc(li->bytes, cap);

		if (!bytes)
			return -ENOMEM;
		li->bytes = bytes;
		li->cap = cap;
	}
	memcpy(li->bytes + li->used, data, len);
	li->used += len;
	return 0;
}

/* 1: a whole group stands at pos, 0: none. */
static int read_group(struct log_check *lc, uint64_t pos, uint64_t seq, struct log_items *li)
{
	uint64_t start = pos;

	li->used = 0;
	while (pos - start <= lc->size) {
		const struct log_record *rec = read_record(lc, pos, seq);
		uint32_t bytes;
		int r;

		if (!rec)
			return 0;
		bytes = le32_to_cpu(rec->bytes);
		r = append(li, rec + 1, bytes - sizeof(*rec));
		if (r)
			return r;
		li->flags = le32_to_cpu(rec->flags);
		pos += li->flags & LOG_PAD ? lc->size - pos % lc->size : round_up_u64(bytes, LOG_ALIGN);
		seq++;
		if (li->flags & LOG_LAST) {
			li->end = pos;
			li->seq = seq;
			return 1;
		}
	}
	return 0;
}

static const struct check_volume *find_volume(const struct check *c, uint64_t id)
{
	for (size_t i = 0; i < c->volumes; i++)
		if (c->volume[i].id == id && !c->volume[i].orphan)
			return &c->volume[i];
	return NULL;
}

static int add_placed(struct log_check *lc, struct placed p)
{
	if (lc->count == lc->cap) {
		size_t cap = lc->cap ? lc->cap * 2 : 64;
		struct placed *v = mem_realloc(lc->placed, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		lc->placed = v;
		lc->cap = cap;
	}
	lc->placed[lc->count++] = p;
	return 0;
}

static int finish_data(struct log_check *lc)
{
	int r = check_data_finish(lc->c);
	char name[sizeof(NAME) + sizeof(lc->reading->name) + 2] = NAME;

	if (lc->reading)
		snprintf(name, sizeof(name), NAME ", %s", lc->reading->name);
	check_damage_tell(lc->c, name, lc->reading ? check_volume_name(lc->reading) : NULL);
	lc->reading = NULL;
	return r;
}

static int check_item_data(struct log_check *lc, const struct check_volume *vol, const struct check_group *g,
			   const struct log_item *item)
{
	uint64_t blk = le64_to_cpu(item->blk), n = le64_to_cpu(item->blocks), addr = le64_to_cpu(item->addr);
	const le32 *crc = (const le32 *)(item + 1);
	int r = lc->reading && lc->reading != vol ? finish_data(lc) : 0;

	lc->reading = vol;

	for (uint64_t done = 0; r == 0 && done < n;) {
		uint64_t piece = min_u64(n - done, EXTENT_BLOCKS_MAX);
		struct extent e = {blk + done, piece, addr + done * FS_BLOCK_SIZE, 0, crc + done};

		r = check_data_add(lc->c, &e, g);
		done += piece;
	}
	return r;
}

static int check_extent(struct log_check *lc, const struct log_item *item, bool durable)
{
	struct check *c = lc->c;
	uint64_t id = le64_to_cpu(item->volume), blk = le64_to_cpu(item->blk), n = le64_to_cpu(item->blocks);
	uint64_t addr = le64_to_cpu(item->addr), used;
	const struct check_volume *vol = find_volume(c, id);
	struct check_group *g;
	int r;

	if (!vol || n == 0 || n > vol->size / FS_BLOCK_SIZE || blk > vol->size / FS_BLOCK_SIZE - n) {
		check_finding(c, NAME ": an item names %llu blocks from %llu on of volume %llu, which do not exist", (ull)n,
			      (ull)blk, (ull)id);
		return 0;
	}
	if (addr == 0)
		return 0;
	g = addr % FS_BLOCK_SIZE ? NULL : check_group_find(c, addr, n * FS_BLOCK_SIZE);
	if (!g || g->type != GROUP_DATA) {
		check_finding(c, NAME ": an item of %s says that data stands at %llu, where no data group is", vol->name,
			      (ull)addr);
		return 0;
	}
	used = check_group_referenced(g, addr, n * FS_BLOCK_SIZE);
	if (used)
		check_finding(c, NAME ": an item of %s has %llu blocks at %llu that the trees refer to", vol->name,
			      (ull)used, (ull)addr);
	r = add_placed(lc, (struct placed){addr, n * FS_BLOCK_SIZE, id, blk * FS_BLOCK_SIZE});
	return r == 0 && durable ? check_item_data(lc, vol, g, item) : r;
}

static int check_items(struct log_check *lc, const struct log_items *li, bool durable)
{
	for (uint64_t at = 0; at < li->used;) {
		const struct log_item *item = (const struct log_item *)(li->bytes + at);
		uint64_t left = li->used - at, crcs;
		int r = 0;

		if (left < sizeof(*item)) {
			check_finding(lc->c, NAME ": a group does not end with an item");
			return 0;
		}
		left -= sizeof(*item);
		crcs = le64_to_cpu(item->volume) != LOG_VOLUME_GROUP && le64_to_cpu(item->addr) ? le64_to_cpu(item->blocks) : 0;
		if (crcs > left / sizeof(le32)) {
			check_finding(lc->c, NAME ": an item is longer than its group");
			return 0;
		}
		if (le64_to_cpu(item->volume) == LOG_VOLUME_GROUP) /* of any generation, as at replay */
			r = check_logged_group(lc->c, le64_to_cpu(item->blk), le64_to_cpu(item->blocks),
					       le64_to_cpu(item->addr));
		else if (le64_to_cpu(item->generation) > lc->c->generation)
			r = check_extent(lc, item, durable);
		if (r)
			return r;
		at += sizeof(*item) + crcs * sizeof(le32);
	}
	return 0;
}

static int by_addr(const void *pa, const void *pb)
{
	const struct placed *a = pa, *b = pb;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* One block belongs to one place of one volume, however often it is named. */
static void check_placed(struct log_check *lc)
{
	const struct placed *last = NULL;

	if (lc->count)
		qsort(lc->placed, lc->count, sizeof(*lc->placed), by_addr);
	for (size_t i = 0; i < lc->count; i++) {
		const struct placed *p = &lc->placed[i];

		if (last && p->addr < last->addr + last->len &&
		    (p->volume != last->volume || p->off - p->addr != last->off - last->addr))
			check_finding(lc->c, NAME ": block %llu is given to volume %llu and to volume %llu, or twice to one",
				      (ull)p->addr, (ull)last->volume, (ull)p->volume);
		if (!last || p->addr + p->len > last->addr + last->len)
			last = p;
	}
}

static int walk(struct log_check *lc, struct log_items li[2])
{
	uint64_t tail = le64_to_cpu(lc->c->sb.log_tail);
	unsigned cur = 0;
	int have = read_group(lc, tail, le64_to_cpu(lc->c->sb.log_seq), &li[cur]);

	while (have == 1 && li[cur].end - tail <= lc->size) {
		int next = read_group(lc, li[cur].end, li[cur].seq, &li[!cur]), r;

		if (next < 0)
			return next;
		r = check_items(lc, &li[cur], next == 1 || li[cur].flags & LOG_DATA_DURABLE);
		if (r)
			return r;
		cur = !cur;
		have = next;
	}
	return have < 0 ? have : 0;
}

int check_log(struct check *c)
{
	struct log_check lc = {.c = c, .offset = le64_to_cpu(c->sb.log_offset), .size = le64_to_cpu(c->sb.log_size)};
	struct log_items li[2] = {{0}, {0}};
	int r = -ENOMEM, finished;

	lc.record = mem_alloc_aligned(DEVICE_ALIGN, LOG_RECORD_MAX);
	if (lc.record)
		r = walk(&lc, li);
	if (r == 0)
		check_placed(&lc);
	finished = finish_data(&lc);
	mem_free(li[0].bytes);
	mem_free(li[1].bytes);
	mem_free(lc.placed);
	mem_free(lc.record);
	return r ? r : finished;
}
