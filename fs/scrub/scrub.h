/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub.h: the online scrub: reads everything that is allocated while the pool serves, repairs what
 * has a good copy, and names what has none.
 *
 * It goes through the superblocks, the group tree with the free-space caches that it names, the root tree,
 * and then, tree by tree, the volumes and what is left of deleted ones, all in *slices*. Each slice works on
 * the trees of the last commit, in an epoch of its own, as in fs/commit/rebuild.c. Commits and clients go on
 * between slices, and the next slice starts at the first key that was not seen. So everything that was there
 * at the start and is not overwritten meanwhile is read; what is written meanwhile may or may not be.
 *
 * Invariants
 * 1. Nothing is written but the same bytes to the same place, within the epoch in which a committed tree
 *    refers to it. Superblocks and caches are not written at all: the next commit writes new ones.
 * 2. An epoch is held for one slice (about SCRUB_SLICE_MS); no lock is held across I/O, and none at all while
 *    it sleeps.
 * 3. What was repaired is read back, and counts once the device has been flushed.
 * 4. An error ends a slice's work on the thing that it concerns, and nothing else. Only a failed flush ends a
 *    scrub, and the pool with it.
 * 5. One runs at a time.
 *
 * Growth: memory is one struct scrub_run (some 6 MiB, taken at the start; nothing is allocated later but for
 * each cache's bitmap) and SCRUB_DAMAGE_MAX ranges of damage. Time is in proportion to what is allocated; a
 * slice costs one path of nodes more. The position is in the superblock of each commit, and of a commit of
 * its own every SCRUB_SAVE_MS: the next start goes on from there.
 */
#ifndef FS_SCRUB_SCRUB_H
#define FS_SCRUB_SCRUB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/fs.h"

struct fs;
struct super_scrub;

#define SCRUB_DAMAGE_MAX 1000u
#define SCRUB_DAMAGE_LINES_MAX 200u /* in the log, for each run */
#define SCRUB_RATE_DEFAULT (128ull << 20)
#define SCRUB_SAVE_MS 60000u
#define SCRUB_AGAIN_S 60u /* wait after a scrub that was due could not start */

struct scrub_run;

struct scrub {
	struct lock lock; /* protects everything but `run`, which is the thread's while it runs */
	pthread_cond_t cond;
	pthread_t thread;
	bool joinable, closing, stop;
	bool slices_small;	/* for tests: more slices, also in small pools */
	uint64_t not_before_us; /* the commit thread's: no scrub starts by itself before this */
	struct fs_scrub_status status;
	uint64_t volume, pos; /* where it stands: see super_format.h */
	uint8_t phase;
	struct fs_scrub_damage *damage;
	unsigned damage_count, damage_logged;
	struct scrub_run *run; /* in a pool without threads, whose owner runs slices with scrub_step */
};

void scrub_init(struct fs *fs);
/* Ends a running scrub; it goes on at the next start. No other call may follow. */
void scrub_close(struct fs *fs);
void scrub_fini(struct fs *fs);

/* The superblock was read: continues a scrub that was under way, if the options say so. */
void scrub_opened(struct fs *fs);
/* For the superblock that is about to be written. The committer. */
void scrub_pack(struct fs *fs, struct super_scrub *ret_item);
/* Called regularly; starts a scrub that is due. */
void scrub_poll(struct fs *fs);
/* In a pool without threads: one slice. False: none runs. */
bool scrub_step(struct fs *fs);

#endif
