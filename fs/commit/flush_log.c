/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/flush_log.c: writing the flush log. What a group holds is in flush_log_build.c;
 * flush_log_replay.c reads it.
 */
#include "fs/commit/flush_log.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/commit/flush_log_int.h"
#include "fs/core/clock.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/latency.h"
#include "fs/core/lock_rank.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/device/executor.h"
#include "fs/device/work.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/space/backing.h"
#include "fs/volume/volume.h"

void flush_log_init(struct fs *fs)
{
	struct flush_log *log = fs->log;

	memset(log, 0, sizeof(*log));
	log->fs = fs;
	lock_init(&log->lock, LOCK_LOG);
	lock_cond_init(&log->built);
	TAILQ_INIT(&log->waiting);
	TAILQ_INIT(&log->committing);
	TAILQ_INIT(&log->group.waiters);
	TAILQ_INIT(&log->ops);
	log->group.fs = fs;
	log->verify_max = FLUSH_VERIFY_BYTES_MAX;
}

void flush_log_fini(struct fs *fs)
{
	ASSERT(TAILQ_EMPTY(&fs->log->waiting) && TAILQ_EMPTY(&fs->log->committing));
	mem_free(fs->log->group.buf);
	pthread_cond_destroy(&fs->log->built);
	lock_fini(&fs->log->lock);
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
	lock_assert_held(&fs->log->lock);
	fs->log->failed = true;
	fs->log->failed_commits = atomic_load(&fs->commits_started);
}

bool flush_log_has_failed(struct flush_log *log)
{
	bool failed;

	lock_take(&log->lock);
	failed = log->failed;
	lock_drop(&log->lock);
	return failed;
}

void flush_log_lock_built(struct flush_log *log)
{
	lock_take(&log->lock);
	while (log->building)
		lock_wait(&log->lock, &log->built);
}

bool flush_log_try_lock_built(struct flush_log *log)
{
	lock_take(&log->lock);
	if (!log->building)
		return true;
	lock_drop(&log->lock);
	return false;
}

void flush_log_freeze_locked(struct flush_log *log)
{
	lock_assert_held(&log->lock);
	ASSERT(!log->building);
	log->frozen_bytes += atomic_exchange(&log->fs->volumes->log_bytes, 0);
}

void flush_log_add_op_locked(struct flush_log *log, struct log_op *op)
{
	lock_assert_held(&log->lock);
	ASSERT(!op->listed && !log->building);
	op->listed = true;
	TAILQ_INSERT_TAIL(&log->ops, op, link);
	atomic_fetch_add(&log->fs->volumes->log_bytes, le32_to_cpu(op->item.bytes));
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

void flush_log_unlist_ops_locked(struct flush_log *log, uint64_t generation)
{
	struct log_op *op, *next;

	lock_assert_held(&log->lock);
	TAILQ_FOREACH_SAFE (op, &log->ops, link, next)
		if (le64_to_cpu(op->item.generation) <= generation)
			unlist_op(log, op);
}

/* ---- a group's way --------------------------------------------------------- */

static void start_group(struct fs *fs, struct executor *ex);

static void lead_next(struct post *post)
{
	struct fs *fs = container_of(post, struct flush_log, lead)->fs;

	start_group(fs, fs->log->group.ex);
}

static void lead_on_worker(struct fs_work *work)
{
	start_group(container_of(work, struct flush_log, lead_work)->fs, NULL);
}

/* A worker that is quick at other times, too: whoever waits for a group may keep all the others. */
static void put_on_worker(struct fs *fs)
{
	fs->log->lead_work.fn = lead_on_worker;
	work_pool_add(fs->work, &fs->log->lead_work);
}

static void hand_over_locked(struct fs *fs)
{
	struct flush_log *log = fs->log;

	log->group.ex = TAILQ_FIRST(&log->waiting)->ex;
	if (log->group.ex) {
		log->lead.fn = lead_next;
		executor_post(log->group.ex, &log->lead);
	} else {
		put_on_worker(fs);
	}
}

/* Operations that have changed memory can only go on: a commit will have them. */
static bool leave_ops_to_commit(struct fs *fs, struct flush_waiter_list *list)
{
	struct flush_waiter *w, *next;
	bool any = false;

	TAILQ_FOREACH_SAFE (w, list, link, next)
		if (w->or_commit) {
			TAILQ_REMOVE(list, w, link);
			w->commits = atomic_load(&fs->commits_started);
			TAILQ_INSERT_TAIL(&fs->log->committing, w, link);
			any = true;
		}
	return any;
}

void flush_log_leave_to_commit(struct fs *fs)
{
	struct flush_log *log = fs->log;
	struct flush_waiter *w;

	lock_take(&log->lock);
	TAILQ_FOREACH (w, &log->waiting, link)
		w->commits = atomic_load(&fs->commits_started);
	TAILQ_CONCAT(&log->committing, &log->waiting, link);
	lock_drop(&log->lock);
}

static void group_ended(struct log_group *g)
{
	struct fs *fs = g->fs;
	struct flush_log *log = fs->log;
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
		latency_add(&fs->stats.log_latency, fs_now_us(fs) - g->begun_us);
	}
	commit |= log->head - log->tail > log->size / 2;
	log->turns++;
	pthread_cond_broadcast(&log->built);
	if (TAILQ_EMPTY(&log->waiting))
		log->busy = false;
	else
		hand_over_locked(fs);
	lock_drop(&log->lock);
	answer(&done, error);
	if (commit)
		fs_kick_commit(fs);
}

