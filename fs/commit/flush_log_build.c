/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/flush_log_build.c: collects a log group. It is built without the log's lock: `building` keeps
 * away freezes and operations, which must see a group as a whole or not at all, and the fields that it
 * changes are its own meanwhile. So a flush never waits for anything that grows with the length of the group.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/commit/flush_log.h"
#include "fs/commit/flush_log_int.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/format/block_group_format.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"

/* A pending of the largest write, with its header: what may stay empty before the ring's end. */
#define LOG_ITEM_MAX (40u << 10)

/* Where the next item goes: records are opened and closed as they fill up. */
struct encoder {
	struct flush_log *log;
	struct log_group *g;
	const uint8_t *pool;
	uint64_t limit;		/* of the group's bytes: the buffer, and the room in the log */
	uint64_t first_seq;	/* of the group */
	struct log_record *rec; /* open, or NULL */
	uint32_t rec_bytes, rec_items;
};

static void close_record(struct encoder *en, uint32_t flags)
{
	struct log_record *rec = en->rec;
	uint64_t end;

	if (!rec)
		return;
	rec->magic = cpu_to_le32(LOG_MAGIC);
	memcpy(rec->pool, en->pool, sizeof(rec->pool));
	rec->seq = cpu_to_le64(en->log->seq++);
	rec->durable = cpu_to_le64(en->first_seq);
	rec->bytes = cpu_to_le32(en->rec_bytes);
	rec->items = cpu_to_le32(en->rec_items);
	rec->flags = cpu_to_le32(flags);
	rec->reserved = cpu_to_le32(0);
	end = en->g->used + round_up_u64(en->rec_bytes, LOG_ALIGN);
	memset((char *)rec + en->rec_bytes, 0, end - en->g->used - en->rec_bytes);
	rec->crc = cpu_to_le32(crc32c((char *)rec + 4, en->rec_bytes - 4));
	en->g->used = end;
	en->rec = NULL;
}

static int open_record(struct encoder *en)
{
	if (en->g->used + LOG_ALIGN > en->limit)
		return -ENOSPC;
	en->rec = (struct log_record *)(en->g->buf + en->g->used);
	en->rec_bytes = sizeof(*en->rec);
	en->rec_items = 0;
	return 0;
}

/* Bytes from the current record's start to the end of the ring. */
static uint64_t to_ring_end(const struct encoder *en)
{
	return en->log->size - (en->g->start + en->g->used) % en->log->size;
}

/* Room for an item of `bytes`, or -ENOSPC. */
static int make_room(struct encoder *en, uint32_t bytes, void **ret_room)
{
	uint64_t max = min_u64(LOG_RECORD_MAX, to_ring_end(en));
	int r;

	if (en->rec && en->rec_bytes + bytes > max)
		close_record(en, 0);
	if (!en->rec) {
		max = min_u64(LOG_RECORD_MAX, to_ring_end(en));
		/* too near to the ring's end: leave that empty */
		if (sizeof(struct log_record) + bytes > max) {
			r = open_record(en);
			if (r)
				return r;
			close_record(en, LOG_PAD);
			if (to_ring_end(en) != en->log->size) {
				if (en->g->used + to_ring_end(en) > en->limit)
					return -ENOSPC;
				memset(en->g->buf + en->g->used, 0, to_ring_end(en));
				en->g->used += to_ring_end(en);
			}
		}
		r = open_record(en);
		if (r)
			return r;
	}
	if (en->g->used + round_up_u64(en->rec_bytes + bytes, LOG_ALIGN) > en->limit)
		return -ENOSPC;
	*ret_room = (char *)en->rec + en->rec_bytes;
	en->rec_bytes += bytes;
	en->rec_items++;
	en->g->items++;
	return 0;
}

static struct log_item item_head(enum log_item_type type, uint64_t bytes, uint64_t id, uint64_t generation)
{
	return (struct log_item){cpu_to_le16(type), cpu_to_le16(0), cpu_to_le32((uint32_t)bytes),
				 cpu_to_le64(id), cpu_to_le64(generation)};
}

