/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_flush_log.c: what a flush covered is there after any crash, at the cost of one device
 * flush; whatever becomes of the log: full, wrapped, torn, damaged, failing, or with records of an earlier
 * life in it.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/log_world.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/space/block_group.h"
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

/* ---- writers and groups at the same moment -------------------------------------------------------- */

static void *write_one(void *arg)
{
	struct log_world *w = arg;

	log_world_write(w, 2);
	return NULL;
}

/* Until the writer is held up with the volume's lock in its hands. */
static bool writer_is_inside(struct fs_volume *vol)
{
	unsigned busy = 0;

	for (unsigned ms = 0; ms < 10000 && busy < 20; ms++) {
		if (pthread_mutex_trylock(&vol->lock.mutex) == 0) {
			pthread_mutex_unlock(&vol->lock.mutex);
			busy = 0;
		} else {
			busy++;
		}
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	return busy == 20;
}

/* Else a group takes it off the count and does not find it, and the next flush finds nothing to do. */
static void test_flush_log_counts_only_what_a_group_can_find(void **state)
{
	struct log_world *w = log_world_new(POOL_BYTES, 1);
	struct fs *fs = w->e->fs;
	pthread_t writer;

	log_world_write(w, 1);
	log_world_flush(w);
	lock_take(&fs->volumes->dirty_lock); /* the list of volumes for the next group */
	assert_int_equal(pthread_create(&writer, NULL, write_one, w), 0);
	assert_true(writer_is_inside(w->vol));
	assert_int_equal(atomic_load(&fs->volumes->log_bytes), 0);
	lock_drop(&fs->volumes->dirty_lock);
	assert_int_equal(pthread_join(writer, NULL), 0);
	assert_true(atomic_load(&fs->volumes->log_bytes) > 0);
	log_world_flush(w);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	log_world_free(w);
}

/* A thread that keeps a volume's lock, and one that leads a group which waits for that. */
struct late {
	struct fs *fs;
	struct fs_volume *vol;
	sem_t held, enough;
	struct flush_waiter waiter;
	int error; /* 1: not answered yet */
};

static void *hold_volume(void *arg)
{
	struct late *l = arg;

	lock_take(&l->vol->lock);
	sem_post(&l->held);
	sem_wait(&l->enough);
	lock_drop(&l->vol->lock);
	return NULL;
}

static void *lead_group(void *arg)
{
	struct late *l = arg;

	flush_log_flush(l->fs, &l->waiter);
	return NULL;
}

static void group_done(struct flush_waiter *w, int error)
{
	container_of(w, struct late, waiter)->error = error;
}

/* Until the group is being built: its thread waits for the volume's lock. */
static bool group_is_held_up(struct fs *fs)
{
	unsigned building = 0;

	for (unsigned ms = 0; ms < 10000 && building < 20; ms++) {
		lock_take(&fs->log->lock); /* the group does not keep it while it waits for a volume */
		building = fs->log->building ? building + 1 : 0;
		lock_drop(&fs->log->lock);
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	return building == 20;
}

static void write_elsewhere(struct engine *e, struct fs_volume *vol, uint64_t len, void *buf)
{
	struct fs_io io = {.op = FS_WRITE, .vol = vol, .len = len, .buf = buf, .done = engine_io_done},
		     *ios = &io;
	struct fs_ctx *ctx;
	unsigned left = 1;

	assert_int_equal(fs_ctx_new(e->fs, &ctx), 0);
	io.arg = &left;
	fs_submit(ctx, &ios, 1);
	for (unsigned i = 0; left && i < 10000; i++)
		fs_ctx_run(ctx);
	assert_int_equal(left, 0);
	assert_int_equal(io.error, 0);
	fs_ctx_free(ctx);
}

/*
 * Regression: while a group was built, a write made a block group and was logged with that group of records;
 * the block group itself came with the next one only. Replay then found data in a block group that it did not
 * know: no start.
 */
static void test_flush_log_block_group_made_meanwhile_comes_first(void **state)
{
	const uint64_t len = 16 * MIB;
	struct log_world *w = log_world_new(128 * MIB, 1);
	struct fs_volume *big = engine_volume(w->e, "big", len);
	struct late l = {.fs = w->e->fs,
			 .vol = w->vol,
			 .error = 1,
			 .waiter = {.ex = &w->e->ctx->ex, .done = group_done}};
	char *buf = calloc(1, len), *got = calloc(1, len);
	pthread_t holder, leader;
	uint32_t groups;

	engine_commit(w->e);
	w->e->hold_commits = true;
	fill_bytes(buf, len, 5);
	log_world_write(w, 1);
	assert_int_equal(engine_write(w->e, big, 0, BLOCK, buf), 0);
	assert_int_equal(sem_init(&l.held, 0, 0) | sem_init(&l.enough, 0, 0), 0);
	assert_int_equal(pthread_create(&holder, NULL, hold_volume, &l), 0);
	sem_wait(&l.held);
	assert_int_equal(pthread_create(&leader, NULL, lead_group, &l), 0);
	assert_true(group_is_held_up(w->e->fs));
	groups = atomic_load(&w->e->fs->groups->live);
	write_elsewhere(w->e, big, len, buf);
	assert_true(atomic_load(&w->e->fs->groups->live) > groups);
	sem_post(&l.enough);
	pthread_join(holder, NULL);
	pthread_join(leader, NULL);
	for (unsigned i = 0; l.error == 1 && i < 10000; i++)
		fs_ctx_run(w->e->ctx);
	assert_int_equal(l.error, 0);
	log_world_flush(w); /* covers the large write */
	w->e->hold_commits = false;
	fs_volume_put(big);
	log_world_die(w, DEVICE_SIM_CRASH_LOSE_ALL);
	log_world_verify(w, false);
	big = engine_volume(w->e, "big", 0);
	assert_int_equal(engine_read(w->e, big, 0, len, got), 0);
	assert_memory_equal(got, buf, len);
	fs_volume_put(big);
	sem_destroy(&l.held);
	sem_destroy(&l.enough);
	free(buf);
	free(got);
	engine_check_all(w->e);
	log_world_free(w);
}

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
		cmocka_unit_test(test_flush_log_counts_only_what_a_group_can_find),
		cmocka_unit_test(test_flush_log_block_group_made_meanwhile_comes_first),
		cmocka_unit_test(test_flush_log_is_replayed_until_a_commit),
		cmocka_unit_test(test_flush_log_stale_records_of_earlier_lives_are_not_replayed),
		cmocka_unit_test(test_flush_log_stale_record_does_not_vouch_for_the_last_group),
		cmocka_unit_test(test_flush_log_unflushed_overwrite_leaves_what_was_flushed),
		cmocka_unit_test(test_flush_log_torn_tail_loses_nothing_that_was_answered),
		cmocka_unit_test(test_flush_log_damaged_record_ends_it),
		cmocka_unit_test(test_flush_log_items_without_their_data_are_left_out),
		cmocka_unit_test(test_flush_log_flushes_during_a_commit),
		cmocka_unit_test(test_flush_log_carries_new_block_groups),
		cmocka_unit_test(test_flush_log_with_much_data_flushes_it_first),
		cmocka_unit_test(test_flush_log_failing_write_is_never_lost),
		cmocka_unit_test(test_flush_log_failing_device_flush_ends_writing),
		cmocka_unit_test(test_flush_log_grows_with_the_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
