/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/flush_log.c: writing the flush log; flush_log_replay.c reads it. */
#include "fs/flush_log.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/fault.h"
#include "fs/flush_log_format.h"
#include "fs/fs_int.h"

/* A pending of the largest write, with its header: what may stay empty before the ring's end. */
#define LOG_ITEM_MAX (40u << 10)

void flush_log_init(struct fs *fs)
{
	struct flush_log *log = &fs->log;

	memset(log, 0, sizeof(*log));
	lock_init(&log->lock, LOCK_LOG);
	TAILQ_INIT(&log->waiting);
	TAILQ_INIT(&log->committing);
	TAILQ_INIT(&log->group.waiters);
	TAILQ_INIT(&log->ops);
	log->group.fs = fs;
	log->verify_max = FLUSH_VERIFY_BYTES_MAX;
}

void flush_log_fini(struct fs *fs)
{
	ASSERT(TAILQ_EMPTY(&fs->log.waiting) && TAILQ_EMPTY(&fs->log.committing));
	mem_free(fs->log.group.buf);
	lock_fini(&fs->log.lock);
}

static void answer(struct flush_waiter_list *list, int error)
{
	struct flush_waiter *w;

	while ((w = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, w, link);
		w->done(w, error);
	}
}

void flush_log_suspend_locked(struct fs *fs)
{
	lock_assert_held(&fs->log.lock);
	fs->log.failed = true;
	fs->log.failed_commits = atomic_load(&fs->commits_started);
}

bool flush_log_has_failed(struct flush_log *log)
{
	bool failed;

	lock_take(&log->lock);
	failed = log->failed;
	lock_drop(&log->lock);
	return failed;
}

void flush_log_freeze_locked(struct flush_log *log)
{
	lock_assert_held(&log->lock);
	log->frozen_bytes += atomic_exchange(&log->pending_bytes, 0);
}

void flush_log_add_op_locked(struct flush_log *log, struct log_op *op)
{
	lock_assert_held(&log->lock);
	ASSERT(!op->listed);
	op->listed = true;
	TAILQ_INSERT_TAIL(&log->ops, op, link);
	atomic_fetch_add(&log->pending_bytes, le32_to_cpu(op->item.bytes));
}

static void unlist_op(struct flush_log *log, struct log_op *op)
{
	op->listed = false;
	TAILQ_REMOVE(&log->ops, op, link);
}

void flush_log_forget_op(struct flush_log *log, struct log_op *op)
{
	lock_take(&log->lock);
	if (op->listed)
		unlist_op(log, op);
	lock_drop(&log->lock);
}

/* Those that this generation has committed, or all (UINT64_MAX). */
static void unlist_ops(struct flush_log *log, uint64_t generation)
{
	struct log_op *op, *next;

	TAILQ_FOREACH_SAFE(op, &log->ops, link, next)
	if (le64_to_cpu(op->item.generation) <= generation)
		unlist_op(log, op);
}

/* ---- building a group ------------------------------------------------------ */

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
		if (sizeof(struct log_record) + bytes > max) { /* too near to the ring's end: leave that empty */
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
	return (struct log_item){cpu_to_le16(type), cpu_to_le16(0), cpu_to_le32((uint32_t)bytes), cpu_to_le64(id),
				 cpu_to_le64(generation)};
}

