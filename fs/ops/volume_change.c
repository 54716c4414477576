/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/ops/volume_change.c: what all operations on volumes share: their beginning, their place in the log,
 * their end.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/util.h"
#include "fs/commit/flush_log.h"
#include "fs/core/clock.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/ops/volume_op_int.h"
#include "fs/space/backing.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

int volume_check_size(struct fs_error *err, const char *name, uint64_t size)
{
	if (size == 0 || size % FS_BLOCK_SIZE || size > FS_VOLUME_SIZE_MAX)
		return fs_fail(
			err, -EINVAL,
			"volume %s: size %llu is not a multiple of 4 KiB from 4 KiB to 8 EiB less 4 KiB",
			name, (unsigned long long)size);
	return 0;
}

/* ---- reservations that wait ------------------------------------------------ */

struct waiting {
	struct space_ticket ticket;
	struct fs *fs;
	bool done;
	int error;
};

static void ticket_done(struct space_ticket *t, int error)
{
	struct waiting *w = container_of(t, struct waiting, ticket);

	lock_take(&w->fs->state_lock);
	w->error = error;
	w->done = true;
	pthread_cond_broadcast(&w->fs->done_cond);
	lock_drop(&w->fs->state_lock);
}

static int wait_for_ticket(struct fs *fs, struct waiting *w)
{
	if (fs_await_done(fs, &w->done))
		return w->error;
	space_cancel(fs, &w->ticket); /* a commit waits for readers, whom nobody else runs */
	return -EAGAIN;
}

static int reserve_change(struct fs *fs, uint32_t flags, struct space_reservation *ret_res)
{
	struct space_pending pending = VOLUME_OP_PENDING;
	struct waiting w = {.fs = fs, .ticket = {.flags = flags, .done = ticket_done}};
	int r;

	if (flags & SPACE_FREEING)
		pending.bytes += space_cut_bytes(fs, UINT64_MAX);
	w.ticket.want.pending = pending;
	r = space_reserve(fs, &w.ticket);

	if (r == -EINPROGRESS)
		r = wait_for_ticket(fs, &w);
	if (r == 0)
		*ret_res = w.ticket.want;
	return r;
}

/* ---- beginning and end ----------------------------------------------------- */

static const char *const verbs[] = {
	[FS_VOLUME_CREATE] = "created", [FS_VOLUME_DELETE] = "deleted", [FS_VOLUME_RENAME] = "renamed",
	[FS_VOLUME_RESIZE] = "resized", [FS_VOLUME_SET] = "changed",
};

int volume_op_begin(struct fs *fs, struct fs_volume_op *user, uint32_t flags, struct volume_op **ret_op)
{
	struct volume_op *op = mem_zalloc(sizeof(*op));
	int r = op ? reserve_change(fs, flags, &op->res) : -ENOMEM;

	if (r) {
		mem_free(op);
		return fs_fail(&user->err, r, "volume %s: cannot be %s: %s", user->name, verbs[user->kind],
			       strerror(-r));
	}
	op->fs = fs;
	op->user = user;
	*ret_op = op;
	return 0;
}

void volume_op_cancel(struct volume_op *op)
{
	space_unreserve(op->fs, &op->res);
	volume_text_put(op->text);
	mem_free(op);
}

void volume_op_change_locked(struct volume_op *op, struct fs_volume *vol, enum log_item_type type,
			     uint64_t bytes)
{
	struct log_item *item = &op->log.item;

	lock_assert_held(&op->fs->log->lock);
	lock_assert_held(&vol->lock);
	volume_ref(vol);
	op->vol = vol;
	vol->meta_dirty = true;
	volume_set_dirty_locked(vol);
	item->type = cpu_to_le16((uint16_t)type);
	item->bytes = cpu_to_le32((uint32_t)round_up_u64(bytes, 8));
	item->id = cpu_to_le64(vol->id);
	item->generation = cpu_to_le64(vol->running_generation);
	flush_log_add_op_locked(op->fs->log, &op->log);
}

static void durable(struct flush_waiter *w, int error)
{
	struct volume_op *op = container_of(w, struct volume_op, wait);
	struct fs_volume_op *user = op->user;

	flush_log_forget_op(op->fs->log, &op->log);
	op->finish(op, error);
	volume_unref(op->vol);
	volume_text_put(op->text);
	mem_free(op);
	if (error)
		(void)fs_fail(&user->err, error, "volume %s: cannot be %s: the commit failed: %s", user->name,
			      verbs[user->kind], strerror(-error));
	user->done(user, error);
}

void volume_op_send(struct volume_op *op)
{
	space_pend(op->fs, &op->res, op->res.pending);
	op->wait = (struct flush_waiter){.done = durable, .or_commit = true};
	if (FAULT(FAULT_OP_EARLY))
		durable(&op->wait, 0);
	else
		flush_log_flush(op->fs, &op->wait);
}

