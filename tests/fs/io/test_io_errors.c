/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/io/test_io_errors.c: a device that lies or fails: wrong data is an error for that block only,
 * nodes are mended from their twins, and what failed leaves the old content.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/cache/cache.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/core/report.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (192 * MIB)

/* ---- a device that lies -------------------------------------------------------------------- */

static uint64_t place_of(struct engine *e, struct fs_volume *vol, uint64_t blk)
{
	struct volume_piece vp;
	uint64_t off[GROUP_STRIPES_MAX];
	uint32_t crc;

	assert_int_equal(volume_lookup(vol, e->fs->commit_q, blk, 1, &vp, &crc), 0);
	assert_true(vp.addr != 0);
	assert_int_equal(block_group_map(e->fs, vp.addr, BLOCK, off), 1);
	return off[0];
}

/* How many of n reads (or writes) that fail leave a line. */
static unsigned lines_of(struct engine *e, struct fs_volume *vol, bool writes, unsigned n)
{
	static uint8_t buf[FS_BLOCK_SIZE];
	unsigned lines = 0;

	for (unsigned i = 0; i < n; i++) {
		e->log[0] = 0;
		assert_int_equal(writes ? engine_write(e, vol, 0, BLOCK, buf)
					: engine_read(e, vol, 0, BLOCK, buf),
				 -EIO);
		lines += e->log[0] != 0;
	}
	return lines;
}

/* A client may ask for a bad block as often as it likes. */
static void test_io_errors_do_not_flood_the_log(void **state)
{
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = DEVICE_SIM_OP(DEVICE_WRITE), .error = -EIO};
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 256 * BLOCK);
	static uint8_t buf[FS_BLOCK_SIZE];
	uint64_t off;

	fill_bytes(buf, BLOCK, 1);
	assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	off = place_of(e, vol, 0);
	device_sim_flip(e->sim, off + 100, 1);
	assert_int_equal(lines_of(e, vol, false, 200), FS_LOG_OFTEN_MAX);
	device_sim_bad_range(e->sim, off, BLOCK);
	assert_int_equal(lines_of(e, vol, false, 200), FS_LOG_OFTEN_MAX); /* another kind */
	assert_true(atomic_load(&e->fs->stats.errors_io) >= 200);
	device_sim_fault_add(e->sim, &fault);
	assert_int_equal(lines_of(e, vol, true, 200), FS_LOG_OFTEN_MAX);
	device_sim_fault_clear(e->sim);
	/* so much later */
	atomic_fetch_sub(&e->fs->often[FS_OFTEN_READ].since_us, FS_LOG_OFTEN_S * 1000000ull);
	assert_int_equal(lines_of(e, vol, false, 1), 1);
	assert_non_null(strstr(e->log, "180 lines like the next one were left out"));
	assert_non_null(strstr(e->log, "cannot be read"));
	fs_volume_put(vol);
	engine_free(e);
}

static void test_io_wrong_data_is_an_error_for_that_block_only(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 256 * BLOCK);
	uint64_t bad[] = {0, 17, 128, 255};
	uint8_t *got = malloc(256 * BLOCK);
	struct fs_info info;
	struct model m;

	model_init(&m, 256 * BLOCK);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, m.size);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		device_sim_flip(e->sim, place_of(e, vol, bad[i]) + 1000, 3);
	assert_int_equal(engine_read(e, vol, 0, m.size, got), -EIO);
	for (uint64_t b = 0; b < 256; b++) {
		bool is_bad = b == 0 || b == 17 || b == 128 || b == 255;

		assert_int_equal(engine_read(e, vol, b * BLOCK, BLOCK, got), is_bad ? -EIO : 0);
		if (!is_bad)
			assert_memory_equal(got, m.bytes + b * BLOCK, BLOCK);
	}
	assert_int_equal(engine_read(e, vol, 16 * BLOCK, 3 * BLOCK, got), -EIO);
	assert_int_equal(engine_read(e, vol, 18 * BLOCK, 110 * BLOCK, got), 0);
	assert_non_null(strstr(e->log, "volume v"));
	fs_get_info(e->fs, &info);
	assert_true(info.errors_checksum >= 4);
	assert_false(info.read_only);
	/* A part of it cannot be written over what is not known; all of it can. */
	assert_int_equal(engine_write(e, vol, 17 * BLOCK + 5, 10, m.bytes), -EIO);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 17 * BLOCK, BLOCK);
	model_verify(e, vol, &m, BLOCK, 127 * BLOCK);
	apply_both(e, vol, &m, (struct op){FS_TRIM, 0}, 0, BLOCK);
	model_verify(e, vol, &m, 0, 128 * BLOCK);
	fs_volume_put(vol);
	engine_check_committed(e);
	free(got);
	model_fini(&m);
	engine_free(e);
}

