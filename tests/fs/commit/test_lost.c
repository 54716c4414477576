/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_lost.c: nodes of living and deleted volumes that are lost in every copy. The damage
 * stays where it is: what a node held is an error when it is read, until it is overwritten; everything else
 * goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/commit/volume_touch.h"
#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/fast_fill.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "tests/lib/tree_nodes.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/cache/cache.h"
#include "fs/check/check.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/clock.h"
#include "fs/pool/pool.h"
#include "fs/core/fs_int.h"
#include "fs/format/node_format.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/format/super_format.h"
#include "fs/commit/transaction.h"
#include "fs/volume/volume.h"
#include "fs/core/wakeup.h"

#define POOL_BYTES (192 * MIB)

#define BLOCKS 3000u

/* Every second block of "v" is written: a tree with a few leaves. And "w" is there. */
static struct engine *engine_with_leaves(struct model *m)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", m->size);

	for (uint64_t off = 0; off < m->size; off += 2 * BLOCK)
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, BLOCK);
	fs_volume_put(vol);
	fs_volume_put(engine_volume(e, "w", MIB));
	engine_commit(e);
	return e;
}

static struct fs_volume *open_with_lost(struct engine *e, uint64_t blk, uint8_t level,
					struct tree_place *ret_place)
{
	struct fs_volume *vol;

	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	*ret_place = tree_place_of(e, vol, blk, level);
	rot_node(e, ret_place->id.addr);
	return vol;
}

/* Exactly the blocks with a mark are errors, all others are right. */
static void expect_lost(struct engine *e, struct fs_volume *vol, const struct model *m, const bool *lost)
{
	uint8_t got[FS_BLOCK_SIZE];

	for (uint64_t b = 0; b < m->size / BLOCK; b++) {
		int r = engine_read(e, vol, b * BLOCK, BLOCK, got);

		if (r != (lost[b] ? -EIO : 0))
			fail_msg("block %llu: %s", (unsigned long long)b, strerror(-r));
		if (r == 0)
			assert_memory_equal(got, m->bytes + b * BLOCK, BLOCK);
	}
}

static void write_at(struct engine *e, struct fs_volume *vol, struct model *m, bool *lost, uint64_t blk,
		     uint64_t n)
{
	apply_both(e, vol, m, (struct op){FS_WRITE, 0}, blk * BLOCK, n * BLOCK);
	memset(lost + blk, 0, n);
}

struct found {
	unsigned lost, leaked, others;
};

static void count_finding(void *arg, const char *line)
{
	struct found *f = arg;

	if (strstr(line, "lost with a node"))
		f->lost++;
	else if (strstr(line, "lost nodes had referred to"))
		f->leaked++;
	else
		f->others += printf("finding: %s\n", line) > 0;
}

static struct found check_of(struct engine *e)
{
	struct device *copy = device_sim_clone(e->sim, 1);
	struct found f = {0};
	struct fs_check_options opt = {.finding = count_finding, .arg = &f};
	uint64_t findings;

	assert_int_equal(check_device(copy, &opt, &findings, NULL), 0);
	device_close(copy);
	assert_int_equal(findings, f.lost + f.leaked + f.others);
	return f;
}

/* Another volume is written, and its data is right after a commit. */
static void others_go_on(struct engine *e, uint64_t seed)
{
	struct fs_volume *vol = engine_volume(e, "w", 0);
	uint8_t out[8192], in[8192];

	fill_bytes(out, sizeof(out), seed);
	assert_int_equal(engine_write(e, vol, 0, sizeof(out), out), 0);
	engine_commit(e);
	assert_false(fs_is_read_only(e->fs));
	assert_int_equal(engine_read(e, vol, 0, sizeof(in), in), 0);
	assert_memory_equal(in, out, sizeof(in));
	fs_volume_put(vol);
}

/*
 * Regression: the first commit that had to change such a leaf turned the pool read-only, and each restart did
 * so again.
 */