/* Data groups that no commit knows and that are loaded, since they hold something. */
static int put_new_groups(struct encoder *en, struct fs *fs)
{
	struct block_group *bg;
	int r = 0;

	if (!atomic_load(&en->log->new_groups) || !atomic_exchange(&en->log->new_groups, false))
		return 0;
	lock_take(&fs->groups.lock);
	TAILQ_FOREACH(bg, &fs->groups.fresh, fresh_link) {
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
	lock_drop(&fs->groups.lock);
	return r;
}

/* A group that was made, and written to, since this one began stands before what stands in it, too. */
static int put_pending(struct encoder *en, struct fs *fs, uint64_t volume, const struct pending *p)
{
	uint32_t crcs = p->addr ? (uint32_t)p->nblk : 0;
	uint64_t bytes = round_up_u64(sizeof(struct log_extent) + crcs * sizeof(le32), 8);
	struct log_extent item = {item_head(LOG_EXTENT, bytes, volume, p->gen), cpu_to_le64(p->blk), cpu_to_le64(p->nblk),
				  cpu_to_le64(p->addr)};
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
static int put_ops(struct encoder *en, struct fs *fs, bool running)
{
	uint64_t generation = atomic_load(&fs->running_generation);
	struct log_op *op;
	void *room;
	int r = 0;

	TAILQ_FOREACH(op, &en->log->ops, link) {
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

/* Of a deleted volume: nobody will ask for them. */
static void pass_overlay(struct overlay *ov)
{
	struct pending *p;

	while ((p = overlay_unlogged_first(ov)))
		overlay_mark_logged(ov, p);
}

#define PUT_PENDINGS 512u /* under a volume's lock in one go */

static int put_overlay_locked(struct encoder *en, struct fs *fs, uint64_t volume, struct overlay *ov, unsigned *ret_put)
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
 * In steps, so that nobody waits for the volume's lock for long. No commit freezes it in between, nor is it cut off: both take the
 * log's lock.
 */
static int put_overlay(struct encoder *en, struct fs *fs, struct fs_volume *vol, struct overlay *ov, bool pass)
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
 * What a commit under way has frozen stands before the operations that came after the freeze: one of them may have cut a volume
 * off, and its overlay is not the one that was frozen.
 */
static int put_all(struct encoder *en, struct fs *fs)
{
	struct volume_list list = TAILQ_HEAD_INITIALIZER(list);
	struct fs_volume *vol;
	int r = put_ops(en, fs, false);

	lock_take(&fs->volumes.dirty_lock);
	TAILQ_CONCAT(&list, &fs->volumes.unlogged, log_link);
	lock_drop(&fs->volumes.dirty_lock);
	if (FAULT(FAULT_LOG_OPS_MIXED) && r == 0)
		r = put_ops(en, fs, true);
	TAILQ_FOREACH(vol, &list, log_link)
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

/* An upper bound of the bytes that records with so many bytes of items take, padding and the ring's end included. */
static uint64_t group_bound(uint64_t item_bytes)
{
	return round_up_u64(item_bytes, LOG_ALIGN) + (item_bytes / (LOG_RECORD_MAX / 2) + 3) * 2 * LOG_ALIGN + LOG_ITEM_MAX;
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

/* 0: records are in the buffer (or there was nothing). -ENOSPC: the log has no room. Any error: flushes must commit. */
static int build_locked(struct fs *fs, struct log_group *g)
{
	struct flush_log *log = &fs->log;
	struct encoder en = {.log = log, .g = g, .pool = fs->uuid, .first_seq = log->seq};
	uint64_t running = atomic_load(&log->pending_bytes);
	uint64_t need = group_bound(running + log->frozen_bytes + 256 * sizeof(struct log_group_item)), seq = log->seq;
	int r;

	lock_assert_held(&log->lock);
	g->start = log->head;
	g->used = g->items = g->data_bytes = 0;
	g->error = 0;
	if (log->head - log->tail + need > log->size || need > FLUSH_GROUP_MAX)
		return -ENOSPC;
	r = buffer_reserve(g, need);
	if (r)
		return r;
	/* Writers may add more than `need` meanwhile. */
	en.limit = min_u64(min_u64(g->cap, FLUSH_GROUP_MAX), log->size - (log->head - log->tail));
	atomic_fetch_sub(&log->pending_bytes, running);
	log->frozen_bytes = 0;
	r = put_all(&en, fs);
	if (r) { /* some are marked as logged that are not, and records were numbered that nobody will write */
		log->seq = seq;
		flush_log_suspend_locked(fs);
		return r;
	}
	unlist_ops(log, UINT64_MAX);
	close_record(&en, LOG_LAST | (g->data_bytes > log->verify_max ? LOG_DATA_DURABLE : 0));
	log->head += g->used;
	return 0;
}

/* ---- a group's way --------------------------------------------------------- */

static void start_group(struct fs *fs, struct fs_ctx *ctx);

static void lead_next(struct ctx_post *post)
{
	struct fs *fs = container_of(post, struct fs, log.lead);

	start_group(fs, fs->log.group.ctx);
}

static void lead_on_worker(struct fs_work *work)
{
	start_group(container_of(work, struct fs, log.lead_work), NULL);
}

/* A worker that is quick at other times, too: whoever waits for a group may keep all the others. */
static void put_on_worker(struct fs *fs)
{
	fs->log.lead_work.fn = lead_on_worker;
	work_pool_add(&fs->work, &fs->log.lead_work);
}

static void hand_over_locked(struct fs *fs)
{
	struct flush_log *log = &fs->log;

	log->group.ctx = TAILQ_FIRST(&log->waiting)->ctx;
	if (log->group.ctx) {
		log->lead.fn = lead_next;
		ctx_post(log->group.ctx, &log->lead);
	} else {
		put_on_worker(fs);
	}
}

/* Operations that have changed memory can only go on: a commit will have them. */
static bool leave_ops_to_commit(struct fs *fs, struct flush_waiter_list *list)
{
	struct flush_waiter *w, *next;
	bool any = false;

	TAILQ_FOREACH_SAFE(w, list, link, next)
	if (w->or_commit) {
		TAILQ_REMOVE(list, w, link);
		w->commits = atomic_load(&fs->commits_started);
		TAILQ_INSERT_TAIL(&fs->log.committing, w, link);
		any = true;
	}
	return any;
}

void flush_log_leave_to_commit(struct fs *fs)
{
	struct flush_log *log = &fs->log;
	struct flush_waiter *w;

	lock_take(&log->lock);
	TAILQ_FOREACH(w, &log->waiting, link)
		w->commits = atomic_load(&fs->commits_started);
	TAILQ_CONCAT(&log->committing, &log->waiting, link);
	lock_drop(&log->lock);
}

static void group_ended(struct log_group *g)
{
	struct fs *fs = g->fs;
	struct flush_log *log = &fs->log;
	struct flush_waiter_list done = TAILQ_HEAD_INITIALIZER(done);
	bool commit = false;
	int error = g->error;

	lock_take(&log->lock);
	TAILQ_CONCAT(&done, &g->waiters, link);
	if (error) {
		flush_log_suspend_locked(fs);
		commit = !fs_is_read_only(fs) && leave_ops_to_commit(fs, &done);
	} else if (g->items) {
		atomic_fetch_add(&log->groups, 1);
		atomic_fetch_add(&log->bytes, g->used);
	}
	commit |= log->head - log->tail > log->size / 2;
	if (TAILQ_EMPTY(&log->waiting))
		log->busy = false;
	else
		hand_over_locked(fs);
	lock_drop(&log->lock);
	answer(&done, error);
	if (commit)
		fs_kick_commit(fs);
}

static void submit(struct fs_ctx *ctx, struct device_io *io, void (*done)(struct device_io *io), struct log_group *g)
{
	io->done = done;
	io->arg = g;
	io->error = 0;
	ctx->q->dev->ops->submit(ctx->q, io);
	ctx->q->dev->ops->kick(ctx->q);
}

static void flushed(struct device_io *io)
{
	struct log_group *g = io->arg;

	g->error = io->error;
	if (!g->error && device_flush_failed(g->fs->dev) && !FAULT(FAULT_FLUSH_ERROR))
		g->error = -EIO; /* another's, which may have covered what this one was to make safe */
	if (g->error && !FAULT(FAULT_FLUSH_ERROR)) /* what is on the device now is not known: no later flush may say that it is safe */
		fs_set_read_only(g->fs, g->error, "a flush of the device failed");
	else if (fs_is_read_only(g->fs)) /* so it is when a flush of the committer's failed meanwhile */
		g->error = -EROFS;
	group_ended(g);
}

static void submit_flush(struct log_group *g, void (*done)(struct device_io *io))
{
	g->flush_io = (struct device_io){.op = DEVICE_FLUSH};
	submit(g->ctx, &g->flush_io, done, g);
}

static void record_written(struct device_io *io)
{
	struct log_group *g = io->arg;

	if (io->error)
		g->error = io->error;
	if (--g->ios > 0)
		return;
	if (g->error || FAULT(FAULT_FLUSH_EARLY))
		group_ended(g);
	else
		submit_flush(g, flushed);
}

static void write_records(struct log_group *g)
{
	struct flush_log *log = &g->fs->log;
	uint64_t at = g->start % log->size, first = min_u64(g->used, log->size - at);

	g->ios = g->used > first ? 2 : 1;
	g->io[0] = (struct device_io){.op = DEVICE_WRITE, .off = log->offset + at, .buf = g->buf, .len = first};
	g->io[1] = (struct device_io){.op = DEVICE_WRITE, .off = log->offset, .buf = g->buf + first, .len = g->used - first};
	for (unsigned i = 0, n = g->ios; i < n; i++)
		submit(g->ctx, &g->io[i], record_written, g);
}

static void data_flushed(struct device_io *io)
{
	struct log_group *g = io->arg;

	if (io->error || device_flush_failed(g->fs->dev))
		flushed(io);
	else
		write_records(g);
}

/* A group that a worker leads: it may wait. */
static void write_and_wait(struct log_group *g)
{
	struct flush_log *log = &g->fs->log;
	struct device_queue *q = work_queue();
	uint64_t at = g->start % log->size, first = min_u64(g->used, log->size - at);
	int r = g->data_bytes > log->verify_max ? device_flush(q) : 0;

	g->flush_io = (struct device_io){.op = DEVICE_FLUSH, .arg = g, .error = r};
	if (r || device_flush_failed(g->fs->dev)) {
		flushed(&g->flush_io);
		return;
	}
	r = device_sync(q, DEVICE_WRITE, log->offset + at, g->buf, first);
	if (r == 0 && g->used > first)
		r = device_sync(q, DEVICE_WRITE, log->offset, g->buf + first, g->used - first);
	if (r || FAULT(FAULT_FLUSH_EARLY)) {
		g->error = r;
		group_ended(g);
		return;
	}
	g->flush_io.error = device_flush(q);
	flushed(&g->flush_io);
}

/* On ctx's thread, which leads, or (NULL) on a worker's; busy is set. */
static void start_group(struct fs *fs, struct fs_ctx *ctx)
{
	struct flush_log *log = &fs->log;
	struct log_group *g = &log->group;
	int r;

	g->ctx = ctx;
	lock_take(&log->lock);
	TAILQ_CONCAT(&g->waiters, &log->waiting, link);
	r = fs_is_read_only(fs) ? -EROFS : log->failed ? -EIO : build_locked(fs, g);
	if (r && r != -EROFS) { /* a commit does it instead */
		struct flush_waiter *w;

		TAILQ_FOREACH(w, &g->waiters, link)
			w->commits = atomic_load(&fs->commits_started);
		TAILQ_CONCAT(&log->committing, &g->waiters, link);
	}
	lock_drop(&log->lock);
	if (r == 0 && g->items && !ctx) {
		write_and_wait(g);
	} else if (r == 0 && g->data_bytes > log->verify_max) {
		submit_flush(g, data_flushed);
	} else if (r == 0 && g->items) {
		write_records(g);
	} else {
		g->items = 0;
		g->error = r == -EROFS ? r : 0;
		group_ended(g);
		if (r)
			fs_kick_commit(fs);
	}
}

void flush_log_flush(struct fs *fs, struct flush_waiter *w)
{
	struct flush_log *log = &fs->log;
	bool lead = false, nothing;

	atomic_fetch_add(&fs->stats.flushes, 1);
	lock_take(&log->lock);
	nothing = !log->busy && !log->failed && !fs_is_read_only(fs) && log->frozen_bytes == 0 &&
		  atomic_load(&log->pending_bytes) == 0;
	if (!nothing) {
		TAILQ_INSERT_TAIL(&log->waiting, w, link);
		lead = !log->busy;
		log->busy = true;
	}
	if (lead && !w->ctx) {
		put_on_worker(fs);
		lead = false;
	}
	lock_drop(&log->lock);
	if (nothing)
		w->done(w, 0);
	else if (lead)
		start_group(fs, w->ctx);
}

void flush_log_commit_done(struct fs *fs, int error, uint64_t commits, uint64_t tail)
{
	struct flush_log *log = &fs->log;
	struct flush_waiter_list done = TAILQ_HEAD_INITIALIZER(done);
	struct flush_waiter *w, *next;
	bool more;

	lock_take(&log->lock);
	if (!error && tail != UINT64_MAX) {
		log->tail = tail;
		log->frozen_bytes = 0;
		unlist_ops(log, FAULT(FAULT_OPS_FORGOTTEN) ? UINT64_MAX : le64_to_cpu(fs->super.generation));
	}
	if (!error && (tail != UINT64_MAX || FAULT(FAULT_LOG_HOLE)) && log->failed_commits < commits)
		log->failed = false;
	for (w = TAILQ_FIRST(&log->committing); w; w = next) {
		next = TAILQ_NEXT(w, link);
		if (error || w->commits < commits) {
			TAILQ_REMOVE(&log->committing, w, link);
			TAILQ_INSERT_TAIL(&done, w, link);
		}
	}
	more = !TAILQ_EMPTY(&log->committing);
	lock_drop(&log->lock);
	answer(&done, error);
	if (more)
		fs_kick_commit(fs);
}
