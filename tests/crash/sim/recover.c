/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/crash/sim/recover.c: what a crash or a clean end leaves, opened again and compared with the model. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/check/check.h"
#include "fs/device/device_sim.h"
#include "fs/pool/pool.h"
#include "fs/device/super.h"
#include "tests/crash/sim/clock.h"
#include "tests/crash/sim/damage.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "tests/crash/sim/world.h"
#include "base/le.h"
#include "fs/device/device.h"
#include "fs/fs.h"
#include "fs/format/super_format.h"
#include "fs/format/block_group_format.h"

#define OPEN_TRIES 20

/* ---- checking ------------------------------------------------------------------ */

struct findings {
	struct world *w;
	uint64_t count;
};

static void finding(void *arg, const char *line)
{
	struct findings *f = arg;

	if (f->w->cache_damaged && strstr(line, "free-space cache, copy"))
		return;
	/* A torn write over a superblock that had rotted is no superblock. */
	if (f->w->set->profile == PROFILE_ROT &&
	    (strstr(line, "superblock copy 1") || strstr(line, "superblock copy 2")))
		return;
	if (f->w->slots_damaged && strstr(line, "its twin is good"))
		return;
	if (f->w->set->profile == PROFILE_LOST &&
	    (strstr(line, "lost") || strstr(line, "no copy of it can be used")))
		return;
	fprintf(stderr, "  finding: %s\n", line);
	f->count++;
}

void world_check(struct world *w, struct device *dev, const char *when)
{
	struct findings f = {w, 0};
	struct fs_check_options opt = {.finding = finding, .arg = &f};
	struct fs_error err = {""};
	uint64_t findings;
	int r;

	mem_fail_at(0);
	r = check_device(dev, &opt, &findings, &err);
	if (r)
		sim_fail("the check %s cannot be run: %s", when, err.msg);
	if (f.count)
		sim_fail("the check %s finds %llu things", when, (unsigned long long)f.count);
}

/* ---- volumes ------------------------------------------------------------------- */

struct seen {
	unsigned count;
	struct fs_volume_info info[MODEL_VOLUMES_MAX + 1];
};

static int see_volume(void *arg, const struct fs_volume_info *info)
{
	struct seen *seen = arg;

	if (seen->count <= MODEL_VOLUMES_MAX)
		seen->info[seen->count++] = *info;
	return 0;
}

static bool is_there(const struct seen *seen, const char *name, uint64_t blocks)
{
	for (unsigned i = 0; i < seen->count; i++)
		if (strcmp(seen->info[i].name, name) == 0 && seen->info[i].size == blocks * MODEL_BLOCK)
			return true;
	return false;
}

/* Whether the pool's volumes are those of the model, with what the client was about done. */
static bool volumes_match(const struct world *w, const struct seen *seen, const struct client *done)
{
	unsigned count = 0;

	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		const struct model_volume *vol = &w->model->volume[i];
		bool changed = done->vol == vol;
		const char *name = changed && done->kind == CLIENT_RENAME ? done->name : vol->name;
		uint64_t blocks = changed && done->kind == CLIENT_RESIZE ? done->blocks : vol->blocks;

		if (!vol->exists || (changed && done->kind == CLIENT_DELETE))
			continue;
		if (!is_there(seen, name, blocks))
			return false;
		count++;
	}
	if (done->kind == CLIENT_CREATE) {
		if (!is_there(seen, done->name, done->blocks))
			return false;
		count++;
	}
	return seen->count == count;
}

/* What the table has counted is what there is. */
static void check_provisioned(struct world *w, const struct seen *seen)
{
	uint64_t sum = 0;
	struct fs_info info;

	for (unsigned i = 0; i < seen->count; i++)
		sum += seen->info[i].size;
	fs_get_info(w->fs, &info);
	if (info.provisioned_bytes != sum || info.volumes != seen->count)
		sim_fail("the pool's volumes are not as many, or not as large together, as is said");
}

