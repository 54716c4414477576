/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_flush_log_replay.c: what a flush covered is there after any crash: with records that
 * are torn, damaged or of an earlier life, with data that did not arrive, and in the middle of a commit.
 */
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
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/commit/flush_log.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (64 * MIB)

/* ---- crashes ------------------------------------------------------------------------------------ */

/* Without a first commit the log is replayed again and again. */
static void test_flush_log_is_replayed_until_a_commit(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());

	log_world_write_some(w, 100);
	log_world_flush(w);
	log_world_write_some(w, 100);
	log_world_flush(w);
	w->e->hold_commits = true;
	for (unsigned i = 0; i < 6; i++) {
		fs_volume_put(w->vol);
		engine_crash(w->e, DEVICE_SIM_CRASH_RANDOM, i);
		engine_open_only(w->e); /* nothing is committed */
		assert_non_null(strstr(w->e->log, "flush log"));
		w->e->log[0] = 0;
		w->vol = engine_volume(w->e, "v", 0);
		log_world_verify(w, false);
		engine_check_books(w->e);
	}
	w->e->hold_commits = false;
	engine_check_all(w->e);
	log_world_verify(w, false);
	log_world_free(w);
}

/* The records of an earlier life stand behind ours, whole and with sequence numbers that might fit. */
static void test_flush_log_stale_records_of_earlier_lives_are_not_replayed(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());

	for (unsigned life = 0; life < (SANITIZED ? 15 : 60); life++) {
		unsigned n = 1 + (unsigned)pick(&w->e->rng, 30);

		for (unsigned i = 0; i < n; i++) { /* records of equal size: positions meet */
			log_world_write(w, pick(&w->e->rng, BLOCKS));
			log_world_flush(w);
		}
		/* not committed, and then lost: the next life's log begins at the same place */
		if (life % 3 == 0)
			log_world_write(w, 7);
		fs_volume_put(w->vol);
		engine_crash(w->e, life % 2 ? DEVICE_SIM_CRASH_LOSE_ALL : DEVICE_SIM_CRASH_KEEP_ALL, life);
		if (life % 4 == 3) {
			engine_open_only(w->e);
			engine_abandon(w->e); /* twice in a row without a commit */
		}
		engine_open(w->e);
		w->vol = engine_volume(w->e, "v", 0);
		log_world_verify(w, true);
		if (life % 5 == 4) {
			fs_volume_put(w->vol);
			engine_reopen(w->e); /* a clean one in between */
			w->vol = engine_volume(w->e, "v", 0);
			log_world_verify(w, false);
		}
	}
	engine_check_all(w->e);
	log_world_free(w);
}

/*
 * A record of an earlier life that stands just where the next one would be, with the sequence number that it
 * would have: if it were taken for ours, the group before it would count as durable, and its data would not
 * be looked at.
 */
static void test_flush_log_stale_record_does_not_vouch_for_the_last_group(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct device_sim_fault lost = {
		.kind = DEVICE_SIM_LOSE, .ops = DEVICE_SIM_OP(DEVICE_WRITE), .count = 1};
	struct flush_log *log = w->e->fs->log;
	uint64_t place = log->offset + log->head % log->size;
	uint8_t stale[LOG_ALIGN], before[2 * LOG_ALIGN];

	device_sim_peek(w->e->sim, place, before, sizeof(before));
	for (unsigned i = 0; i < 2; i++) {
		log_world_write(w, i);
		assert_int_equal(engine_flush(w->e), 0);
	}
	device_sim_peek(w->e->sim, place + LOG_ALIGN, stale, sizeof(stale));
	fs_volume_put(w->vol);
	engine_abandon(w->e);
	/* the first life's flushes did not arrive */
	device_sim_poke(w->e->sim, place, before, sizeof(before));
	engine_open(w->e);
	w->vol = engine_volume(w->e, "v", 0);
	memset(w->newest, 0, sizeof(w->newest));
	engine_commit(w->e);
	log = w->e->fs->log;
	assert_int_equal(log->offset + log->head % log->size, place);
	device_sim_fault_add(w->e->sim, &lost);
	log_world_write(w, 5);
	assert_int_equal(engine_flush(w->e), 0);
	assert_int_equal(log->offset + log->head % log->size, place + LOG_ALIGN);
	device_sim_poke(w->e->sim, place + LOG_ALIGN, stale, sizeof(stale)); /* but for this record */
	log_world_die(w, DEVICE_SIM_CRASH_KEEP_ALL);
	assert_non_null(strstr(w->e->log, "left out"));
	w->newest[5] = 0;
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

static void test_flush_log_unflushed_overwrite_leaves_what_was_flushed(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned b = 0; b < 64; b++)
			log_world_write(w, b);
		log_world_flush(w);
		for (unsigned b = 0; b < 64; b += 1 + round % 3)
			log_world_write(w, b);
		log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
		log_world_verify(w, false);
		if (round % 2 == 0)
			assert_int_equal(w->newest[0], w->flushed[0]);
	}
	log_world_free(w);
}

