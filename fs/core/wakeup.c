/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/core/wakeup.h"

#include "base/lock.h"
#include "fs/core/fs_int.h"
#include "fs/core/upcall.h"
#include "fs/fs.h"

void fs_kick_commit(struct fs *fs)
{
	lock_take(&fs->state_lock);
	fs->commit_wanted = true;
	pthread_cond_signal(&fs->state_cond);
	lock_drop(&fs->state_lock);
}

void fs_kick_rebuild(struct fs *fs)
{
	lock_take(&fs->state_lock);
	fs->rebuild_wanted = true;
	pthread_cond_signal(&fs->state_cond);
	lock_drop(&fs->state_lock);
}

bool fs_is_rebuilding(struct fs *fs)
{
	bool is;

	lock_take(&fs->state_lock);
	is = fs->rebuild_wanted || atomic_load(&fs->rebuild_running);
	lock_drop(&fs->state_lock);
	return is;
}

int fs_commit(struct fs *fs)
{
	return fs->up->commit(fs);
}
