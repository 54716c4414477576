/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/tree/test_cut.c: trims, zeroes and shrinks of large trees: a commit reads a bounded number of the
 * leaves that a hole drops, cuts the others out by their pointers, and later commits free those step by step.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "fs/tree/node_prefetch.h"
#include "fs/commit/rebuild.h"
#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/fast_fill.h"
#include "tests/lib/random.h"
#include "tests/lib/tree_nodes.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/check/check.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/volume/extent.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/format/node_format.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (192 * MIB)

#define FILL 220000u /* extents: a tree of three levels */
#define LEAVES 32u   /* the limit that the tests set */

/* One commit, and nothing else that the pool would do. */
static void commit_once(struct engine *e)
{
	int r = fs_commit(e->fs);

	if (r)
		fail_msg("commit: %s; %s", strerror(-r), e->log);
}

static void reopen_only(struct engine *e, unsigned leaves)
{
	engine_close(e);
	engine_open_only(e);
	e->fs->orphan_leaves = leaves;
}

/* Commits until nothing is left to be freed; each frees as much as it may, and not more. */
static void drain(struct engine *e)
{
	uint64_t most = 2ull * e->fs->orphan_leaves * EXTENT_LEAF_BLOCKS_MAX * BLOCK;
	struct fs_info info;

	for (unsigned i = 0; atomic_load(&e->fs->orphans); i++) {
		uint64_t before;

		assert_true(i < 100000);
		fs_get_info(e->fs, &info);
		before = info.data_bytes;
		commit_once(e);
		fs_get_info(e->fs, &info);
		assert_true(before - info.data_bytes <= most);
	}
	engine_commit(e);
}

static void expect_hole(struct engine *e, struct fs_volume *vol, uint64_t blk, uint64_t n)
{
	struct volume_piece vp;

	while (n) {
		assert_int_equal(volume_lookup(vol, e->fs->commit_q, blk, n, &vp, NULL), 0);
		assert_true(vp.addr == 0 && !vp.lost);
		blk += vp.nblk;
		n -= vp.nblk;
	}
}

/* Regression: one commit read every leaf, and took 16 bytes for each extent, while everyone waited. */
static void test_cut_trim_of_a_whole_volume_goes_in_steps(void **state)
{
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 4096 * MIB), *other = engine_volume(e, "w", 8 * MIB);
	uint8_t out[4096], in[4096];
	struct fs_info info, before;
	uint64_t used, leaves;

	fast_fill(e, vol, 0, FILL, 4);
	assert_int_equal(vol->root.level, 2);
	leaves = vol->root.leaves;
	fs_volume_put(vol);
	fs_volume_put(other);
	reopen_only(e, LEAVES); /* nothing is in the cache */
	commit_once(e);
	vol = engine_volume(e, "v", 0);
	other = engine_volume(e, "w", 0);
	assert_int_equal(engine_trim(e, vol, 0, 4096 * MIB), 0);
	expect_hole(e, vol, 0, 1024 * 1024);
	fs_get_info(e->fs, &before);
	e->hold_commits = true;
	commit_once(e);
	fs_get_info(e->fs, &info);
	assert_true(info.node_cache_misses - before.node_cache_misses < 2 * LEAVES + 20 + NODE_PREFETCH_MAX);
	assert_true(atomic_load(&e->fs->orphans) == 1 && vol->cuts == 1 && vol->root.addr == 0);
	expect_hole(e, vol, 0, 1024 * 1024);
	assert_true(vol->root.leaves > leaves - 3 * LEAVES && vol->used_blocks > 0);
	/*
	 * It is written again, others go on, the pool is closed and opened, and the check finds nothing
	 * wrong.
	 */
	for (uint64_t i = 0; i < 5000; i++)
		fast_fill_one(e, vol, 1 + i * 4, fast_fill_crc());
	fill_bytes(out, sizeof(out), 1);
	assert_int_equal(engine_write(e, other, 4096, sizeof(out), out), 0);
	engine_check_device(e->sim);
	fs_volume_put(vol);
	fs_volume_put(other);
	reopen_only(e, LEAVES);
	assert_true(atomic_load(&e->fs->orphans) == 1);
	vol = engine_volume(e, "v", 0);
	other = engine_volume(e, "w", 0);
	assert_int_equal(vol->cuts, 1);
	commit_once(e);
	engine_check_device(e->sim);
	drain(e);
	assert_int_equal(vol->used_blocks, 5000);
	assert_int_equal(vol->cuts, 0);
	assert_int_equal(engine_read(e, other, 4096, sizeof(in), in), 0);
	assert_memory_equal(in, out, sizeof(in));
	engine_check_all(e);
	fs_get_info(e->fs, &info);
	used = info.data_bytes;
	assert_int_equal(used, 5001 * BLOCK);
	fs_volume_put(vol);
	fs_volume_put(other);
	engine_free(e);
}

