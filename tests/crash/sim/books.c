/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/crash/sim/books.c: the engine's own books, when nothing is under way and everything is committed. */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/commit/transaction.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "tests/crash/sim/world.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/io/ctx.h"
#include "fs/device/device.h"
#include "fs/volume/extent_state.h"
#include "fs/space/free_space.h"
#include "fs/fs.h"
#include "fs/volume/overlay.h"
#include "fs/space/pins.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

#define SETTLE_MS (120u * 1000)
#define PROBE_BLOCKS_MAX 64u

static bool is_settled(void *arg)
{
	struct world *w = arg;
	struct fs *fs = w->fs;

	return fs_is_read_only(fs) ||
	       (!atomic_load(&fs->orphans) && !pins_are_left(fs->pins) && !backing_has_uncounted(fs) &&
		!atomic_load(&fs->backing->running) && !atomic_load(&fs->backing->discarding) &&
		!atomic_load(&fs->groups->rebuilding) && !atomic_load(&fs->rebuild_running) &&
		!fs->commit_wanted && !fs->rebuild_wanted);
}

/* False: the pool died or became read-only. */
static bool commit(struct world *w)
{
	world_drain(w);
	if (world_is_dead(w) || world_is_read_only(w) || w->unsure.kind != CLIENT_NONE)
		return false;
	/* else it may find nothing to do, and leave some reservations to the next */
	w->fs->super_dirty = true;
	(void)client_commit(w);
	world_drain(w);
	return !world_is_dead(w) && !world_is_read_only(w);
}

/* Every cache is read, so that those that are bad are rebuilt. */
static void load_groups(struct world *w)
{
	struct fs *fs = w->fs;
	struct device_queue *q;

	ASSERT(fs->dev->ops->queue_new(fs->dev, &q) == 0);
	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++) {
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (g && g->type != GROUP_SYSTEM)
			(void)block_group_load(fs, q, g);
	}
	device_queue_free(q);
}

/* ---- free space ---------------------------------------------------------------- */

struct sums {
	uint64_t used[SPACE_KINDS], total[SPACE_KINDS];
};

static uint64_t run_blocks(const struct fs *fs, const struct block_group *g)
{
	uint64_t n = 0;

	for (const struct fs_ctx *ctx = fs->ctxs; ctx; ctx = ctx->next)
		if (ctx->run_blocks && ctx->run_addr - g->start < g->len)
			n += ctx->run_blocks;
	for (unsigned i = 0; i < fs->backing->spares; i++)
		n += fs->backing->spare[i] - g->start < g->len;
	return n;
}

static void check_group(struct fs *fs, const struct block_group *g, struct sums *sums)
{
	enum space_kind kind = g->type == GROUP_DATA	   ? SPACE_DATA
			       : g->type == GROUP_METADATA ? SPACE_METADATA
							   : SPACE_SYSTEM;
	uint64_t avail, committed;

	sums->used[kind] += g->used;
	sums->total[kind] += g->len;
	if (g->state != GROUP_LOADED || g->type == GROUP_SYSTEM)
		return;
	avail = free_space_count(g->avail) + run_blocks(fs, g);
	committed = free_space_count(g->committed);
	if (g->pinned_blocks[0] || g->pinned_blocks[1])
		sim_fail("block group %llu: %u and %u blocks stay pinned", (unsigned long long)g->start,
			 g->pinned_blocks[0], g->pinned_blocks[1]);
	if (avail != committed)
		sim_fail("block group %llu: %llu blocks are available, %llu are free",
			 (unsigned long long)g->start, (unsigned long long)avail,
			 (unsigned long long)committed);
	if (committed * g->unit != g->len - g->used)
		sim_fail("block group %llu: %llu blocks are free, %llu of %llu bytes used",
			 (unsigned long long)g->start, (unsigned long long)committed,
			 (unsigned long long)g->used, (unsigned long long)g->len);
}

static void check_space(struct fs *fs)
{
	struct space_info *si = fs->space;
	struct sums sums = {{0}, {0}};

	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++) {
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (g)
			check_group(fs, g, &sums);
	}
	for (unsigned k = 0; k < SPACE_SYSTEM; k++)
		if (si->kind[k].allocated != sums.used[k] || si->kind[k].pinned || si->kind[k].may_use ||
		    si->kind[k].unavailable || si->kind[k].total != sums.total[k])
			sim_fail(
				"space of kind %u: allocated %llu, pinned %llu, may_use %llu, unavailable %llu, total %llu; groups use %llu of %llu",
				k, (unsigned long long)si->kind[k].allocated,
				(unsigned long long)si->kind[k].pinned,
				(unsigned long long)si->kind[k].may_use,
				(unsigned long long)si->kind[k].unavailable,
				(unsigned long long)si->kind[k].total, (unsigned long long)sums.used[k],
				(unsigned long long)sums.total[k]);
	if (si->in_flight.touches || si->in_flight.bytes || si->running.touches || si->running.bytes ||
	    si->committing.touches || si->committing.bytes || si->nr_tickets)
		sim_fail("reservations of metadata are left");
}