static void test_lost_leaf_of_a_living_volume_stays_where_it_is(void **state)
{
	for (unsigned which = 0; which < 4; which++) { /* first, middle, last leaf; the root */
		uint64_t blk = (uint64_t[]){0, BLOCKS / 2, BLOCKS - 1, BLOCKS / 3}[which];
		bool lost[BLOCKS] = {false};
		struct fs_volume *vol;
		struct fs_info info;
		struct tree_place p;
		struct engine *e;
		struct found f;
		struct model m;

		model_init(&m, BLOCKS * BLOCK);
		e = engine_with_leaves(&m);
		vol = open_with_lost(e, blk, which == 3 ? 1 : 0, &p);
		memset(lost + p.first, 1, p.end - p.first);
		expect_lost(e, vol, &m, lost); /* nobody wrote to it */
		write_at(e, vol, &m, lost, p.first + 7, 3);
		assert_int_equal(engine_trim(e, vol, (p.first + 20) * BLOCK, 5 * BLOCK), 0);
		memset(m.bytes + (p.first + 20) * BLOCK, 0, 5 * BLOCK);
		memset(lost + p.first + 20, 0, 5);
		assert_int_equal(engine_flush(e), 0);
		fs_volume_put(vol);
		/* the log has it: replayed onto such a volume */
		engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
		engine_open_only(e);
		vol = engine_volume(e, "v", 0);
		engine_commit(e);
		others_go_on(e, which);
		expect_lost(e, vol, &m, lost);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.lost_bytes, (p.end - p.first - 8) * BLOCK);
		fs_volume_put(vol);
		engine_reopen(e);
		vol = engine_volume(e, "v", 0);
		expect_lost(e, vol, &m, lost);
		f = check_of(e);
		assert_true(f.lost == 3 && f.leaked > 0 && f.others == 0);
		/* Partial blocks need what is lost; whole ones mend it. */
		assert_int_equal(engine_write(e, vol, p.first * BLOCK + 5, 10, m.bytes), -EIO);
		for (uint64_t b = p.first; b < p.end; b++)
			if (lost[b])
				write_at(e, vol, &m, lost, b, 1);
		engine_commit(e);
		expect_lost(e, vol, &m, lost);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.lost_bytes, 0);
		f = check_of(e);
		assert_true(f.lost == 0 && f.leaked > 0 && f.others == 0);
		fs_volume_put(vol);
		assert_int_equal(fs_volume_delete(e->fs, "v", NULL), 0);
		engine_reopen(e);
		others_go_on(e, 10 + which);
		model_fini(&m);
		engine_free(e);
	}
}

static int first_piece_is_data(void *arg, uint64_t off, uint64_t len, bool hole)
{
	uint64_t *at = arg;

	if (*at >= off && *at < off + len)
		assert_false(hole);
	return 0;
}

