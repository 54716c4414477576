/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/wakeup.h: how any unit asks the commit thread for work without knowing it. A request is a flag: any
 * number of requests made before the thread looks count as one. None of these waits; any thread, under any
 * lock of a lower rank than LOCK_COMMIT_STATE.
 */
#ifndef FS_CORE_WAKEUP_H
#define FS_CORE_WAKEUP_H

#include <stdbool.h>

struct fs;

/* A commit soon; a rebuild of the groups whose cache was bad. */
void fs_kick_commit(struct fs *fs);
void fs_kick_rebuild(struct fs *fs);
/* True while a rebuild is under way or asked for; false if one has failed. */
bool fs_is_rebuilding(struct fs *fs);

#endif
