/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/ops/test_volume_log.c: operations on volumes as records of the flush log: what was answered is
 * there after a crash without any commit, in one order with data; many share one group; a log that fails
 * costs a commit and nothing else.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/log_world.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/volume/volume.h"
#include "fs/core/wakeup.h"

static void create(struct engine *e, const char *name, uint64_t size, uint32_t flags)
{
	struct fs_error err = {""};

	if (fs_volume_create(e->fs, name, size, flags, &err))
		fail_msg("%s", err.msg);
}

static void set(struct engine *e, const char *name, uint32_t flags, uint32_t clear, const char *comment)
{
	const struct fs_volume_change change = {.set = flags, .clear = clear, .comment = comment};
	struct fs_error err = {""};

	if (fs_volume_set(e->fs, name, &change, &err))
		fail_msg("%s", err.msg);
}

static uint64_t generation(struct engine *e)
{
	struct fs_info info;

	fs_get_info(e->fs, &info);
	return info.generation;
}

/* The machine dies; the pool is opened, and nothing else runs yet. */
static void die(struct engine *e)
{
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, rnd(&e->rng));
	engine_check_device(e->sim);
	engine_open_only(e);
}

static bool there_is(struct engine *e, const char *name, uint64_t size)
{
	struct fs_volume_info info;

	return fs_volume_find_info(e->fs, name, &info) == 0 && info.size == size;
}

static uint64_t id_of(struct engine *e, const char *name)
{
	struct fs_volume_info info;

	assert_int_equal(fs_volume_find_info(e->fs, name, &info), 0);
	return info.id;
}

static void put(struct engine *e, const char *name, uint64_t blk, uint64_t seed)
{
	struct fs_volume *vol = engine_volume(e, name, 0);
	uint8_t buf[FS_BLOCK_SIZE];

	fill_bytes(buf, BLOCK, seed);
	assert_int_equal(engine_write(e, vol, blk * BLOCK, BLOCK, buf), 0);
	assert_int_equal(engine_flush(e), 0);
	fs_volume_put(vol);
}

/* seed 0: zeros. */
static void expect(struct engine *e, const char *name, uint64_t blk, uint64_t seed)
{
	struct fs_volume *vol;
	uint8_t got[FS_BLOCK_SIZE], want[FS_BLOCK_SIZE] = {0};

	assert_int_equal(fs_volume_get(e->fs, name, &vol), 0);
	if (seed)
		fill_bytes(want, BLOCK, seed);
	assert_int_equal(engine_read(e, vol, blk * BLOCK, BLOCK, got), 0);
	assert_memory_equal(got, want, BLOCK);
	fs_volume_put(vol);
}

/* ---- one after the other ------------------------------------------------------------------ */

static void test_volume_log_operations_outlive_a_crash_without_a_commit(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);
	struct fs_volume_info before, after;
	uint64_t gen;

	create(e, "old", 8 * MIB, 0);
	put(e, "old", 3, 1);
	engine_commit(e);
	e->hold_commits = true;
	gen = generation(e);
	create(e, "a", 4 * MIB, FS_VOLUME_READ_ONLY);
	create(e, "b", 4 * MIB, 0);
	put(e, "b", 1, 2);
	assert_int_equal(fs_volume_rename(e->fs, "old", "new", NULL), 0);
	put(e, "new", 4, 3);
	assert_int_equal(fs_volume_resize(e->fs, "new", 16 * MIB, NULL), 0);
	put(e, "new", 3000, 4);
	create(e, "c", MIB, 0);
	assert_int_equal(fs_volume_delete(e->fs, "c", NULL), 0);
	set(e, "a", FS_VOLUME_RESERVED, FS_VOLUME_READ_ONLY, "a comment");
	set(e, "a", 0, 0, "another one");
	set(e, "a", 0, FS_VOLUME_RESERVED, NULL);
	set(e, "a", FS_VOLUME_READ_ONLY, 0, NULL);
	assert_int_equal(fs_volume_find_info(e->fs, "a", &before), 0);
	assert_string_equal(before.comment, "another one");
	assert_int_equal(before.flags, FS_VOLUME_READ_ONLY);
	assert_int_equal(generation(e), gen);
	for (unsigned i = 0; i < 3; i++) { /* also out of the log a second and a third time */
		die(e);
		assert_int_equal(fs_volume_find_info(e->fs, "a", &after), 0);
		assert_memory_equal(&before, &after, sizeof(before));
		assert_true(there_is(e, "b", 4 * MIB));
		assert_true(there_is(e, "new", 16 * MIB));
		assert_false(there_is(e, "old", 8 * MIB));
		assert_false(there_is(e, "c", MIB));
		expect(e, "b", 1, 2);
		expect(e, "new", 3, 1);
		expect(e, "new", 4, 3);
		expect(e, "new", 3000, 4);
	}
	e->hold_commits = false;
	engine_check_all(e);
	engine_reopen(e);
	assert_true(there_is(e, "new", 16 * MIB));
	expect(e, "new", 3000, 4);
	engine_check_all(e);
	engine_free(e);
}