/* Data groups that no commit knows and that are loaded, since they hold something. */
static int put_new_groups(struct encoder *en, struct fs *fs)
{
	struct block_group *bg;
	int r = 0;

	if (!atomic_load(&fs->groups->unlogged) || !atomic_exchange(&fs->groups->unlogged, false))
		return 0;
	lock_take(&fs->groups->lock);
	TAILQ_FOREACH (bg, &fs->groups->fresh, fresh_link) {
		struct log_group_item item;
		void *room;

		if (bg->type != GROUP_DATA || bg->logged || bg->state != GROUP_LOADED)
			continue;
		item = (struct log_group_item){item_head(LOG_GROUP, sizeof(item), bg->start, bg->generation),
					       cpu_to_le64(bg->len), cpu_to_le64(bg->stripe[0])};
		r = make_room(en, sizeof(item), &room);
		if (r)
			break;
		memcpy(room, &item, sizeof(item));
		bg->logged = true;
	}
	lock_drop(&fs->groups->lock);
	return r;
}

/* A group that was made, and written to, since this one began stands before what stands in it, too. */
static int put_pending(struct encoder *en, struct fs *fs, uint64_t volume, const struct pending *p)
{
	uint32_t crcs = p->addr ? (uint32_t)p->nblk : 0;
	uint64_t bytes = round_up_u64(sizeof(struct log_extent) + crcs * sizeof(le32), 8);
	struct log_extent item = {item_head(LOG_EXTENT, bytes, volume, p->gen), cpu_to_le64(p->blk),
				  cpu_to_le64(p->nblk), cpu_to_le64(p->addr)};
	void *room;
	int r = put_new_groups(en, fs);
	le32 *crc;

	if (r == 0)
		r = make_room(en, (uint32_t)bytes, &room);
	if (r)
		return r;
	memset((char *)room + bytes - 8, 0, 8);
	memcpy(room, &item, sizeof(item));
	crc = (le32 *)((char *)room + sizeof(item));
	for (uint32_t i = 0; i < crcs; i++)
		crc[i] = cpu_to_le32(p->crc[i]);
	en->g->data_bytes += (uint64_t)crcs * FS_BLOCK_SIZE;
	return 0;
}

/* Those of the running transaction, or of the one that is being committed. */
static int put_ops_locked(struct encoder *en, struct fs *fs, bool running)
{
	uint64_t generation = atomic_load(&fs->running_generation);
	struct log_op *op;
	void *room;
	int r = 0;

	TAILQ_FOREACH (op, &en->log->ops, link) {
		uint32_t bytes = le32_to_cpu(op->item.bytes);

		if ((le64_to_cpu(op->item.generation) == generation || FAULT(FAULT_LOG_OPS_MIXED)) != running)
			continue;
		r = make_room(en, bytes, &room);
		if (r)
			break;
		memcpy(room, op->bytes, bytes);
	}
	return r;
}

static int put_ops(struct encoder *en, struct fs *fs, bool running)
{
	int r;

	lock_take(&en->log->lock);
	r = put_ops_locked(en, fs, running);
	lock_drop(&en->log->lock);
	return r;
}

/* Of a deleted volume: nobody will ask for them. */
static void pass_overlay(struct overlay *ov)
{
	struct pending *p;

	while ((p = overlay_unlogged_first(ov)))
		overlay_mark_logged(ov, p);
}

#define PUT_PENDINGS 512u /* under a volume's lock in one go */

static int put_overlay_locked(struct encoder *en, struct fs *fs, uint64_t volume, struct overlay *ov,
			      unsigned *ret_put)
{
	struct pending *p;
	int r = 0;

	*ret_put = 0;
	while (r == 0 && *ret_put < PUT_PENDINGS && (p = overlay_unlogged_first(ov))) {
		r = put_pending(en, fs, volume, p);
		if (r == 0)
			overlay_mark_logged(ov, p);
		++*ret_put;
	}
	return r;
}

/*
 * In steps, so that nobody waits for the volume's lock for long. No commit freezes it in between, nor is it
 * cut off: both wait until the group is built.
 */
static int put_overlay(struct encoder *en, struct fs *fs, struct fs_volume *vol, struct overlay *ov,
		       bool pass)
{
	unsigned put = PUT_PENDINGS;
	int r = 0;

	while (r == 0 && put == PUT_PENDINGS) {
		put = 0;
		lock_take(&vol->lock);
		if (vol->deleted)
			pass_overlay(ov);
		else if (!pass)
			r = put_overlay_locked(en, fs, vol->id, ov, &put);
		lock_drop(&vol->lock);
		if (put == PUT_PENDINGS)
			(void)sched_yield();
	}
	return r;
}

static int put_committing(struct encoder *en, struct fs *fs, struct fs_volume *vol)
{
	return put_overlay(en, fs, vol, &vol->committing, FAULT(FAULT_COMMITTING_UNLOGGED));
}