static void test_lost_blocks_are_no_hole_in_the_map(void **state)
{
	struct fs_volume *vol;
	struct tree_place p;
	struct engine *e;
	struct model m;
	uint64_t at;

	model_init(&m, BLOCKS * BLOCK);
	e = engine_with_leaves(&m);
	vol = open_with_lost(e, BLOCKS / 2, 0, &p);
	at = (p.first + 1) * BLOCK; /* had been one */
	assert_int_equal(fs_volume_map(vol, 0, m.size, first_piece_is_data, &at), 0);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, p.first * BLOCK, BLOCK);
	engine_commit(e);
	assert_int_equal(fs_volume_map(vol, 0, m.size, first_piece_is_data, &at), 0);
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/* A ring of reads of lost blocks is told of once, with the place. */
static void test_lost_node_is_told_of_once(void **state)
{
	struct fs_volume *vol;
	struct tree_place p;
	struct engine *e;
	struct model m;
	uint8_t got[FS_BLOCK_SIZE];
	char want[128];

	model_init(&m, BLOCKS * BLOCK);
	e = engine_with_leaves(&m);
	vol = open_with_lost(e, BLOCKS / 2, 0, &p);
	e->log[0] = '\0';
	assert_int_equal(engine_read(e, vol, (p.first + 3) * BLOCK, BLOCK, got), -EIO);
	snprintf(want, sizeof(want), "volume v, offset %llu, length %llu: cannot be read",
		 (unsigned long long)(p.first * BLOCK), (unsigned long long)((p.end - p.first) * BLOCK));
	assert_non_null(strstr(e->log, want));
	e->log[0] = '\0';
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(engine_read(e, vol, (p.first + i) * BLOCK, BLOCK, got), -EIO);
	assert_string_equal(e->log, "");
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/* What the device cannot read for a moment is not lost. */
static void test_lost_is_not_what_comes_back(void **state)
{
	bool lost[BLOCKS] = {false};
	struct fs_volume *vol;
	struct fs_info info;
	struct tree_place p;
	struct engine *e;
	struct model m;
	uint64_t off[GROUP_STRIPES_MAX];

	model_init(&m, BLOCKS * BLOCK);
	e = engine_with_leaves(&m);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	p = tree_place_of(e, vol, BLOCKS / 2, 0);
	assert_int_equal(block_group_map(e->fs, p.id.addr, NODE_SIZE, off), 2);
	write_at(e, vol, &m, lost, p.first + 1, 1);
	cache_invalidate(e->fs->cache, CACHE_NODE, p.id.addr);
	for (unsigned i = 0; i < 2; i++)
		device_sim_fault_add(e->sim, &(struct device_sim_fault){.kind = DEVICE_SIM_FAIL,
									.ops = DEVICE_SIM_OP(DEVICE_READ),
									.off = off[i],
									.len = NODE_SIZE,
									.count = 3,
									.error = -EIO});
	engine_commit(e);
	device_sim_fault_clear(e->sim);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.lost_bytes, 0);
	expect_lost(e, vol, &m, lost);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static uint64_t in_eleven_minutes(void)
{
	return fs_clock_system.now_us() + 660 * 1000000ull;
}

/* Nodes that are not waited for, since the seconds are spent, do not put off when there are seconds again. */
static void test_lost_nodes_do_not_put_off_the_next_tries(void **state)
{
	struct fs_clock later = pool_without_threads;
	uint64_t spent, off[GROUP_STRIPES_MAX];
	struct cache_entry *entry;
	struct transaction txn;
	struct fs_volume *vol;
	struct tree_place p;
	struct engine *e;
	struct model m;

	model_init(&m, BLOCKS * BLOCK);
	e = engine_with_leaves(&m);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	p = tree_place_of(e, vol, 0, 0);
	assert_int_equal(block_group_map(e->fs, p.id.addr, NODE_SIZE, off), 2);
	for (unsigned i = 0; i < 2; i++)
		device_sim_bad_range(e->sim, off[i], NODE_SIZE);
	cache_invalidate(e->fs->cache, CACHE_NODE, p.id.addr);
	txn = (struct transaction){.fs = e->fs, .q = e->fs->commit_q};
	e->fs->eio_tries = 0;
	e->fs->eio_tried_us = spent = fs_now_us(e->fs) - 1000000;
	assert_int_equal(transaction_read_node(&txn, &p.id, &entry), -EIO);
	assert_int_equal(e->fs->eio_tried_us, spent);
	later.now_us = in_eleven_minutes;
	e->fs->clock = &later;
	assert_int_equal(transaction_read_node(&txn, &p.id, &entry), -EIO);
	assert_true(e->fs->eio_tried_us > spent + 600 * 1000000ull);
	e->fs->clock = &pool_without_threads;
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/* An interior node: what its parent says it covers, of a tree with three levels. */
static void test_lost_interior_node(void **state)
{
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 4096 * MIB), *other = engine_volume(e, "w", MIB);
	uint64_t n = 220000, before;
	struct volume_piece vp;
	struct fs_info info;
	struct tree_place p;
	struct found f;
	uint32_t crc;

	fast_fill(e, vol, 0, n, 4);
	assert_int_equal(vol->root.level, 2);
	p = tree_place_of(e, vol, 2 * n, 1);
	rot_node(e, p.id.addr);
	assert_int_equal(engine_trim(e, vol, (p.first + 40) * BLOCK, 4 * BLOCK), 0);
	engine_commit(e);
	others_go_on(e, 1);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.lost_bytes, (p.end - p.first - 4) * BLOCK);
	for (uint64_t blk = p.first - 8; blk < p.first + 80; blk++) {
		bool lost = blk >= p.first && !(blk >= p.first + 40 && blk < p.first + 44);

		assert_int_equal(volume_lookup(vol, e->fs->commit_q, blk, 1, &vp, &crc), 0);
		assert_int_equal(vp.lost, lost);
		assert_int_equal(vp.addr != 0, !lost && blk % 4 == 0 && blk < p.first);
	}
	assert_int_equal(vol->root.flags, TREE_LEAF_LOST | TREE_NODE_LOST);
	assert_true(vol->used_blocks <= n - (p.end - p.first) / 4);
	assert_true(e->fs->space->tree_unsure == vol->root.leaves);
	f = check_of(e);
	assert_true(f.lost == 2 && f.leaked > 0 && f.others == 0);
	/* All that is left is freed with the volume, the leaves behind the node as well. */
	fs_get_info(e->fs, &info);
	before = info.data_bytes;
	fs_volume_put(vol);
	assert_int_equal(fs_volume_delete(e->fs, "v", NULL), 0);
	while (atomic_load(&e->fs->orphans))
		engine_commit(e);
	engine_commit(e);
	fs_get_info(e->fs, &info);
	assert_true(before - info.data_bytes >= (n - (p.end - p.first) / 4 - 2) * BLOCK);
	assert_int_equal(e->fs->space->tree_leaves + e->fs->space->tree_unsure + e->fs->space->tree_nodes +
				 e->fs->space->tree_items,
			 other->root.leaves + other->root.nodes + other->root.items);
	fs_volume_put(other);
	engine_free(e);
}