/* By id: the first "v" is another volume than the second. */
static void test_volume_log_name_given_to_another_volume(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);
	uint64_t first, second;

	create(e, "v", 8 * MIB, 0);
	create(e, "w", 8 * MIB, 0);
	put(e, "v", 1, 1);
	first = id_of(e, "v");
	engine_commit(e);
	e->hold_commits = true;
	put(e, "v", 2, 2);
	assert_int_equal(fs_volume_delete(e->fs, "v", NULL), 0);
	create(e, "v", 4 * MIB, 0);
	second = id_of(e, "v");
	assert_true(second > first);
	put(e, "v", 3, 3);
	/* In a ring: v to x, w to v, x to w. */
	assert_int_equal(fs_volume_rename(e->fs, "v", "x", NULL), 0);
	assert_int_equal(fs_volume_rename(e->fs, "w", "v", NULL), 0);
	assert_int_equal(fs_volume_rename(e->fs, "x", "w", NULL), 0);
	put(e, "v", 4, 4);
	put(e, "w", 5, 5);
	die(e);
	assert_int_equal(id_of(e, "w"), second);
	assert_true(there_is(e, "v", 8 * MIB) && there_is(e, "w", 4 * MIB));
	expect(e, "v", 1, 0);
	expect(e, "v", 2, 0);
	expect(e, "v", 4, 4);
	expect(e, "w", 3, 3);
	expect(e, "w", 5, 5);
	create(e, "y", MIB, 0); /* no id is given out again, those of deleted volumes neither */
	assert_true(id_of(e, "y") > second);
	e->hold_commits = false;
	engine_check_all(e);
	engine_free(e);
}

/* Shrunk and grown again, with data in each state: what was cut off does not come back. */
static void test_volume_log_sizes_and_data_keep_their_order(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);

	create(e, "v", 8 * MIB, 0);
	put(e, "v", 2000, 1);
	engine_commit(e);
	e->hold_commits = true;
	put(e, "v", 1500, 2);
	assert_int_equal(fs_volume_resize(e->fs, "v", 4 * MIB, NULL), 0);
	put(e, "v", 1000, 3);
	die(e);
	assert_true(there_is(e, "v", 4 * MIB));
	e->hold_commits = false;
	engine_commit(e);
	e->hold_commits = true;
	assert_int_equal(fs_volume_resize(e->fs, "v", 8 * MIB, NULL), 0);
	put(e, "v", 1600, 4);
	assert_int_equal(fs_volume_resize(e->fs, "v", 2 * MIB, NULL), 0);
	assert_int_equal(fs_volume_resize(e->fs, "v", 8 * MIB, NULL), 0);
	put(e, "v", 1700, 5);
	for (unsigned i = 0; i < 2; i++) {
		die(e);
		assert_true(there_is(e, "v", 8 * MIB));
		expect(e, "v", 2000, 0);
		expect(e, "v", 1500, 0);
		expect(e, "v", 1000, 0);
		expect(e, "v", 1600, 0);
		expect(e, "v", 1700, 5);
	}
	e->hold_commits = false;
	engine_check_all(e);
	engine_free(e);
}

