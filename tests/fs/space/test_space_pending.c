/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_space_pending.c: between a write and the moment when what it replaced is free again:
 * what a commit frees is its reserved volume's, and what is pending is counted in full.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/space_hold.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/device/device_sim.h"
#include "fs/core/epoch.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/space/space_info.h"
#include "fs/commit/transaction.h"
#include "fs/volume/volume.h"
#include "fs/format/volume_format.h"

#define POOL_BYTES (96 * MIB)

/* ---- what a commit frees of a reserved volume ------------------------------------------------ */

/* A thread that sits on a block group's lock. */
struct holder {
	struct block_group *g;
	sem_t held, enough;
};

static void find_pinned(struct block_group *g, void *arg)
{
	struct holder *h = arg;

	if (!h->g && g->type == GROUP_DATA && (g->pinned_blocks[0] || g->pinned_blocks[1]))
		h->g = g;
}

static void *hold_group(void *arg)
{
	struct holder *h = arg;

	lock_take(&h->g->lock);
	sem_post(&h->held);
	sem_wait(&h->enough);
	lock_drop(&h->g->lock);
	return NULL;
}

static void *release_pins(void *arg)
{
	struct fs *fs = arg;

	lock_take(&fs->commit_lock);
	assert_true(transaction_release_pins(fs));
	lock_drop(&fs->commit_lock);
	return NULL;
}

static uint64_t promise_left(struct fs *fs, const struct space_promise *p)
{
	uint64_t left;

	lock_take(&fs->space->lock);
	left = p->promised - p->allocated;
	lock_drop(&fs->space->lock);
	return left;
}

/* As a write of one block would, that does not wait; what it gets goes back. */
static int try_block(struct fs *fs, struct space_promise *promise)
{
	struct space_ticket t = {.flags = SPACE_NOTICKET,
				 .want = {BLOCK, {1, volume_item_bytes(3, 1)}, promise}};
	int r = space_reserve(fs, &t);

	if (r == 0)
		space_unreserve(fs, &t.want);
	return r;
}

/* A full reserved volume was overwritten and committed; a reader keeps the pins. Returns its epoch. */
static unsigned overwrite_reserved(struct engine *e, struct fs_volume *vol, uint64_t size)
{
	void *buf = calloc(1, size);
	unsigned epoch;

	assert_int_equal(engine_write(e, vol, 0, size, buf), 0);
	engine_commit(e);
	assert_int_equal(engine_write(e, vol, 0, size, buf), 0);
	epoch = epoch_enter(&e->fs->epoch);
	assert_int_equal(fs_commit(e->fs), 0);
	free(buf);
	assert_int_equal(promise_left(e->fs, &vol->promise), 0);
	assert_int_equal(e->fs->space->kind[SPACE_DATA].pinned, size);
	return epoch;
}

/*
 * Regression: what a commit freed was free before it was owed to its reserved volume again. A write to that
 * volume in between was refused, as nothing was pinned any more, and another volume's write could have had
 * the space.
 */
static void test_space_reserved_volume_keeps_what_a_commit_frees(void **state)
{
	struct engine *e = engine_new(64 * MIB, 1);
	struct holder h = {.g = NULL};
	struct space_reservation held;
	struct fs_volume *vol;
	pthread_t holder, releaser;
	unsigned epoch;

	assert_int_equal(fs_volume_create(e->fs, "r", 4 * MIB, FS_VOLUME_RESERVED, NULL), 0);
	vol = engine_volume(e, "r", 0);
	epoch = overwrite_reserved(e, vol, 4 * MIB);
	held = hold_all_but(e, 0, 1);
	epoch_leave(&e->fs->epoch, epoch);
	block_group_each(e->fs, find_pinned, &h);
	assert_non_null(h.g);
	assert_int_equal(sem_init(&h.held, 0, 0) | sem_init(&h.enough, 0, 0), 0);
	assert_int_equal(pthread_create(&holder, NULL, hold_group, &h), 0);
	sem_wait(&h.held);
	assert_int_equal(pthread_create(&releaser, NULL, release_pins, e->fs), 0);
	for (unsigned ms = 0; promise_left(e->fs, &vol->promise) == 0; ms++) {
		if (ms == 5000)
			fail_msg("a block group is about to be freed, and its volume has not got it back");
		usleep(1000);
	}
	assert_int_equal(promise_left(e->fs, &vol->promise), 4 * MIB);
	assert_int_equal(try_block(e->fs, NULL), -EAGAIN);
	assert_int_not_equal(try_block(e->fs, &vol->promise), -ENOSPC);
	sem_post(&h.enough);
	pthread_join(holder, NULL);
	pthread_join(releaser, NULL);
	assert_int_equal(e->fs->space->kind[SPACE_DATA].pinned, 0);
	assert_int_not_equal(try_block(e->fs, NULL), 0);
	assert_int_equal(try_block(e->fs, &vol->promise), 0);
	space_unreserve(e->fs, &held);
	sem_destroy(&h.held);
	sem_destroy(&h.enough);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

/* ---- what is pending is counted in full ------------------------------------------------------ */

/*
 * What a commit's bound stands on: the bytes of the items that it makes were counted when they became
 * pending.
 */
static uint64_t running_bytes(struct engine *e)
{
	uint64_t bytes;

	lock_take(&e->fs->space->lock);
	bytes = e->fs->space->running.bytes;
	lock_drop(&e->fs->space->lock);
	return bytes;
}

/* Regression: a place of more than 128 blocks becomes several items, and only one was counted. */
static void test_space_long_writes_count_all_their_items(void **state)
{
	static const uint64_t blocks[] = {1, 127, 128, 129, 1000, 2048};
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 32 * MIB);
	void *buf = calloc(2048, BLOCK);
	uint64_t off = 0;

	engine_commit(e);
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		uint64_t n = blocks[i], items = vol->root.items, bytes;

		assert_int_equal(engine_write(e, vol, off, n * BLOCK, buf), 0);
		bytes = running_bytes(e);
		engine_commit(e);
		items = vol->root.items - items;
		assert_true(items >= volume_extent_items(n));
		assert_true(bytes >= volume_item_bytes(items, n));
		assert_true(bytes <= volume_item_bytes(items + 2, n));
		off += (n + 1) * BLOCK;
	}
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf);
	engine_free(e);
}

/* Regression: a hole in the flush log was counted by its length, at replay, as if it became items. */
static void test_space_replayed_changes_count_their_items(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 1ull << 40);
	void *buf = calloc(1000, BLOCK);
	uint64_t bytes, items;

	engine_commit(e); /* else its creation counts, too */
	assert_int_equal(engine_write(e, vol, 0, 1000 * BLOCK, buf), 0);
	assert_int_equal(engine_trim(e, vol, 1ull << 39, 1ull << 39), 0);
	assert_int_equal(engine_flush(e), 0);
	fs_volume_put(vol);
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_open_only(e);
	bytes = running_bytes(e);
	engine_commit(e);
	vol = engine_volume(e, "v", 0);
	items = vol->root.items;
	assert_true(items >= volume_extent_items(1000));
	assert_true(bytes >= volume_item_bytes(items, 1000));
	/* two to spare for each pending: there are a few */
	assert_true(bytes <= volume_item_bytes(items + 20, 1000));
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_space_reserved_volume_keeps_what_a_commit_frees),
		cmocka_unit_test(test_space_long_writes_count_all_their_items),
		cmocka_unit_test(test_space_replayed_changes_count_their_items),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
