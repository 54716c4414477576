/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_flush_log.c: the flush log as it is written: what a flush costs, what becomes of a log
 * that is full or goes round, new groups, much data and failures. Crashes: test_flush_log_replay.c; writers
 * and groups at the same moment: test_flush_log_threads.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/log_world.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/io/ctx.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/commit/flush_log.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (64 * MIB)

/* ---- what it costs ------------------------------------------------------------------------ */

static void test_flush_log_with_nothing_pending_costs_nothing(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct device_sim_stats before, after;

	log_world_write(w, 1);
	log_world_flush(w);
	device_sim_get_stats(w->e->sim, &before);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(engine_flush(w->e), 0);
	device_sim_get_stats(w->e->sim, &after);
	assert_int_equal(before.ops[DEVICE_FLUSH], after.ops[DEVICE_FLUSH]);
	assert_int_equal(before.ops[DEVICE_WRITE], after.ops[DEVICE_WRITE]);
	/* After a commit of what was not logged there is nothing to do either. */
	log_world_write(w, 2);
	engine_commit(w->e);
	device_sim_get_stats(w->e->sim, &before);
	assert_int_equal(engine_flush(w->e), 0);
	device_sim_get_stats(w->e->sim, &after);
	assert_int_equal(before.ops[DEVICE_FLUSH], after.ops[DEVICE_FLUSH]);
	log_world_free(w);
}

static void test_flush_log_one_flush_takes_one_device_flush(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);

	for (unsigned i = 1; i < 60; i++) {
		uint64_t before = device_flushes(w->e->sim), groups = atomic_load(&w->e->fs->log->groups);

		for (unsigned k = 0; k < i; k++)
			log_world_write(w, k);
		assert_int_equal(engine_io(w->e, NULL, FS_FLUSH, 0, 0, 0, NULL), 0);
		/* the log was full */
		if (w->e->fs->commit_wanted || atomic_load(&w->e->fs->log->groups) == groups) {
			engine_settle(w->e);
			continue;
		}
		assert_int_equal(device_flushes(w->e->sim) - before, 1);
	}
	log_world_free(w);
}

#define FLUSHERS 8u

/* All that wait while one is under way share the next one. */
static void test_flush_log_concurrent_flushes_share_device_flushes(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct fs_ctx *ctx[FLUSHERS];
	struct fs_io write[FLUSHERS], flush_io[FLUSHERS];
	uint8_t buf[FS_BLOCK_SIZE] = {1};
	uint64_t before, groups;
	unsigned left;

	for (unsigned i = 0; i < FLUSHERS; i++)
		assert_int_equal(fs_ctx_new(w->e->fs, &ctx[i]), 0);
	for (unsigned round = 0; round < 20; round++) {
		before = device_flushes(w->e->sim);
		groups = atomic_load(&w->e->fs->log->groups);
		left = FLUSHERS;
		for (unsigned i = 0; i < FLUSHERS; i++) {
			struct fs_io *one[1] = {&write[i]};

			write[i] = (struct fs_io){.op = FS_WRITE,
						  .vol = w->vol,
						  .off = i * BLOCK,
						  .len = BLOCK,
						  .buf = buf,
						  .done = engine_io_done,
						  .arg = &left};
			fs_submit(ctx[i], one, 1);
		}
		while (left)
			for (unsigned i = 0; i < FLUSHERS; i++)
				fs_ctx_run(ctx[i]);
		left = FLUSHERS;
		for (unsigned i = 0; i < FLUSHERS; i++) {
			struct fs_io *one[1] = {&flush_io[i]};

			flush_io[i] = (struct fs_io){.op = FS_FLUSH, .done = engine_io_done, .arg = &left};
			fs_submit(ctx[i], one, 1);
			if (i == 3) { /* something is pending for the next group */
				struct fs_io *more[1] = {&write[0]};

				left++;
				fs_submit(ctx[0], more, 1);
			}
		}
		while (left)
			for (unsigned i = 0; i < FLUSHERS; i++)
				fs_ctx_run(ctx[i]);
		for (unsigned i = 0; i < FLUSHERS; i++)
			assert_int_equal(flush_io[i].error, 0);
		assert_in_range(atomic_load(&w->e->fs->log->groups) - groups, 1, 2);
		assert_int_equal(device_flushes(w->e->sim) - before,
				 atomic_load(&w->e->fs->log->groups) - groups);
		engine_commit(w->e);
	}
	for (unsigned i = 0; i < FLUSHERS; i++)
		fs_ctx_free(ctx[i]);
	log_world_free(w);
}