/* What is owed to a reserved volume, made and deleted without a commit, is there again after a crash. */
static void test_volume_log_promises_come_back(void **state)
{
	struct engine *e = engine_new(128 * MIB, 1);
	struct fs_info thin, before, after;

	engine_commit(e);
	e->hold_commits = true;
	create(e, "r", 16 * MIB, FS_VOLUME_RESERVED);
	create(e, "gone", 16 * MIB, FS_VOLUME_RESERVED);
	put(e, "r", 5, 1);
	assert_int_equal(fs_volume_delete(e->fs, "gone", NULL), 0);
	assert_int_equal(fs_volume_resize(e->fs, "r", 20 * MIB, NULL), 0);
	create(e, "later", 8 * MIB, 0);
	fs_get_info(e->fs, &thin);
	set(e, "later", FS_VOLUME_RESERVED, 0, NULL);
	fs_get_info(e->fs, &before);
	assert_true(before.volume_reserved_bytes > thin.volume_reserved_bytes);
	create(e, "not", 8 * MIB, FS_VOLUME_RESERVED);
	set(e, "not", 0, FS_VOLUME_RESERVED, "thin");
	fs_get_info(e->fs, &thin);
	assert_int_equal(before.volume_reserved_bytes, thin.volume_reserved_bytes);
	die(e);
	fs_get_info(e->fs, &after);
	assert_int_equal(before.volume_reserved_bytes, after.volume_reserved_bytes);
	assert_int_equal(after.volumes, 3);
	e->hold_commits = false;
	engine_check_all(e);
	engine_free(e);
}

/* ---- together ------------------------------------------------------------------------------- */

#define TOGETHER 200u

struct together {
	struct fs_volume_op op;
	char name[16];
	unsigned *left;
	int error;
};

static void together_done(struct fs_volume_op *op, int error)
{
	struct together *t = container_of(op, struct together, op);

	t->error = error;
	--*t->left;
}

static void start_together(struct engine *e, struct together *t, enum fs_volume_op_kind kind, unsigned *left)
{
	*left = TOGETHER;
	for (unsigned i = 0; i < TOGETHER; i++) {
		snprintf(t[i].name, sizeof(t[i].name), "v%u", i);
		t[i].op = (struct fs_volume_op){
			.kind = kind, .name = t[i].name, .size = MIB, .done = together_done};
		t[i].left = left;
		fs_volume_op_start(e->fs, &t[i].op);
	}
}

static void test_volume_log_operations_together_share_a_flush(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);
	static struct together t[TOGETHER];
	struct fs_info info;
	uint64_t flushes, gen;
	unsigned left;

	engine_commit(e);
	e->hold_commits = true;
	gen = generation(e);
	flushes = device_flushes(e->sim);
	start_together(e, t, FS_VOLUME_CREATE, &left);
	assert_int_equal(left, TOGETHER);
	assert_false(there_is(e, "v0", MIB)); /* nobody is told yet */
	engine_wait(e, &left);
	assert_in_range(device_flushes(e->sim) - flushes, 1, 2);
	assert_int_equal(generation(e), gen);
	for (unsigned i = 0; i < TOGETHER; i++)
		assert_int_equal(t[i].error, 0);
	die(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.volumes, TOGETHER);
	e->hold_commits = false;
	engine_check_all(e);
	e->hold_commits = true;
	start_together(e, t, FS_VOLUME_DELETE, &left);
	engine_wait(e, &left);
	die(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.volumes, 0);
	e->hold_commits = false;
	engine_check_all(e);
	engine_free(e);
}

/* ---- when the log fails ------------------------------------------------------------------------ */

/* Its group cannot be written: the next commit answers it, and it has happened. */
static void test_volume_log_failing_group_is_done_by_a_commit(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);

	create(e, "old", MIB, 0);
	for (unsigned round = 0; round < 4; round++) {
		struct device_sim_fault fault = {.kind = round % 2 ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN,
						 .error = -EIO,
						 .ops = DEVICE_SIM_OP(DEVICE_WRITE),
						 .off = e->fs->log->offset,
						 .len = e->fs->log->size,
						 .count = 1};
		uint64_t gen;

		engine_commit(e);
		gen = generation(e);
		device_sim_fault_add(e->sim, &fault);
		switch (round) {
		case 0: create(e, "a", MIB, 0); break;
		case 1: assert_int_equal(fs_volume_rename(e->fs, "old", "new", NULL), 0); break;
		case 2: assert_int_equal(fs_volume_resize(e->fs, "new", 2 * MIB, NULL), 0); break;
		case 3: assert_int_equal(fs_volume_delete(e->fs, "a", NULL), 0); break;
		}
		device_sim_fault_clear(e->sim);
		assert_true(generation(e) > gen);
		die(e);
		engine_settle(e);
		assert_int_equal(there_is(e, "a", MIB), round < 3);
		assert_int_equal(there_is(e, "new", round >= 2 ? 2 * MIB : MIB), round >= 1);
	}
	engine_check_all(e);
	engine_free(e);
}

