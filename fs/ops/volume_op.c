/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/ops/volume_op.c: what users do to volumes: create, delete, rename; resizing is in volume_resize.c. See
 * volume_op_int.h.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/commit/flush_log.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/ops/volume_op_int.h"
#include "fs/space/backing.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

int volume_bad_name(struct fs_error *err, const char *name)
{
	return fs_fail(
		err, -EINVAL,
		"volume %.64s: not a valid name: 1 to 255 letters, digits, '.', '_', '-', not starting with '.' or '-'",
		name);
}

static uint8_t put_text(void *room, const struct volume_text *text)
{
	memcpy(room, text->text, text->len);
	return text->len;
}

/* ---- create ---------------------------------------------------------------- */

static struct fs_volume *new_volume(struct fs *fs, const struct fs_volume_op *user)
{
	struct fs_volume *vol = volume_new(fs, atomic_fetch_add(&fs->next_id, 1), user->name);

	if (!vol)
		return NULL;
	vol->ctime_ns = (int64_t)fs_wall_ns(fs);
	vol->flags = user->flags;
	vol->hidden = true;
	atomic_store(&vol->size, user->size);
	if (fs_random(fs, vol->uuid, sizeof(vol->uuid)))
		memcpy(vol->uuid, &vol->id, sizeof(vol->id));
	return vol;
}

static void create_finish(struct volume_op *op, int error)
{
	struct volume_table *t = op->fs->volumes;

	lock_take(&t->lock);
	if (error)
		volume_table_remove_locked(t, op->vol);
	else
		op->vol->hidden = false;
	lock_drop(&t->lock);
}

static void log_create_locked(struct volume_op *op, struct fs_volume *vol)
{
	struct log_create *lc = &op->log.create;

	lc->size = cpu_to_le64(atomic_load(&vol->size));
	lc->ctime_ns = cpu_to_le64((uint64_t)vol->ctime_ns);
	memcpy(lc->uuid, vol->uuid, sizeof(lc->uuid));
	lc->flags = cpu_to_le32(vol->flags);
	lc->name_len = put_text(lc + 1, vol->name);
	volume_op_change_locked(op, vol, LOG_CREATE, sizeof(*lc) + lc->name_len);
}

/*
 * With the log's lock, while no group is being built. The table's is not kept while that is waited for: all
 * need it.
 */
static void lock_table(struct fs *fs)
{
	for (;;) {
		lock_take(&fs->volumes->lock);
		if (flush_log_try_lock_built(fs->log))
			return;
		lock_drop(&fs->volumes->lock);
		flush_log_lock_built(fs->log);
		lock_drop(&fs->log->lock);
	}
}

/* Takes the caller's reference. False: the name is taken. */
static bool add_volume(struct volume_op *op, struct fs_volume *vol)
{
	struct fs *fs = op->fs;
	bool ok;

	lock_table(fs);
	ok = volume_table_insert_locked(fs->volumes, vol);
	if (ok) {
		lock_take(&vol->lock);
		log_create_locked(op, vol);
		lock_drop(&vol->lock);
	}
	lock_drop(&fs->log->lock);
	lock_drop(&fs->volumes->lock);
	return ok;
}

static bool name_is_taken(struct fs *fs, const char *name)
{
	bool taken;

	lock_take(&fs->volumes->lock);
	taken = volume_table_find_locked(fs->volumes, name) != NULL;
	lock_drop(&fs->volumes->lock);
	return taken;
}

static int create_check(struct fs *fs, struct fs_volume_op *user)
{
	struct fs_error *err = &user->err;
	int r;

	if (!fs_name_is_valid(user->name))
		return volume_bad_name(err, user->name);
	r = volume_check_size(err, user->name, user->size);
	if (r)
		return r;
	if (user->flags & FS_VOLUME_WRITEBACK)
		return fs_fail(
			err, -ENOTSUP,
			"volume %s: write-back volumes are not supported by this version: create it with --cache direct",
			user->name);
	if (user->flags & ~(uint32_t)(FS_VOLUME_READ_ONLY | FS_VOLUME_RESERVED))
		return fs_fail(err, -EINVAL, "volume %s: unknown flags", user->name);
	if (fs_is_read_only(fs))
		return fs_fail(err, -EROFS, "volume %s: cannot be created: the pool is read-only",
			       user->name);
	/* Before anything is waited for; it is looked at again when the name is taken. */
	return name_is_taken(fs, user->name) ? fs_fail(err, -EEXIST, "volume %s: exists already", user->name)
					     : 0;
}