/*
 * A crash at any moment of a flush, torn in any way: what was flushed before is there, the rest old or new.
 */
static void test_flush_log_torn_tail_loses_nothing_that_was_answered(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());

	device_sim_set_order(w->e->sim, DEVICE_SIM_RANDOM, 1);
	for (unsigned round = 0; round < 60 / (1 + 4 * SANITIZED); round++) {
		struct fs_io io = {.op = FS_FLUSH};
		unsigned left = 0, step;

		log_world_write_some(w, 3);
		log_world_flush(w);
		log_world_write_some(w, 1 + (unsigned)pick(&w->e->rng, 40));
		engine_submit(w->e, &io, 1, &left);
		for (step = 0; left && step < pick(&w->e->rng, 6); step++)
			fs_ctx_run(w->e->ctx);
		for (unsigned k = 0; k < 4; k++) {
			struct log_world found = *w;
			struct engine e = {.rng = 1, .opt = {.cache_bytes = 8 * MIB}};

			found.e = &e;
			e.sim = device_sim_crash_image(
				w->e->sim,
				(enum device_sim_crash_mode)pick(&w->e->rng, DEVICE_SIM_CRASH_MODES),
				rnd(&w->e->rng));
			engine_check_device(e.sim);
			engine_open(&e);
			found.vol = engine_volume(&e, "v", 0);
			if (!left)
				memcpy(found.flushed, found.newest, sizeof(found.flushed));
			log_world_verify(&found, true);
			fs_volume_put(found.vol);
			engine_check_committed(&e);
			engine_abandon(&e);
			device_close(e.sim);
		}
		engine_wait(w->e, &left);
		assert_int_equal(io.error, 0);
		memcpy(w->flushed, w->newest, sizeof(w->flushed));
		if (round % 10 == 9)
			engine_commit(w->e);
	}
	log_world_free(w);
}

/* Damage in the last group ends the log there; all before it is replayed. */
static void test_flush_log_damaged_record_ends_it(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	uint64_t place[4];

	engine_commit(w->e);
	for (unsigned i = 0; i < 4; i++) {
		struct flush_log *log = w->e->fs->log;

		place[i] = log->offset + log->head % log->size;
		log_world_write(w, i);
		assert_int_equal(engine_flush(w->e), 0);
	}
	fs_volume_put(w->vol);
	w->vol = NULL;
	engine_abandon(w->e);
	for (unsigned bad = 0; bad < 4; bad++) {
		struct engine e = {.sim = device_sim_clone(w->e->sim, 1)};
		uint8_t got[FS_BLOCK_SIZE], want[FS_BLOCK_SIZE];
		struct fs_volume *vol;

		device_sim_flip(e.sim, place[bad] + sizeof(struct log_record) + 3, 5);
		if (bad == 3) /* the last: torn, for all that anybody can know */
			engine_check_device(e.sim);
		engine_open(&e);
		vol = engine_volume(&e, "v", 0);
		for (unsigned b = 0; b < 4; b++) {
			assert_int_equal(engine_read(&e, vol, b * BLOCK, BLOCK, got), 0);
			version_bytes(want, b < bad ? b + 1 : 0);
			assert_memory_equal(got, want, BLOCK);
		}
		fs_volume_put(vol);
		engine_check_all(&e);
		engine_abandon(&e);
		device_close(e.sim);
	}
	log_world_free(w);
}

/*
 * The data of the last group did not arrive, its records did: those items are left out, and nobody was told
 * otherwise.
 */