static void submit(struct executor *ex, struct device_io *io, void (*done)(struct device_io *io),
		   struct log_group *g)
{
	io->done = done;
	io->arg = g;
	io->error = 0;
	ex->q->dev->ops->submit(ex->q, io);
	ex->q->dev->ops->kick(ex->q);
}

static void flushed(struct device_io *io)
{
	struct log_group *g = io->arg;

	g->error = device_flush_result(g->fs->dev, io->error);
	/* what is on the device now is not known: no later flush may say that it is safe */
	if (g->error && !FAULT(FAULT_FLUSH_ERROR))
		fs_set_read_only(g->fs, g->error, "a flush of the device failed");
	else if (fs_is_read_only(g->fs)) /* so it is when a flush of the committer's failed meanwhile */
		g->error = -EROFS;
	group_ended(g);
}

static void submit_flush(struct log_group *g, void (*done)(struct device_io *io))
{
	g->flush_io = (struct device_io){.op = DEVICE_FLUSH};
	submit(g->ex, &g->flush_io, done, g);
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
	uint64_t at = g->start % g->ring_size, first = min_u64(g->used, g->ring_size - at);

	g->ios = g->used > first ? 2 : 1;
	g->io[0] = (struct device_io){.op = DEVICE_WRITE, .off = g->ring + at, .buf = g->buf, .len = first};
	g->io[1] = (struct device_io){
		.op = DEVICE_WRITE, .off = g->ring, .buf = g->buf + first, .len = g->used - first};
	for (unsigned i = 0, n = g->ios; i < n; i++)
		submit(g->ex, &g->io[i], record_written, g);
}

static void data_flushed(struct device_io *io)
{
	struct log_group *g = io->arg;

	if (device_flush_result(g->fs->dev, io->error))
		flushed(io);
	else
		write_records(g);
}

/* A group that a worker leads: it may wait. */
static void write_and_wait(struct log_group *g)
{
	const struct flush_log *log = g->fs->log;
	struct device_queue *q = work_queue();
	uint64_t at = g->start % g->ring_size, first = min_u64(g->used, g->ring_size - at);
	int r = g->data_bytes > log->verify_max ? device_flush(q) : 0;

	g->flush_io = (struct device_io){.op = DEVICE_FLUSH, .arg = g, .error = r};
	if (device_flush_result(g->fs->dev, r)) {
		flushed(&g->flush_io);
		return;
	}
	r = device_sync(q, DEVICE_WRITE, g->ring + at, g->buf, first);
	if (r == 0 && g->used > first)
		r = device_sync(q, DEVICE_WRITE, g->ring, g->buf + first, g->used - first);
	if (r || FAULT(FAULT_FLUSH_EARLY)) {
		g->error = r;
		group_ended(g);
		return;
	}
	g->flush_io.error = device_flush(q);
	flushed(&g->flush_io);
}

