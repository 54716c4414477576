/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_block_group_many.c: many block groups: looked up while others leave, more than may be
 * loaded, and as many as a pool of 1 PiB has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fs/space/delayed_ref.h"
#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/random.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/core/clock.h"
#include "fs/device/device.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/format/node_format.h"
#include "fs/pool/pool.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

#define TMPFS 0x01021994

/* Reserves so many bytes of data, for which groups are made. -EAGAIN, -ENOSPC: they do not fit. */
static int reserve_data(struct fs *fs, uint64_t bytes, struct space_reservation *ret_held)
{
	struct space_ticket t = {.want = {.data_bytes = bytes, .pending = {1, 0}}, .flags = SPACE_NOTICKET};
	int r = space_reserve(fs, &t);

	if (r == 0)
		*ret_held = t.want;
	return r;
}

/* Makes as many data groups as so many bytes want; nobody needs them afterwards. False: they do not fit. */
static bool make_groups(struct fs *fs, uint64_t bytes)
{
	struct space_reservation held = {0};

	if (reserve_data(fs, bytes, &held))
		return false;
	space_unreserve(fs, &held);
	return true;
}

static int commit_all(struct fs *fs)
{
	lock_take(&fs->commit_lock);
	fs->super_dirty = true;
	lock_drop(&fs->commit_lock);
	return fs_commit(fs);
}

/* ---- looked up while others leave ------------------------------------------------ */

struct looker {
	struct fs *fs;
	_Atomic bool *stop;
	uint64_t rng;
	_Atomic uint64_t found;
};

static void look(struct block_group *g, void *arg)
{
	*(_Atomic uint64_t *)arg += g->len && g->start && atomic_load(&g->state) == GROUP_LOADED;
}

static void *look_up(void *arg)
{
	struct looker *l = arg;
	struct device_queue *q;

	ASSERT(l->fs->dev->ops->queue_new(l->fs->dev, &q) == 0);
	while (!atomic_load(l->stop)) {
		for (unsigned i = 0; i < 20 && block_group_load_next(l->fs, q); i++)
			;
		for (unsigned i = 0; i < 20; i++)
			block_group_each(l->fs, look, &l->found);
	}
	device_queue_free(q);
	return NULL;
}

static void test_block_group_looked_up_while_others_leave(void **state)
{
	struct fs_options opt = {.cache_bytes = 8u << 20, .commit_interval_ms = 100000, .workers = 1};
	struct engine *e = engine_new_threads(96 * MIB, 7, &opt);
	_Atomic bool stop = false;
	struct looker l[2];
	pthread_t thread[2];
	uint32_t most = 0, least = UINT32_MAX;

	for (unsigned i = 0; i < 2; i++) {
		l[i] = (struct looker){e->fs, &stop, i, 0};
		assert_int_equal(pthread_create(&thread[i], NULL, look_up, &l[i]), 0);
	}
	/* On a busy machine the others come late: as many rounds as it takes them to see something. */
	for (unsigned round = 0;
	     round < 150 || (round < 15000 && !(atomic_load(&l[0].found) && atomic_load(&l[1].found)));
	     round++) {
		uint32_t live;

		assert_true(make_groups(e->fs, 60 * MIB));
		live = atomic_load(&e->fs->groups->live);
		most = live > most ? live : most;
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(commit_all(e->fs), 0);
		live = atomic_load(&e->fs->groups->live);
		least = live < least ? live : least;
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	assert_true(l[0].found > 0 && l[1].found > 0);
	assert_true(most > 50);
	assert_true(least < 10);
	engine_free(e);
}

/* ---- bitmaps stay within their limit -------------------------------------------------- */

#define SET_BLOCKS (40 * MIB / BLOCK)

static uint32_t loaded_groups(const struct fs *fs)
{
	return fs->groups->nr_loaded;
}

static void test_block_group_bitmaps_stay_within_their_limit(void **state)
{
	struct engine *e = engine_new(96 * MIB, 3);
	struct fs_volume *vol = engine_volume(e, "v", 40 * MIB);
	uint8_t *buf = malloc(MIB), *got = malloc(BLOCK);
	uint8_t *version = calloc(SET_BLOCKS, 1);
	uint64_t rng = test_seed(), one, before, over = 0;

	for (uint64_t at = 0; at < SET_BLOCKS; at += 256) {
		for (uint64_t k = 0; k < 256; k++)
			fill_bytes(buf + k * BLOCK, BLOCK, at + k);
		assert_int_equal(engine_write(e, vol, at * BLOCK, MIB, buf), 0);
	}
	engine_commit(e);
	assert_true(loaded_groups(e->fs) > 30);
	one = atomic_load(&e->fs->groups->loaded_bytes) / loaded_groups(e->fs);
	e->fs->groups->loaded_max = 4 * one;
	before = atomic_load(&e->fs->stats.cache_loaded);
	for (unsigned i = 0; i < 400 / (1 + 3 * SANITIZED); i++) {
		uint64_t blk = pick(&rng, SET_BLOCKS);

		version[blk]++;
		fill_bytes(buf, BLOCK, blk + ((uint64_t)version[blk] << 32));
		assert_int_equal(engine_write(e, vol, blk * BLOCK, BLOCK, buf), 0);
		engine_commit(e);
		engine_settle(e);
		/* The context's run, the group that the block left, and nobody else beyond the limit. */
		assert_true(atomic_load(&e->fs->groups->loaded_bytes) <= e->fs->groups->loaded_max + 2 * one);
		over += atomic_load(&e->fs->groups->loaded_bytes) > e->fs->groups->loaded_max;
	}
	assert_true(atomic_load(&e->fs->stats.cache_loaded) > before + 40); /* they come back */
	assert_true(over < 200);
	engine_check_books(e);
	assert_int_equal(atomic_load(&e->fs->stats.cache_rebuilt), 0);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 40 * MIB);
	for (uint64_t blk = 0; blk < SET_BLOCKS; blk++) {
		fill_bytes(buf, BLOCK, blk + ((uint64_t)version[blk] << 32));
		assert_int_equal(engine_read(e, vol, blk * BLOCK, BLOCK, got), 0);
		assert_memory_equal(got, buf, BLOCK);
	}
	engine_check_all(e);
	fs_volume_put(vol);
	free(buf);
	free(got);
	free(version);
	engine_free(e);
}

