/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/volume_touch.h"

#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/format/volume_format.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

static bool insert(struct volume_touches *t, uint64_t blk)
{
	unsigned at = 0;

	while (at < t->count && t->blk[at] < blk)
		at++;
	if (t->count == VOLUME_TOUCHES_MAX || (at < t->count && t->blk[at] == blk))
		return false;
	memmove(t->blk + at + 1, t->blk + at, (t->count - at) * sizeof(t->blk[0]));
	t->blk[at] = blk;
	t->count++;
	return true;
}

/* False: it is there already, or no room is left. *spare is taken where it is needed. */
static bool add(struct fs_volume *vol, uint64_t blk, struct volume_touches **spare)
{
	bool ok = false;

	lock_take(&vol->lock);
	if (!vol->deleted && blk < vol->tree_end) {
		if (!vol->touches) {
			vol->touches = *spare;
			*spare = NULL;
		}
		ok = insert(vol->touches, blk);
		if (ok)
			volume_set_dirty_locked(vol);
	}
	lock_drop(&vol->lock);
	return ok;
}

void volume_touch(struct fs *fs, uint64_t id, uint64_t blk)
{
	struct space_ticket t = {.flags = SPACE_FREEING | SPACE_SPLITS | SPACE_NOTICKET,
				 .want = {.pending = {1, volume_item_bytes(2, 0)}}};
	struct volume_touches *spare;
	struct fs_volume *vol;

	if (fs_is_read_only(fs))
		return;
	vol = volume_get_by_id(fs, id);
	if (!vol)
		return;
	spare = mem_zalloc(sizeof(*spare));
	if (spare && space_reserve(fs, &t) == 0) {
		if (add(vol, blk, &spare))
			space_pend(fs, &t.want, t.want.pending);
		else
			space_unreserve(fs, &t.want);
	}
	mem_free(spare);
	volume_unref(vol);
}
