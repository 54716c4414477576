/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device/test_flush_failed.c: the rule of device_flush_result, from outside. One flush fails that
 * somebody else asked for, and all later ones succeed: nobody may say any more that something is durable, on
 * whichever way he came to his flush.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "tests/lib/engine.h"
#include "tests/lib/random.h"

#define POOL_BYTES (64 * MIB)

/* Fails the next flush of the device, and only that one, on a queue of our own. */
static void fail_a_flush(struct device *dev, struct device *sim)
{
	const struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .count = 1, .error = -EIO};
	struct device_queue *q;

	assert_int_equal(dev->ops->queue_new(dev, &q), 0);
	device_sim_fault_add(sim, &fault);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), -EIO);
	assert_int_equal(device_sync(q, DEVICE_FLUSH, 0, NULL, 0), 0); /* the device has forgotten */
	device_queue_free(q);
}

static void test_flush_result_sticks(void **state)
{
	struct device *sim = device_sim_new(POOL_BYTES, 1);
	struct device_queue *q;

	assert_int_equal(sim->ops->queue_new(sim, &q), 0);
	assert_int_equal(device_flush(q), 0);
	assert_int_equal(device_flush_result(sim, 0), 0);
	assert_int_equal(device_flush_result(sim, -ENOSPC), -ENOSPC);
	fail_a_flush(sim, sim);
	assert_int_equal(device_flush_result(sim, 0), -EIO);
	assert_int_equal(device_flush_result(sim, -ENOSPC), -ENOSPC);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(device_flush(q), -EIO);
	device_queue_free(q);
	device_close(sim);
}

/* ---- those who ask ---------------------------------------------------------- */

static int ask_flush(struct engine *e, struct fs_volume *vol)
{
	return engine_flush(e);
}

static int ask_fua(struct engine *e, struct fs_volume *vol)
{
	uint8_t buf[FS_BLOCK_SIZE];

	fill_bytes(buf, sizeof(buf), 2);
	return engine_io(e, vol, FS_WRITE, FS_FUA, 8 * BLOCK, BLOCK, buf);
}

static int ask_fua_trim(struct engine *e, struct fs_volume *vol)
{
	return engine_io(e, vol, FS_TRIM, FS_FUA, 0, BLOCK, NULL);
}

/* More than a group of the log verifies by checksums: flushed twice, data first. */
static int ask_large_flush(struct engine *e, struct fs_volume *vol)
{
	static uint8_t buf[1 << 20];

	fill_bytes(buf, sizeof(buf), 3);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(engine_write(e, vol, i * MIB, sizeof(buf), buf), 0);
	return engine_flush(e);
}

static int ask_commit(struct engine *e, struct fs_volume *vol)
{
	return fs_commit(e->fs);
}

static int ask_create(struct engine *e, struct fs_volume *vol)
{
	return fs_volume_create(e->fs, "w", MIB, 0, NULL);
}

static int ask_resize(struct engine *e, struct fs_volume *vol)
{
	return fs_volume_resize(e->fs, "v", 32 * MIB, NULL);
}

static int ask_grow(struct engine *e, struct fs_volume *vol)
{
	return fs_grow(e->fs, 2 * POOL_BYTES, NULL);
}

static const struct asker {
	const char *name;
	int (*ask)(struct engine *e, struct fs_volume *vol);
} askers[] = {
	{"flush", ask_flush},	    {"FUA write", ask_fua},
	{"FUA trim", ask_fua_trim}, {"large flush", ask_large_flush},
	{"commit", ask_commit},	    {"create", ask_create},
	{"resize", ask_resize},	    {"grow", ask_grow},
};

/* One pool for each. The first three in the pool's own threads as well. */
static void ask_after_failure(const struct asker *a, bool threads)
{
	const struct fs_options opt = {.cache_bytes = 16 * MIB, .commit_interval_ms = 3600000};
	struct engine *e = threads ? engine_new_threads(POOL_BYTES, 7, &opt)
				   : engine_new_with(POOL_BYTES, 7, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 16 * MIB);
	uint8_t buf[FS_BLOCK_SIZE];
	int first, again;

	fill_bytes(buf, sizeof(buf), 1);
	engine_commit(e);
	assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
	assert_int_equal(engine_flush(e), 0);
	assert_int_equal(engine_write(e, vol, 4 * BLOCK, BLOCK, buf), 0);
	fail_a_flush(e->fs->dev, e->sim);
	first = a->ask(e, vol);
	if (first == 0)
		fail_msg("%s is acknowledged although a flush has failed", a->name);
	assert_true(fs_is_read_only(e->fs));
	again = engine_flush(e);
	assert_true(again != 0);
	assert_true(fs_commit(e->fs) != 0);
	fs_volume_put(vol);
	engine_free(e);
}

static void test_nobody_is_told_durable_after_a_failed_flush(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(askers); i++)
		ask_after_failure(&askers[i], false);
}

static void test_nor_by_threads(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(askers); i++)
		ask_after_failure(&askers[i], true);
}

/* The daemon ends: it must not say that all is in place. */
static void test_close_after_a_failed_flush_fails(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 7);
	struct fs_volume *vol = engine_volume(e, "v", 16 * MIB);

	fs_volume_put(vol);
	fail_a_flush(e->fs->dev, e->sim);
	fs_ctx_free(e->ctx);
	assert_true(fs_close(e->fs) != 0);
	e->fs = NULL;
	e->ctx = NULL;
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush_result_sticks),
		cmocka_unit_test(test_nobody_is_told_durable_after_a_failed_flush),
		cmocka_unit_test(test_nor_by_threads),
		cmocka_unit_test(test_close_after_a_failed_flush_fails),
	};

	return cmocka_run_group_tests_name("a failed flush", tests, NULL, NULL);
}