static void compare_volumes(struct world *w)
{
	struct seen seen = {0};

	(void)fs_volume_list(w->fs, see_volume, &seen);
	check_provisioned(w, &seen);
	if (w->unsure.kind == CLIENT_BURST ? burst_recovered(w, seen.info, seen.count)
					   : shapes_are_seen(w->model, seen.info, seen.count)) {
		w->unsure.kind = CLIENT_NONE;
		return;
	}
	if (w->unsure.kind != CLIENT_NONE && w->unsure.kind != CLIENT_BURST &&
	    volumes_match(w, &seen, &w->unsure)) {
		world_log(w, "the interrupted operation %d has happened", w->unsure.kind);
		client_apply(w, &w->unsure);
	} else {
		for (unsigned i = 0; i < seen.count; i++)
			fprintf(stderr, "  pool: %s, %llu blocks\n", seen.info[i].name,
				(unsigned long long)seen.info[i].size / MODEL_BLOCK);
		for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
			if (w->model->volume[i].exists)
				fprintf(stderr, "  model: %s, %llu blocks\n", w->model->volume[i].name,
					(unsigned long long)w->model->volume[i].blocks);
		sim_fail("the pool has other volumes than it should");
	}
	w->unsure.kind = CLIENT_NONE;
}

/* ---- contents ------------------------------------------------------------------ */

/* One block after the other, for a chunk that cannot be read as a whole. False: the device died. */
static bool compare_single(struct world *w, struct model_volume *vol, uint64_t blk, uint64_t n, void *buf)
{
	for (uint64_t i = 0; i < n; i++) {
		int r = world_read(w, vol, blk + i, 1, buf);

		if (world_is_dead(w))
			return false;
		if (r == 0)
			model_recovered(w->model, vol, blk + i, buf);
		else if (w->set->profile == PROFILE_LOST && r == -EIO)
			model_recovered_lost(w->model, vol, blk + i);
		else if (!w->data_rotten)
			sim_fail("volume %s, block %llu cannot be read: %s", vol->name,
				 (unsigned long long)(blk + i), strerror(-r));
	}
	return true;
}

static bool compare_contents(struct world *w)
{
	char *buf = malloc(READ_CHUNK_BLOCKS * MODEL_BLOCK);
	bool alive = true;

	ASSERT(buf);
	for (unsigned v = 0; alive && v < MODEL_VOLUMES_MAX; v++) {
		struct model_volume *vol = &w->model->volume[v];

		for (uint64_t blk = 0; alive && vol->exists && blk < vol->blocks; blk += READ_CHUNK_BLOCKS) {
			uint64_t n = min_u64(READ_CHUNK_BLOCKS, vol->blocks - blk);
			int r = world_read(w, vol, blk, n, buf);

			if (world_is_dead(w))
				alive = false;
			else if (r)
				alive = compare_single(w, vol, blk, n, buf);
			for (uint64_t i = 0; alive && r == 0 && i < n; i++)
				model_recovered(w->model, vol, blk + i, buf + i * MODEL_BLOCK);
		}
	}
	free(buf);
	return alive;
}

/* ---- ends ---------------------------------------------------------------------- */

/*
 * Everything in memory goes, as in a crash of the process. The device is dead or read-only, or nothing is
 * under way.
 */
static void abandon(struct world *w)
{
	world_drain(w);
	mem_fail_at(0);
	if (w->fs) {
		world_let_go(w);
		pool_abandon(w->fs);
		w->fs = NULL;
	}
}

/* w->sim becomes what the crash leaves of it. */
static void take_image(struct world *w)
{
	enum device_sim_crash_mode mode = rng_below(&w->rng, DEVICE_SIM_CRASH_MODES);
	struct device *image;

	if (rng_below(&w->rng, 2))
		mode = DEVICE_SIM_CRASH_RANDOM;
	image = device_sim_crash_image(w->sim, mode, rng_next(&w->rng));
	world_log(w, "crash, mode %d", mode);
	w->crashes++;
	device_close(w->sim);
	w->sim = image;
}

static void set_device(struct world *w)
{
	device_sim_set_order(w->sim, w->set->fifo ? DEVICE_SIM_FIFO : DEVICE_SIM_RANDOM,
			     w->set->complete_max);
	device_sim_set_discard_zeroes(w->sim, w->set->discard_zeroes);
}

/* What goes wrong while the pool is opened. */
static void hinder(struct world *w)
{
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL,
					 .ops = DEVICE_SIM_ALL_OPS,
					 .skip = rng_below(&w->rng, 30),
					 .count = 1 + rng_below(&w->rng, 2),
					 .error = -EIO};

	if (rng_below(&w->rng, 3) == 0)
		device_sim_kill_after(w->sim, 1 + rng_below(&w->rng, 40));
	if (w->set->profile == PROFILE_NOMEM && rng_below(&w->rng, 2)) {
		w->tolerant = w->rebuild_is_fine = true;
		mem_fail_at(1 + rng_below(&w->rng, 400));
	}
	if (w->set->profile == PROFILE_ERRORS && rng_below(&w->rng, 2)) {
		w->tolerant = w->rebuild_is_fine = true;
		(void)device_sim_fault_add(w->sim, &fault);
	}
}

