/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/fast_fill.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/lock.h"
#include "fs/core/fs_int.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume.h"
#include "fs/format/volume_format.h"

void fast_fill_one(struct engine *e, struct fs_volume *vol, uint64_t blk, uint32_t crc)
{
	struct space_ticket t = {.flags = SPACE_NOTICKET,
				 .want = {BLOCK, {1, volume_item_bytes(3, 1)}, &vol->promise}};
	struct pending *p = pending_new(1, true), *spare = NULL;
	bool unloaded;

	assert_non_null(p);
	assert_int_equal(overlay_insert_prealloc(&spare), 0);
	assert_int_equal(space_reserve(e->fs, &t), 0);
	while (ctx_take_blocks(e->ctx, 1, &p->addr, &unloaded) == 0)
		assert_true(block_group_load_next(e->fs, e->fs->commit_q));
	p->blk = blk;
	p->crc[0] = crc;
	space_allocate(e->fs, &t.want, BLOCK);
	lock_take(&vol->lock);
	volume_insert_locked(vol, p, &spare);
	lock_drop(&vol->lock);
	space_pend(e->fs, &t.want, t.want.pending);
	pending_free(spare);
}

uint32_t fast_fill_crc(void)
{
	static const uint8_t zeros[FS_BLOCK_SIZE];

	return crc32c(zeros, sizeof(zeros));
}

void fast_fill(struct engine *e, struct fs_volume *vol, uint64_t first, uint64_t n, uint64_t stride)
{
	for (uint64_t i = 0; i < n; i++) {
		fast_fill_one(e, vol, first + i * stride, fast_fill_crc());
		if (i % FAST_FILL_COMMIT == FAST_FILL_COMMIT - 1)
			engine_commit(e);
	}
	engine_commit(e);
}
