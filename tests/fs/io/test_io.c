/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/io/test_io.c: requests against a byte model, one at a time: every alignment, every size, holes,
 * durability, the cache. Several at once: test_io_together.c; a device that lies or fails: test_io_errors.c.
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
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/format/node_format.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (192 * MIB)

/* ---- any place and size --------------------------------------------------------- */

/* What was there before: a hole, data of this transaction, or data of a committed one; or some of each. */
enum before { BEFORE_HOLE, BEFORE_PENDING, BEFORE_COMMITTED, BEFORE_MIXED, BEFORES };

static void prepare(struct engine *e, struct fs_volume *vol, struct model *m, enum before before,
		    uint64_t off, uint64_t len)
{
	apply_both(e, vol, m, (struct op){FS_TRIM, 0}, off, len);
	if (before == BEFORE_HOLE)
		return;
	if (before == BEFORE_MIXED) {
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, 2 * BLOCK);
		engine_commit(e);
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off + BLOCK, 2 * BLOCK);
		return;
	}
	apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, len);
	if (before == BEFORE_COMMITTED)
		engine_commit(e);
}

static void test_io_every_alignment_near_block_borders(void **state)
{
	static const uint64_t border[] = {0,	1,    2047, 4095,  4096,  4097,	 6000,
					  8191, 8192, 8193, 12287, 12288, 12289, 16384};
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 6 * BLOCK);
	struct model m;

	model_init(&m, 6 * BLOCK);
	for (int before = 0; before < BEFORES; before++) {
		for (size_t o = 0; o < ARRAY_SIZE(changing_ops); o++) {
			for (size_t a = 0; a < ARRAY_SIZE(border); a++) {
				for (size_t b = a + 1; b < ARRAY_SIZE(border); b += 1 + 4 * SANITIZED) {
					prepare(e, vol, &m, before, BLOCK, 4 * BLOCK);
					apply_both(e, vol, &m, changing_ops[o], BLOCK + border[a],
						   border[b] - border[a]);
					model_verify(e, vol, &m, 0, m.size);
					model_verify(e, vol, &m, BLOCK + border[a], border[b] - border[a]);
				}
			}
		}
	}
	for (size_t a = 0; a < ARRAY_SIZE(border); a++)
		for (size_t b = a + 1; b < ARRAY_SIZE(border); b++)
			model_verify(e, vol, &m, border[a], border[b] - border[a]);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static uint64_t random_len(uint64_t *rng)
{
	switch (pick(rng, 8)) {
	case 0: return 1 + pick(rng, FS_IO_MAX);
	case 1: return 1 + pick(rng, MIB);
	case 2: return (1 + pick(rng, 64)) * BLOCK;
	case 3: return BLOCK;
	default: return 1 + pick(rng, 20000);
	}
}

static void test_io_random_against_a_byte_model(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 4 * MIB}; /* less than a request can be */
	struct engine *e = engine_new_with(POOL_BYTES, seed, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 40 * MIB + 12 * KIB);
	struct model m;

	model_init(&m, 40 * MIB + 12 * KIB);
	for (unsigned i = 0; i < (SANITIZED ? 150 : 1200); i++) {
		uint64_t len = random_len(&e->rng), off, at;

		off = pick(&e->rng, m.size - len + 1);
		apply_both(e, vol, &m, changing_ops[pick(&e->rng, ARRAY_SIZE(changing_ops))], off, len);
		at = off > 9000 ? off - 9000 : 0;
		model_verify(e, vol, &m, at, min_u64(len + 18000, min_u64(FS_IO_MAX, m.size - at)));
		if (pick(&e->rng, 30) == 0)
			engine_check_books(e);
		if (pick(&e->rng, 60) == 0)
			engine_commit(e);
		if (pick(&e->rng, 200) == 0) {
			assert_int_equal(engine_flush(e), 0);
			fs_volume_put(vol);
			if (pick(&e->rng, 2)) {
				engine_reopen(e);
			} else {
				engine_crash(
					e, (enum device_sim_crash_mode)pick(&e->rng, DEVICE_SIM_CRASH_MODES),
					rnd(&e->rng));
				engine_open(e);
			}
			vol = engine_volume(e, "v", 0);
			model_verify_all(e, vol, &m);
		}
	}
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static void test_io_largest_request_at_any_alignment(void **state)
{
	struct fs_options opt = {.cache_bytes = 2 * MIB};
	struct engine *e = engine_new_with(POOL_BYTES, 1, &opt);
	uint64_t size = FS_IO_MAX + 8 * BLOCK;
	struct fs_volume *vol = engine_volume(e, "v", size);
	static const uint64_t off[] = {0, 1, 4095, 4097};
	struct model m;
	void *buf = calloc(1, FS_IO_MAX + 1);

	model_init(&m, size);
	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, off[i], FS_IO_MAX);
		model_verify(e, vol, &m, off[i], FS_IO_MAX);
		model_verify_all(e, vol, &m);
	}
	assert_int_equal(engine_write(e, vol, 0, FS_IO_MAX + 1, buf), -EINVAL);
	assert_int_equal(engine_read(e, vol, 0, FS_IO_MAX + 1, buf), -EINVAL);
	assert_int_equal(engine_write(e, vol, 5, 0, NULL), 0);
	assert_int_equal(engine_read(e, vol, size, 0, NULL), 0);
	/* no bound for what carries no data */
	apply_both(e, vol, &m, (struct op){FS_ZERO, FS_NO_HOLE}, 1, size - 2);
	apply_both(e, vol, &m, (struct op){FS_TRIM, 0}, 1, size - 2);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	free(buf);
	engine_free(e);
}

