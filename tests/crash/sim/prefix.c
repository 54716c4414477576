/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/prefix.c: one run with many commits, and then every prefix of its log of writes: each is
 * checked (which compares the free-space caches with the trees), some are opened, and none may need a
 * rebuild.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "fs/device/device_sim.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "tests/crash/sim/clock.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "tests/crash/sim/world.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/device/device.h"
#include "fs/fs.h"

#define COMMITS 24u
#define VOLUMES 3u
#define OPEN_EVERY 8u
#define TEAR_EVERY 3u

static void no_cache_is_lost(void *arg, enum fs_log_level level, const char *msg)
{
	(void)arg;
	if (level <= FS_LOG_ERROR || strstr(msg, "free-space cache"))
		sim_fail("the engine complains: %s", msg);
}

/* Opens a crash image and reads every cache. */
static void mount(struct world *w, struct device *image, uint64_t event)
{
	struct fs_options opt = {.cache_bytes = w->set->cache_bytes, .workers = 1, .log = no_cache_is_lost};
	struct fs_error err = {""};
	struct device_queue *q;
	struct fs_info info;
	struct fs *fs;

	if (pool_open(image, &opt, sim_clock_alone(), &fs, &err))
		sim_fail("the pool cannot be opened after event %llu: %s", (unsigned long long)event,
			 err.msg);
	ASSERT(image->ops->queue_new(image, &q) == 0);
	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++) {
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (g && g->type != GROUP_SYSTEM && block_group_load(fs, q, g))
			sim_fail("the cache of a group cannot be read after event %llu",
				 (unsigned long long)event);
	}
	device_queue_free(q);
	while (pool_step(fs))
		;
	fs_get_info(fs, &info);
	if (info.cache_rebuilt)
		sim_fail("%llu caches are rebuilt after event %llu", (unsigned long long)info.cache_rebuilt,
			 (unsigned long long)event);
	pool_abandon(fs);
}

static void write_some(struct world *w)
{
	for (unsigned i = 0; i < 24; i++) {
		struct model_volume *vol = &w->model->volume[rng_below(&w->rng, VOLUMES)];
		uint64_t blk = rng_below(&w->rng, vol->blocks),
			 n = 1 + rng_below(&w->rng, min_u64(vol->blocks - blk, 16));
		static const enum fs_op ops[] = {FS_WRITE, FS_WRITE, FS_WRITE, FS_TRIM, FS_FLUSH};
		enum fs_op op = ops[rng_below(&w->rng, ARRAY_SIZE(ops))];

		if (model_may_submit(w->model, vol, blk * MODEL_BLOCK, n * MODEL_BLOCK))
			request_send(w, 0,
				     request_new(w, vol, op, op == FS_FLUSH ? 0 : blk * MODEL_BLOCK,
						 op == FS_FLUSH ? 0 : n * MODEL_BLOCK));
		for (uint64_t steps = rng_below(&w->rng, 16); steps && sched_step(); steps--)
			;
	}
}

static void record(struct world *w)
{
	device_sim_history_start(w->sim);
	for (unsigned i = 0; i < VOLUMES; i++) {
		(void)client_create(w);
		client_wait(w);
	}
	for (unsigned i = 0; i < COMMITS; i++) {
		write_some(w);
		(void)client_commit(w); /* the next requests meet it */
		if (i % 8 == 7) {
			(void)client_delete(w);
			client_wait(w);
			(void)client_create(w);
			client_wait(w);
		}
	}
	world_drain(w);
}

void prefixes_run(struct world *w)
{
	uint64_t events, generations;
	struct fs_info info;

	record(w);
	fs_get_info(w->fs, &info);
	generations = info.generation;
	if (generations < 20)
		sim_fail("only %llu commits", (unsigned long long)generations);
	events = device_sim_history_count(w->sim);
	for (uint64_t n = 0; n <= events; n++) {
		struct device *image =
			device_sim_history_image(w->sim, n, DEVICE_SIM_CRASH_KEEP_COMPLETED, n);

		world_check(w, image, "of a prefix");
		if (n % OPEN_EVERY == 0)
			mount(w, image, n); /* closes it */
		else
			device_close(image);
		if (n % TEAR_EVERY == 0) {
			image = device_sim_history_image(w->sim, n, DEVICE_SIM_CRASH_RANDOM, n);
			world_check(w, image, "of a torn prefix");
			device_close(image);
		}
	}
	world_log(w, "%llu prefixes of %llu commits", (unsigned long long)events + 1,
		  (unsigned long long)generations);
}
