/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_log.c: the flush log, as replay would read it. Items whose generation is committed say
 * nothing any more. The last group may lack data (nobody was told that it is safe); what comes before it may
 * not. A place that cannot be read stops replay, since it may hold what was flushed: --repair gives that up
 * and writes zeros.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/check/check_int.h"
#include "fs/check/check_log_volume.h"
#include "fs/commit/flush_log_reader.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/volume/extent.h"

typedef unsigned long long ull;

#define NAME "flush log"

/* Where a live item puts blocks of a volume. */
struct placed {
	uint64_t addr, len, volume, off;
};

struct log_check {
	struct check *c;
	struct log_reader reader;
	const struct check_volume *reading; /* whose data is under way */
	struct log_volumes volumes;
	struct placed *placed;
	size_t count, cap;
};

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

static int check_extent_data(struct log_check *lc, const struct check_volume *vol,
			     const struct check_group *g, const struct log_extent *le)
{
	uint64_t blk = le64_to_cpu(le->blk), n = le64_to_cpu(le->blocks), addr = le64_to_cpu(le->addr);
	const le32 *crc = (const le32 *)(le + 1);
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

static int check_extent(struct log_check *lc, const struct log_extent *e, bool durable)
{
	struct check *c = lc->c;
	uint64_t id = le64_to_cpu(e->item.id), blk = le64_to_cpu(e->blk), n = le64_to_cpu(e->blocks);
	uint64_t addr = le64_to_cpu(e->addr), used;
	const struct check_volume *vol = log_volumes_find(&lc->volumes, id);
	struct check_group *g;
	int r;

	if (!vol || n > vol->size / FS_BLOCK_SIZE || blk > vol->size / FS_BLOCK_SIZE - n) {
		check_finding(c,
			      NAME
			      ": an item names %llu blocks from %llu on of volume %llu, which do not exist",
			      (ull)n, (ull)blk, (ull)id);
		return 0;
	}
	if (addr == 0)
		return 0;
	g = check_group_find(c, addr, n * FS_BLOCK_SIZE);
	if (!g || g->type != GROUP_DATA) {
		check_finding(c, NAME ": an item of %s says that data stands at %llu, where no data group is",
			      vol->name, (ull)addr);
		return 0;
	}
	used = check_group_referenced(g, addr, n * FS_BLOCK_SIZE);
	if (used)
		check_finding(c, NAME ": an item of %s has %llu blocks at %llu that the trees refer to",
			      vol->name, (ull)used, (ull)addr);
	r = add_placed(lc, (struct placed){addr, n * FS_BLOCK_SIZE, id, blk * FS_BLOCK_SIZE});
	return r == 0 && durable ? check_extent_data(lc, vol, g, e) : r;
}

static int check_op(struct log_check *lc, const struct log_item *item)
{
	int r = log_volumes_apply(&lc->volumes, item);

	if (r != -EUCLEAN)
		return r;
	check_finding(lc->c, NAME ": an operation of type %u on volume %llu contradicts what is there",
		      le16_to_cpu(item->type), (ull)le64_to_cpu(item->id));
	return 0;
}

static int check_item(struct log_check *lc, const struct log_item *item, bool durable)
{
	bool committed = le64_to_cpu(item->generation) <= lc->c->generation;
	const struct log_group_item *g = (const struct log_group_item *)item;

	switch ((enum log_item_type)le16_to_cpu(item->type)) {
	case LOG_GROUP: /* of any generation, as at replay */
		return check_logged_group(lc->c, le64_to_cpu(item->id), le64_to_cpu(g->length),
					  le64_to_cpu(g->offset));
	case LOG_EXTENT: return committed ? 0 : check_extent(lc, (const struct log_extent *)item, durable);
	case LOG_CREATE:
	case LOG_DELETE:
	case LOG_RENAME:
	case LOG_RESIZE:
	case LOG_SET: return committed ? 0 : check_op(lc, item);
	}
	return 0;
}

static int check_items(struct log_check *lc, const struct log_group_read *g, bool durable)
{
	const struct log_item *item;

	for (uint64_t at = 0; at < g->used; at += le32_to_cpu(item->bytes)) {
		int r;

		if (log_item_check(g->bytes + at, g->used - at, &item)) {
			check_finding(lc->c, NAME ": a group has an item that makes no sense");
			return 0;
		}
		r = check_item(lc, item, durable);
		if (r)
			return r;
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
			check_finding(
				lc->c,
				NAME
				": block %llu is given to volume %llu and to volume %llu, or twice to one",
				(ull)p->addr, (ull)last->volume, (ull)p->volume);
		if (!last || p->addr + p->len > last->addr + last->len)
			last = p;
	}
}

/* Replay ends here. True: it should not. */
static bool check_end(struct log_check *lc, uint64_t pos, uint64_t seq)
{
	struct log_lost lost;

	log_reader_lost(&lc->reader, pos, seq, &lost);
	if (lost.records)
		check_finding(
			lc->c,
			NAME
			": record %llu at offset %llu is damaged: it and at least %llu flushes behind it cannot be replayed: opening the pool gives them up, volumes are then as of the flush before",
			(ull)seq, (ull)(lc->reader.offset + pos % lc->reader.size), (ull)lost.flushes);
	return lost.records > 0;
}

static int walk(struct log_check *lc, struct log_group_read g[2])
{
	struct log_reader *rd = &lc->reader;
	unsigned cur = 0;
	bool lost = false;
	int have = log_reader_group(rd, rd->tail, rd->seq, &g[cur]);

	if (have == 0)
		(void)check_end(lc, rd->tail, rd->seq);
	while (have == 1) {
		int next = log_reader_group(rd, g[cur].end, g[cur].seq, &g[!cur]), r;

		if (next == 0)
			lost = check_end(lc, g[cur].end, g[cur].seq);
		r = check_items(lc, &g[cur], next != 0 || lost || g[cur].flags & LOG_DATA_DURABLE);
		if (r)
			return r;
		cur = !cur;
		have = next;
	}
	return have;
}

/* 0 when it has been said. */
static int cannot_be_read(struct log_check *lc)
{
	void *zeros = mem_alloc_aligned(DEVICE_ALIGN, LOG_ALIGN);

	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, LOG_ALIGN);
	check_finding(
		lc->c,
		NAME
		": offset %llu cannot be read, and the pool cannot be opened: --repair gives up what was flushed there%s",
		(ull)lc->reader.bad_offset,
		check_rewrite(lc->c, lc->reader.bad_offset, zeros, LOG_ALIGN) ? " (done)" : "");
	mem_free(zeros);
	return 0;
}

int check_log(struct check *c)
{
	struct log_check lc = {.c = c};
	struct log_group_read g[2] = {{0}, {0}};
	int r = log_reader_init(&lc.reader, c->q, &c->sb), finished;

	if (r == 0)
		r = log_volumes_init(&lc.volumes, c->volume, c->volumes);
	if (r == 0)
		r = walk(&lc, g);
	if (r == -EIO && lc.reader.bad_offset)
		r = cannot_be_read(&lc);
	if (r == 0)
		check_placed(&lc);
	finished = finish_data(&lc);
	log_group_read_fini(&g[0]);
	log_group_read_fini(&g[1]);
	log_reader_fini(&lc.reader);
	log_volumes_fini(&lc.volumes);
	mem_free(lc.placed);
	return r ? r : finished;
}