/* Regression: what a restart had left to be freed was taken out of sums that it had not been added to. */
static void test_orphans_after_a_restart_keep_the_sums(void **state)
{
	struct engine *e = engine_new(256 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 1024 * MIB);
	struct space_info *si;

	fast_fill(e, vol, 0, 20000, 2);
	fs_volume_put(vol);
	e->fs->orphan_leaves = 3;
	assert_int_equal(fs_volume_delete(e->fs, "v", NULL), 0);
	assert_int_equal(fs_commit(e->fs), 0); /* which makes an orphan of it */
	engine_abandon(e);
	engine_open_only(e);
	si = e->fs->space;
	assert_true(atomic_load(&e->fs->orphans) && si->tree_leaves > 10);
	engine_check_device(e->sim);
	while (atomic_load(&e->fs->orphans))
		engine_commit(e);
	assert_int_equal(si->tree_nodes, 0);
	assert_int_equal(si->tree_leaves, 0);
	assert_int_equal(si->tree_items, 0);
	engine_check_all(e);
	engine_free(e);
}

/* Two leaves of "v" are lost, and nobody has written to them. */
static struct engine *engine_with_two_lost(struct model *m, bool *lost, struct fs_volume **ret_vol,
					   uint64_t ret_off[2][GROUP_STRIPES_MAX])
{
	struct engine *e = engine_with_leaves(m);
	struct tree_place p[2];

	engine_reopen(e);
	*ret_vol = engine_volume(e, "v", 0);
	for (unsigned i = 0; i < 2; i++) {
		p[i] = tree_place_of(e, *ret_vol, BLOCKS * (1 + 4 * i) / 6, 0);
		assert_int_equal(block_group_map(e->fs, p[i].id.addr, NODE_SIZE, ret_off[i]), 2);
		memset(lost + p[i].first, 1, p[i].end - p[i].first);
	}
	assert_true(p[0].end < p[1].first);
	return e;
}

static void flip_both(struct engine *e, uint64_t off[2][GROUP_STRIPES_MAX])
{
	for (unsigned i = 0; i < 4; i++)
		device_sim_flip(e->sim, off[i / 2][i % 2] + 3000, 1);
}

static uint64_t count_of(const bool *lost)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < BLOCKS; i++)
		n += lost[i];
	return n;
}