/* ---- full and round -------------------------------------------------------------------------- */

static void test_flush_log_full_waits_for_a_commit(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct fs_io io = {.op = FS_FLUSH};
	struct fs_info before, after;
	unsigned left = 0, n;

	fs_get_info(w->e->fs, &before);
	for (n = 0; n < 10000; n++) {
		uint8_t buf[FS_BLOCK_SIZE];
		struct fs_io wr = {
			.op = FS_WRITE, .vol = w->vol, .off = n % BLOCKS * BLOCK, .len = BLOCK, .buf = buf};

		/* Nobody commits, although it is asked for when the log is half full. */
		version_bytes(buf, ++w->version);
		engine_submit(w->e, &wr, 1, &left);
		for (unsigned i = 0; left && i < 100; i++)
			fs_ctx_run(w->e->ctx);
		assert_int_equal(left, 0);
		w->newest[n % BLOCKS] = w->version;
		engine_submit(w->e, &io, 1, &left);
		for (unsigned i = 0; left && i < 100; i++)
			fs_ctx_run(w->e->ctx);
		if (left)
			break;
		assert_int_equal(io.error, 0);
	}
	assert_int_equal(left, 1);
	assert_in_range(n, w->e->fs->log->size / 4096 / 3, w->e->fs->log->size / 4096);
	assert_true(w->e->fs->commit_wanted);
	engine_wait(w->e, &left);
	assert_int_equal(io.error, 0);
	memcpy(w->flushed, w->newest, sizeof(w->flushed));
	fs_get_info(w->e->fs, &after);
	assert_true(after.commits > before.commits);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

/* More than the log holds is pending: a commit takes that, and the log is there again for what comes then. */
static void test_flush_log_is_used_again_after_too_much_for_it(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	uint64_t limit = w->e->fs->log->size, groups;
	struct fs_info before, after;

	w->e->hold_commits = true;
	for (unsigned n = 0; atomic_load(&w->e->fs->volumes->log_bytes) <= limit; n++)
		log_world_write(w, n % BLOCKS);
	w->e->hold_commits = false;
	groups = atomic_load(&w->e->fs->log->groups);
	log_world_flush(w);
	assert_int_equal(atomic_load(&w->e->fs->log->groups), groups);
	fs_get_info(w->e->fs, &before);
	for (unsigned n = 0; n < 20; n++) {
		log_world_write(w, n);
		log_world_flush(w);
	}
	fs_get_info(w->e->fs, &after);
	assert_int_equal(after.commits, before.commits);
	assert_int_equal(atomic_load(&w->e->fs->log->groups), groups + 20);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

static void write_every_second(struct engine *e, struct fs_volume *vol, unsigned n)
{
	uint8_t buf[FS_BLOCK_SIZE] = {1};

	for (unsigned i = 0; i < n; i++)
		assert_int_equal(engine_write(e, vol, 2ull * i * BLOCK, BLOCK, buf), 0);
}

/*
 * Other threads' writes come on top of what a group was thought to take: it never runs over records that
 * count.
 */
static void test_flush_log_group_larger_than_thought_stays_in_its_room(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct fs_volume *big = engine_volume(w->e, "big", 64 * MIB);
	struct flush_log *log = w->e->fs->log;
	struct fs_io io = {.op = FS_FLUSH};
	unsigned left = 0;

	engine_commit(w->e);
	w->e->hold_commits = true;
	for (unsigned n = 0; n < BLOCKS; n++) /* what would be lost */
		log_world_write(w, n);
	log_world_flush(w);
	write_every_second(w->e, big, 3000); /* a buffer for many stays for those that follow */
	log_world_flush(w);
	while (log->head - log->tail + (128u << 10) <= log->size) {
		log_world_write(w, w->version % BLOCKS);
		log_world_flush(w);
	}
	write_every_second(w->e, big, 4000);
	atomic_store(&log->fs->volumes->log_bytes, 1);
	engine_submit(w->e, &io, 1, &left);
	for (unsigned i = 0; left && i < 100; i++)
		fs_ctx_run(w->e->ctx);
	assert_in_range(log->head - log->tail, log->size / 2, log->size);
	w->e->hold_commits = false;
	engine_wait(w->e, &left);
	assert_int_equal(io.error, 0);
	memcpy(w->flushed, w->newest, sizeof(w->flushed));
	fs_volume_put(big);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

static void test_flush_log_goes_round_many_times(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());
	uint64_t size = w->e->fs->log->size, round = 0;
	unsigned flushes = 0, commits = 0, lives = 0;

	while (round < 12 / (1 + SANITIZED)) {
		struct fs_info info;
		uint64_t life = 0;

		fs_get_info(w->e->fs, &info);
		commits -= (unsigned)info.commits;
		while (life < 3 * size && pick(&w->e->rng, 300)) {
			log_world_write_some(w,
					     1 + (unsigned)pick(&w->e->rng, pick(&w->e->rng, 10) ? 8 : 200));
			log_world_flush(w);
			flushes++;
			life = atomic_load(&w->e->fs->log->bytes);
		}
		fs_get_info(w->e->fs, &info);
		commits += (unsigned)info.commits;
		round += (life + size - 1) / size;
		log_world_write_some(w, 5);
		log_world_die(w, (enum device_sim_crash_mode)pick(&w->e->rng, DEVICE_SIM_CRASH_MODES));
		log_world_verify(w, true);
		lives++;
	}
	print_message("  %u flushes, %u commits, %u lives\n", flushes, commits, lives);
	assert_true(commits < flushes / 2);
	engine_check_all(w->e);
	log_world_free(w);
}

/* ---- new groups, much data, failures ------------------------------------------------------------------ */

static void test_flush_log_carries_new_block_groups(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "big", 32 * MIB);
	struct fs_info before, after;
	struct model m;

	model_init(&m, 32 * MIB);
	engine_commit(e);
	fs_get_info(e->fs, &before);
	for (unsigned i = 0; i < 20; i++) {
		fill_bytes(m.bytes + i * MIB, MIB, i);
		assert_int_equal(engine_write(e, vol, i * MIB, MIB, m.bytes + i * MIB), 0);
		if (i % 3 == 0)
			assert_int_equal(engine_flush(e), 0);
	}
	assert_int_equal(engine_flush(e), 0);
	fs_get_info(e->fs, &after);
	assert_int_equal(before.generation, after.generation); /* no commit came in between */
	assert_true(after.groups_data > before.groups_data + 10);
	fs_volume_put(vol);
	e->hold_commits = true;
	for (unsigned i = 0; i < 2; i++) {
		engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, i);
		engine_check_device(e->sim);
		engine_open_only(e);
		vol = engine_volume(e, "big", 0);
		model_verify_all(e, vol, &m);
		fs_volume_put(vol);
		engine_check_books(e);
		fs_get_info(e->fs, &before);
		assert_true(before.groups_data >= after.groups_data - 2);
	}
	e->hold_commits = false;
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* More data than replay would want to verify: it is flushed before the records. */
static void test_flush_log_with_much_data_flushes_it_first(void **state)
{
	struct engine *e = engine_new(192 * MIB, 1);
	uint64_t size = FLUSH_VERIFY_BYTES_MAX + 4 * MIB, before;
	struct fs_volume *vol = engine_volume(e, "big", size);
	struct model m;

	model_init(&m, size);
	fill_bytes(m.bytes, size, 1);
	for (uint64_t at = 0; at < size; at += 4 * MIB)
		assert_int_equal(engine_write(e, vol, at, 4 * MIB, m.bytes + at), 0);
	before = device_flushes(e->sim);
	assert_int_equal(engine_flush(e), 0);
	assert_true(device_flushes(e->sim) - before >= 2);
	fs_volume_put(vol);
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_open(e);
	vol = engine_volume(e, "big", 0);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* The log cannot be written: that flush says so or is done by a commit; and so is the next one. */
static void test_flush_log_failing_write_is_never_lost(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());
	unsigned failed = 0;

	for (unsigned round = 0; round < 20; round++) {
		struct flush_log *log = w->e->fs->log;
		struct device_sim_fault fault = {.kind = round % 2 ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN,
						 .error = -EIO,
						 .ops = DEVICE_SIM_OP(DEVICE_WRITE),
						 .off = log->offset,
						 .len = log->size,
						 .count = 1};
		int r;

		log_world_write_some(w, 30);
		log_world_flush(w);
		log_world_write_some(w, 30);
		device_sim_fault_add(w->e->sim, &fault);
		r = engine_flush(w->e);
		device_sim_fault_clear(w->e->sim);
		failed += r != 0;
		if (r == 0)
			memcpy(w->flushed, w->newest, sizeof(w->flushed));
		assert_false(fs_is_read_only(w->e->fs));
		if (round % 3)
			log_world_flush(w); /* this one covers all of it */
		if (round % 4 == 3)
			log_world_write_some(w, 10);
		log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
		log_world_verify(w, true);
	}
	print_message("  %u flushes failed\n", failed);
	engine_check_all(w->e);
	log_world_free(w);
}

/* A flush of the device fails: nobody knows what is there, so nothing is acknowledged any more. */
static void test_flush_log_failing_device_flush_ends_writing(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .error = -EIO, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .count = 1};

	log_world_write_some(w, 50);
	log_world_flush(w);
	log_world_write_some(w, 50);
	device_sim_fault_add(w->e->sim, &fault);
	assert_int_equal(engine_flush(w->e), -EIO);
	assert_int_equal(engine_flush(w->e), -EROFS);
	assert_int_equal(engine_trim(w->e, w->vol, 0, BLOCK), -EROFS);
	log_world_verify(w, true); /* reads go on */
	memcpy(w->newest, w->flushed, sizeof(w->newest));
	engine_check_books(w->e);
	log_world_free(w);
}

