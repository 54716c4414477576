/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/ops/volume_set.c: what a volume's item says besides its name and size: flags and a comment. The record
 * has all of it, so replay needs to know nothing of what was there before.
 *
 * Space is promised before the flag stands, and released when it durably does not: a crash between leaves no
 * reserved volume without its space.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/text.h"
#include "fs/commit/flush_log.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/ops/volume_op_int.h"
#include "fs/space/backing.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

static int check_change(struct fs_volume_op *user)
{
	const struct fs_volume_change *change = &user->change;
	const char *name = user->name;
	struct fs_error *err = &user->err;
	const uint32_t known = FS_VOLUME_RESERVED | FS_VOLUME_READ_ONLY;
	size_t len = change->comment ? strlen(change->comment) : 0;

	if (!fs_name_is_valid(name))
		return volume_bad_name(err, name);
	if ((change->set | change->clear) & ~known || change->set & change->clear)
		return fs_fail(err, -EINVAL, "volume %s: no such change", name);
	if (len > FS_COMMENT_MAX)
		return fs_fail(err, -EINVAL, "volume %s: a comment of %zu bytes is too long: use %d at most",
			       name, len, FS_COMMENT_MAX);
	if (!text_is_plain(change->comment, len))
		return fs_fail(err, -EINVAL, "volume %s: the comment is not on one line of UTF-8", name);
	return 0;
}

static void set_finish(struct volume_op *op, int error)
{
	if (!error && op->user->change.clear & FS_VOLUME_RESERVED) {
		(void)space_set_promise(op->fs, &op->vol->promise, 0, true, NULL);
		backing_promise_end(op->fs);
	}
	volume_set_idle(op->vol);
}

static void log_set_locked(struct volume_op *op, struct fs_volume *vol)
{
	struct log_set *ls = &op->log.set;

	ls->flags = cpu_to_le32(vol->flags);
	if (vol->comment) {
		ls->comment_len = vol->comment->len;
		memcpy(ls + 1, vol->comment->text, vol->comment->len);
	}
	volume_op_change_locked(op, vol, LOG_SET, sizeof(*ls) + ls->comment_len);
}

static void change_item(struct volume_op *op, struct fs_volume *vol)
{
	const struct fs_volume_change *change = &op->user->change;
	struct fs *fs = op->fs;

	flush_log_lock_built(fs->log);
	lock_take(&vol->lock);
	if (!change->comment)
		op->text = volume_text_get(vol->comment);
	volume_change_item_locked(vol, (vol->flags | change->set) & ~change->clear, &op->text);
	log_set_locked(op, vol);
	lock_drop(&vol->lock);
	lock_drop(&fs->log->lock);
}

/* What can fail, or has to be waited for. */
static int prepare(struct volume_op *op, struct fs_volume *vol)
{
	struct fs_volume_op *user = op->user;
	const char *comment = user->change.comment;

	if (comment && *comment) {
		op->text = volume_text_new(comment, (uint8_t)strlen(comment));
		if (!op->text)
			return fs_fail(&user->err, -ENOMEM, "volume %s: out of memory", user->name);
	}
	return volume_set_promise(user, vol, user->change.set & ~vol->flags, vol->size);
}

static int start_busy(struct fs *fs, struct fs_volume_op *user, struct fs_volume *vol)
{
	struct volume_op *op;
	int r = volume_op_begin(fs, user, 0, &op);

	if (r)
		return r;
	r = prepare(op, vol);
	if (r) {
		volume_op_cancel(op);
		return r;
	}
	op->finish = set_finish;
	change_item(op, vol);
	volume_op_send(op);
	return 0;
}

int volume_set_start(struct fs *fs, struct fs_volume_op *user)
{
	struct fs_volume *vol;
	int r = check_change(user);

	if (r == 0)
		r = volume_get_busy(fs, user->name, &vol, &user->err);
	if (r)
		return r;
	r = start_busy(fs, user, vol);
	if (r)
		volume_set_idle(vol);
	volume_unref(vol);
	return r;
}
