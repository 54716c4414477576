/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_flush_log_threads.c: writers, new block groups and groups of the flush log at the same
 * moment.
 */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/log_world.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/io/ctx.h"
#include "fs/device/device_sim.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (64 * MIB)

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush_log_counts_only_what_a_group_can_find),
		cmocka_unit_test(test_flush_log_block_group_made_meanwhile_comes_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
