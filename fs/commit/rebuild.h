/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/rebuild.h: the free space of block groups whose cache could not be used, computed from the
 * committed trees while the pool serves and commits go on.
 *
 * Growth: in proportion to all extents of the pool, even for one group: nothing on disk leads from space to
 * what refers to it. Groups that are known to be damaged when a walk begins share it. Memory: a bitmap for
 * each group that is rebuilt.
 */
#ifndef FS_COMMIT_REBUILD_H
#define FS_COMMIT_REBUILD_H

#define REBUILD_AGAIN_S 600u /* wait after a rebuild that met an unreadable node */

struct fs;
struct device_queue;

/*
 * Rebuilds every group that is in state GROUP_REBUILDING when it begins, and hands them over; the next commit
 * writes their caches. q: the calling thread's queue. Waits, for the length of a walk of all trees. One call
 * at a time. 0, also if a group did not agree with the trees (it stays out of use, and the log says so).
 * -EAGAIN: readers held the space of the last commit for too long, a new rebuild was asked for. -EROFS,
 * -ENOMEM, -EIO, -EUCLEAN: the groups stay as they are. -ECANCELED likewise: fs->rebuild_stop was set, and
 * the next start begins anew.
 */
int rebuild_groups(struct fs *fs, struct device_queue *q);

#endif