/* ---- the group with the most room --------------------------------------------------------- */

static void test_block_group_new_one_is_preferred_to_fragments(void **state)
{
	struct engine *e = engine_new(64 * MIB, 5);
	uint64_t taken[256], addr;
	bool unloaded;
	uint32_t n;

	engine_commit(e);
	assert_true(make_groups(e->fs, MIB));
	for (unsigned i = 0; i < 256; i++) /* all of one group, or of several */
		assert_int_equal(block_group_take_data(e->fs, 1, &taken[i], &unloaded), 1);
	while ((n = block_group_take_data(e->fs, 1024, &addr, &unloaded))) /* what is left of what there is */
		assert_false(unloaded);
	for (unsigned i = 0; i < 256; i += 2)
		block_group_give(e->fs, taken[i], BLOCK);
	assert_true(make_groups(e->fs, 4 * MIB));
	/* a fragment, or not: it finds where to go on */
	(void)block_group_take_data(e->fs, 128, &addr, &unloaded);
	assert_int_equal(block_group_take_data(e->fs, 128, &addr, &unloaded), 128);
	assert_int_equal(block_group_take_data(e->fs, 64, &addr, &unloaded), 64);
	assert_false(unloaded);
	engine_free(e);
}

/* ---- neighbours ------------------------------------------------------------------------ */

static void test_block_group_references_end_with_their_group(void **state)
{
	struct delayed_refs refs = {0};
	uint64_t step = 256u << 10;

	/* The last node of one group and the first two of the next, which begins where that ends. */
	assert_int_equal(delayed_ref_add(&refs, 2 * step, NODE_SIZE, 1), 0);
	assert_int_equal(delayed_ref_add(&refs, 2 * step - NODE_SIZE, NODE_SIZE, 1), 0);
	assert_int_equal(delayed_ref_add(&refs, 2 * step + NODE_SIZE, NODE_SIZE, 1), 0);
	delayed_refs_settle(&refs, step);
	assert_int_equal(refs.count, 2);
	assert_int_equal(refs.ref[0].addr, 2 * step - NODE_SIZE);
	assert_int_equal(refs.ref[0].len, NODE_SIZE / 4096);
	assert_int_equal(refs.ref[1].addr, 2 * step);
	assert_int_equal(refs.ref[1].len, 2 * NODE_SIZE / 4096);
	delayed_refs_fini(&refs);
}

/* ---- 1 PiB ------------------------------------------------------------------------------ */

#define GIB (1024 * MIB)
#define PIB (1024 * 1024 * GIB)