/* Takes the volume off the list, whatever becomes of it: after an error a commit has what it has. */
static int put_running(struct encoder *en, struct fs *fs, struct fs_volume *vol, bool pass)
{
	int r;

	lock_take(&vol->lock);
	vol->log_listed = false;
	lock_drop(&vol->lock);
	r = put_overlay(en, fs, vol, &vol->running, pass);
	volume_unref(vol);
	return r;
}

/*
 * What a commit under way has frozen stands before the operations that came after the freeze: one of them may
 * have cut a volume off, and its overlay is not the one that was frozen.
 */
static int put_all(struct encoder *en, struct fs *fs)
{
	struct volume_list list = TAILQ_HEAD_INITIALIZER(list);
	struct fs_volume *vol;
	int r = put_ops(en, fs, false);

	lock_take(&fs->volumes->dirty_lock);
	TAILQ_CONCAT(&list, &fs->volumes->unlogged, log_link);
	lock_drop(&fs->volumes->dirty_lock);
	if (FAULT(FAULT_LOG_OPS_MIXED) && r == 0)
		r = put_ops(en, fs, true);
	TAILQ_FOREACH (vol, &list, log_link)
		if (r == 0)
			r = put_committing(en, fs, vol);
	if (r == 0 && !FAULT(FAULT_LOG_OPS_MIXED))
		r = put_ops(en, fs, true);
	while ((vol = TAILQ_FIRST(&list))) {
		int error;

		TAILQ_REMOVE(&list, vol, log_link);
		error = put_running(en, fs, vol, r != 0);
		r = r ? r : error;
	}
	return r;
}

/*
 * An upper bound of the bytes that records with this many bytes of items take, padding and the ring's end
 * included.
 */
static uint64_t group_bound(uint64_t item_bytes)
{
	return round_up_u64(item_bytes, LOG_ALIGN) + (item_bytes / (LOG_RECORD_MAX / 2) + 3) * 2 * LOG_ALIGN +
	       LOG_ITEM_MAX;
}

static int buffer_reserve(struct log_group *g, uint64_t bytes)
{
	uint8_t *buf;

	if (g->cap >= bytes)
		return 0;
	buf = mem_alloc_aligned(LOG_ALIGN, round_up_u64(bytes * 2, LOG_ALIGN));
	if (!buf)
		return -ENOMEM;
	mem_free(g->buf);
	g->buf = buf;
	g->cap = round_up_u64(bytes * 2, LOG_ALIGN);
	return 0;
}

/*
 * What the counters say is taken by this group; what writers add meanwhile is the next one's, or goes along
 * if there is room.
 */
static int start_building(struct fs *fs, struct log_group *g, struct encoder *en)
{
	struct flush_log *log = fs->log;
	uint64_t running, need;
	int r;

	lock_assert_held(&log->lock);
	running = atomic_load(&log->fs->volumes->log_bytes);
	need = group_bound(running + log->frozen_bytes + 256 * sizeof(struct log_group_item));
	g->start = log->head;
	g->ring = log->offset;
	g->ring_size = log->size;
	g->used = g->items = g->data_bytes = 0;
	g->error = 0;
	if (log->head - log->tail + need > log->size || need > FLUSH_GROUP_MAX)
		return -ENOSPC;
	r = buffer_reserve(g, need);
	if (r)
		return r;
	en->limit = min_u64(min_u64(g->cap, FLUSH_GROUP_MAX), log->size - (log->head - log->tail));
	atomic_fetch_sub(&log->fs->volumes->log_bytes, running);
	log->frozen_bytes = 0;
	log->building = true;
	return 0;
}

static void end_building(struct flush_log *log)
{
	lock_assert_held(&log->lock);
	log->building = false;
	pthread_cond_broadcast(&log->built);
}

int flush_log_build_locked(struct fs *fs, struct log_group *g)
{
	struct flush_log *log = fs->log;
	struct encoder en = {.log = log, .g = g, .pool = fs->uuid, .first_seq = log->seq};
	uint64_t seq = log->seq;
	int r = start_building(fs, g, &en);

	if (r)
		return r;
	lock_drop(&log->lock);
	r = put_all(&en, fs);
	lock_take(&log->lock);
	end_building(log);
	/* some are marked as logged that are not, and records were numbered that nobody will write */
	if (r) {
		log->seq = seq;
		flush_log_suspend_locked(fs);
		return r;
	}
	flush_log_unlist_ops_locked(log, UINT64_MAX);
	close_record(&en, LOG_LAST | (g->data_bytes > log->verify_max ? LOG_DATA_DURABLE : 0));
	log->head += g->used;
	return 0;
}