/* On ex's thread, which leads, or (NULL) on a worker's; busy is set. */
static void start_group(struct fs *fs, struct executor *ex)
{
	struct flush_log *log = fs->log;
	struct log_group *g = &log->group;
	int r;

	g->ex = ex;
	g->begun_us = fs_now_us(fs);
	lock_take(&log->lock);
	TAILQ_CONCAT(&g->waiters, &log->waiting, link);
	r = fs_is_read_only(fs) ? -EROFS : log->failed ? -EIO : flush_log_build_locked(fs, g);
	if (r && r != -EROFS) { /* a commit does it instead */
		struct flush_waiter *w;

		TAILQ_FOREACH (w, &g->waiters, link)
			w->commits = atomic_load(&fs->commits_started);
		TAILQ_CONCAT(&log->committing, &g->waiters, link);
	}
	lock_drop(&log->lock);
	if (r == 0 && g->items && !ex) {
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
	struct flush_log *log = fs->log;
	bool lead = false, nothing;

	atomic_fetch_add(&fs->stats.flushes, 1);
	lock_take(&log->lock);
	nothing = !log->busy && !log->failed && !fs_is_read_only(fs) && log->frozen_bytes == 0 &&
		  atomic_load(&log->fs->volumes->log_bytes) == 0;
	if (!nothing) {
		TAILQ_INSERT_TAIL(&log->waiting, w, link);
		lead = !log->busy;
		log->busy = true;
	}
	if (lead && !w->ex) {
		put_on_worker(fs);
		lead = false;
	}
	lock_drop(&log->lock);
	if (nothing)
		w->done(w, 0);
	else if (lead)
		start_group(fs, w->ex);
}

/* ---- moving ---------------------------------------------------------------- */

void flush_log_move(struct fs *fs, uint64_t offset, uint64_t size)
{
	lock_take(&fs->log->lock);
	fs->log->next_offset = offset;
	fs->log->next_size = size;
	lock_drop(&fs->log->lock);
}

bool flush_log_stay(struct fs *fs)
{
	struct flush_log *log = fs->log;
	bool stays;

	lock_take(&log->lock);
	stays = log->next_size && !log->moving;
	if (stays)
		log->next_offset = log->next_size = 0;
	lock_drop(&log->lock);
	return stays;
}

bool flush_log_start_move_locked(struct fs *fs)
{
	struct flush_log *log = fs->log;

	lock_assert_held(&log->lock);
	if (!log->next_size)
		return false;
	if (!FAULT(FAULT_LOG_MOVES_BUSY))
		flush_log_suspend_locked(fs);
	log->moving = true;
	return true;
}

static void moved_locked(struct flush_log *log)
{
	log->offset = log->next_offset;
	log->size = log->next_size;
	backing_set_log(log->fs, log->offset, log->size);
	log->next_offset = log->next_size = 0;
	log->moving = false;
	log->head = 0;
	log->turns_left = log->turns + log->busy;
}

bool flush_log_has_left(struct fs *fs)
{
	struct flush_log *log = fs->log;
	bool has;

	lock_take(&log->lock);
	while (log->turns < log->turns_left && fs_await_cond(fs, &log->lock, &log->built))
		;
	has = log->turns >= log->turns_left;
	lock_drop(&log->lock);
	return has;
}

/* ---- the end of a commit --------------------------------------------------- */

void flush_log_commit_done(struct fs *fs, int error, uint64_t commits, uint64_t tail)
{
	struct flush_log *log = fs->log;
	struct flush_waiter_list done = TAILQ_HEAD_INITIALIZER(done);
	struct flush_waiter *w, *next;
	bool more;

	lock_take(&log->lock);
	if (!error && tail != UINT64_MAX) {
		if (log->moving)
			moved_locked(log);
		log->tail = tail;
		log->frozen_bytes = 0;
		flush_log_unlist_ops_locked(
			log, FAULT(FAULT_OPS_FORGOTTEN) ? UINT64_MAX : le64_to_cpu(fs->super->generation));
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