/* ---- volumes ------------------------------------------------------------------- */

struct map_check {
	struct world *w;
	struct model_volume *vol;
	uint64_t pos;
};

static int check_piece(void *arg, uint64_t off, uint64_t len, bool hole)
{
	struct map_check *mc = arg;

	if (off != mc->pos || len == 0)
		sim_fail("volume %s: its map is not in order at %llu", mc->vol->name,
			 (unsigned long long)off);
	mc->pos = off + len;
	for (uint64_t blk = off / MODEL_BLOCK; hole && blk < mc->pos / MODEL_BLOCK; blk++)
		if (model_is_data(mc->w->model, mc->vol, blk))
			sim_fail("volume %s: block %llu is a hole in its map, but holds data", mc->vol->name,
				 (unsigned long long)blk);
	return 0;
}

static void check_volume(struct world *w, unsigned i)
{
	struct fs_volume *vol = w->handle[i];
	struct map_check mc = {w, &w->model->volume[i], 0};
	int r;

	if (extent_state_count(&vol->states) || extent_state_delalloc_bytes(&vol->states))
		sim_fail("volume %s: %llu extent states are left", mc.vol->name,
			 (unsigned long long)extent_state_count(&vol->states));
	if (overlay_first(&vol->running) || overlay_first(&vol->committing))
		sim_fail("volume %s: something is pending after a commit", mc.vol->name);
	r = fs_volume_map(vol, 0, fs_volume_size(vol), check_piece, &mc);
	if (r && world_is_strict(w))
		sim_fail("volume %s: its map cannot be read: %s", mc.vol->name, strerror(-r));
	if (r == 0 && mc.pos != mc.vol->blocks * MODEL_BLOCK)
		sim_fail("volume %s: its map ends at %llu", mc.vol->name, (unsigned long long)mc.pos);
}

/* What is said to be free can be written. */
static void probe(struct world *w)
{
	struct model_volume *vol = &w->model->volume[rng_below(&w->rng, MODEL_VOLUMES_MAX)];
	struct request *req;
	struct fs_info info;
	bool ended = false;
	uint64_t n, said;
	int error = 0;

	sched_pass_time(1000); /* a host that was full is asked again */
	fs_get_info(w->fs, &info);
	said = info.free_bytes - info.host_short_bytes;
	if (!vol->exists || !world_is_strict(w) || said < 2 * MODEL_BLOCK)
		return;
	n = min_u64(min_u64(vol->blocks, PROBE_BLOCKS_MAX), said / MODEL_BLOCK / 2);
	req = request_new(w, vol, FS_WRITE, 0, n * MODEL_BLOCK);
	req->ended = &ended;
	req->error = &error;
	request_send(w, 0, req);
	world_drain(w);
	if (error == -ENOSPC && !world_is_dead(w))
		sim_fail("%llu bytes are said to be free, but %llu cannot be written",
			 (unsigned long long)said, (unsigned long long)n * MODEL_BLOCK);
}

/* ---- all of it ----------------------------------------------------------------- */

bool world_settle(struct world *w)
{
	struct fs_info info;

	if (!commit(w))
		return false;
	if (w->rebuild_is_fine)
		load_groups(w);
	if (!sched_wait_ms(is_settled, w, SETTLE_MS))
		sim_fail(
			"the pool does not come to rest: orphans %llu, pins %d, rebuilding %u, commit wanted %d",
			(unsigned long long)atomic_load(&w->fs->orphans), pins_are_left(w->fs->pins),
			atomic_load(&w->fs->groups->rebuilding), w->fs->commit_wanted);
	do {
		if (!commit(w) || !sched_wait_ms(is_settled, w, SETTLE_MS) || world_is_read_only(w) ||
		    world_is_dead(w))
			return false;
	} while (transaction_is_needed(w->fs)); /* a scrub or a rebuild has touched a lost node since */
	check_space(w->fs);
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		if (w->handle[i])
			check_volume(w, i);
	fs_get_info(w->fs, &info);
	if (info.reserved_bytes)
		sim_fail("%llu bytes stay reserved", (unsigned long long)info.reserved_bytes);
	if (info.cache_rebuilt != w->rebuilt && !w->rebuild_is_fine)
		sim_fail("%llu caches were rebuilt that nobody damaged",
			 (unsigned long long)(info.cache_rebuilt - w->rebuilt));
	w->rebuilt = info.cache_rebuilt;
	if (!w->tolerant)
		w->cache_damaged = w->rebuild_is_fine = false;
	probe(w);
	return true;
}