static void wipe_caches(struct block_group *g, void *arg)
{
	struct engine *e = arg;

	for (unsigned slot = 0; slot < 2 * g->nr_stripes && g->type != GROUP_SYSTEM; slot++)
		device_sim_flip(e->sim,
				g->stripe[slot / 2] + g->len + slot % 2 * (uint64_t)g->slot_bytes + 20, 1);
}

static void load_group(struct block_group *g, void *arg)
{
	struct engine *e = arg;

	assert_true(g->type != GROUP_DATA || block_group_load(e->fs, e->fs->commit_q, g) == 0);
}

/*
 * Regression: block groups without a cache stayed out of use as long as nobody wrote to a node that was lost.
 * Metadata's too: a commit goes on without them, and says "lost" in its place. What the device cannot read
 * may come back: that takes ten minutes.
 */
static void test_lost_nodes_do_not_keep_a_rebuild_from_its_end(void **state)
{
	for (unsigned bad_sectors = 0; bad_sectors < 2; bad_sectors++) {
		bool lost[BLOCKS] = {false};
		uint64_t off[2][GROUP_STRIPES_MAX];
		struct fs_volume *vol;
		struct fs_info info;
		struct engine *e;
		struct model m;
		struct found f;

		model_init(&m, BLOCKS * BLOCK);
		e = engine_with_two_lost(&m, lost, &vol, off);
		fs_volume_put(vol);
		block_group_each(e->fs, wipe_caches, e);
		engine_abandon(e);
		if (!bad_sectors)
			flip_both(e, off);
		for (unsigned i = 0; bad_sectors && i < 4; i++)
			device_sim_bad_range(e->sim, off[i / 2][i % 2], NODE_SIZE);
		engine_open_only(e);
		block_group_each(e->fs, load_group, e);
		others_go_on(e, 1);
		engine_settle(e);
		fs_get_info(e->fs, &info);
		if (bad_sectors) {
			assert_true(atomic_load(&e->fs->groups->rebuilding) > 0);
			assert_int_equal(info.lost_bytes, 0);
			e->fs->rebuild_eio_us -= 601 * 1000000ull;
			fs_kick_rebuild(e->fs);
			engine_settle(e);
			fs_get_info(e->fs, &info);
		}
		assert_int_equal(atomic_load(&e->fs->groups->rebuilding), 0);
		assert_int_equal(info.lost_bytes, count_of(lost) * BLOCK);
		vol = engine_volume(e, "v", 0);
		expect_lost(e, vol, &m, lost);
		others_go_on(e, 2);
		f = check_of(e);
		assert_true(f.lost == 2 && f.others == 0);
		for (uint64_t b = 0; b < BLOCKS; b++)
			if (lost[b])
				write_at(e, vol, &m, lost, b, 1);
		engine_commit(e);
		expect_lost(e, vol, &m, lost);
		fs_volume_put(vol);
		engine_reopen(e);
		f = check_of(e);
		assert_true(f.lost == 0 && f.others == 0);
		model_fini(&m);
		engine_free(e);
	}
}

/*
 * What they referred to can be told from what is in use when they are out of the tree: a scrub sees to that.
 */