/* A flush of the device fails: the operation says so, the pool is read-only, and what was there before is. */
static void test_volume_log_failing_device_flush_ends_it(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .error = -EIO, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .count = 1};
	struct fs_error err;

	create(e, "v", MIB, 0);
	engine_commit(e);
	device_sim_fault_add(e->sim, &fault);
	assert_true(fs_volume_create(e->fs, "w", MIB, 0, &err) < 0);
	assert_non_null(strstr(err.msg, "volume w: cannot be created"));
	assert_true(fs_is_read_only(e->fs));
	assert_int_equal(fs_volume_delete(e->fs, "v", &err), -EROFS);
	assert_false(there_is(e, "w", MIB));
	die(e);
	assert_true(there_is(e, "v", MIB));
	engine_free(e);
}

/* The log has no room: a commit does them, and they are answered all the same. */
static void test_volume_log_full_leaves_it_to_a_commit(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);
	uint64_t gen;
	unsigned n;

	engine_commit(e);
	gen = generation(e);
	for (n = 0; n < 2000; n++) {
		char name[16];

		snprintf(name, sizeof(name), "v%u", n % 10);
		create(e, name, MIB, 0);
		assert_int_equal(fs_volume_delete(e->fs, name, NULL), 0);
	}
	assert_true(generation(e) > gen);
	assert_true(generation(e) - gen < n); /* and not one for each */
	engine_check_all(e);
	engine_free(e);
}

/* Where there are no threads: the operation runs the rebuild that it waits for, and is then refused. */
static void test_volume_log_full_waits_for_no_rebuild_that_nobody_runs(void **state)
{
	struct engine *e = engine_new(16 * MIB, 1);
	struct fs_error err;
	char name[16];
	int r = 0;

	for (unsigned i = 0; i < 100000 && r == 0; i++) {
		snprintf(name, sizeof(name), "v%u", i);
		r = fs_volume_create(e->fs, name, MIB, 0, &err);
	}
	assert_int_equal(r, -ENOSPC);
	fs_kick_rebuild(e->fs);
	alarm(120);
	assert_int_equal(fs_volume_create(e->fs, "one-more", MIB, 0, &err), -ENOSPC);
	alarm(0);
	assert_int_equal(fs_volume_delete(e->fs, "v0", NULL), 0);
	engine_check_all(e);
	engine_free(e);
}

/* ---- threads ------------------------------------------------------------------------------------ */

#define THREADS 6u
#define ROUNDS (60u / (1 + 2 * SANITIZED))

struct worker {
	struct engine *e;
	pthread_t thread;
	unsigned number;
};

/* Each with names of its own, and one volume that all of them resize. */
static void *change_volumes(void *arg)
{
	struct worker *w = arg;
	struct fs *fs = w->e->fs;
	char a[16], b[16];

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct fs_error err = {""};

		snprintf(a, sizeof(a), "a%u-%u", w->number, i);
		snprintf(b, sizeof(b), "b%u-%u", w->number, i);
		if (fs_volume_create(fs, a, MIB, 0, &err) || fs_volume_rename(fs, a, b, &err) ||
		    fs_volume_resize(fs, b, (1 + i % 3) * MIB, &err) ||
		    fs_volume_resize(fs, "all", (1 + i % 7) * MIB, &err) ||
		    (i % 2 && fs_volume_delete(fs, b, &err)))
			fail_msg("%s", err.msg);
		if (i % 16 == 0)
			assert_int_equal(fs_commit(fs), 0);
	}
	return NULL;
}