/* Dies at each step of that; then the log is at one place or the other, with all that was flushed. */
static void test_flush_log_grows_with_the_pool(void **state)
{
	bool grown = false;

	for (unsigned n = 1; !grown; n += 1 + SANITIZED) {
		struct log_world *w = log_world_new(64 * MIB, n);
		uint64_t size = w->e->fs->log->size;

		log_world_write_some(w, 20);
		log_world_flush(w);
		log_world_write_some(w, 5);
		device_sim_kill_after(w->e->sim, n);
		grown = fs_grow(w->e->fs, 1024 * MIB, NULL) == 0 && !device_sim_is_dead(w->e->sim);
		if (grown) {
			assert_int_equal(w->e->fs->log->size, 8 * MIB);
			assert_true(w->e->fs->log->offset >= 64 * MIB);
			device_sim_kill_after(w->e->sim, 0);
			engine_commit(w->e); /* until then flushes are commits */
			log_world_write_some(w, 30);
			log_world_flush(w);
			assert_true(w->e->fs->log->head > w->e->fs->log->tail);
		}
		log_world_die(w, n % 3 ? DEVICE_SIM_CRASH_RANDOM : DEVICE_SIM_CRASH_LOSE_ALL);
		log_world_verify(w, true);
		assert_true(w->e->fs->log->size == 8 * MIB || (!grown && w->e->fs->log->size == size));
		log_world_write_some(w, 10);
		log_world_flush(w);
		engine_check_all(w->e);
		log_world_free(w);
		assert_true(n < 1000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush_log_with_nothing_pending_costs_nothing),
		cmocka_unit_test(test_flush_log_one_flush_takes_one_device_flush),
		cmocka_unit_test(test_flush_log_concurrent_flushes_share_device_flushes),
		cmocka_unit_test(test_flush_log_full_waits_for_a_commit),
		cmocka_unit_test(test_flush_log_is_used_again_after_too_much_for_it),
		cmocka_unit_test(test_flush_log_group_larger_than_thought_stays_in_its_room),
		cmocka_unit_test(test_flush_log_goes_round_many_times),
		cmocka_unit_test(test_flush_log_carries_new_block_groups),
		cmocka_unit_test(test_flush_log_with_much_data_flushes_it_first),
		cmocka_unit_test(test_flush_log_failing_write_is_never_lost),
		cmocka_unit_test(test_flush_log_failing_device_flush_ends_writing),
		cmocka_unit_test(test_flush_log_grows_with_the_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