static void test_io_past_the_end_is_refused_and_changes_nothing(void **state)
{
	static const uint64_t over[][2] = {{0, 4}, {3, 2},	    {4, 1},	    {4, 0},
					   {5, 0}, {UINT64_MAX, 1}, {1, UINT64_MAX}};
	struct engine *e = engine_new(POOL_BYTES, 1);
	uint64_t size = 4 * BLOCK;
	struct fs_volume *vol = engine_volume(e, "v", size);
	uint8_t buf[5 * FS_BLOCK_SIZE];
	struct model m;

	model_init(&m, size);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, size);
	for (size_t i = 0; i < ARRAY_SIZE(over); i++) {
		/* In blocks, and to the byte just beyond. */
		uint64_t off = over[i][0] == UINT64_MAX ? UINT64_MAX : over[i][0] * BLOCK;
		uint64_t len = over[i][1] == UINT64_MAX ? UINT64_MAX : over[i][1] * BLOCK;
		bool fits = off <= size && len <= size - off;

		for (uint64_t more = 0; more < (len == UINT64_MAX ? 1 : 2); more++) {
			bool ok = fits && (more == 0 || len < size - off);

			assert_int_equal(engine_read(e, vol, off, len + more, buf), ok ? 0 : -EINVAL);
			assert_int_equal(engine_io(e, vol, FS_CACHE, 0, off, len + more, NULL),
					 ok ? 0 : -EINVAL);
			if (ok)
				continue;
			assert_int_equal(engine_write(e, vol, off, len + more, buf), -ENOSPC);
			assert_int_equal(engine_trim(e, vol, off, len + more), -ENOSPC);
			assert_int_equal(engine_io(e, vol, FS_ZERO, 0, off, len + more, NULL), -ENOSPC);
			assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, off, len + more, NULL),
					 -ENOSPC);
		}
	}
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* ---- durability, holes, cache ------------------------------------------------------------ */

static void test_io_fua_is_durable_by_itself(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct model m;

	model_init(&m, 64 * BLOCK);
	fs_volume_put(engine_volume(e, "v", m.size));
	for (unsigned i = 0; i < 40; i++) {
		static const struct op ops[] = {{FS_WRITE, FS_FUA},
						{FS_TRIM, FS_FUA},
						{FS_ZERO, FS_FUA},
						{FS_ZERO, FS_FUA | FS_NO_HOLE}};
		struct fs_volume *vol = engine_volume(e, "v", 0);
		uint64_t len = 1 + pick(&e->rng, 30000);

		if (i % 2) /* a flush covers it too */
			apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, pick(&e->rng, m.size - 5000), 5000);
		apply_both(e, vol, &m, ops[i % ARRAY_SIZE(ops)], pick(&e->rng, m.size - len + 1), len);
		fs_volume_put(vol);
		engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, i);
		engine_check_device(e->sim);
		engine_open(e);
		vol = engine_volume(e, "v", 0);
		model_verify_all(e, vol, &m);
		fs_volume_put(vol);
	}
	model_fini(&m);
	engine_free(e);
}

/* Also shows that the test above can fail: what nobody flushed is lost with the machine. */
static void test_io_without_flush_is_lost_with_the_machine(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	uint8_t buf[4096], zero[4096] = {0}, got[4096];

	engine_commit(e);
	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_write(e, vol, 0, 4096, buf), 0);
	fs_volume_put(vol);
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_open(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_read(e, vol, 0, 4096, got), 0);
	assert_memory_equal(got, zero, 4096);
	fs_volume_put(vol);
	engine_free(e);
}

struct mapped {
	uint8_t *hole; /* by block: 1 hole, 0 data */
	uint64_t next, pieces, stop_after;
};

static int take_piece(void *arg, uint64_t off, uint64_t len, bool hole)
{
	struct mapped *mp = arg;

	assert_int_equal(off, mp->next);
	assert_true(len > 0);
	for (uint64_t b = off / BLOCK; b <= (off + len - 1) / BLOCK; b++)
		mp->hole[b] = hole;
	mp->next = off + len;
	return ++mp->pieces == mp->stop_after ? 42 : 0;
}