static int add_size(void *arg, const struct fs_volume_info *info)
{
	uint64_t *sum = arg;

	if (__builtin_add_overflow(*sum, info->size, sum)) {
		*sum = UINT64_MAX;
		return 1;
	}
	return 0;
}

/* The sum that is kept against one that is taken. */
static void check_provisioned(struct engine *e)
{
	uint64_t sum = 0;
	struct fs_info info;

	(void)fs_volume_list(e->fs, add_size, &sum);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.provisioned_bytes, sum);
}

static void change_something(struct engine *e)
{
	static const uint64_t sizes[] = {BLOCK, 5 * MIB, 1ull << 40, FS_VOLUME_SIZE_MAX};
	static const char *const names[] = {"a", "b", "c", "d", "e", "f"};
	const char *name = names[rnd(&e->rng) % 6], *other = names[rnd(&e->rng) % 6];
	uint64_t size = sizes[rnd(&e->rng) % 4];

	/* some are refused: the name is taken, or nobody has it */
	switch (rnd(&e->rng) % 8) {
	case 0:
	case 1:
	case 2: (void)fs_volume_create(e->fs, name, size, 0, NULL); break;
	case 3: (void)fs_volume_create(e->fs, name, size, FS_VOLUME_RESERVED, NULL); break;
	case 4: (void)fs_volume_delete(e->fs, name, NULL); break;
	case 5: (void)fs_volume_rename(e->fs, name, other, NULL); break;
	default: (void)fs_volume_resize(e->fs, name, size, NULL); break;
	}
}

static void test_volume_log_sizes_of_all_volumes_are_counted(void **state)
{
	struct engine *e = engine_new(256 * MIB, 77);
	struct fs_info info;
	unsigned more = 0;

	for (int i = 0; i < 600; i++) {
		change_something(e);
		check_provisioned(e);
		fs_get_info(e->fs, &info);
		more += info.provisioned_bytes == UINT64_MAX;
		if (i % 50 == 49) {
			die(e);
			check_provisioned(e);
		} else if (i % 70 == 69) {
			engine_reopen(e);
			check_provisioned(e);
		}
	}
	assert_true(more > 20 && more < 580); /* both were seen */
	engine_close(e);
	engine_free(e);
}

static void test_volume_log_threads_change_volumes_together(void **state)
{
	struct fs_options opt = {.cache_bytes = 16 * MIB, .commit_interval_ms = 20, .workers = 3};
	struct engine *e = engine_new_threads(128 * MIB, 1, &opt);
	struct worker w[THREADS];
	struct fs_info info;

	create(e, "all", MIB, 0);
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){.e = e, .number = i};
		assert_int_equal(pthread_create(&w[i].thread, NULL, change_volumes, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.volumes, 1 + THREADS * (ROUNDS / 2));
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_check_device(e->sim);
	e->threads = false;
	engine_open(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.volumes, 1 + THREADS * (ROUNDS / 2));
	for (unsigned n = 0; n < THREADS; n++) {
		for (unsigned i = 0; i < ROUNDS; i++) {
			char name[16];

			snprintf(name, sizeof(name), "b%u-%u", n, i);
			assert_int_equal(there_is(e, name, (1 + i % 3) * MIB), i % 2 == 0);
		}
	}
	engine_check_all(e);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_volume_log_operations_outlive_a_crash_without_a_commit),
		cmocka_unit_test(test_volume_log_name_given_to_another_volume),
		cmocka_unit_test(test_volume_log_sizes_and_data_keep_their_order),
		cmocka_unit_test(test_volume_log_promises_come_back),
		cmocka_unit_test(test_volume_log_operations_together_share_a_flush),
		cmocka_unit_test(test_volume_log_failing_group_is_done_by_a_commit),
		cmocka_unit_test(test_volume_log_failing_device_flush_ends_it),
		cmocka_unit_test(test_volume_log_full_leaves_it_to_a_commit),
		cmocka_unit_test(test_volume_log_full_waits_for_no_rebuild_that_nobody_runs),
		cmocka_unit_test(test_volume_log_sizes_of_all_volumes_are_counted),
		cmocka_unit_test(test_volume_log_threads_change_volumes_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
