/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_space_promise.c: reserved volumes: what is set aside for them costs nothing, and nobody
 * else gets it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/random.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

#define GIB (1ull << 30)

static int make_reserved(struct engine *e, const char *name, uint64_t size)
{
	return fs_volume_create(e->fs, name, size, FS_VOLUME_RESERVED, NULL);
}

static uint64_t data_groups(struct engine *e)
{
	struct fs_info info;

	fs_get_info(e->fs, &info);
	return info.groups_data;
}

/*
 * Regression: all groups that a reserved volume could need were made with it, under the lock of all who
 * write.
 */
static void test_space_large_promise_makes_no_groups(void **state)
{
	struct engine *e = engine_new(400 * GIB, 1);
	uint64_t before = data_groups(e);
	struct fs_volume *vol;
	uint8_t buf[4096];
	struct fs_info info;

	assert_int_equal(make_reserved(e, "r", 350 * GIB), 0);
	assert_int_equal(make_reserved(e, "too-large", 40 * GIB), -ENOSPC);
	assert_true(data_groups(e) <= before + 1);
	fs_get_info(e->fs, &info);
	assert_true(info.volume_reserved_bytes >= 350 * GIB);
	assert_true(info.free_bytes < 40 * GIB);
	vol = engine_volume(e, "r", 0);
	for (uint64_t i = 0; i < 8; i++) {
		fill_bytes(buf, sizeof(buf), i);
		assert_int_equal(engine_write(e, vol, i * 40 * GIB, sizeof(buf), buf), 0);
	}
	fs_volume_put(vol);
	engine_reopen(e);
	assert_true(data_groups(e) <= before + 2);
	assert_int_equal(make_reserved(e, "too-large", 40 * GIB), -ENOSPC); /* it is still set aside */
	assert_int_equal(fs_volume_delete(e->fs, "r", NULL), 0);
	engine_commit(e);
	assert_int_equal(e->fs->space->aside, 0);
	assert_int_equal(make_reserved(e, "too-large", 300 * GIB), 0);
	engine_check_all(e);
	engine_free(e);
}

/* Single blocks in random order, until one does not fit. Returns how many did. */
static uint64_t fill_at_random(struct engine *e, struct fs_volume *vol, uint64_t blocks, uint64_t from)
{
	uint8_t buf[4096];
	uint64_t done = 0;

	for (uint64_t i = 0; i < blocks; i++) {
		uint64_t blk = (from + i * 7919) % blocks; /* blocks is no multiple of that prime */

		fill_bytes(buf, sizeof(buf), blk + 1);
		if (engine_write(e, vol, blk * BLOCK, BLOCK, buf))
			break;
		done++;
	}
	return done;
}

/*
 * Thin volumes take what they can get, in the pieces that need the most metadata; then all that was promised
 * is written.
 */
static void promise_is_kept(uint64_t pool, uint64_t size, unsigned reopen)
{
	struct engine *e = engine_new(pool, 1);
	struct fs_volume *thin = engine_volume(e, "thin", 4 * pool), *vol;
	uint64_t aside, written;

	assert_int_equal(make_reserved(e, "r", size), 0);
	aside = e->fs->space->aside;
	assert_true(aside > size / 2); /* else it tests nothing */
	written = fill_at_random(e, thin, 4 * pool / BLOCK, 1);
	fs_volume_put(thin);
	if (reopen == 1)
		engine_reopen(e);
	if (reopen == 2) {
		assert_int_equal(engine_flush(e), 0);
		engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
		engine_open(e);
	}
	vol = engine_volume(e, "r", 0);
	for (unsigned round = 0; round < 3; round++)
		assert_int_equal(fill_at_random(e, vol, size / BLOCK, round), size / BLOCK);
	engine_commit(e);
	assert_int_equal(engine_trim(e, vol, 0, size), 0);
	engine_commit(e);
	thin = engine_volume(e, "thin", 0);
	/* overwrites; what was promised is not theirs */
	assert_true(fill_at_random(e, thin, 4 * pool / BLOCK, 5) < written);
	fs_volume_put(thin);
	assert_int_equal(fill_at_random(e, vol, size / BLOCK, 9), size / BLOCK);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

static void test_space_what_is_set_aside_is_kept(void **state)
{
	promise_is_kept(64 * MIB, 20 * MIB, 0);
	promise_is_kept(64 * MIB, 20 * MIB, 1);
	promise_is_kept(64 * MIB, 20 * MIB, 2);
	if (!SANITIZED)
		promise_is_kept(300 * MIB, 60 * MIB, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_space_large_promise_makes_no_groups),
		cmocka_unit_test(test_space_what_is_set_aside_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