static void expect_blocks(struct engine *e, struct fs_volume *vol, const uint8_t *there, uint64_t blocks)
{
	for (uint64_t blk = 0; blk < blocks;) {
		struct volume_piece vp;
		uint32_t crc[1024];

		assert_int_equal(
			volume_lookup(vol, e->fs->commit_q, blk, min_u64(1024, blocks - blk), &vp, crc), 0);
		for (uint64_t i = 0; i < vp.nblk; i++)
			if (there[blk + i] != (vp.addr != 0))
				fail_msg("block %llu is %s", (unsigned long long)(blk + i),
					 vp.addr ? "there" : "a hole");
		blk += vp.nblk;
	}
}

/*
 * Holes with any edges, in trees of three levels, between writes; commits, restarts, crashes, and a check
 * after each.
 */
static void test_cut_random_holes_match_a_model(void **state)
{
	uint64_t rng = test_seed(), blocks = 800000, used = 0;
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", blocks * BLOCK);
	uint8_t *there = calloc(blocks, 1);

	fast_fill(e, vol, 0, 199999, 4);
	for (uint64_t i = 0; i < 199999; i++)
		there[i * 4] = 1;
	for (unsigned round = 0; round < 25; round++) {
		uint64_t blk, n;

		e->fs->orphan_leaves = 1 + (unsigned)pick(&rng, 40);
		for (unsigned k = 1 + (unsigned)pick(&rng, 3); k > 0; k--) {
			blk = pick(&rng, blocks);
			n = min_u64(blocks - blk, 1 + pick(&rng, 1ull << pick(&rng, 20)));
			assert_int_equal(engine_trim(e, vol, blk * BLOCK, n * BLOCK), 0);
			memset(there + blk, 0, n);
		}
		if (pick(&rng, 2)) {
			blk = pick(&rng, blocks - 4000);
			n = 1 + pick(&rng, 1000);
			for (uint64_t i = 0; i < n; i++) {
				fast_fill_one(e, vol, blk + i * 3, fast_fill_crc());
				there[blk + i * 3] = 1;
			}
		} else if (pick(&rng, 3)) {
			commit_once(e);
		}
		if (round % 4 == 3) {
			fs_volume_put(vol);
			if (pick(&rng, 2)) {
				reopen_only(e, 1 + (unsigned)pick(&rng, 40));
			} else {
				assert_int_equal(engine_flush(e), 0);
				engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
				engine_open_only(e);
			}
			vol = engine_volume(e, "v", 0);
		}
		engine_check_device(e->sim);
		expect_blocks(e, vol, there, blocks);
	}
	drain(e);
	for (uint64_t i = 0; i < blocks; i++)
		used += there[i];
	assert_int_equal(vol->used_blocks, used);
	fs_volume_put(vol);
	engine_check_all(e);
	free(there);
	engine_free(e);
}

/* A shrink is a trim; and a volume is deleted while parts that were cut out of it are not freed yet. */
static void test_cut_shrink_then_delete(void **state)
{
	for (unsigned restart = 0; restart < 2; restart++) {
		struct engine *e = engine_new(1024 * MIB, 1);
		struct fs_volume *vol = engine_volume(e, "v", 4096 * MIB);
		struct fs_info info;

		fast_fill(e, vol, 0, FILL, 4);
		e->fs->orphan_leaves = LEAVES;
		assert_int_equal(fs_volume_resize(e->fs, "v", 2048 * MIB, NULL), 0);
		assert_int_equal(fs_volume_size(vol), 2048 * MIB);
		assert_int_equal(fs_commit(e->fs), 0); /* which cuts */
		assert_true(vol->cuts == 1);
		assert_int_equal(fs_volume_resize(e->fs, "v", 4096 * MIB, NULL), 0);
		expect_hole(e, vol, 512 * 1024, 512 * 1024);
		fs_volume_put(vol);
		assert_int_equal(fs_volume_delete(e->fs, "v", NULL), 0);
		assert_int_equal(fs_commit(e->fs), 0);
		assert_true(atomic_load(&e->fs->orphans) >= 2);
		engine_check_device(e->sim);
		if (restart) {
			engine_abandon(e);
			engine_open_only(e);
			e->fs->orphan_leaves = LEAVES;
			assert_true(atomic_load(&e->fs->orphans) >= 2);
		}
		drain(e);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.data_bytes, 0);
		engine_check_all(e);
		engine_free(e);
	}
}

