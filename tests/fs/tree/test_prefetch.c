/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/tree/test_prefetch.c: a commit reads the old leaves that it changes many at a time.
 *   PREFETCH_FIGURES=1: how long a cold commit takes on a file in TMPDIR. Not asserted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/fast_fill.h"
#include "tests/lib/random.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (192 * MIB)

#define FILL 100000u
#define EVERY 300u /* blocks: each leaf is changed */

struct watch {
	struct engine *e;
	uint64_t most; /* requests under way at a time */
};

static void watch_submit(void *arg, struct device_queue *q, const struct device_io *io)
{
	struct watch *w = arg;
	struct device_sim_stats stats;

	(void)q;
	if (io->op != DEVICE_READ)
		return;
	device_sim_get_stats(w->e->sim, &stats);
	w->most = max_u64(w->most, stats.under_way);
}

static struct fs_volume *filled_and_cold(struct engine *e, uint64_t n)
{
	struct fs_volume *vol = engine_volume(e, "v", n * 4 * BLOCK);

	fast_fill(e, vol, 0, n, 4);
	fs_volume_put(vol);
	engine_close(e);
	engine_open_only(e);
	if (e->threads)
		usleep(500000); /* the first commit */
	else
		assert_int_equal(fs_commit(e->fs), 0);
	vol = engine_volume(e, "v", 0);
	for (uint64_t i = 0; i < n; i += EVERY)
		fast_fill_one(e, vol, i * 4 + 1, fast_fill_crc());
	return vol;
}

static void test_prefetch_reads_many_leaves_at_a_time(void **state)
{
	struct engine *e = engine_new(1024 * MIB, 1);
	struct fs_volume *vol = filled_and_cold(e, FILL);
	struct watch w = {e, 0};

	engine_device(e)->before_submit = watch_submit;
	engine_device(e)->arg = &w;
	assert_int_equal(fs_commit(e->fs), 0);
	engine_device(e)->before_submit = NULL;
	assert_true(w.most >= 32 && w.most <= 2 * 64 + 64); /* reads, and the commit's own writes */
	assert_int_equal(vol->used_blocks, FILL + (FILL + EVERY - 1) / EVERY);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

/* Leaves that cannot be read ahead, and memory that is out, are left to those who read them. */
static void test_prefetch_is_only_a_help(void **state)
{
	for (uint64_t nth = 1; nth < 400; nth += 7) {
		struct engine *e = engine_new(128 * MIB, 1);
		struct fs_volume *vol = filled_and_cold(e, 8000);

		device_sim_fault_add(e->sim, &(struct device_sim_fault){.kind = DEVICE_SIM_FAIL,
									.ops = DEVICE_SIM_OP(DEVICE_READ),
									.skip = nth,
									.count = 1,
									.error = -EIO});
		mem_fail_at(nth);
		assert_int_equal(fs_commit(e->fs), 0);
		mem_fail_at(0);
		device_sim_fault_clear(e->sim);
		assert_int_equal(vol->lost_blocks, 0);
		assert_int_equal(vol->used_blocks, 8000 + (8000 + EVERY - 1) / EVERY);
		fs_volume_put(vol);
		engine_check_all(e);
		engine_free(e);
	}
}

static void test_prefetch_figures(void **state)
{
	const struct fs_options opt = {.cache_bytes = 256 * MIB, .commit_interval_ms = 1000000};
	const char *env = getenv("PREFETCH_FIGURES");
	struct engine *e;
	struct fs_volume *vol;
	double start;

	if (!env)
		skip();
	e = engine_new_file(4096 * MIB, 1, &opt);
	vol = filled_and_cold(e, 400000);
	start = seconds();
	assert_int_equal(fs_commit(e->fs), 0);
	print_message("a cold commit that changes %llu leaves: %.0f ms\n",
		      (unsigned long long)vol->root.leaves, (seconds() - start) * 1000);
	fs_volume_put(vol);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefetch_reads_many_leaves_at_a_time),
		cmocka_unit_test(test_prefetch_is_only_a_help),
		cmocka_unit_test(test_prefetch_figures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