static void test_io_map_shows_what_is_allocated(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t blocks = 300;
	struct fs_volume *vol = engine_volume(e, "v", blocks * BLOCK);
	uint8_t hole[300], got[300], buf[20 * FS_BLOCK_SIZE];
	struct mapped mp = {.hole = got};

	memset(hole, 1, sizeof(hole));
	memset(buf, 7, sizeof(buf));
	for (unsigned round = 0; round < 1500; round++) {
		uint64_t b = pick(&e->rng, blocks - 20), n = 1 + pick(&e->rng, 20), off, len;

		switch (pick(&e->rng, 5)) {
		case 0:
		case 1:
			assert_int_equal(engine_write(e, vol, b * BLOCK, n * BLOCK, buf), 0);
			memset(hole + b, 0, n);
			break;
		case 2: /* edges stay, whole blocks go */
			off = b * BLOCK + pick(&e->rng, BLOCK);
			len = pick(&e->rng, n * BLOCK);
			assert_int_equal(engine_io(e, vol, pick(&e->rng, 2) ? FS_TRIM : FS_ZERO, 0, off, len,
						   NULL),
					 0);
			for (uint64_t k = (off + BLOCK - 1) / BLOCK; (k + 1) * BLOCK <= off + len; k++)
				hole[k] = 1;
			break;
		case 3:
			assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, b * BLOCK + 1, n * BLOCK - 1,
						   NULL),
					 0);
			memset(hole + b, 0, n);
			break;
		default:
			if (pick(&e->rng, 10) == 0)
				engine_commit(e);
		}
		off = pick(&e->rng, blocks * BLOCK);
		len = pick(&e->rng, blocks * BLOCK - off) + 1;
		mp.next = off;
		mp.pieces = mp.stop_after = 0;
		memset(got, 9, sizeof(got));
		assert_int_equal(fs_volume_map(vol, off, len, take_piece, &mp), 0);
		assert_int_equal(mp.next, off + len);
		for (uint64_t k = 0; k < blocks; k++)
			if (k >= off / BLOCK && k <= (off + len - 1) / BLOCK)
				assert_int_equal(got[k], hole[k]);
			else
				assert_int_equal(got[k], 9);
	}
	mp.next = mp.pieces = 0;
	mp.stop_after = 2;
	assert_int_equal(fs_volume_map(vol, 0, blocks * BLOCK, take_piece, &mp), 42);
	assert_int_equal(mp.pieces, 2);
	assert_int_equal(fs_volume_map(vol, 0, blocks * BLOCK + 1, take_piece, &mp), -EINVAL);
	assert_int_equal(fs_volume_map(vol, UINT64_MAX, 2, take_piece, &mp), -EINVAL);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

static void test_io_no_hole_keeps_its_space(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 32 * MIB);
	struct fs_volume_info info;

	assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, 4096, 9 * MIB, NULL), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 9 * MIB);
	assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, 4096, MIB, NULL), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 9 * MIB);
	assert_int_equal(engine_io(e, vol, FS_ZERO, 0, 4096, MIB, NULL), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 8 * MIB);
	/* An edge in a hole is zero already: no space for it. */
	assert_int_equal(engine_trim(e, vol, 30 * MIB + 1, 5000), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 8 * MIB);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

/*
 * Regression: the edge of a trim that found a hole when its turn came took a block for good, and at last all
 * of the reserve.
 */
static void test_io_edge_of_a_trim_takes_no_space_in_a_hole(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	uint8_t buf[FS_BLOCK_SIZE] = {1};
	struct fs_volume_info info;

	assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
	for (unsigned i = 0; i < 10; i++) {
		struct fs_io io[3] = {
			/* is under way, so that the others wait */
			{.op = FS_WRITE, .vol = vol, .len = BLOCK, .buf = buf},
			{.op = FS_TRIM, .vol = vol, .len = BLOCK},
			{.op = FS_TRIM, .vol = vol, .off = 100, .len = 200},
		};
		unsigned left = 0;

		engine_submit(e, io, 3, &left);
		engine_wait(e, &left);
		assert_int_equal(io[0].error | io[1].error | io[2].error, 0);
		if (i % 2)
			engine_commit(e);
	}
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 0);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

