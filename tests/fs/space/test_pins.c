/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_pins.c: readers that take their time: commits go on, what they read stays, and what was
 * freed comes back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/lock.h"
#include "fs/io/ctx.h"
#include "fs/core/epoch.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/volume/volume.h"
#include "fs/device/work.h"

#define PATIENCE_S 60 /* for what takes milliseconds */

static void overwrite(struct engine *e, struct fs_volume *vol, struct model *m, uint64_t version)
{
	for (unsigned i = 0; i < 20; i++) {
		uint64_t at = pick(&e->rng, m->size / BLOCK) * BLOCK;

		fill_bytes(m->bytes + at, BLOCK, version * 100 + i);
		assert_int_equal(engine_write(e, vol, at, BLOCK, m->bytes + at), 0);
	}
}

static uint64_t pinned(struct engine *e)
{
	struct fs_info info;

	fs_get_info(e->fs, &info);
	return info.pinned_bytes;
}

/*
 * Regression: a commit waited for the readers of the one before, and with it the flushes that needed a
 * commit.
 */
static void test_pins_commits_go_on_beside_a_reader(void **state)
{
	struct engine *e = engine_new(1024 * MIB, test_seed());
	struct fs_volume *vol = engine_volume(e, "v", 4 * MIB);
	uint8_t *old = malloc(MIB), *got = malloc(MIB);
	struct fs_io io = {.op = FS_READ, .len = MIB, .buf = got};
	unsigned left = 0;
	struct model m;

	model_init(&m, 4 * MIB);
	fill_bytes(m.bytes, m.size, 1);
	for (uint64_t at = 0; at < m.size; at += MIB)
		assert_int_equal(engine_write(e, vol, at, MIB, m.bytes + at), 0);
	engine_commit(e);
	fs_volume_put(vol);
	engine_reopen(e); /* nothing is cached */
	io.vol = vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_io(e, vol, FS_READ, 0, 2 * MIB, BLOCK, got), 0); /* but the nodes */
	memcpy(old, m.bytes, MIB);
	/* on its way to the device; the context is not run, so it stays there */
	engine_submit(e, &io, 1, &left);
	assert_int_equal(left, 1);
	{
		struct fs_ctx *mine = e->ctx;

		assert_int_equal(fs_ctx_new(e->fs, &e->ctx), 0);
		for (unsigned round = 0; round < 30; round++) {
			overwrite(e, vol, &m, round);
			assert_int_equal(fs_commit(e->fs), 0);
			assert_int_equal(left, 1);
		}
		model_verify_all(e, vol, &m);
		assert_true(pinned(e) > 400 * BLOCK); /* all that was replaced since */
		fs_ctx_free(e->ctx);
		e->ctx = mine;
	}
	engine_wait(e, &left);
	assert_int_equal(io.error, 0);
	assert_memory_equal(got, old, MIB);
	engine_commit(e);
	assert_int_equal(pinned(e), 0);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	free(old);
	free(got);
	engine_free(e);
}

/*
 * When there is no room left for a commit beside what is kept, it waits for the reader, and nothing worse
 * happens.
 */
