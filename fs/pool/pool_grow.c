/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/pool/pool_grow.c: growing a pool, and its flush log with it.
 *
 * The log moves to the start of what is added when it can be at least twice as long there, and takes no more
 * than a 16th of that. The new place is written with zeros first, on a sparse pool in blocks of the host; if
 * there are none, the log stays as it is. Then a commit names it (flush_log.h, invariant 8), and when the
 * last write to the old place has ended, that is space like any other. A crash before leaves the old log, and
 * both places are what the superblock says.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/commit/flush_log.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/pool/pool.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

static int commit_super(struct fs *fs)
{
	lock_take(&fs->commit_lock);
	fs->super_dirty = true;
	lock_drop(&fs->commit_lock);
	return fs_commit(fs);
}

/* How much of what is added the log takes; 0: it stays. */
static uint64_t new_log_size(struct fs *fs, uint64_t old, uint64_t new_size)
{
	uint64_t bytes = round_down_u64(min_u64(pool_log_size(new_size), (new_size - old) / 16), 256u << 10);

	return bytes >= 2 * fs->log->size ? bytes : 0;
}

/*
 * The old place is free, or, where a write to it is still under way that nobody here can wait for, at the
 * next start.
 */
static void free_old_log(struct fs *fs, uint64_t off, uint64_t size)
{
	if (!flush_log_has_left(fs) || group_space_add(fs, off, size))
		return;
	backing_space_freed(fs, off, size);
}

/*
 * At `at`, where nothing is. 0: it stands there now. Else it stays where it was: that is no reason not to
 * grow.
 */
static int move_log(struct fs *fs, uint64_t at, uint64_t bytes)
{
	uint64_t old = fs->log->offset, old_size = fs->log->size;
	int r = fs->backing->on ? fs->dev->ops->allocate(fs->dev, at, bytes, true) : 0;

	if (r == 0)
		r = pool_write_log_once(fs->dev, at, bytes);
	if (r) {
		fs_log(fs, FS_LOG_NOTICE,
		       "the flush log stays at %llu bytes: there is no room for a larger one: %s",
		       (unsigned long long)old_size, strerror(-r));
		return r;
	}
	flush_log_move(fs, at, bytes);
	r = commit_super(fs);
	if (r && (flush_log_stay(fs) || fs_is_read_only(fs)))
		return r;
	free_old_log(fs, old, old_size);
	fs_log(fs, FS_LOG_INFO, "the flush log has %llu bytes now", (unsigned long long)bytes);
	return 0;
}

/*
 * First the size is committed, so that nothing durable can stand where no superblock says that the pool
 * reaches.
 */
static int use_grown(struct fs *fs, uint64_t old, uint64_t new_size)
{
	uint64_t log = new_log_size(fs, old, new_size), start = round_up_u64(old, FS_BLOCK_SIZE);
	int r = commit_super(fs);

	if (r == 0 && log && move_log(fs, start, log) == 0)
		old = start + log;
	if (fs_is_read_only(fs))
		r = -EROFS;
	if (r == 0)
		r = group_space_add(fs, old, new_size - old);
	if (r)
		return r;
	lock_take(&fs->space->lock);
	space_info_init(fs);
	lock_drop(&fs->space->lock);
	space_grow_system(fs, pool_groups_for(new_size, fs->group_step) / 2);
	return commit_super(fs);
}

int fs_grow(struct fs *fs, uint64_t new_size, struct fs_error *err)
{
	uint64_t old = fs->dev->size;
	bool sparse = le64_to_cpu(fs->super->flags) & SUPER_FLAG_SPARSE;
	int r;

	new_size = round_up_u64(new_size, FS_BLOCK_SIZE);
	if (fs_is_read_only(fs))
		return fs_fail(err, -EROFS, "the pool is read-only and cannot grow");
	if (new_size && new_size <= old)
		return fs_fail(err, -EINVAL, "the pool has %llu bytes already: it can only grow",
			       (unsigned long long)old);
	lock_take(&fs->volumes->op_lock);
	r = fs->dev->ops->grow(fs->dev, new_size, !sparse);
	if (r == 0 && !new_size)
		new_size = device_size(fs->dev);
	if (r == 0)
		r = use_grown(fs, old, new_size);
	lock_drop(&fs->volumes->op_lock);
	(void)space_run_tickets(fs, atomic_load(&fs->commits_done), true);
	if (r == -EALREADY)
		return fs_fail(
			err, -EINVAL,
			"the pool has all of its device already, %llu bytes: make that larger first, or say how large its file should be",
			(unsigned long long)old);
	return r ? fs_fail(err, r, "the pool cannot grow to %llu bytes: %s", (unsigned long long)new_size,
			   strerror(-r))
		 : 0;
}
