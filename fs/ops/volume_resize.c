/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/ops/volume_resize.c: a volume's new size.
 *
 * What lies beyond a new end goes in the same step as the size: no group of the log and no commit sees one
 * without the other. Requests that are under way there are waited for; later ones find the new size. The
 * record says the size alone: replay makes the hole of it. A volume that grows shows its new size when that
 * is durable: the flush log must not name blocks that the volume does not have at that place of the log.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "fs/commit/flush_log.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/ops/volume_op_int.h"
#include "fs/space/space_info.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

static int may_resize_locked(const struct fs_volume *vol, struct fs_volume_op *user)
{
	uint64_t old = atomic_load(&((struct fs_volume *)(uintptr_t)vol)->size);

	if (!user->ask || user->size >= old)
		return 0;
	if (!user->may_shrink)
		return fs_fail(
			&user->err, -EINVAL,
			"volume %s: not made smaller: everything past %llu bytes (of %llu) would be lost: if you mean that, use --shrink",
			user->name, (unsigned long long)user->size, (unsigned long long)old);
	if (vol->handles > 0)
		return fs_fail(&user->err, -EBUSY,
			       "volume %s: not made smaller: in use by a client: disconnect it first",
			       user->name);
	return 0;
}

/* The volume is busy from here on, with a reference. */
static int set_busy(struct fs *fs, struct fs_volume_op *user, struct fs_volume **ret_vol)
{
	struct fs_volume *vol;
	int r;

	lock_take(&fs->volumes->lock);
	vol = volume_find_idle_locked(fs->volumes, user->name);
	r = vol ? may_resize_locked(vol, user) : volume_no_such(&user->err, user->name);
	if (r == 0) {
		vol->busy = true;
		vol->shrinking = user->ask && user->size < atomic_load(&vol->size);
		volume_ref(vol);
		*ret_vol = vol;
	}
	lock_drop(&fs->volumes->lock);
	return r;
}

static void resize_finish(struct volume_op *op, int error)
{
	struct fs_volume *vol = op->vol;
	uint64_t size = le64_to_cpu(op->log.resize.size);

	lock_take(&vol->lock);
	if (!error)
		atomic_store(&vol->size, size);
	vol->grown_size = 0;
	lock_drop(&vol->lock);
	if (!error && vol->flags & FS_VOLUME_RESERVED)
		(void)space_set_promise(op->fs, &vol->promise, space_promise_for(size), true, NULL);
	volume_set_idle(vol);
}

/* hole: for what goes, NULL if the volume grows. */
static void change_size(struct volume_op *op, struct fs_volume *vol, struct pending *hole,
			struct pending **spare)
{
	struct fs *fs = op->fs;
	uint64_t size = op->user->size;

	op->log.resize.size = cpu_to_le64(size);
	flush_log_lock_built(fs->log);
	lock_take(&vol->lock);
	volume_op_change_locked(op, vol, LOG_RESIZE, sizeof(op->log.resize));
	if (hole) {
		atomic_store(&vol->size, size);
		volume_insert_locked(vol, hole, spare);
		overlay_mark_logged(&vol->running, hole); /* by the record */
	} else {
		vol->grown_size = size;
	}
	lock_drop(&vol->lock);
	lock_drop(&fs->log->lock);
}

static int shrink(struct volume_op *op, struct fs_volume *vol, uint64_t old)
{
	struct pending *hole, *spare;
	struct extent_lock lk;
	int r = volume_hole_new(op->user->size, old, &hole, &spare);

	if (r)
		return fs_fail(&op->user->err, r, "volume %s: cannot be resized: %s", op->user->name,
			       strerror(-r));
	extent_lock_init(&lk, op->user->size, old, 0, NULL);
	lock_extent(&vol->states, &lk);
	change_size(op, vol, hole, &spare);
	unlock_extent(&vol->states, &lk);
	pending_free(spare);
	return 0;
}

static int grow(struct volume_op *op, struct fs_volume *vol)
{
	int r = volume_set_promise(op->user, vol, vol->flags, op->user->size);

	if (r == 0)
		change_size(op, vol, NULL, NULL);
	return r;
}

int volume_resize_start(struct fs *fs, struct fs_volume_op *user)
{
	struct fs_volume *vol;
	struct volume_op *op;
	uint64_t old;
	int r = set_busy(fs, user, &vol);

	if (r)
		return r;
	old = atomic_load(&vol->size);
	r = volume_op_begin(fs, user, user->size < old ? SPACE_FREEING : 0, &op);
	if (r == 0) {
		op->finish = resize_finish;
		r = user->size < old ? shrink(op, vol, old) : grow(op, vol);
		if (r)
			volume_op_cancel(op);
		else
			volume_op_send(op);
	}
	if (r)
		volume_set_idle(vol);
	volume_unref(vol);
	return r;
}