/* ---- finding --------------------------------------------------------------- */

struct fs_volume *volume_find_idle_locked(struct volume_table *t, const char *name)
{
	for (;;) {
		struct fs_volume *vol = volume_table_find_locked(t, name);

		if (!vol || vol->hidden)
			return NULL;
		if (!vol->busy)
			return vol;
		lock_wait(&t->lock, &t->idle_cond);
	}
}

int volume_get_busy(struct fs *fs, const char *name, struct fs_volume **ret_vol, struct fs_error *err)
{
	struct fs_volume *vol;

	if (fs_is_read_only(fs))
		return fs_fail(err, -EROFS, "volume %s: cannot be changed: the pool is read-only", name);
	lock_take(&fs->volumes->lock);
	vol = volume_find_idle_locked(fs->volumes, name);
	if (vol) {
		vol->busy = true;
		volume_ref(vol);
	}
	lock_drop(&fs->volumes->lock);
	if (!vol)
		return volume_no_such(err, name);
	*ret_vol = vol;
	return 0;
}

void volume_set_idle(struct fs_volume *vol)
{
	struct volume_table *t = vol->fs->volumes;

	lock_take(&t->lock);
	vol->busy = vol->shrinking = false;
	volume_table_count_locked(t, vol, atomic_load(&vol->size));
	pthread_cond_broadcast(&t->idle_cond);
	lock_drop(&t->lock);
}

int volume_no_such(struct fs_error *err, const char *name)
{
	return fs_fail(err, -ENOENT, "volume %.255s: does not exist", name);
}

/* ---- promises -------------------------------------------------------------- */

/*
 * What was trimmed or deleted a moment ago counts when it was committed and its pins are released: by two
 * commits, as readers may keep those of the first; a deleted volume goes piece by piece. 0, or -ENOSPC and
 * what is missing then; -EDQUOT when the host has no room for a sparse pool's data.
 */
static int promise(struct fs *fs, struct fs_volume *vol, uint64_t bytes, struct backing_lack *ret_lack)
{
	uint64_t before = UINT64_MAX;

	for (unsigned tries = 0;; tries++) {
		bool deleting = atomic_load(&fs->orphans);
		int r = backing_promise(fs, &vol->promise, bytes, ret_lack);

		if (r == 0 && space_set_promise(fs, &vol->promise, bytes, false, &ret_lack->pool_bytes) == 0)
			return 0;
		if (r && r != -ENOSPC)
			return r;
		if ((tries >= 2 && !(deleting && ret_lack->pool_bytes < before)) || fs_commit(fs))
			return -ENOSPC;
		before = ret_lack->pool_bytes;
	}
}

/* One at a time: the host's room is looked at for all that is promised. */
static int promise_alone(struct fs *fs, struct fs_volume *vol, uint64_t bytes, struct backing_lack *ret_lack)
{
	int r;

	lock_take(&fs->volumes->op_lock);
	backing_promise_begin(fs);
	r = promise(fs, vol, bytes, ret_lack);
	backing_promise_begun(fs);
	lock_drop(&fs->volumes->op_lock);
	return r;
}

static int promise_refused(struct fs_volume_op *user, uint64_t size, int r, const struct backing_lack *lack)
{
	const char *instead = user->kind == FS_VOLUME_SET ? "leave" : "create";
	char needed[SIZE_FORMAT_MAX], has[SIZE_FORMAT_MAX];

	if (r == -EDQUOT)
		return fs_fail(
			&user->err, -ENOSPC,
			"volume %s: %llu bytes cannot be reserved: the pool is sparse, and the file system that it is on has %s free of %s that are needed: make room there, or %s it thin",
			user->name, (unsigned long long)size, size_format(lack->host_free, has, sizeof(has)),
			size_format(lack->host_needed, needed, sizeof(needed)), instead);
	if (r != -ENOSPC)
		return fs_fail(&user->err, r, "volume %s: %llu bytes cannot be reserved: %s", user->name,
			       (unsigned long long)size, strerror(-r));
	return fs_fail(
		&user->err, -ENOSPC,
		"volume %s: %llu bytes cannot be reserved, %llu are missing: grow the pool, free space, or %s it thin",
		user->name, (unsigned long long)size, (unsigned long long)lack->pool_bytes, instead);
}

int volume_set_promise(struct fs_volume_op *user, struct fs_volume *vol, uint32_t flags, uint64_t size)
{
	struct backing_lack lack = {0};
	int r;

	if (!(flags & FS_VOLUME_RESERVED))
		return 0;
	r = promise_alone(vol->fs, vol, space_promise_for(size), &lack);
	if (r == 0)
		return 0;
	backing_promise_end(vol->fs);
	return promise_refused(user, size, r, &lack);
}
