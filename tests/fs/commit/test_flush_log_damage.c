/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_flush_log_damage.c: a log whose records could not be written, were written in part, or
 * have rotted: nothing that a flush covered is lost by what comes after, and what is lost is said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/log_world.h"
#include "tests/lib/random.h"
#include "base/crc32c.h"
#include "base/le.h"
#include "base/util.h"
#include "fs/check/check.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/commit/flush_log.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (64 * MIB)

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
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL,
					 .error = -EIO,
					 .ops = DEVICE_SIM_OP(DEVICE_WRITE),
					 .off = fs->log->offset,
					 .len = fs->log->size,
					 .count = 1};
	struct fs_io io = {.op = FS_FLUSH};

	if (q != fs->commit_q || a->done)
		return;
	a->done = true;
	device_sim_fault_add(a->w->e->sim, &fault);
	a->error = engine_io_during(a->w->e, &io);
	device_sim_fault_clear(a->w->e->sim);
}

/*
 * Nothing is dirty when that commit has ended. What is flushed next must not stand behind the hole that the
 * failed group has left.
 */
static void test_flush_log_failed_group_leaves_no_hole(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct at_commit a = {.w = w};

	log_world_write(w, 1);
	engine_device(w->e)->arg = &a;
	engine_device(w->e)->before_submit = fail_a_flush;
	assert_int_equal(fs_commit(w->e->fs), 0);
	engine_device(w->e)->before_submit = NULL;
	assert_int_equal(a.error, -EIO);
	memcpy(w->flushed, w->newest, sizeof(w->flushed)); /* the commit has it */
	assert_int_equal(fs_commit(w->e->fs), 0);
	log_world_write(w, 2);
	log_world_flush(w);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

/*
 * Once, in the middle of a commit: the volume's many writes are frozen, and more than the log has room for.
 */
static void build_in_part(void *arg, struct device_queue *q, const struct device_io *dio)
{
	struct at_commit *a = arg;
	struct flush_log *log = a->w->e->fs->log;
	uint64_t seq = log->seq, head = log->head;
	unsigned left = 0;

	if (q != a->w->e->fs->commit_q || a->done)
		return;
	a->done = true;
	log->frozen_bytes = 0; /* as if they had all been counted too low */
	atomic_store(&log->fs->volumes->log_bytes, 1);
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
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct fs_volume *big = engine_volume(w->e, "big", 64 * MIB);
	struct at_commit a = {.w = w, .io = {.op = FS_FLUSH}};
	uint8_t buf[FS_BLOCK_SIZE] = {1};

	engine_commit(w->e);
	w->e->hold_commits = true;
	while (w->e->fs->log->head - w->e->fs->log->tail < w->e->fs->log->size - (96u << 10)) {
		log_world_write(w, w->version % BLOCKS);
		log_world_flush(w);
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
	log_world_write(w, 2);
	log_world_flush(w);
	fs_volume_put(big);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

/* ---- records that rot ------------------------------------------------------------------------- */

#define FLUSHES 6u

/*
 * One block and one flush each; the volume is then closed as by a crash. Where each group's first record
 * stands.
 */
static struct log_world *flush_some(uint64_t *place, unsigned blocks_each)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);

	engine_commit(w->e);
	for (unsigned i = 0; i < FLUSHES; i++) {
		struct flush_log *log = w->e->fs->log;

		place[i] = log->offset + log->head % log->size;
		for (unsigned b = 0; b < blocks_each; b++)
			log_world_write(w, i * blocks_each + b);
		assert_int_equal(engine_flush(w->e), 0);
	}
	fs_volume_put(w->vol);
	w->vol = NULL;
	engine_abandon(w->e);
	return w;
}

/* What it says, how many flushes are lost, and that the volume is as of the flush before. */
static void verify_lost(struct device *sim, unsigned bad, bool last)
{
	struct engine e = {.sim = sim};
	uint8_t got[FS_BLOCK_SIZE], want[FS_BLOCK_SIZE];
	struct fs_volume *vol;
	struct fs_info info;

	engine_open(&e);
	fs_get_info(e.fs, &info);
	assert_int_equal(info.log_lost_flushes, last ? 0 : FLUSHES - bad);
	assert_int_equal(info.log_lost_ns != 0, !last);
	assert_int_equal(strstr(e.log, "is damaged") != NULL, !last);
	vol = engine_volume(&e, "v", 0);
	for (unsigned b = 0; b < FLUSHES; b++) {
		assert_int_equal(engine_read(&e, vol, b * BLOCK, BLOCK, got), 0);
		version_bytes(want, b < bad ? b + 1 : 0);
		assert_memory_equal(got, want, BLOCK);
	}
	assert_int_equal(engine_write(&e, vol, 9 * BLOCK, BLOCK, want), 0); /* life goes on */
	assert_int_equal(engine_flush(&e), 0);
	fs_volume_put(vol);
	engine_crash(&e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_check_device(e.sim);
	engine_open(&e);
	fs_get_info(e.fs, &info); /* it is known for good */
	assert_int_equal(info.log_lost_flushes, last ? 0 : FLUSHES - bad);
	engine_check_all(&e);
	engine_abandon(&e);
	device_close(e.sim);
}

static void count_findings(void *arg, const char *line)
{
	assert_non_null(strstr(line, "flush log: record"));
	assert_non_null(strstr(line, "cannot be replayed"));
	++*(unsigned *)arg;
}

static void test_flush_log_rotten_record_is_told(void **state)
{
	uint64_t place[FLUSHES];
	struct log_world *w = flush_some(place, 1);

	for (unsigned bad = 0; bad < FLUSHES; bad++) {
		struct device *sim = device_sim_clone(w->e->sim, 1), *copy;
		unsigned count = 0;
		struct fs_check_options opt = {.finding = count_findings, .arg = &count};
		uint64_t findings;

		device_sim_flip(sim, place[bad] + pick(&w->e->rng, sizeof(struct log_record)), 5);
		copy = device_sim_clone(sim, 1);
		assert_int_equal(check_device(copy, &opt, &findings, NULL), 0);
		device_close(copy);
		assert_int_equal(count, bad < FLUSHES - 1);
		verify_lost(sim, bad, bad == FLUSHES - 1);
	}
	log_world_free(w);
}

/*
 * What is left of a group of several records that the power cut tore proves nothing: its flush was not
 * answered.
 */
static void test_flush_log_torn_group_is_not_taken_for_rot(void **state)
{
	struct log_world *w = log_world_new(2 * POOL_BYTES, 1);
	struct fs_volume *big = engine_volume(w->e, "big", 64 * MIB);
	struct flush_log *log = w->e->fs->log;
	struct fs_info info;
	uint64_t place, records = 0;
	uint8_t buf[FS_BLOCK_SIZE] = {1};

	engine_commit(w->e);
	w->e->hold_commits = true;
	log_world_write(w, 1);
	log_world_flush(w);
	place = log->offset + log->head % log->size;
	for (unsigned i = 0; i < 6000; i++)
		assert_int_equal(engine_write(w->e, big, 2ull * i * BLOCK, BLOCK, buf), 0);
	records = log->seq;
	assert_int_equal(engine_flush(w->e), 0);
	assert_true(log->seq - records > 1); /* several */
	fs_volume_put(big);
	device_sim_flip(w->e->sim, place + 100, 1);
	fs_volume_put(w->vol);
	engine_crash(w->e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_check_device(w->e->sim);
	w->e->hold_commits = false;
	engine_open(w->e);
	w->vol = engine_volume(w->e, "v", 0);
	fs_get_info(w->e->fs, &info);
	assert_int_equal(info.log_lost_flushes, 0);
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

/*
 * An item under a right checksum that names blocks which no volume can have: their byte offsets wrap around.
 */
static void test_flush_log_item_far_behind_the_end_is_refused(void **state)
{
	static const uint64_t far[] = {1ull << 52, 1ull << 60, UINT64_MAX};
	uint64_t place[FLUSHES];
	struct log_world *w = flush_some(place, 1);

	for (unsigned i = 0; i < ARRAY_SIZE(far); i++) {
		struct engine e = {.sim = device_sim_clone(w->e->sim, 1)};
		uint8_t bytes[LOG_ALIGN];
		struct log_record *rec = (struct log_record *)bytes;
		struct log_extent *item = (struct log_extent *)(rec + 1);

		device_sim_peek(e.sim, place[2], bytes, sizeof(bytes));
		assert_int_equal(le16_to_cpu(item->item.type), LOG_EXTENT);
		item->blk = cpu_to_le64(far[i]);
		rec->crc = cpu_to_le32(crc32c(bytes + 4, le32_to_cpu(rec->bytes) - 4));
		device_sim_poke(e.sim, place[2], bytes, sizeof(bytes));
		assert_int_equal(engine_try_open(&e), -EUCLEAN);
		device_close(e.sim);
	}
	log_world_free(w);
}

/* It may hold what was flushed: the pool is not opened as if it did not, and nothing is written. */
static void test_flush_log_unreadable_place_stops_the_open(void **state)
{
	uint64_t place[FLUSHES];
	struct log_world *w = flush_some(place, 1);

	device_sim_bad_range(w->e->sim, place[2], FS_BLOCK_SIZE);
	assert_int_equal(engine_try_open(w->e), -EIO);
	assert_non_null(strstr(w->e->log, "pool check --repair"));
	log_world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush_log_failed_group_leaves_no_hole),
		cmocka_unit_test(test_flush_log_group_built_in_part_leaves_no_hole),
		cmocka_unit_test(test_flush_log_rotten_record_is_told),
		cmocka_unit_test(test_flush_log_torn_group_is_not_taken_for_rot),
		cmocka_unit_test(test_flush_log_item_far_behind_the_end_is_refused),
		cmocka_unit_test(test_flush_log_unreadable_place_stops_the_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