static int create(struct fs *fs, struct fs_volume_op *user)
{
	struct volume_op *op;
	struct fs_volume *vol;
	int r = create_check(fs, user);

	if (r == 0)
		r = volume_op_begin(fs, user, 0, &op);
	if (r)
		return r;
	vol = new_volume(fs, user);
	r = vol ? volume_set_promise(user, vol, user->flags, user->size)
		: fs_fail(&user->err, -ENOMEM, "volume %s: out of memory", user->name);
	if (r == 0 && !add_volume(op, vol)) {
		(void)space_set_promise(fs, &vol->promise, 0, true, NULL);
		backing_promise_end(fs);
		r = fs_fail(&user->err, -EEXIST, "volume %s: exists already", user->name);
	}
	if (r) {
		if (vol)
			volume_unref(vol);
		volume_op_cancel(op);
		return r;
	}
	op->finish = create_finish;
	volume_op_send(op);
	return 0;
}

/* ---- delete ---------------------------------------------------------------- */

static void delete_finish(struct volume_op *op, int error)
{
	struct fs *fs = op->fs;

	if (error)
		return;
	(void)space_set_promise(fs, &op->vol->promise, 0, true, NULL);
	backing_promise_end(fs);
	lock_take(&fs->volumes->lock);
	volume_table_remove_locked(fs->volumes, op->vol);
	lock_drop(&fs->volumes->lock);
	fs_kick_commit(fs); /* its space is freed by the next ones */
}

static int delete_locked(struct volume_op *op)
{
	struct fs *fs = op->fs;
	struct fs_volume *vol = volume_find_idle_locked(fs->volumes, op->user->name);

	if (!vol)
		return volume_no_such(&op->user->err, op->user->name);
	if (vol->handles > 0)
		return fs_fail(&op->user->err, -EBUSY, "volume %s: in use by a client: disconnect it first",
			       op->user->name);
	if (!flush_log_try_lock_built(fs->log))
		return -EAGAIN;
	volume_set_deleted_locked(vol);
	lock_take(&vol->lock);
	volume_op_change_locked(op, vol, LOG_DELETE, sizeof(struct log_item));
	lock_drop(&vol->lock);
	lock_drop(&fs->log->lock);
	return 0;
}

/* ---- rename ---------------------------------------------------------------- */

static void rename_finish(struct volume_op *op, int error)
{
	(void)op;
	(void)error;
}

static int rename_locked(struct volume_op *op)
{
	struct fs *fs = op->fs;
	struct fs_volume *vol = volume_find_idle_locked(fs->volumes, op->user->name);
	struct log_rename *lr = &op->log.rename;

	if (!vol)
		return volume_no_such(&op->user->err, op->user->name);
	if (volume_table_find_locked(fs->volumes, op->user->to))
		return fs_fail(&op->user->err, -EEXIST, "volume %s: exists already", op->user->to);
	if (!flush_log_try_lock_built(fs->log))
		return -EAGAIN;
	lr->name_len = put_text(lr + 1, op->text);
	volume_table_rename_locked(fs->volumes, vol, &op->text);
	lock_take(&vol->lock);
	volume_op_change_locked(op, vol, LOG_RENAME, sizeof(*lr) + lr->name_len);
	lock_drop(&vol->lock);
	lock_drop(&fs->log->lock);
	return 0;
}

/* ---- all of them ----------------------------------------------------------- */

/* What is there, and may be changed: before anything is waited for. */
static int check_found(struct fs *fs, struct fs_volume_op *user)
{
	struct fs_volume_info info;

	if (fs_volume_find_info(fs, user->name, &info))
		return volume_no_such(&user->err, user->name);
	return fs_is_read_only(fs)
		       ? fs_fail(&user->err, -EROFS, "volume %s: cannot be changed: the pool is read-only",
				 user->name)
		       : 0;
}

/* A name that the operation needs. */
static int take_text(struct volume_op *op, const char *name)
{
	op->text = volume_text_new(name, (uint8_t)strlen(name));
	return op->text ? 0 : fs_fail(&op->user->err, -ENOMEM, "volume %s: out of memory", op->user->name);
}