static void test_flush_log_items_without_their_data_are_left_out(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct device_sim_fault lost = {
		.kind = DEVICE_SIM_LOSE, .ops = DEVICE_SIM_OP(DEVICE_WRITE), .count = 1};

	log_world_write(w, 1);
	log_world_flush(w);
	engine_commit(w->e);
	device_sim_fault_add(w->e->sim, &lost);
	log_world_write(w, 1);
	log_world_write(w, 2);
	assert_int_equal(engine_flush(w->e), 0);
	w->newest[1] = w->flushed[1]; /* the device lied about this one */
	w->flushed[2] = w->newest[2];
	log_world_die(w, DEVICE_SIM_CRASH_KEEP_ALL);
	assert_non_null(strstr(w->e->log, "left out"));
	log_world_verify(w, false);
	engine_check_all(w->e);
	log_world_free(w);
}

/* ---- during a commit -------------------------------------------------------------------------------- */

#define IMAGES 6u

struct during {
	struct log_world *w;
	bool inside;
	unsigned calls, images;
	struct device *image[IMAGES]; /* of the moment, to be opened when the commit is over */
	struct log_world then[IMAGES];
};

/* At each request of a commit: something is written and flushed, and the machine might die. */
static void flush_and_look(void *arg, struct device_queue *q, const struct device_io *dio)
{
	struct during *d = arg;
	struct log_world *w = d->w;
	uint8_t buf[FS_BLOCK_SIZE];

	if (q != w->e->fs->commit_q || d->inside)
		return;
	d->inside = true;
	d->calls++;
	for (unsigned i = 0; i < 2; i++) {
		uint64_t blk = pick(&w->e->rng, BLOCKS);
		struct fs_io io = {
			.op = FS_WRITE, .vol = w->vol, .off = blk * BLOCK, .len = BLOCK, .buf = buf};

		version_bytes(buf, ++w->version);
		assert_int_equal(engine_io_during(w->e, &io), 0);
		w->newest[blk] = w->version;
	}
	if (!w->e->fs->log->failed) {
		struct fs_io io = {.op = FS_FLUSH};

		assert_int_equal(engine_io_during(w->e, &io), 0);
		memcpy(w->flushed, w->newest, sizeof(w->flushed));
	}
	if (pick(&w->e->rng, 3) == 0 && d->images < IMAGES) {
		d->then[d->images] = *w;
		d->image[d->images++] = device_sim_crash_image(
			w->e->sim, (enum device_sim_crash_mode)pick(&w->e->rng, DEVICE_SIM_CRASH_MODES),
			rnd(&w->e->rng));
	}
	d->inside = false;
}

/* What was flushed at the moment of an image is in it. */
static void open_images(struct during *d)
{
	while (d->images > 0) {
		struct engine e = {.rng = 1, .sim = d->image[--d->images], .opt = {.cache_bytes = 8 * MIB}};
		struct log_world *found = &d->then[d->images];

		engine_check_device(e.sim);
		engine_open(&e);
		found->e = &e;
		found->vol = engine_volume(&e, "v", 0);
		log_world_verify(found, true);
		fs_volume_put(found->vol);
		engine_check_committed(&e);
		engine_abandon(&e);
		device_close(e.sim);
	}
}

static void test_flush_log_flushes_during_a_commit(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, test_seed());
	static struct during d;

	d.w = w;
	for (unsigned round = 0; round < 30 / (1 + 2 * SANITIZED); round++) {
		log_world_write_some(w, 20);
		log_world_flush(w);
		log_world_write_some(w, 20);
		engine_settle(w->e);
		engine_device(w->e)->arg = &d;
		engine_device(w->e)->before_submit = flush_and_look;
		assert_int_equal(fs_commit(w->e->fs), 0);
		engine_device(w->e)->before_submit = NULL;
		open_images(&d);
		log_world_die(w, (enum device_sim_crash_mode)pick(&w->e->rng, DEVICE_SIM_CRASH_MODES));
		log_world_verify(w, true);
	}
	assert_true(d.calls > 100);
	engine_check_all(w->e);
	log_world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush_log_is_replayed_until_a_commit),
		cmocka_unit_test(test_flush_log_stale_records_of_earlier_lives_are_not_replayed),
		cmocka_unit_test(test_flush_log_stale_record_does_not_vouch_for_the_last_group),
		cmocka_unit_test(test_flush_log_unflushed_overwrite_leaves_what_was_flushed),
		cmocka_unit_test(test_flush_log_torn_tail_loses_nothing_that_was_answered),
		cmocka_unit_test(test_flush_log_damaged_record_ends_it),
		cmocka_unit_test(test_flush_log_items_without_their_data_are_left_out),
		cmocka_unit_test(test_flush_log_flushes_during_a_commit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