static void test_pins_commits_wait_where_there_is_no_room(void **state)
{
	struct engine *e = engine_new(24 * MIB, test_seed());
	struct fs_volume *vol = engine_volume(e, "v", 8 * MIB);
	unsigned epoch, commits = 0;
	struct model m;
	int r = 0;

	model_init(&m, 8 * MIB);
	overwrite(e, vol, &m, 1);
	engine_commit(e);
	e->hold_commits = true;
	epoch = epoch_enter(&e->fs->epoch);
	for (unsigned round = 0; r == 0; round++) {
		uint64_t at = pick(&e->rng, m.size / BLOCK) * BLOCK;

		assert_true(round < 5000);
		fill_bytes(m.bytes + at, BLOCK, round);
		assert_int_equal(engine_write(e, vol, at, BLOCK, m.bytes + at), 0);
		r = fs_commit(e->fs);
		commits += r == 0;
	}
	assert_int_equal(r, -EAGAIN); /* it would wait */
	assert_true(commits > 3);
	assert_false(fs_is_read_only(e->fs));
	epoch_leave(&e->fs->epoch, epoch);
	e->hold_commits = false;
	engine_commit(e);
	assert_int_equal(pinned(e), 0);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* A request that must be answered, however long others read. */
static int io_in_time(struct engine *e, enum fs_op op, struct fs_volume *vol, uint64_t off, uint64_t len,
		      void *buf)
{
	struct fs_io io = {.op = op, .vol = vol, .off = off, .len = len, .buf = buf};
	double until = seconds() + PATIENCE_S;
	unsigned left = 0;

	engine_submit(e, &io, 1, &left);
	while (left) {
		(void)poll(&(struct pollfd){.fd = fs_ctx_fd(e->ctx), .events = POLLIN}, 1, 100);
		fs_ctx_run(e->ctx);
		if (seconds() > until)
			fail_msg("request %d is not answered while somebody reads", (int)op);
	}
	return io.error;
}

/* With the pool's threads: flushes that are done by commits, beside a reader that does not end. */
static void test_pins_flushes_go_on_beside_a_reader_that_does_not_end(void **state)
{
	struct fs_options opt = {.cache_bytes = 16 * MIB, .commit_interval_ms = 600000};
	struct engine *e = engine_new_threads(1024 * MIB, test_seed(), &opt);
	struct fs_volume *vol = engine_volume(e, "v", 4 * MIB);
	unsigned epoch = epoch_enter(&e->fs->epoch);
	uint8_t buf[4096];
	double until;

	for (unsigned round = 0; round < 50; round++) {
		fill_bytes(buf, sizeof(buf), round);
		assert_int_equal(io_in_time(e, FS_WRITE, vol, round % 7 * BLOCK, BLOCK, buf), 0);
		lock_take(&e->fs->log->lock);
		flush_log_suspend_locked(e->fs);
		lock_drop(&e->fs->log->lock);
		assert_int_equal(io_in_time(e, FS_FLUSH, NULL, 0, 0, NULL), 0);
	}
	assert_true(atomic_load(&e->fs->commits_done) >= 50);
	assert_true(pinned(e) >= 40 * BLOCK);
	epoch_leave(&e->fs->epoch, epoch);
	/* What was kept comes back by itself: nobody writes, and the next commit of the interval is far. */
	assert_int_equal(io_in_time(e, FS_WRITE, vol, 0, BLOCK, buf), 0);
	assert_int_equal(fs_commit(e->fs), 0);
	for (until = seconds() + PATIENCE_S; pinned(e); usleep(1000))
		if (seconds() > until)
			fail_msg("%llu bytes stay pinned", (unsigned long long)pinned(e));
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/* ---- what many small pendings cost others --------------------------------------------------- */

/*
 * Regression: a trim replaced all that was pending in its range at once, on the thread of a loop and under
 * the volume's lock.
 */
static void test_pins_large_trim_lets_others_go_on(void **state)
{
	struct engine *e = engine_new(128 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 64 * MIB);
	uint8_t buf[4096], got[4096];
	struct fs_io trim = {.op = FS_TRIM, .vol = vol, .len = 64 * MIB},
		     read = {.op = FS_READ, .vol = vol, .off = 62 * MIB, .len = BLOCK},
		     write = {.op = FS_WRITE, .vol = vol, .off = 8 * MIB, .len = BLOCK, .buf = buf};
	unsigned trims = 0, reads = 0, writes = 0, runs = 0;

	e->hold_commits = true;
	for (uint64_t blk = 0; blk < 16384; blk += 2) { /* none joins another */
		fill_bytes(buf, sizeof(buf), blk);
		assert_int_equal(engine_write(e, vol, blk * BLOCK, BLOCK, buf), 0);
	}
	assert_true(vol->running.count > 8000);
	read.buf = got;
	engine_submit(e, &trim, 1, &trims);
	engine_submit(e, &write, 1, &writes);
	for (; trims; runs++) {
		assert_true(runs < 1000);
		engine_submit(e, &read, 1, &reads);
		if (trims && reads) { /* it may have to be fetched from the device */
			fs_ctx_run(e->ctx);
			(void)work_run_one(e->fs->work);
		}
		fs_ctx_run(e->ctx);
	}
	assert_true(runs > 5);
	engine_wait(e, &reads);
	engine_wait(e, &writes);
	assert_int_equal(trim.error | read.error | write.error, 0);
	assert_true(vol->running.count < 100);
	for (uint64_t at = 0; at < 64 * MIB; at += BLOCK) { /* the write came behind the trim */
		static const uint8_t zeros[4096];

		assert_int_equal(engine_read(e, vol, at, BLOCK, got), 0);
		assert_memory_equal(got, at == 8 * MIB ? buf : zeros, BLOCK);
	}
	e->hold_commits = false;
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pins_commits_go_on_beside_a_reader),
		cmocka_unit_test(test_pins_commits_wait_where_there_is_no_room),
		cmocka_unit_test(test_pins_flushes_go_on_beside_a_reader_that_does_not_end),
		cmocka_unit_test(test_pins_large_trim_lets_others_go_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
