/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/ops/volume_replay.c: operations from the flush log, at open. Each leaves the volume as the operation
 * left it: dirty, with the change accounted to the running transaction, so that the first commit carries it
 * out. Volumes are found by id; names may have been given to others since.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/text.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/space_info.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

/* frees: as an operation that frees space reserves it. */
static void set_changed(struct fs_volume *vol, bool frees)
{
	struct space_pending pending = VOLUME_OP_PENDING;

	lock_take(&vol->lock);
	vol->meta_dirty = true;
	volume_set_dirty_locked(vol);
	lock_drop(&vol->lock);
	if (frees)
		pending.bytes += space_cut_bytes(vol->fs, UINT64_MAX);
	space_replayed(vol->fs, &vol->promise, 0, pending);
}

/* room: FS_NAME_MAX + 1. */
static bool get_name(const void *name, uint8_t len, char *ret_name)
{
	memcpy(ret_name, name, len);
	ret_name[len] = '\0';
	return fs_name_is_valid(ret_name);
}

static void set_promise(struct fs_volume *vol, uint64_t size)
{
	if (vol->flags & FS_VOLUME_RESERVED)
		(void)space_set_promise(vol->fs, &vol->promise, size ? space_promise_for(size) : 0, true,
					NULL);
}

int volume_replay_create(struct fs *fs, const struct log_create *lc)
{
	uint64_t id = le64_to_cpu(lc->item.id);
	char name[FS_NAME_MAX + 1];
	struct fs_volume *vol;
	bool ok;

	if (id < TREE_ID_FIRST_FREE || !get_name(lc + 1, lc->name_len, name))
		return -EUCLEAN;
	vol = volume_new(fs, id, name);
	if (!vol)
		return -ENOMEM;
	atomic_store(&vol->size, le64_to_cpu(lc->size));
	vol->flags = le32_to_cpu(lc->flags);
	vol->ctime_ns = (int64_t)le64_to_cpu(lc->ctime_ns);
	memcpy(vol->uuid, lc->uuid, sizeof(vol->uuid));
	lock_take(&fs->volumes->lock);
	ok = volume_table_insert_locked(fs->volumes, vol);
	lock_drop(&fs->volumes->lock);
	if (!ok) {
		volume_unref(vol);
		return -EUCLEAN;
	}
	if (atomic_load(&fs->next_id) <= id && !FAULT(FAULT_ID_AGAIN)) /* never given out again */
		atomic_store(&fs->next_id, id + 1);
	set_promise(vol, le64_to_cpu(lc->size));
	set_changed(vol, false);
	return 0;
}

int volume_replay_delete(struct fs *fs, uint64_t id)
{
	struct fs_volume *vol = volume_by_id(fs, id);

	if (!vol)
		return -EUCLEAN;
	set_changed(vol, true); /* the list of dirty volumes has a reference now */
	set_promise(vol, 0);
	lock_take(&fs->volumes->lock);
	volume_set_deleted_locked(vol);
	volume_table_remove_locked(fs->volumes, vol);
	lock_drop(&fs->volumes->lock);
	return 0;
}

static struct fs_volume *volume_of_item(struct fs *fs, const struct log_item *item)
{
	return volume_by_id(fs, le64_to_cpu(item->id));
}

int volume_replay_rename(struct fs *fs, const struct log_rename *lr)
{
	struct fs_volume *vol = volume_of_item(fs, &lr->item);
	char name[FS_NAME_MAX + 1];
	struct volume_text *text;
	bool taken;

	if (!vol || !get_name(lr + 1, lr->name_len, name))
		return -EUCLEAN;
	text = volume_text_new(name, lr->name_len);
	if (!text)
		return -ENOMEM;
	lock_take(&fs->volumes->lock);
	taken = volume_table_find_locked(fs->volumes, name) != NULL;
	if (!taken)
		volume_table_rename_locked(fs->volumes, vol, &text);
	lock_drop(&fs->volumes->lock);
	volume_text_put(text);
	if (taken)
		return -EUCLEAN;
	set_changed(vol, false);
	return 0;
}

int volume_replay_resize(struct fs *fs, const struct log_resize *lr)
{
	struct fs_volume *vol = volume_of_item(fs, &lr->item);
	uint64_t size = le64_to_cpu(lr->size), old;
	struct pending *p = NULL, *spare = NULL;
	int r = 0;

	if (!vol)
		return -EUCLEAN;
	old = atomic_load(&vol->size);
	if (size < old) {
		r = volume_hole_new(size, old, &p, &spare);
		if (r)
			return r;
	}
	set_changed(vol, p != NULL);
	lock_take(&vol->lock);
	atomic_store(&vol->size, size);
	if (p)
		volume_insert_locked(vol, p, &spare);
	lock_drop(&vol->lock);
	pending_free(spare);
	lock_take(&fs->volumes->lock);
	volume_table_count_locked(fs->volumes, vol, size);
	lock_drop(&fs->volumes->lock);
	set_promise(vol, size);
	return 0;
}

int volume_replay_set(struct fs *fs, const struct log_set *ls)
{
	struct fs_volume *vol = volume_of_item(fs, &ls->item);
	const char *comment = (const char *)(ls + 1);
	struct volume_text *text = NULL;
	uint32_t had;

	if (!vol || !text_is_plain(comment, ls->comment_len))
		return -EUCLEAN;
	if (ls->comment_len) {
		text = volume_text_new(comment, ls->comment_len);
		if (!text)
			return -ENOMEM;
	}
	had = volume_change_item(vol, le32_to_cpu(ls->flags), &text);
	volume_text_put(text);
	set_changed(vol, false);
	if ((had ^ vol->flags) & FS_VOLUME_RESERVED)
		(void)space_set_promise(fs, &vol->promise,
					vol->flags & FS_VOLUME_RESERVED ? space_promise_for(vol->size) : 0,
					true, NULL);
	return 0;
}