/* Opens what is there, perhaps to crash again while it does. True: opened, alive, and as it should be. */
static bool try_open(struct world *w, bool may_fail)
{
	int r;

	set_device(w);
	w->tolerant = false;
	if (may_fail)
		hinder(w);
	r = world_open(w);
	mem_fail_at(0);
	device_sim_fault_clear(w->sim);
	if (r) {
		if (!world_is_dead(w) && !w->tolerant && !w->data_rotten)
			sim_fail("the pool cannot be opened");
		return false;
	}
	compare_volumes(w);
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		if (w->model->volume[i].exists)
			world_get_handle(w, &w->model->volume[i]);
	if (!compare_contents(w) || world_is_dead(w))
		return false;
	device_sim_kill_after(w->sim, 0);
	return true;
}

static void open_and_compare(struct world *w)
{
	for (unsigned i = 0; !try_open(w, i < 3); i++) {
		if (i == OPEN_TRIES)
			sim_fail("the pool cannot be opened again");
		abandon(w);
		if (!world_is_dead(w))
			device_sim_kill(w->sim);
		model_crash(w->model);
		take_image(w);
		damage_mend(w);
		world_check(w, w->sim, "after a crash in recovery");
	}
	world_log(w, "opened and compared");
}

void world_crash(struct world *w)
{
	if (!world_is_dead(w))
		device_sim_kill(w->sim);
	abandon(w);
	model_crash(w->model);
	if (rng_below(&w->rng, 4) == 0) { /* another outcome of the same crash, looked at only */
		struct device *other =
			device_sim_crash_image(w->sim, DEVICE_SIM_CRASH_RANDOM, rng_next(&w->rng));

		damage_mend_image(w, other);
		world_check(w, other, "of another image of the crash");
		device_close(other);
	}
	take_image(w);
	damage_mend(w);
	world_check(w, w->sim, "after a crash");
	damage_log(w);
	damage_do(w, false);
	open_and_compare(w);
}

void world_reopen(struct world *w, bool open)
{
	int r;

	if (world_is_read_only(w) || world_is_dead(w)) {
		world_crash(w);
		return;
	}
	world_let_go(w);
	r = fs_close(w->fs);
	w->fs = NULL;
	world_log(w, "closed: %s", strerror(-r));
	if (r || world_is_dead(w)) {
		if (r && world_is_strict(w))
			sim_fail("fs_close: %s", strerror(-r));
		world_crash(w);
		return;
	}
	device_sim_fault_clear(w->sim);
	damage_mend(w);
	world_check(w, w->sim, "after a clean end");
	model_durable(w->model, model_now(w->model));
	if (!open)
		return;
	damage_do(w, true);
	open_and_compare(w);
}

static void shorten_log(struct world *w)
{
	struct device_queue *q;
	struct super_block sb;
	struct fs_error err;
	unsigned bad, old;

	if (w->sim->ops->queue_new(w->sim, &q) || super_read(q, w->sim->size, &sb, &bad, &old, &err))
		sim_fail("the superblock cannot be read");
	sb.log_size = cpu_to_le64(w->set->log_bytes);
	if (super_write_all(q, &sb) || device_flush(q))
		sim_fail("the superblock cannot be written");
	w->sim->ops->queue_free(q);
}

void world_first_open(struct world *w)
{
	struct fs_error err = {""};

	w->sim = device_sim_new(w->set->pool_bytes, w->history->seed);
	set_device(w);
	if (w->set->sparse)
		device_sim_set_sparse(w->sim);
	if (pool_format_step(w->sim, w->set->sparse, w->set->group_step ? w->set->group_step : GROUP_STEP,
			     &sim_clock, &err))
		sim_fail("pool_format: %s", err.msg);
	if (w->set->log_bytes)
		shorten_log(w);
	world_check(w, w->sim, "of an empty pool");
	if (world_open(w))
		sim_fail("an empty pool cannot be opened");
}