/* A volume whose tree has a few leaves; returns the address of its leaf number `leaf`. */
static uint64_t leaf_address(struct engine *e, struct fs_volume *vol, unsigned leaf)
{
	struct cache_entry *entry;
	struct node_ident id = {vol->root.addr, vol->root.generation, vol->root.owner, vol->root.level},
			  child;

	assert_int_equal(vol->root.level, 1);
	assert_int_equal(node_read(e->fs, e->fs->commit_q, &id, &entry), 0);
	assert_true(leaf < node_count(node_header(entry)));
	assert_int_equal(node_child(node_header(entry), leaf, id.owner, &child), 0);
	cache_put(e->fs->cache, entry);
	return child.addr;
}

static void peek_node(struct engine *e, uint64_t addr, int copy, uint8_t *buf)
{
	uint64_t off[GROUP_STRIPES_MAX];

	assert_int_equal(block_group_map(e->fs, addr, NODE_SIZE, off), 2);
	device_sim_peek(e->sim, off[copy], buf, NODE_SIZE);
}

static void damage_node(struct engine *e, uint64_t addr, int copy, unsigned how)
{
	uint64_t off[GROUP_STRIPES_MAX];
	uint8_t buf[NODE_SIZE];

	assert_int_equal(block_group_map(e->fs, addr, NODE_SIZE, off), 2);
	switch (how) {
	case 0: device_sim_flip(e->sim, off[copy] + 5000, 1); break;
	case 1:
		memset(buf, 0, sizeof(buf));
		device_sim_poke(e->sim, off[copy], buf, sizeof(buf));
		break;
	case 2: /* a good node, but another one */
		peek_node(e, leaf_address(e, engine_volume(e, "v", 0), 2), copy, buf);
		device_sim_poke(e->sim, off[copy], buf, sizeof(buf));
		break;
	default: device_sim_bad_range(e->sim, off[copy], BLOCK);
	}
}

static struct engine *engine_with_leaves(struct model *m)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", m->size);

	for (uint64_t off = 0; off < m->size; off += 2 * BLOCK)
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, BLOCK);
	fs_volume_put(vol);
	engine_commit(e);
	return e;
}

static void test_io_damaged_node_is_mended_from_its_twin(void **state)
{
	struct model m;
	struct engine *e;

	model_init(&m, 3000 * BLOCK);
	e = engine_with_leaves(&m);
	for (unsigned how = 0; how < 4; how++) {
		struct fs_volume *vol;
		uint8_t good[NODE_SIZE], now[NODE_SIZE];
		struct fs_info info;
		uint64_t leaf;

		engine_reopen(e);
		vol = engine_volume(e, "v", 0);
		leaf = leaf_address(e, vol, 1);
		peek_node(e, leaf, 0, good);
		damage_node(e, leaf, 0, how);
		cache_invalidate(e->fs->cache, CACHE_NODE, leaf);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.errors_corrected, 0);
		model_verify_all(e, vol, &m);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.errors_corrected, 1);
		peek_node(e, leaf, 0, now);
		assert_memory_equal(good, now, NODE_SIZE);
		if (how == 2)
			fs_volume_put(vol); /* damage_node's */
		fs_volume_put(vol);
		engine_check_all(e);
	}
	model_fini(&m);
	engine_free(e);
}

