/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/engine_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/lock.h"
#include "fs/check/check.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/free_space.h"
#include "fs/space/space_info.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_int.h"

struct fs_volume *engine_next_volume(struct engine *e, struct fs_volume *vol)
{
	return volume_table_next_locked(e->fs->volumes, vol ? vol->name->text : "");
}

void books_add_group(struct block_group *g, void *arg)
{
	struct books *b = arg;
	int kind = g->type == GROUP_DATA       ? SPACE_DATA
		   : g->type == GROUP_METADATA ? SPACE_METADATA
					       : SPACE_SYSTEM;

	b->total[kind] += g->len;
	b->slots += g->len;
	if (g->state != GROUP_LOADED) {
		b->taken[kind] += g->used;
		return;
	}
	assert_true(free_space_check(g->avail));
	b->taken[kind] += (uint64_t)(g->nblocks - free_space_count(g->avail)) * g->unit;
	b->pinned[kind] += (uint64_t)(g->pinned_blocks[0] + g->pinned_blocks[1]) * g->unit;
	b->memory += free_space_memory(g->avail) + free_space_memory(g->committed) +
		     2 * ((g->nblocks + 63) / 64 * 8);
	/* the committed bitmap is kept by delayed refs, which system groups do not have */
	if (g->type != GROUP_SYSTEM)
		assert_int_equal((uint64_t)free_space_count(g->committed) * g->unit, g->len - g->used);
}

void engine_check_books(struct engine *e)
{
	struct space_info *si = e->fs->space;
	struct books b = {.fs = e->fs};
	struct fs_volume *vol;
	struct fs_info info;

	ctx_return_runs(e->fs);
	b.taken[SPACE_DATA] -= (uint64_t)e->fs->backing->spares * BLOCK; /* they count as free */
	block_group_each(e->fs, books_add_group, &b);
	lock_take(&si->lock);
	assert_int_equal(si->in_flight.touches, 0);
	assert_int_equal(si->in_flight.bytes, 0);
	assert_int_equal(si->nr_tickets, 0);
	for (int k = 0; k < SPACE_KINDS; k++) {
		assert_int_equal(si->kind[k].may_use, 0);
		assert_int_equal(si->kind[k].total, b.total[k]);
		assert_int_equal(si->kind[k].allocated, b.taken[k]);
		assert_int_equal(si->kind[k].pinned, b.pinned[k]);
	}
	lock_drop(&si->lock);
	lock_take(&e->fs->volumes->lock);
	for (vol = engine_next_volume(e, NULL); vol; vol = engine_next_volume(e, vol)) {
		assert_int_equal(extent_state_count(&vol->states), 0);
		assert_int_equal(extent_state_delalloc_bytes(&vol->states), 0);
	}
	lock_drop(&e->fs->volumes->lock);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.reserved_bytes, 0);
	assert_int_equal(e->ctx->under_way, 0);
}

void engine_check_committed(struct engine *e)
{
	struct space_info *si = e->fs->space;
	uint64_t nodes = 0, leaves = 0, items = 0, blocks = 0;
	struct fs_volume *vol;

	/*
	 * What was accounted a moment after its overlay was frozen counts until the next commit that does
	 * something.
	 */
	lock_take(&e->fs->commit_lock);
	e->fs->super_dirty |= e->threads;
	lock_drop(&e->fs->commit_lock);
	engine_commit(e);
	engine_check_books(e);
	lock_take(&e->fs->volumes->lock);
	for (vol = engine_next_volume(e, NULL); vol; vol = engine_next_volume(e, vol)) {
		assert_int_equal(vol->running.count + vol->committing.count, 0);
		nodes += vol->root.nodes;
		leaves += vol->root.leaves;
		items += vol->root.items;
		blocks += vol->used_blocks;
	}
	lock_drop(&e->fs->volumes->lock);
	lock_take(&si->lock);
	assert_int_equal(
		si->running.touches + si->running.bytes + si->committing.touches + si->committing.bytes, 0);
	assert_int_equal(si->kind[SPACE_DATA].pinned + si->kind[SPACE_METADATA].pinned +
				 si->kind[SPACE_SYSTEM].pinned,
			 0);
	assert_int_equal(si->kind[SPACE_DATA].allocated, blocks * BLOCK);
	assert_int_equal(si->tree_nodes, nodes);
	assert_int_equal(si->tree_leaves, leaves);
	assert_int_equal(si->tree_items, items);
	assert_int_equal(si->kind[SPACE_METADATA].allocated, (nodes + e->fs->root_tree->nodes) * NODE_SIZE);
	assert_int_equal(si->kind[SPACE_SYSTEM].allocated, e->fs->group_tree->nodes * NODE_SIZE);
	lock_drop(&si->lock);
}

/* ---- the checker ------------------------------------------------------------ */

static void engine_finding(void *arg, const char *line)
{
	print_message("finding: %s\n", line);
}

void engine_check_device(struct device *sim)
{
	struct fs_check_options opt = {.finding = engine_finding};
	struct device *copy = device_sim_clone(sim, 1);
	struct fs_error err = {""};
	uint64_t findings = 1;
	int r = check_device(copy, &opt, &findings, &err);

	device_close(copy);
	if (r)
		fail_msg("the check cannot run: %s", err.msg);
	assert_int_equal(findings, 0);
}

void engine_check_file(const char *path)
{
	struct fs_check_options opt = {.finding = engine_finding};
	struct fs_error err = {""};
	uint64_t findings = 1;

	if (fs_check(path, &opt, &findings, &err))
		fail_msg("the check cannot run: %s", err.msg);
	assert_int_equal(findings, 0);
}

void engine_check_all(struct engine *e)
{
	engine_check_committed(e);
	if (e->sim)
		engine_check_device(e->sim);
}
