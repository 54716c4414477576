/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/volume_look.c: looking at volumes: handles, figures, the list, the map of what is allocated.
 * Changes nothing that a commit writes.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/core/epoch.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/device/work.h"
#include "fs/fs.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

int fs_volume_get(struct fs *fs, const char *name, struct fs_volume **ret_vol)
{
	struct fs_volume *vol;
	int r;

	lock_take(&fs->volumes->lock);
	vol = volume_table_find_locked(fs->volumes, name);
	r = !vol || vol->hidden ? -ENOENT : vol->shrinking ? -EBUSY : 0;
	if (r == 0) {
		vol->handles++;
		volume_ref(vol);
	}
	lock_drop(&fs->volumes->lock);
	if (r == 0)
		*ret_vol = vol;
	return r;
}

void fs_volume_put(struct fs_volume *vol)
{
	lock_take(&vol->fs->volumes->lock);
	vol->handles--;
	lock_drop(&vol->fs->volumes->lock);
	volume_unref(vol);
}

void fs_volume_get_info(struct fs_volume *vol, struct fs_volume_info *ret_info)
{
	memset(ret_info, 0, sizeof(*ret_info));
	lock_take(&vol->lock);
	ret_info->id = vol->id;
	strcpy(ret_info->name, vol->name->text);
	ret_info->size = atomic_load(&vol->size);
	ret_info->used_bytes =
		min_u64((vol->used_blocks + vol->running.blocks + vol->committing.blocks) * FS_BLOCK_SIZE,
			ret_info->size);
	if (vol->comment)
		strcpy(ret_info->comment, vol->comment->text);
	ret_info->lost_bytes = atomic_load(&vol->lost_blocks) * FS_BLOCK_SIZE;
	ret_info->flags = vol->flags;
	ret_info->ctime_ns = vol->ctime_ns;
	memcpy(ret_info->uuid, vol->uuid, sizeof(vol->uuid));
	lock_drop(&vol->lock);
}

int fs_volume_find_info(struct fs *fs, const char *name, struct fs_volume_info *ret_info)
{
	struct fs_volume *vol;

	lock_take(&fs->volumes->lock);
	vol = volume_table_find_locked(fs->volumes, name);
	if (vol && vol->hidden)
		vol = NULL;
	if (vol)
		fs_volume_get_info(vol, ret_info);
	lock_drop(&fs->volumes->lock);
	return vol ? 0 : -ENOENT;
}

uint64_t fs_volume_size(const struct fs_volume *vol)
{
	return atomic_load(&((struct fs_volume *)(uintptr_t)vol)->size);
}

/* The first volume behind `after` that may be seen. */
static bool next_info(struct fs *fs, const char *after, struct fs_volume_info *ret_info)
{
	struct fs_volume *vol;

	lock_take(&fs->volumes->lock);
	vol = volume_table_next_locked(fs->volumes, after);
	while (vol && vol->hidden)
		vol = volume_table_next_locked(fs->volumes, vol->name->text);
	if (vol)
		fs_volume_get_info(vol, ret_info);
	lock_drop(&fs->volumes->lock);
	return vol != NULL;
}

int fs_volume_list_from(struct fs *fs, const char *after,
			int (*fn)(void *arg, const struct fs_volume_info *info), void *arg)
{
	struct fs_volume_info info;
	char last[FS_NAME_MAX + 1];
	int r = 0;

	while (r == 0 && next_info(fs, after, &info)) {
		strcpy(last, info.name);
		after = last;
		r = fn(arg, &info);
	}
	return r;
}

int fs_volume_list(struct fs *fs, int (*fn)(void *arg, const struct fs_volume_info *info), void *arg)
{
	return fs_volume_list_from(fs, "", fn, arg);
}

/* ---- map ------------------------------------------------------------------- */

/* The next piece in whole blocks, in an epoch of its own. */
static int map_piece(struct fs_volume *vol, struct device_queue *q, uint64_t blk, uint64_t max,
		     struct volume_piece *ret_piece)
{
	unsigned epoch = epoch_enter(&vol->fs->epoch);
	int r = volume_lookup(vol, q, blk, max, ret_piece, NULL);

	epoch_leave(&vol->fs->epoch, epoch);
	return r;
}

static int map_range(struct fs_volume *vol, struct device_queue *q, uint64_t off, uint64_t end,
		     int (*fn)(void *arg, uint64_t off, uint64_t len, bool hole), void *arg)
{
	uint64_t upto = (end + FS_BLOCK_SIZE - 1) / FS_BLOCK_SIZE;
	int r = 0;

	for (uint64_t pos = off; r == 0 && pos < end;) {
		uint64_t blk = pos / FS_BLOCK_SIZE;
		struct volume_piece vp;

		r = map_piece(vol, q, blk, upto - blk, &vp);
		if (r == 0) {
			uint64_t next = min_u64((blk + vp.nblk) * FS_BLOCK_SIZE, end);

			r = fn(arg, pos, next - pos, vp.addr == 0 && !vp.lost);
			pos = next;
		}
	}
	return r;
}

int fs_volume_map(struct fs_volume *vol, uint64_t off, uint64_t len,
		  int (*fn)(void *arg, uint64_t off, uint64_t len, bool hole), void *arg)
{
	uint64_t size = atomic_load(&vol->size);
	struct device_queue *q = work_queue_if_any(), *own = NULL;
	int r = 0;

	if (off > size || len > size - off)
		return -EINVAL;
	if (!q)
		r = vol->fs->dev->ops->queue_new(vol->fs->dev, &own);
	if (r == 0)
		r = map_range(vol, q ? q : own, off, off + len, fn, arg);
	if (own)
		own->dev->ops->queue_free(own);
	return r;
}