static void test_lost_nodes_are_replaced_by_a_scrub(void **state)
{
	bool lost[BLOCKS] = {false};
	uint64_t off[2][GROUP_STRIPES_MAX];
	struct fs_volume *vol;
	struct fs_info info;
	struct engine *e;
	struct model m;
	struct found f;

	model_init(&m, BLOCKS * BLOCK);
	e = engine_with_two_lost(&m, lost, &vol, off);
	fs_volume_put(vol);
	engine_abandon(e);
	flip_both(e, off);
	engine_open_only(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(fs_scrub_start(e->fs, 0, true, NULL), 0);
	engine_settle(e);
	engine_commit(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.lost_bytes, count_of(lost) * BLOCK);
	expect_lost(e, vol, &m, lost);
	f = check_of(e);
	assert_true(f.lost == 2 && f.leaked >= 1 && f.others == 0);
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/* One that can be read when its commit comes by is written anew as it was. */
static void test_lost_is_not_what_can_be_read_again(void **state)
{
	bool lost[BLOCKS] = {false};
	uint64_t off[2][GROUP_STRIPES_MAX];
	struct fs_volume *vol;
	struct fs_info info;
	struct engine *e;
	struct model m;

	model_init(&m, BLOCKS * BLOCK);
	e = engine_with_two_lost(&m, lost, &vol, off);
	memset(lost, 0, sizeof(lost));
	for (uint64_t i = 0; i < 200; i++) /* more than there is room for, each twice */
		volume_touch(e->fs, vol->id, BLOCKS - 1 - i / 2 * 29);
	volume_touch(e->fs, vol->id, 1ull << 40);
	volume_touch(e->fs, 12345, 0);
	engine_commit(e);
	fs_get_info(e->fs, &info);
	assert_true(info.lost_bytes == 0 && vol->touches == NULL);
	expect_lost(e, vol, &m, lost);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* Both copies of a node of a pool in a file, which is closed. */
static void rot_in_file(const char *path, const uint64_t off[GROUP_STRIPES_MAX])
{
	int fd = open(path, O_RDWR);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pwrite(fd, "rotten", 6, (off_t)(off[i] + 7000)), 6);
	close(fd);
}

/*
 * What a lost node had referred to is found, freed by a repair, and can be used again; the pool is clean
 * then.
 */
static void test_lost_space_is_freed_by_a_repair(void **state)
{
	const struct fs_options none = {.cache_bytes = 16 * MIB};
	struct engine *e = engine_new_file(POOL_BYTES, 1, &none);
	struct fs_volume *vol = engine_volume(e, "v", 4000 * BLOCK);
	struct found before = {0}, repaired = {0}, after = {0};
	struct fs_check_options opt = {.finding = count_finding, .arg = &before};
	uint64_t off[GROUP_STRIPES_MAX], findings;
	uint8_t *buf = calloc(1, 4000 * BLOCK);
	struct tree_place p;
	struct fs_info info;

	for (uint64_t b = 0; b < 4000; b += 2)
		assert_int_equal(engine_write(e, vol, b * BLOCK, BLOCK, buf), 0);
	engine_commit(e);
	p = tree_place_of(e, vol, 2000, 0);
	assert_int_equal(block_group_map(e->fs, p.id.addr, NODE_SIZE, off), 2);
	fs_volume_put(vol);
	engine_close(e);
	rot_in_file(e->path, off);
	engine_open(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_write(e, vol, p.first * BLOCK, (p.end - p.first) * BLOCK, buf), 0);
	fs_volume_put(vol);
	engine_close(e);
	assert_int_equal(fs_check(e->path, &opt, &findings, NULL), 0);
	assert_true(before.leaked >= 1 && before.lost == 0 && before.others == 0);
	opt.repair = true;
	opt.arg = &repaired;
	assert_int_equal(fs_check(e->path, &opt, &findings, NULL), 0);
	assert_int_equal(repaired.leaked, before.leaked);
	opt.repair = false;
	opt.arg = &after;
	assert_int_equal(fs_check(e->path, &opt, &findings, NULL), 0);
	assert_true(after.leaked + after.lost + after.others == 0);
	engine_open(e);
	engine_commit(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.data_bytes, (2000 - (p.end - p.first) / 2 + (p.end - p.first)) * BLOCK);
	free(buf);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost_leaf_of_a_living_volume_stays_where_it_is),
		cmocka_unit_test(test_lost_blocks_are_no_hole_in_the_map),
		cmocka_unit_test(test_lost_node_is_told_of_once),
		cmocka_unit_test(test_lost_is_not_what_comes_back),
		cmocka_unit_test(test_lost_nodes_do_not_put_off_the_next_tries),
		cmocka_unit_test(test_lost_interior_node),
		cmocka_unit_test(test_lost_nodes_do_not_keep_a_rebuild_from_its_end),
		cmocka_unit_test(test_lost_nodes_are_replaced_by_a_scrub),
		cmocka_unit_test(test_lost_is_not_what_can_be_read_again),
		cmocka_unit_test(test_lost_space_is_freed_by_a_repair),
		cmocka_unit_test(test_orphans_after_a_restart_keep_the_sums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