static void test_io_node_lost_in_both_copies_is_an_error_there_only(void **state)
{
	struct fs_volume *vol;
	uint8_t got[FS_BLOCK_SIZE];
	unsigned bad = 0, good = 0;
	struct model m;
	struct engine *e;
	uint64_t leaf;
	int r;

	model_init(&m, 3000 * BLOCK);
	e = engine_with_leaves(&m);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	leaf = leaf_address(e, vol, 1);
	damage_node(e, leaf, 0, 0);
	damage_node(e, leaf, 1, 1);
	for (uint64_t b = 0; b < 3000; b++) {
		r = engine_read(e, vol, b * BLOCK, BLOCK, got);
		if (r == 0) {
			assert_memory_equal(got, m.bytes + b * BLOCK, BLOCK);
			good++;
		} else {
			assert_int_equal(r, -EIO);
			bad++;
		}
	}
	assert_true(bad > 100 && bad < 1000);
	assert_int_equal(good + bad, 3000);
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/*
 * Regression: no commit could be made any more, and no other volume's space be freed, when a deleted volume
 * had such a node.
 */
static void test_io_deleted_volume_with_a_lost_node_stops_nobody(void **state)
{
	for (unsigned slot = 0; slot < 3; slot++) { /* the leaf that is lost; the third time it is the root */
		struct fs_info before, after;
		struct fs_volume *vol, *other;
		uint64_t root, leaf;
		struct engine *e;
		struct model m;

		model_init(&m, 3000 * BLOCK);
		e = engine_with_leaves(&m);
		engine_reopen(e);
		vol = engine_volume(e, "v", 0);
		root = vol->root.addr;
		leaf = slot == 2 ? root : leaf_address(e, vol, slot);
		fs_volume_put(vol);
		damage_node(e, leaf, 0, 0);
		damage_node(e, leaf, 1, 1);
		cache_invalidate(e->fs->cache, CACHE_NODE, leaf);
		fs_get_info(e->fs, &before);
		assert_int_equal(fs_volume_delete(e->fs, "v", NULL), 0);
		other = engine_volume(e, "w", MIB);
		for (unsigned again = 0; again < 2; again++) {
			fill_bytes(m.bytes, MIB, again);
			assert_int_equal(engine_write(e, other, 0, MIB, m.bytes), 0);
			engine_commit(e);
			assert_false(fs_is_read_only(e->fs));
			fs_volume_put(other);
			engine_reopen(e);
			other = engine_volume(e, "w", 0);
		}
		assert_int_equal(engine_read(e, other, 0, MIB, m.bytes + MIB), 0);
		assert_memory_equal(m.bytes, m.bytes + MIB, MIB);
		engine_commit(e);
		fs_get_info(e->fs, &after);
		/* What comes before it and behind it in the tree is free. */
		assert_int_equal(after.data_bytes < before.data_bytes + MIB, slot != 2);
		assert_int_equal(atomic_load(&e->fs->orphans), 0);
		fs_volume_put(other);
		model_fini(&m);
		engine_free(e);
	}
}

static void test_io_failed_device_write_keeps_the_old_content(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t size = 8 * MIB;
	struct fs_volume *vol = engine_volume(e, "v", size);
	uint8_t *buf = malloc(size);
	struct model m;

	model_init(&m, size);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, size);
	for (unsigned i = 0; i < 200; i++) {
		struct device_sim_fault fault = {.kind = i % 2 ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN,
						 .error = -EIO,
						 .ops = DEVICE_SIM_OP(DEVICE_WRITE),
						 .skip = pick(&e->rng, 3),
						 .count = 1};
		uint64_t len = 1 + pick(&e->rng, i % 3 ? 30000 : 4 * MIB),
			 off = pick(&e->rng, size - len + 1);
		int r;

		fill_bytes(buf, len, rnd(&e->rng));
		device_sim_fault_add(e->sim, &fault);
		r = engine_write(e, vol, off, len, buf);
		device_sim_fault_clear(e->sim);
		if (r == 0)
			memcpy(m.bytes + off, buf, len);
		else
			assert_int_equal(r, -EIO);
		if (i % 2)
			engine_check_books(e);
		model_verify(e, vol, &m, off, len);
	}
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	free(buf);
	engine_free(e);
}

static void test_io_failed_device_read_is_an_error_once(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .error = -EIO, .ops = DEVICE_SIM_OP(DEVICE_READ), .count = 1};
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	struct fs_info info;
	uint8_t got[8192];
	struct model m;

	model_init(&m, MIB);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, MIB);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_read(e, vol, MIB - 4096, 4096, got), 0); /* nodes are in memory */
	device_sim_fault_add(e->sim, &fault);
	assert_int_equal(engine_read(e, vol, 0, 8192, got), -EIO);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.errors_io, 1);
	model_verify_all(e, vol, &m);
	device_sim_fault_add(e->sim, &(struct device_sim_fault){.kind = DEVICE_SIM_LOSE,
								.ops = DEVICE_SIM_OP(DEVICE_READ),
								.count = 1});
	fs_volume_put(vol);
	device_sim_fault_clear(e->sim);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_errors_do_not_flood_the_log),
		cmocka_unit_test(test_io_wrong_data_is_an_error_for_that_block_only),
		cmocka_unit_test(test_io_damaged_node_is_mended_from_its_twin),
		cmocka_unit_test(test_io_node_lost_in_both_copies_is_an_error_there_only),
		cmocka_unit_test(test_io_deleted_volume_with_a_lost_node_stops_nobody),
		cmocka_unit_test(test_io_failed_device_write_keeps_the_old_content),
		cmocka_unit_test(test_io_failed_device_read_is_an_error_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
