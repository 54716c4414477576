/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub.h: the online scrub: reads all that is allocated while the pool serves, mends what has a
 * good copy and names what has none.
 *
 * It goes through the superblocks, the group tree with the free-space caches that it names, the root tree,
 * and then tree by tree the volumes and what is left of deleted ones, all in *slices*. Each slice is of the
 * trees of the last commit and in an epoch of its own, as in fs/commit/rebuild.c: between slices commits and
 * clients go on, and the next one goes on at the first key that was not seen. So all that was there at the
 * start and is not overwritten meanwhile is read; what is written meanwhile may be.
 *
 * Invariants
 * 1. Nothing is written but the same bytes to the same place, within the epoch in which a committed tree
 *    refers to it. Superblocks and caches are not written at all: a commit writes them anew.
 * 2. An epoch is held for one slice (about SCRUB_SLICE_MS); no lock is held across I/O, and none at all while
 *    it sleeps.
 * 3. What was mended is read back, and counts when the device has been flushed.
 * 4. Errors end a slice's work on what they are about and nothing else. Only a flush that fails ends a scrub,
 *    with the pool.
 * 5. One runs at a time.
 *
 * Growth: memory is one struct scrub_run (some 6 MiB, taken at the start; nothing is allocated later but for
 * each cache's bitmap) and SCRUB_DAMAGE_MAX ranges of damage. Time goes with what is allocated; a slice costs
 * one path of nodes on top. Where it stands is in the superblock with each commit, and in a commit of its own
 * every SCRUB_SAVE_MS: a start of the daemon goes on from there.
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
#define SCRUB_AGAIN_S 60u /* after one that was due could not be started */

struct scrub_run;

struct scrub {
	struct lock lock; /* all but `run` while it runs, which is the thread's */
	pthread_cond_t cond;
	pthread_t thread;
	bool joinable, closing, stop;
	bool slices_small;	/* for tests: more of them, also in small pools */
	uint64_t not_before_us; /* the commit thread's: none is started by itself earlier */
	struct fs_scrub_status status;
	uint64_t volume, pos; /* where it stands: see super_format.h */
	uint8_t phase;
	struct fs_scrub_damage *damage;
	unsigned damage_count, damage_logged;
	struct scrub_run *run; /* in a simulated pool, whose owner runs slices with scrub_step */
};

void scrub_init(struct fs *fs);
/* Ends one that runs; it goes on at the next start. No other call may follow. */
void scrub_close(struct fs *fs);
void scrub_fini(struct fs *fs);

/* The superblock was read; one that was under way goes on (if the options say so). */
void scrub_opened(struct fs *fs);
/* For the superblock that is about to be written. The committer. */
void scrub_pack(struct fs *fs, struct super_scrub *ret_item);
/* Now and then: starts one that is due. */
void scrub_poll(struct fs *fs);
/* In a simulated pool: one slice. False: none runs. */
bool scrub_step(struct fs *fs);

#endif
