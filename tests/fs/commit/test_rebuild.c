/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/commit/test_rebuild.c: rebuilds in a pool with threads: what ends one, and when it is tried again.
 * What they find is in test_check_rebuild.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/random.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/core/clock.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"
#include "fs/core/wakeup.h"

#define POOL (64 * MIB)
#define VOL (24 * MIB)
#define LEAVES_MIN 8u

/* What the walk reads, as the device sees it. */
struct watched {
	uint64_t off;		/* only reads from here; 0: of every node */
	_Atomic unsigned reads; /* of these */
	_Atomic unsigned slow_ms;
};

static void note_read(void *arg, struct device_queue *q, const struct device_io *io)
{
	struct watched *w = arg;

	if (io->op != DEVICE_READ || (w->off ? io->off != w->off : io->len != NODE_SIZE))
		return;
	atomic_fetch_add(&w->reads, 1);
	usleep(atomic_load(&w->slow_ms) * 1000);
}

static void wipe_cache(struct block_group *g, void *arg)
{
	struct engine *e = arg;

	for (unsigned slot = 0; g->type == GROUP_DATA && slot < 2; slot++)
		device_sim_flip(e->sim, g->stripe[0] + g->len + slot * (uint64_t)g->slot_bytes + 20, 1);
}

static void load_group(struct block_group *g, void *arg)
{
	struct engine *e = arg;
	struct device_queue *q;

	if (g->type != GROUP_DATA)
		return;
	assert_int_equal(e->fs->dev->ops->queue_new(e->fs->dev, &q), 0);
	assert_int_equal(block_group_load(e->fs, q, g), 0);
	device_queue_free(q);
}

/*
 * Volume "a" has a tree of some leaves, "b" none; no data group's cache is good. Open with threads, nothing
 * is loaded yet.
 */
static struct engine *new_pool(void)
{
	struct engine *e = engine_new(POOL, test_seed());
	struct fs_volume *vol = engine_volume(e, "a", VOL);
	uint8_t buf[FS_BLOCK_SIZE];

	fs_volume_put(engine_volume(e, "b", VOL));
	for (uint64_t blk = 0; blk < VOL / BLOCK; blk += 2) {
		fill_bytes(buf, BLOCK, blk);
		assert_int_equal(engine_write(e, vol, blk * BLOCK, BLOCK, buf), 0);
	}
	engine_commit(e);
	assert_true(vol->root.leaves >= LEAVES_MIN);
	fs_volume_put(vol);
	engine_commit(e);
	engine_close(e);
	engine_open(e);
	engine_commit(e);
	block_group_each(e->fs, wipe_cache, e);
	engine_abandon(e);
	e->threads = true;
	return e;
}

static void watch(struct engine *e, struct watched *w)
{
	engine_device(e)->arg = w;
	__atomic_store_n(&engine_device(e)->before_submit, note_read, __ATOMIC_RELEASE);
}

static void wait_for_reads(struct watched *w, unsigned n)
{
	for (unsigned i = 0; atomic_load(&w->reads) < n; i++) {
		assert_true(i < 20000);
		usleep(1000);
	}
}

/* A walk of all trees takes hours in a large pool: who stops the daemon does not wait for it. */
static void test_rebuild_ends_when_the_pool_is_closed(void **state)
{
	struct watched w = {.slow_ms = 20};
	struct engine *e = new_pool();
	unsigned before;

	engine_open(e);
	watch(e, &w);
	block_group_each(e->fs, load_group, e);
	wait_for_reads(&w, 3);
	before = atomic_load(&w.reads);
	engine_close(e);
	print_message("%u nodes read before the end, %u after\n", before, atomic_load(&w.reads) - before);
	assert_true(atomic_load(&w.reads) - before < LEAVES_MIN / 2);
	e->threads = false;
	engine_open(e);
	block_group_each(e->fs, load_group, e);
	engine_settle(e);
	assert_int_equal(atomic_load(&e->fs->groups->rebuilding), 0);
	engine_check_all(e);
	engine_free(e);
}

/*
 * A node that cannot be read is not read again at each commit interval, by a walk of all trees and with lines
 * in the log.
 */
static void test_rebuild_that_cannot_read_is_not_tried_at_each_interval(void **state)
{
	struct watched w = {0};
	struct engine *e = new_pool();
	uint64_t off[GROUP_STRIPES_MAX];
	struct fs_volume *vol;
	uint8_t buf[FS_BLOCK_SIZE];
	unsigned before;

	e->opt.commit_interval_ms = 5;
	engine_open(e);
	vol = engine_volume(e, "a", 0);
	assert_int_equal(block_group_map(e->fs, vol->root.addr, NODE_SIZE, off), 2);
	for (unsigned i = 0; i < 2; i++)
		device_sim_bad_range(e->sim, off[i], NODE_SIZE);
	w.off = off[1];
	watch(e, &w);
	block_group_each(e->fs, load_group, e);
	wait_for_reads(&w, 1);
	/* each group asks for one */
	for (unsigned i = 0; fs_is_rebuilding(e->fs) || !atomic_load(&e->fs->rebuild_error); i++) {
		assert_true(i < 20000);
		usleep(1000);
	}
	before = atomic_load(&w.reads);
	usleep(300000);
	print_message("tried %u times, then %u\n", before, atomic_load(&w.reads) - before);
	assert_int_equal(atomic_load(&w.reads), before);
	assert_true(atomic_load(&e->fs->groups->rebuilding) > 0);

	/* Who writes there has a commit put a lost extent in its place: then it goes on by itself. */
	e->fs->eio_tried_us = fs_now_us(e->fs); /* not after seconds */
	fill_bytes(buf, BLOCK, 1);
	assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
	for (unsigned i = 0; atomic_load(&e->fs->groups->rebuilding) > 0; i++) {
		assert_true(i < 20000);
		usleep(1000);
	}
	fs_volume_put(vol);
	engine_close(e);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rebuild_ends_when_the_pool_is_closed),
		cmocka_unit_test(test_rebuild_that_cannot_read_is_not_tried_at_each_interval),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
