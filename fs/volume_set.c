/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume_set.c: what a volume's item says besides its name and size: flags and a comment. Rare enough for a commit of its own;
 * other operations on the volume wait for it.
 */
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "base/util.h"
#include "fs/backing.h"
#include "fs/fs_int.h"
#include "fs/volume_op_int.h"

/* What a commit writes later; returns what is to be dropped. */
static struct volume_comment *change_item(struct fs_volume *vol, const struct fs_volume_change *change,
					  struct volume_comment *comment)
{
	struct volume_comment *old = comment;

	lock_take(&vol->lock);
	atomic_store(&vol->flags, (atomic_load(&vol->flags) | change->set) & ~change->clear);
	if (change->comment) {
		old = vol->comment;
		vol->comment = comment;
	}
	lock_drop(&vol->lock);
	return old;
}

/*
 * Promised before the flag stands, and released when it durably does not: a crash between leaves no reserved volume
 * without its space.
 */
static int do_set(struct fs *fs, struct fs_volume *vol, const char *name, const struct fs_volume_change *change,
		  struct volume_comment *comment, struct fs_error *err)
{
	uint32_t set = change->set & ~atomic_load(&vol->flags);
	uint64_t size = atomic_load(&vol->size), missing = 0;
	struct space_reservation res;
	int r = volume_reserve_change(fs, 0, &res);

	if (r) {
		volume_comment_put(comment);
		return fs_fail(err, r, "volume %s: cannot be changed: %s", name, strerror(-r));
	}
	if (set & FS_VOLUME_RESERVED && volume_promise(fs, vol, space_promise_for(size), &missing)) {
		backing_promise_end(fs);
		space_unreserve(fs, &res);
		volume_comment_put(comment);
		if (!missing)
			return fs_fail(err, -ENOSPC, "volume %s: %llu bytes cannot be reserved: the file system under the sparse pool has no room for them: make room there, or leave it thin",
				       name, (unsigned long long)size);
		return fs_fail(err, -ENOSPC, "volume %s: %llu bytes cannot be reserved, %llu are missing: grow the pool, free space, or leave it thin",
			       name, (unsigned long long)size, (unsigned long long)missing);
	}
	volume_comment_put(change_item(vol, change, comment));
	lock_take(&vol->lock);
	vol->meta_dirty = true;
	volume_set_dirty_locked(vol);
	lock_drop(&vol->lock);
	space_pend(fs, &res, res.pending);
	r = fs_commit(fs);
	if (r)
		return fs_fail(err, r, "volume %s: cannot be changed: the commit failed: %s", name, strerror(-r));
	if (change->clear & FS_VOLUME_RESERVED) {
		(void)space_set_promise(fs, &vol->promise, 0, true, NULL);
		backing_promise_end(fs);
	}
	return 0;
}

static int check_change(const char *name, const struct fs_volume_change *change, struct fs_error *err)
{
	const uint32_t known = FS_VOLUME_RESERVED | FS_VOLUME_READ_ONLY;
	size_t len = change->comment ? strlen(change->comment) : 0;

	if (!fs_name_is_valid(name))
		return volume_bad_name(err, name);
	if ((change->set | change->clear) & ~known || change->set & change->clear)
		return fs_fail(err, -EINVAL, "volume %s: no such change", name);
	if (len > FS_COMMENT_MAX)
		return fs_fail(err, -EINVAL, "volume %s: a comment of %zu bytes is too long: use %d at most", name, len, FS_COMMENT_MAX);
	if (!text_is_plain(change->comment, len))
		return fs_fail(err, -EINVAL, "volume %s: the comment is not on one line of UTF-8", name);
	return 0;
}

int fs_volume_set(struct fs *fs, const char *name, const struct fs_volume_change *change, struct fs_error *err)
{
	struct volume_comment *comment = NULL;
	struct fs_volume *vol;
	int r = check_change(name, change, err);

	if (r)
		return r;
	if (change->comment && *change->comment) {
		comment = volume_comment_new(change->comment, (uint8_t)strlen(change->comment));
		if (!comment)
			return fs_fail(err, -ENOMEM, "volume %s: out of memory", name);
	}
	r = volume_get_busy(fs, name, &vol, err);
	if (r) {
		volume_comment_put(comment);
		return r;
	}
	r = do_set(fs, vol, name, change, comment, err);
	volume_set_idle(vol);
	volume_unref(vol);
	return r;
}