/* What was cut out holds a node that is lost: the rest is freed, and the volume goes on. */
static void test_cut_part_with_a_lost_node(void **state)
{
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 4096 * MIB);
	struct tree_place p;
	struct fs_info info;

	fast_fill(e, vol, 0, FILL, 4);
	p = tree_place_of(e, vol, FILL * 2, 0);
	e->fs->orphan_leaves = LEAVES;
	assert_int_equal(engine_trim(e, vol, 0, 4096 * MIB), 0);
	commit_once(e);
	rot_node(e, p.id.addr);
	drain(e);
	assert_false(fs_is_read_only(e->fs));
	fs_get_info(e->fs, &info);
	assert_int_equal(info.data_bytes, (p.end - p.first) / 4 * BLOCK);
	assert_true(vol->used_blocks == 0 && vol->root.leaves == 0 && vol->root.flags == 0);
	assert_int_equal(e->fs->space->tree_nodes, 0);
	fast_fill(e, vol, 0, 1000, 4);
	assert_int_equal(vol->used_blocks, 1000);
	fs_volume_put(vol);
	engine_free(e);
}

static void expect_leaks_alone(void *arg, const char *line)
{
	++*(unsigned *)arg;
	if (!strstr(line, "lost nodes had referred to"))
		fail_msg("finding: %s", line);
}

/* The same where the volume keeps a part of its tree: what it has in use is at least what its item says. */
static void test_cut_part_with_a_lost_node_counts_as_at_least(void **state)
{
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 4096 * MIB);
	unsigned leaks = 0;
	struct fs_check_options opt = {.finding = expect_leaks_alone, .arg = &leaks};
	struct device *copy;
	struct tree_place p;
	uint64_t findings;

	fast_fill(e, vol, 0, FILL, 4);
	p = tree_place_of(e, vol, FILL, 0);
	e->fs->orphan_leaves = LEAVES;
	assert_int_equal(engine_trim(e, vol, 0, 3 * FILL * BLOCK), 0); /* three quarters */
	commit_once(e);
	assert_true(atomic_load(&e->fs->orphans) > 0);
	rot_node(e, p.id.addr);
	drain(e);
	assert_true(vol->root.leaves > 0 && vol->root.flags != 0);
	assert_true(vol->used_blocks <= FILL / 4);
	copy = device_sim_clone(e->sim, 1);
	assert_int_equal(check_device(copy, &opt, &findings, NULL), 0);
	assert_true(leaks > 0);
	device_close(copy);
	fs_volume_put(vol);
	engine_free(e);
}

/* ---- a rebuild meanwhile ------------------------------------------------------------------- */

/* Where the caches of data groups stand: both slots. (Metadata groups are rebuilt before a commit begins.) */
struct slots {
	unsigned count;
	uint64_t off[512], len[512];
};

static void note_slots(struct block_group *g, void *arg)
{
	struct slots *s = arg;

	for (unsigned i = 0; g->type == GROUP_DATA && i < g->nr_stripes; i++) {
		assert_true(s->count < 512);
		s->off[s->count] = g->stripe[i] + g->len;
		s->len[s->count++] = 2ull * g->slot_bytes;
	}
}

static void load(struct block_group *g, void *arg)
{
	struct engine *e = arg;

	if (g->type != GROUP_SYSTEM)
		(void)block_group_load(e->fs, e->fs->commit_q, g);
}

struct commit_at {
	struct engine *e;
	uint64_t off; /* of the read at which it commits, once; 0: done */
};

static void commit_when_read(void *arg, struct device_queue *q, const struct device_io *io)
{
	struct commit_at *at = arg;

	(void)q;
	if (io->op != DEVICE_READ || io->off != at->off)
		return;
	at->off = 0;
	commit_once(at->e);
}