static void test_io_cache_request_brings_data_into_memory(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 8 * MIB);
	struct device_sim_stats before, after;
	struct model m;

	model_init(&m, 8 * MIB);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, MIB, 3 * MIB);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	device_sim_get_stats(e->sim, &before);
	assert_int_equal(engine_io(e, vol, FS_CACHE, 0, MIB + 5, 3 * MIB - 10, NULL), 0);
	device_sim_get_stats(e->sim, &after);
	assert_true(after.read_bytes - before.read_bytes >= 3 * MIB);
	model_verify(e, vol, &m, 0, 8 * MIB);
	device_sim_get_stats(e->sim, &before);
	assert_int_equal(before.ops[DEVICE_READ], after.ops[DEVICE_READ]);
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/* Nodes do not fit into memory: look-ups wait for the device, on workers. */
static void test_io_nodes_are_read_again_when_the_cache_is_small(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 2 * MIB};
	struct engine *e = engine_new_with(POOL_BYTES, seed, &opt);
	uint64_t n = SANITIZED ? 10000 : 30000;
	struct fs_volume *vol = engine_volume(e, "v", 2 * n * BLOCK);
	uint8_t *buf = malloc(8 * MIB), want[FS_BLOCK_SIZE];
	static struct fs_io io[128];
	struct fs_info before, after;
	unsigned left = 0;

	for (uint64_t b = 0; b < n;) { /* every second block: an item each */
		unsigned k;

		for (k = 0; k < 128 && b < n; k++, b++) {
			fill_bytes(buf + k * BLOCK, BLOCK, b);
			io[k] = (struct fs_io){.op = FS_WRITE,
					       .vol = vol,
					       .off = 2 * b * BLOCK,
					       .len = BLOCK,
					       .buf = buf + k * BLOCK};
		}
		engine_submit(e, io, k, &left);
		engine_wait(e, &left);
		for (unsigned i = 0; i < k; i++)
			assert_int_equal(io[i].error, 0);
	}
	engine_commit(e);
	assert_true(vol->root.nodes * NODE_SIZE > (SANITIZED ? 200 : 1000) * KIB);
	fs_get_info(e->fs, &before);
	for (unsigned round = 0; round < 60; round++) {
		uint64_t at[128];

		/* More than the cache holds at once: nothing else stays. */
		assert_int_equal(engine_read(e, vol, pick(&e->rng, n / 2) * BLOCK, 8 * MIB, buf), 0);
		for (unsigned k = 0; k < 128; k++) {
			at[k] = pick(&e->rng, n);
			io[k] = (struct fs_io){.op = FS_READ,
					       .vol = vol,
					       .off = 2 * at[k] * BLOCK,
					       .len = BLOCK,
					       .buf = buf + k * BLOCK};
		}
		engine_submit(e, io, 128, &left);
		engine_wait(e, &left);
		for (unsigned k = 0; k < 128; k++) {
			assert_int_equal(io[k].error, 0);
			fill_bytes(want, BLOCK, at[k]);
			assert_memory_equal(buf + k * BLOCK, want, BLOCK);
		}
	}
	fs_get_info(e->fs, &after);
	assert_true(after.node_cache_misses - before.node_cache_misses > 500);
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf);
	engine_free(e);
}

/*
 * Overwriting does not fill the cache with what nothing refers to any more: a volume that fits stays in
 * memory.
 */
static void test_io_overwritten_blocks_leave_the_cache(void **state)
{
	/* the committed blocks and the new ones fit together */
	const uint64_t size = 4 * MIB, seed = test_seed();
	struct engine *e = engine_new(128 * MIB, seed); /* its cache has 16 MiB */
	struct fs_volume *vol = engine_volume(e, "v", size);
	struct fs_info before, after;
	char *buf = calloc(1, size);

	for (unsigned round = 0; round < 4; round++) {
		assert_int_equal(engine_write(e, vol, 0, size, buf), 0);
		for (unsigned i = 0; i < 5000; i++)
			assert_int_equal(
				engine_write(e, vol, pick(&e->rng, size / BLOCK) * BLOCK, BLOCK, buf), 0);
		engine_commit(e);
	}
	fs_get_info(e->fs, &before);
	assert_int_equal(engine_read(e, vol, 0, size, buf), 0);
	fs_get_info(e->fs, &after);
	assert_int_equal(after.data_cache_misses, before.data_cache_misses);
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_every_alignment_near_block_borders),
		cmocka_unit_test(test_io_random_against_a_byte_model),
		cmocka_unit_test(test_io_largest_request_at_any_alignment),
		cmocka_unit_test(test_io_past_the_end_is_refused_and_changes_nothing),
		cmocka_unit_test(test_io_fua_is_durable_by_itself),
		cmocka_unit_test(test_io_without_flush_is_lost_with_the_machine),
		cmocka_unit_test(test_io_map_shows_what_is_allocated),
		cmocka_unit_test(test_io_no_hole_keeps_its_space),
		cmocka_unit_test(test_io_edge_of_a_trim_takes_no_space_in_a_hole),
		cmocka_unit_test(test_io_cache_request_brings_data_into_memory),
		cmocka_unit_test(test_io_nodes_are_read_again_when_the_cache_is_small),
		cmocka_unit_test(test_io_overwritten_blocks_leave_the_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