static uint64_t resident_bytes(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%llu %llu", &size, &resident), 2);
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A sparse file of a size that most file systems do not have. */
static void make_pool(uint64_t size, char *ret_path)
{
	struct fs_create_options co = {.size_bytes = size, .sparse = true, .force = true};
	struct fs_error err = {""};
	struct statfs st;
	int fd;

	if (statfs("/dev/shm", &st) || st.f_type != TMPFS || st.f_bfree * (uint64_t)st.f_bsize < 2 * GIB)
		skip();
	strcpy(ret_path, "/dev/shm/byre-test-XXXXXX");
	fd = mkstemp(ret_path);
	assert_true(fd >= 0);
	if (ftruncate(fd, (off_t)PIB)) {
		close(fd);
		(void)unlink(ret_path);
		skip();
	}
	assert_int_equal(ftruncate(fd, 0), 0);
	close(fd);
	if (fs_create(ret_path, &co, &err))
		fail_msg("%s", err.msg);
}

static struct fs *open_pool(const char *path, bool read_only)
{
	struct fs_options opt = {.cache_bytes = 64u << 20,
				 .commit_interval_ms = 100000,
				 .workers = 1,
				 .read_only = read_only,
				 .as_device = true};
	struct fs_error err = {""};
	struct fs *fs;

	if (fs_open(path, &opt, &fs, &err))
		fail_msg("%s", err.msg);
	return fs;
}

/* Nine tenths of what is free becomes groups, which are reserved, so that they stay, and committed. */
static void fill_with_groups(struct fs *fs, uint64_t *reserved)
{
	struct space_reservation held = {0};
	struct fs_info info;

	fs_get_info(fs, &info);
	assert_int_equal(reserve_data(fs, info.free_bytes / 10 * 9, &held), 0);
	*reserved += held.data_bytes;
	assert_int_equal(commit_all(fs), 0);
	assert_true(atomic_load(&fs->groups->live) <= atomic_load(&fs->groups->live_max) / 4 * 3);
}

static void check_large_pool(const char *path, uint64_t resident)
{
	uint64_t start = fs_clock_system.now_us(), us;
	struct fs_info info;
	struct fs *fs = open_pool(path, true); /* else its first commit removes what nobody needs */

	us = fs_clock_system.now_us() - start;
	fs_get_info(fs, &info);
	print_message("%u data groups: opened in %llu ms, %llu MiB resident\n", (unsigned)info.groups_data,
		      (unsigned long long)us / 1000, (unsigned long long)(resident_bytes() - resident) / MIB);
	assert_int_equal(info.size, PIB);
	assert_true(info.groups_data + info.groups_metadata < 600000);
	assert_true(info.groups_data > 200000);
	if (!SANITIZED) {
		assert_true(us < 5000000); /* a fraction of a second on a machine that is not busy */
		assert_true(resident_bytes() - resident < 512 * MIB);
	}
	assert_int_equal(fs_close(fs), 0);
}

static void test_block_group_pool_of_a_pebibyte(void **state)
{
	uint64_t resident = resident_bytes();
	uint64_t reserved = 0;
	struct fs_info info;
	char path[64];
	struct fs *fs;

	make_pool(PIB, path);
	fs = open_pool(path, false);
	fs_get_info(fs, &info);
	assert_true(info.free_bytes > PIB / 100 * 94);
	fill_with_groups(fs, &reserved);
	pool_abandon(fs); /* a clean end would remove what nobody needs */
	check_large_pool(path, resident);
	(void)unlink(path);
}

static void test_block_group_pool_grown_to_a_pebibyte(void **state)
{
	uint64_t resident = resident_bytes();
	uint64_t reserved = 0;
	struct fs_info info;
	struct fs_error err;
	char path[64];
	struct fs *fs;

	make_pool(GIB, path);
	fs = open_pool(path, false);
	for (uint64_t size = GIB; size < PIB;) {
		fill_with_groups(fs, &reserved);
		size *= 4;
		if (fs_grow(fs, size, &err))
			fail_msg("%s", err.msg);
		fs_get_info(fs, &info);
		/* with items for what is reserved */
		assert_true(info.free_bytes > (size - reserved / 20 * 21) / 100 * 93);
	}
	fill_with_groups(fs, &reserved);
	pool_abandon(fs); /* a clean end would remove what nobody needs */
	check_large_pool(path, resident);
	(void)unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_block_group_looked_up_while_others_leave),
		cmocka_unit_test(test_block_group_bitmaps_stay_within_their_limit),
		cmocka_unit_test(test_block_group_new_one_is_preferred_to_fragments),
		cmocka_unit_test(test_block_group_references_end_with_their_group),
		cmocka_unit_test(test_block_group_pool_of_a_pebibyte),
		cmocka_unit_test(test_block_group_pool_grown_to_a_pebibyte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