/*
 * The rebuild reads volume "a" when a commit cuts all of "b" out of its tree, which it comes to later.
 * Regression: without the walk of what was cut out since it began, b's space would not be found, and the
 * groups would stay out of use.
 */
static void test_cut_during_a_rebuild(void **state)
{
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *a = engine_volume(e, "a", 64 * MIB), *b = engine_volume(e, "b", 1024 * MIB);
	struct commit_at at = {e, 0};
	struct slots *slots = calloc(1, sizeof(*slots));
	uint64_t off[GROUP_STRIPES_MAX];
	struct device_queue *q;

	fast_fill(e, a, 0, 3000, 4);
	fast_fill(e, b, 0, 60000, 4);
	assert_int_equal(block_group_map(e->fs, tree_place_of(e, a, 0, 0).id.addr, NODE_SIZE, off), 2);
	block_group_each(e->fs, note_slots, slots);
	fs_volume_put(a);
	fs_volume_put(b);
	engine_close(e);
	for (unsigned i = 0; i < slots->count; i++) {
		void *zeros = calloc(1, slots->len[i]);

		device_sim_poke(e->sim, slots->off[i], zeros, slots->len[i]);
		free(zeros);
	}
	engine_open_only(e);
	e->fs->orphan_leaves = 2;
	b = engine_volume(e, "b", 0);
	block_group_each(e->fs, load, e);
	assert_true(atomic_load(&e->fs->groups->rebuilding) > 0);
	e->hold_commits = true;
	assert_int_equal(engine_trim(e, b, 0, 1024 * MIB), 0);
	at.off = off[0];
	engine_device(e)->before_submit = commit_when_read;
	engine_device(e)->arg = &at;
	assert_int_equal(e->fs->dev->ops->queue_new(e->fs->dev, &q), 0);
	assert_int_equal(rebuild_groups(e->fs, q), 0);
	device_queue_free(q);
	engine_device(e)->before_submit = NULL;
	assert_int_equal(at.off, 0); /* it has happened */
	assert_true(b->cuts == 1 && b->root.addr == 0);
	assert_int_equal(atomic_load(&e->fs->groups->rebuilding), 0);
	e->fs->orphan_leaves = 2048;
	e->hold_commits = false;
	drain(e);
	assert_int_equal(b->used_blocks, 0);
	fs_volume_put(b);
	engine_check_all(e);
	free(slots);
	engine_free(e);
}

/*
 * CUT_FIGURES=extents: how long the longest commit is, with the limit and without any (as it was). Not
 * asserted.
 */
static void test_cut_figures(void **state)
{
	const char *env = getenv("CUT_FIGURES");
	uint64_t n = env ? strtoull(env, NULL, 0) : 0;

	if (n == 0)
		skip();
	for (unsigned limited = 0; limited < 2; limited++) {
		struct engine *e = engine_new(n * 3 * BLOCK, 1);
		struct fs_volume *vol = engine_volume(e, "v", n * 4 * BLOCK);
		double longest = 0, start, all;
		unsigned commits = 0;

		fast_fill(e, vol, 0, n, 4);
		if (!limited)
			e->fs->orphan_leaves = UINT32_MAX;
		print_message("%llu extents, %llu leaves, level %u\n", (unsigned long long)n,
			      (unsigned long long)vol->root.leaves, vol->root.level);
		assert_int_equal(engine_trim(e, vol, 0, n * 4 * BLOCK), 0);
		all = seconds();
		do {
			start = seconds();
			assert_int_equal(fs_commit(e->fs), 0);
			longest = seconds() - start > longest ? seconds() - start : longest;
			commits++;
		} while (atomic_load(&e->fs->orphans));
		print_message("%s: %u commits, the longest %.0f ms, all %.0f ms\n",
			      limited ? "limited" : "without a limit", commits, longest * 1000,
			      (seconds() - all) * 1000);
		fs_volume_put(vol);
		engine_free(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_trim_of_a_whole_volume_goes_in_steps),
		cmocka_unit_test(test_cut_random_holes_match_a_model),
		cmocka_unit_test(test_cut_shrink_then_delete),
		cmocka_unit_test(test_cut_part_with_a_lost_node),
		cmocka_unit_test(test_cut_part_with_a_lost_node_counts_as_at_least),
		cmocka_unit_test(test_cut_during_a_rebuild),
		cmocka_unit_test(test_cut_figures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
