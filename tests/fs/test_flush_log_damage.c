/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/test_flush_log_damage.c: a log whose records could not be written, were written in part, or have rotted: nothing
 * that a flush covered is lost by what comes after, and what is lost is said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/fs/log_world.h"

/* ---- a group that cannot be written while a commit is under way ------------------------------- */

struct at_commit {
	struct log_world *w;
	bool done;
	int error;
	struct fs_io io;
	unsigned left;
};

/* Once, in the middle of a commit: the volume's write is frozen. A flush logs it, and that fails. */
static void fail_a_flush(void *arg, struct device_queue *q, const struct device_io *dio)
{
	struct at_commit *a = arg;
	struct fs *fs = a->w->e->fs;
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL, .error = -EIO, .ops = DEVICE_SIM_OP(DEVICE_WRITE),
					 .off = fs->log.offset, .len = fs->log.size, .count = 1};
	struct fs_io io = {.op = FS_FLUSH};

	if (q != fs->commit_q || a->done)
		return;
	a->done = true;
	device_sim_fault_add(a->w->e->sim, &fault);
	a->error = io_during(a->w->e, &io);
	device_sim_fault_clear(a->w->e->sim);
}

/*
 * Nothing is dirty when that commit has ended. What is flushed next must not stand behind the hole that the failed group
 * has left.
 */
static void test_flush_log_failed_group_leaves_no_hole(void **state)
{
	struct log_world *w = new_world(POOL_BYTES, 1);
	struct at_commit a = {.w = w};

	write_block(w, 1);
	engine_device(w->e)->arg = &a;
	engine_device(w->e)->before_submit = fail_a_flush;
	assert_int_equal(fs_commit(w->e->fs), 0);
	engine_device(w->e)->before_submit = NULL;
	assert_int_equal(a.error, -EIO);
	memcpy(w->flushed, w->newest, sizeof(w->flushed)); /* the commit has it */
	assert_int_equal(fs_commit(w->e->fs), 0);
	write_block(w, 2);
	flush(w);
	die_and_open(w, DEVICE_SIM_CRASH_LOSE_ALL);
	verify_found(w, false);
	engine_check_all(w->e);
	free_world(w);
}

/* Once, in the middle of a commit: the volume's many writes are frozen, and more than the log has room for. */
static void build_in_part(void *arg, struct device_queue *q, const struct device_io *dio)
{
	struct at_commit *a = arg;
	struct flush_log *log = &a->w->e->fs->log;
	uint64_t seq = log->seq, head = log->head;
	unsigned left = 0;

	if (q != a->w->e->fs->commit_q || a->done)
		return;
	a->done = true;
	log->frozen_bytes = 0; /* as if they had all been counted too low */
	atomic_store(&log->pending_bytes, 1);
	engine_submit(a->w->e, &a->io, 1, &left);
	for (unsigned i = 0; left && i < 100; i++)
		fs_ctx_run(a->w->e->ctx);
	assert_int_equal(left, 1); /* it waits for a commit */
	assert_true(log->failed);
	assert_int_equal(log->seq, seq);
	assert_int_equal(log->head, head);
	a->left = left;
	a->io.arg = &a->left;
}

/* The same for a group that did not fit when a part of it was built. */
static void test_flush_log_group_built_in_part_leaves_no_hole(void **state)
{
	struct log_world *w = new_world(POOL_BYTES, 1);
	struct fs_volume *big = engine_volume(w->e, "big", 64 * MIB);
	struct at_commit a = {.w = w, .io = {.op = FS_FLUSH}};
	uint8_t buf[FS_BLOCK_SIZE] = {1};

	engine_commit(w->e);
	w->e->hold_commits = true;
	while (w->e->fs->log.head - w->e->fs->log.tail < w->e->fs->log.size - (96u << 10)) {
		write_block(w, w->version % BLOCKS);
		flush(w);
	}
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(engine_write(w->e, big, 2ull * i * BLOCK, BLOCK, buf), 0);
	w->e->hold_commits = false;
	engine_device(w->e)->arg = &a;
	engine_device(w->e)->before_submit = build_in_part;
	assert_int_equal(fs_commit(w->e->fs), 0);
	engine_device(w->e)->before_submit = NULL;
	assert_true(a.done);
	engine_wait(w->e, &a.left);
	assert_int_equal(a.io.error, 0);
	memcpy(w->flushed, w->newest, sizeof(w->flushed));
	write_block(w, 2);
	flush(w);
	fs_volume_put(big);
	die_and_open(w, DEVICE_SIM_CRASH_LOSE_ALL);
	verify_found(w, false);
	engine_check_all(w->e);
	free_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush_log_failed_group_leaves_no_hole),
		cmocka_unit_test(test_flush_log_group_built_in_part_leaves_no_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