/* change: under the table's lock. -EAGAIN: a group of the log is being built. */
static int change_by_name(struct fs *fs, struct fs_volume_op *user, uint32_t flags,
			  int (*change)(struct volume_op *op),
			  void (*finish)(struct volume_op *op, int error))
{
	struct volume_op *op;
	int r = check_found(fs, user);

	if (r == 0)
		r = volume_op_begin(fs, user, flags, &op);
	if (r == 0 && user->kind == FS_VOLUME_RENAME) {
		r = take_text(op, user->to);
		if (r)
			volume_op_cancel(op);
	}
	if (r)
		return r;
	for (;;) {
		lock_take(&fs->volumes->lock);
		r = change(op);
		lock_drop(&fs->volumes->lock);
		if (r != -EAGAIN)
			break;
		flush_log_lock_built(fs->log); /* waits */
		lock_drop(&fs->log->lock);
	}
	if (r) {
		volume_op_cancel(op);
		return r;
	}
	op->finish = finish;
	volume_op_send(op);
	return 0;
}

void fs_volume_op_start(struct fs *fs, struct fs_volume_op *user)
{
	int r = 0;

	user->err.msg[0] = '\0';
	switch (user->kind) {
	case FS_VOLUME_CREATE: r = create(fs, user); break;
	case FS_VOLUME_DELETE:
		r = change_by_name(fs, user, SPACE_FREEING, delete_locked, delete_finish);
		break;
	case FS_VOLUME_RENAME:
		r = fs_name_is_valid(user->to) ? change_by_name(fs, user, 0, rename_locked, rename_finish)
					       : volume_bad_name(&user->err, user->to);
		break;
	case FS_VOLUME_RESIZE:
		r = volume_check_size(&user->err, user->name, user->size);
		if (r == 0)
			r = check_found(fs, user);
		if (r == 0)
			r = volume_resize_start(fs, user);
		break;
	case FS_VOLUME_SET: r = volume_set_start(fs, user); break;
	}
	if (r)
		user->done(user, r);
}

/* ---- for callers that wait ------------------------------------------------- */

struct waiting_op {
	struct fs_volume_op op;
	struct fs *fs;
	bool done;
	int error;
};

static void waiting_done(struct fs_volume_op *op, int error)
{
	struct waiting_op *w = container_of(op, struct waiting_op, op);
	struct fs *fs = w->fs;

	lock_take(&fs->state_lock);
	w->error = error;
	w->done = true;
	pthread_cond_broadcast(&fs->done_cond);
	lock_drop(&fs->state_lock);
}

static int wait_for(struct fs *fs, struct waiting_op *w, struct fs_error *err)
{
	w->fs = fs;
	w->op.done = waiting_done;
	fs_volume_op_start(fs, &w->op);
	while (!fs_await_done(fs, &w->done))
		; /* w is on the stack: not before it is done */
	if (w->error && err)
		*err = w->op.err;
	return w->error;
}

int fs_volume_create(struct fs *fs, const char *name, uint64_t size, uint32_t flags, struct fs_error *err)
{
	struct waiting_op w = {.op = {.kind = FS_VOLUME_CREATE, .name = name, .size = size, .flags = flags}};

	return wait_for(fs, &w, err);
}

int fs_volume_delete(struct fs *fs, const char *name, struct fs_error *err)
{
	struct waiting_op w = {.op = {.kind = FS_VOLUME_DELETE, .name = name}};

	return wait_for(fs, &w, err);
}

int fs_volume_rename(struct fs *fs, const char *from, const char *to, struct fs_error *err)
{
	struct waiting_op w = {.op = {.kind = FS_VOLUME_RENAME, .name = from, .to = to}};

	return wait_for(fs, &w, err);
}

int fs_volume_resize(struct fs *fs, const char *name, uint64_t size, struct fs_error *err)
{
	struct waiting_op w = {.op = {.kind = FS_VOLUME_RESIZE, .name = name, .size = size}};

	return wait_for(fs, &w, err);
}

int fs_volume_set_size(struct fs *fs, const char *name, uint64_t size, bool may_shrink, struct fs_error *err)
{
	struct waiting_op w = {.op = {.kind = FS_VOLUME_RESIZE,
				      .name = name,
				      .size = size,
				      .ask = true,
				      .may_shrink = may_shrink}};

	return wait_for(fs, &w, err);
}

int fs_volume_set(struct fs *fs, const char *name, const struct fs_volume_change *change,
		  struct fs_error *err)
{
	struct waiting_op w = {.op = {.kind = FS_VOLUME_SET, .name = name, .change = *change}};

	return wait_for(fs, &w, err);
}
