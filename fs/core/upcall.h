/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/upcall.h: what lower rooms of the engine ask of higher ones. The pool fills the table in when it is
 * opened, so that includes point one way. Each entry names its owner, whose header says the rest.
 */
#ifndef FS_CORE_UPCALL_H
#define FS_CORE_UPCALL_H

struct device_queue;
struct fs;
struct super_block;

struct fs_upcalls {
	/* transaction_commit: makes everything durable that was done before the call. Waits. */
	int (*commit)(struct fs *fs);
	/* rebuild_groups: walks the trees for the groups whose free-space cache was bad. Waits. */
	int (*rebuild)(struct fs *fs, struct device_queue *q);
	/* scrub_pack: where the scrub stands goes into each superblock. Under the commit lock. */
	void (*pack_scrub)(struct fs *fs, struct super_block *sb);
	/* scrub_poll: the commit thread has time: a scrub that is due by schedule starts. */
	void (*poll_scrub)(struct fs *fs);
};

#endif
