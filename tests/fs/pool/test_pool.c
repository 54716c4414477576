/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/pool/test_pool.c: making, opening, closing and growing pools; what volumes are and what is
 * refused; what is found again after a close, a crash and damaged superblocks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (64 * MIB)

/* ---- making and opening ------------------------------------------------------ */

static void test_pool_new_one_is_empty_and_clean(void **state)
{
	static const uint64_t size[] = {
		FS_POOL_SIZE_MIN, FS_POOL_SIZE_MIN + 4096, 33 * MIB, 64 * MIB, 1000 * MIB, 16384 * MIB};

	for (size_t i = 0; i < ARRAY_SIZE(size); i++) {
		struct engine *e = engine_new(size[i], i);
		struct fs_info info;

		fs_get_info(e->fs, &info);
		assert_int_equal(info.size, size[i]);
		assert_int_equal(info.volumes, 0);
		assert_int_equal(info.data_bytes, 0);
		assert_false(info.read_only);
		assert_string_equal(info.device_kind, "simulated");
		assert_true(info.free_bytes > size[i] / 4 && info.free_bytes < size[i]);
		engine_check_all(e);
		engine_close(e);
		engine_check_device(e->sim);
		engine_free(e);
	}
}

static void test_pool_too_small_is_refused(void **state)
{
	struct device *dev = device_sim_new(FS_POOL_SIZE_MIN - 4096, 1);
	struct fs_error err = {""};

	assert_int_equal(pool_format(dev, false, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "16 MiB"));
	device_close(dev);
}

static void test_pool_of_zeros_and_garbage_is_refused(void **state)
{
	struct engine e = {.sim = device_sim_new(POOL_BYTES, 1)};
	uint8_t *junk = malloc(MIB);

	assert_true(engine_try_open(&e) < 0);
	fill_bytes(junk, MIB, 3);
	for (uint64_t at = 0; at < POOL_BYTES; at += MIB)
		device_sim_poke(e.sim, at, junk, MIB);
	assert_true(engine_try_open(&e) < 0);
	device_close(e.sim);
	free(junk);
}

/* ---- superblocks ---------------------------------------------------------------- */

static const uint64_t super_offset[] = SUPER_OFFSETS;

static void wreck_super(struct device *sim, unsigned copy)
{
	uint8_t junk[SUPER_SIZE];

	fill_bytes(junk, sizeof(junk), copy);
	device_sim_poke(sim, super_offset[copy], junk, sizeof(junk));
}

static void test_pool_opens_with_any_one_superblock_left(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	uint8_t buf[4096], got[4096];

	fs_volume_put(engine_volume(e, "v", 8 * MIB));
	for (unsigned left = 0; left < SUPER_COPIES; left++) {
		struct fs_volume *vol = engine_volume(e, "v", 8 * MIB);

		fill_bytes(buf, sizeof(buf), left);
		assert_int_equal(engine_write(e, vol, left * 4096, 4096, buf), 0);
		fs_volume_put(vol);
		engine_close(e);
		for (unsigned i = 0; i < SUPER_COPIES; i++)
			if (i != left)
				wreck_super(e->sim, i);
		e->log[0] = 0;
		engine_open(e);
		assert_non_null(strstr(e->log, "2 of 3 superblocks are damaged"));
		vol = engine_volume(e, "v", 8 * MIB);
		assert_int_equal(engine_read(e, vol, left * 4096, 4096, got), 0);
		assert_memory_equal(buf, got, 4096);
		fs_volume_put(vol);
		engine_check_all(e); /* the commit at open has written all of them anew */
	}
	engine_close(e);
	for (unsigned i = 0; i < SUPER_COPIES; i++)
		wreck_super(e->sim, i);
	assert_true(engine_try_open(e) < 0);
	engine_free(e);
}

/* ---- volumes --------------------------------------------------------------------- */

static void test_volume_names_and_sizes_are_checked(void **state)
{
	static const char *const bad[] = {"", ".a", "-a", "a/b", "a b", "a@b", "\xc3\xa4", "a\n"};
	struct engine *e = engine_new(POOL_BYTES, 1);
	char name[FS_NAME_MAX + 2];
	struct fs_error err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(fs_name_is_valid(bad[i]));
		assert_int_equal(fs_volume_create(e->fs, bad[i], MIB, 0, &err), -EINVAL);
	}
	memset(name, 'n', sizeof(name) - 1);
	name[FS_NAME_MAX + 1] = 0;
	assert_int_equal(fs_volume_create(e->fs, name, MIB, 0, &err), -EINVAL);
	name[FS_NAME_MAX] = 0;
	assert_int_equal(fs_volume_create(e->fs, name, MIB, 0, &err), 0);
	assert_int_equal(fs_volume_create(e->fs, name, MIB, 0, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "exists"));
	assert_int_equal(fs_volume_create(e->fs, "a", 0, 0, &err), -EINVAL);
	assert_int_equal(fs_volume_create(e->fs, "a", 4097, 0, &err), -EINVAL);
	assert_int_equal(fs_volume_create(e->fs, "a", FS_VOLUME_SIZE_MAX + 4096, 0, &err), -EINVAL);
	assert_int_equal(fs_volume_create(e->fs, "a", FS_VOLUME_SIZE_MAX, 0, &err), 0);
	assert_int_equal(fs_volume_create(e->fs, "b", 4096, 0, &err), 0);
	assert_int_equal(fs_volume_rename(e->fs, "a", "b", &err), -EEXIST);
	assert_int_equal(fs_volume_rename(e->fs, "a", "-", &err), -EINVAL);
	assert_int_equal(fs_volume_rename(e->fs, "nobody", "c", &err), -ENOENT);
	assert_int_equal(fs_volume_resize(e->fs, "nobody", MIB, &err), -ENOENT);
	assert_int_equal(fs_volume_resize(e->fs, "a", 5000, &err), -EINVAL);
	assert_int_equal(fs_volume_delete(e->fs, "nobody", &err), -ENOENT);
	engine_check_all(e);
	engine_free(e);
}

static void test_volume_of_the_largest_size_takes_data_at_both_ends(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "huge", FS_VOLUME_SIZE_MAX);
	uint64_t last = FS_VOLUME_SIZE_MAX - 4096;
	uint8_t buf[4096], got[4096];

	fill_bytes(buf, sizeof(buf), 1);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(engine_write(e, vol, last, 4096, buf), 0);
		assert_int_equal(engine_write(e, vol, 0, 4096, buf), 0);
		assert_int_equal(engine_write(e, vol, last + 1, 4096, buf), -ENOSPC);
		assert_int_equal(engine_read(e, vol, last, 4097, got), -EINVAL);
		assert_int_equal(engine_read(e, vol, UINT64_MAX - 4096, 4096, got), -EINVAL);
		assert_int_equal(engine_trim(e, vol, 4096, UINT64_MAX - 4096), -ENOSPC);
		assert_int_equal(engine_read(e, vol, last, 4096, got), 0);
		assert_memory_equal(buf, got, 4096);
		assert_int_equal(engine_flush(e), 0);
		assert_int_equal(engine_trim(e, vol, 0, FS_VOLUME_SIZE_MAX), 0);
		assert_int_equal(engine_read(e, vol, last, 4096, got), 0);
		for (unsigned i = 0; i < 4096; i++)
			assert_int_equal(got[i], 0);
		if (round == 0)
			engine_commit(e);
	}
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

static void test_volume_in_use_is_not_deleted(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	struct fs_error err;

	assert_int_equal(fs_volume_delete(e->fs, "v", &err), -EBUSY);
	assert_non_null(strstr(err.msg, "in use"));
	assert_int_equal(fs_volume_rename(e->fs, "v", "w", &err), 0);
	fs_volume_put(vol);
	assert_int_equal(fs_volume_get(e->fs, "v", &vol), -ENOENT);
	assert_int_equal(fs_volume_delete(e->fs, "w", &err), 0);
	assert_int_equal(fs_volume_get(e->fs, "w", &vol), -ENOENT);
	engine_check_all(e);
	engine_free(e);
}

static int count_names(void *arg, const struct fs_volume_info *info)
{
	char *last = arg;

	assert_true(strcmp(last, info->name) < 0); /* in order */
	strcpy(last, info->name);
	return strcmp(info->name, "vol090") == 0 ? 7 : 0;
}

static int count_all(void *arg, const struct fs_volume_info *info)
{
	assert_int_equal(info->size % 4096, 0);
	++*(unsigned *)arg;
	return 0;
}

static void test_volumes_many_are_listed_and_found_again(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	char name[32], last[FS_NAME_MAX + 1];
	struct fs_volume_info info;
	struct fs_volume *vol;
	unsigned count;

	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "vol%03u", (i * 37) % 100);
		assert_int_equal(fs_volume_create(e->fs, name, (i + 1) * 4096, 0, NULL), 0);
	}
	for (unsigned i = 0; i < 100; i += 2) {
		snprintf(name, sizeof(name), "vol%03u", i);
		assert_int_equal(fs_volume_delete(e->fs, name, NULL), 0);
	}
	assert_int_equal(fs_volume_rename(e->fs, "vol001", "z", NULL), 0);
	assert_int_equal(fs_volume_resize(e->fs, "z", 8 * MIB, NULL), 0);
	for (unsigned round = 0; round < 3; round++) {
		strcpy(last, "");
		assert_int_equal(fs_volume_list(e->fs, count_names, last), 0);
		count = 0;
		assert_int_equal(fs_volume_list(e->fs, count_all, &count), 0);
		assert_int_equal(count, 50);
		count = 0;
		assert_int_equal(fs_volume_list_from(e->fs, "vol0501", count_all, &count), 0);
		assert_int_equal(count, 26);
		assert_string_equal(last, "z");
		assert_int_equal(fs_volume_get(e->fs, "z", &vol), 0);
		fs_volume_get_info(vol, &info);
		assert_int_equal(info.size, 8 * MIB);
		assert_int_equal(fs_volume_size(vol), 8 * MIB);
		fs_volume_put(vol);
		engine_check_all(e);
		if (round == 0)
			engine_reopen(e);
		else if (round == 1) {
			engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
			engine_open(e);
		}
	}
	assert_int_equal(fs_volume_rename(e->fs, "z", "vol090", NULL), 0);
	strcpy(last, "");
	assert_int_equal(fs_volume_list(e->fs, count_names, last), 7);
	engine_free(e);
}

static void test_volume_shrunk_and_grown_again_reads_zeros(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 8 * MIB);
	uint8_t *buf = malloc(8 * MIB);
	struct model m;

	model_init(&m, 8 * MIB);
	fill_bytes(m.bytes, m.size, 1);
	assert_int_equal(engine_write(e, vol, 0, m.size, m.bytes), 0);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t size = 5 * MIB - i * 12288;

		assert_int_equal(fs_volume_resize(e->fs, "v", size, NULL), 0);
		assert_int_equal(engine_read(e, vol, size - 1, 2, buf), -EINVAL);
		assert_int_equal(engine_write(e, vol, size - 1, 2, buf), -ENOSPC);
		if (i == 1)
			engine_commit(e);
		if (i == 2) {
			fs_volume_put(vol);
			engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
			engine_open(e);
			vol = engine_volume(e, "v", 1);
			assert_int_equal(fs_volume_size(vol), size);
		}
		assert_int_equal(fs_volume_resize(e->fs, "v", 8 * MIB, NULL), 0);
		memset(m.bytes + size, 0, m.size - size);
		model_verify_all(e, vol, &m);
	}
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	free(buf);
	engine_free(e);
}

/*
 * Regression: a write at the new end that was flushed before the resize was committed made the pool
 * unreadable.
 */
struct resizer {
	struct engine *e;
	int result;
};

static void *grow_volume(void *arg)
{
	struct resizer *rz = arg;

	rz->result = fs_volume_resize(rz->e->fs, "v", 8 * MIB, NULL);
	return NULL;
}

static void test_volume_grown_but_not_committed_survives_a_crash(void **state)
{
	struct fs_options opt = {.commit_interval_ms = 1000000, .workers = 1};
	struct engine *e = calloc(1, sizeof(*e));
	struct resizer rz = {.e = e, .result = 1};
	struct fs_volume *vol;
	struct device *after;
	uint8_t buf[4096], got[4096];
	pthread_t thread;
	int r;

	e->opt = opt;
	e->threads = true;
	e->sim = device_sim_new(POOL_BYTES, 1);
	assert_int_equal(pool_format(e->sim, false, NULL), 0);
	engine_open(e);
	vol = engine_volume(e, "v", 4 * MIB);
	engine_commit(e);
	fill_bytes(buf, sizeof(buf), 1);
	lock_take(&e->fs->commit_lock); /* the resize gets as far as its commit */
	assert_int_equal(pthread_create(&thread, NULL, grow_volume, &rz), 0);
	usleep(50000);
	r = engine_io(e, vol, FS_WRITE, FS_FUA, 8 * MIB - 4096, 4096, buf);
	assert_true(r == 0 || r == -ENOSPC);
	after = device_sim_crash_image(e->sim, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	lock_drop(&e->fs->commit_lock);
	pthread_join(thread, NULL);
	assert_int_equal(rz.result, 0);
	fs_volume_put(vol);
	engine_free(e);

	e = calloc(1, sizeof(*e));
	e->sim = after;
	assert_int_equal(engine_try_open(e), 0);
	engine_settle(e);
	vol = engine_volume(e, "v", 1);
	if (r == 0) { /* it was acknowledged */
		assert_int_equal(engine_read(e, vol, 8 * MIB - 4096, 4096, got), 0);
		assert_memory_equal(buf, got, 4096);
	}
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

/* ---- what is found again --------------------------------------------------------- */

static void test_pool_flushed_is_found_after_a_crash_and_the_rest_old_or_new(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t blocks = 512;
	uint32_t flushed[512] = {0}, newest[512] = {0}, version = 0;
	uint8_t buf[4096], got[4096];
	unsigned lives = SANITIZED ? 20 : 60;

	fs_volume_put(engine_volume(e, "v", blocks * 4096));
	for (unsigned life = 0; life < lives; life++) {
		struct fs_volume *vol = engine_volume(e, "v", 0);

		for (unsigned i = pick(&e->rng, 200); i > 0; i--) {
			uint64_t b = pick(&e->rng, blocks);

			newest[b] = ++version;
			fill_bytes(buf, sizeof(buf), version);
			assert_int_equal(engine_write(e, vol, b * 4096, 4096, buf), 0);
			if (pick(&e->rng, 20) == 0) {
				assert_int_equal(engine_flush(e), 0);
				memcpy(flushed, newest, sizeof(flushed));
			}
			if (pick(&e->rng, 100) == 0) {
				engine_commit(e);
				memcpy(flushed, newest, sizeof(flushed));
			}
		}
		fs_volume_put(vol);
		engine_crash(e, (enum device_sim_crash_mode)pick(&e->rng, DEVICE_SIM_CRASH_MODES),
			     rnd(&e->rng));
		engine_check_device(e->sim);
		engine_open(e);
		vol = engine_volume(e, "v", 0);
		for (uint64_t b = 0; b < blocks; b++) {
			uint32_t v = flushed[b];

			assert_int_equal(engine_read(e, vol, b * 4096, 4096, got), 0);
			for (;; v++) { /* this version, or a later one of this block */
				if (v == 0)
					memset(buf, 0, sizeof(buf));
				else
					fill_bytes(buf, sizeof(buf), v);
				if (memcmp(buf, got, sizeof(buf)) == 0)
					break;
				if (v >= newest[b])
					fail_msg("block %llu holds neither version %u nor %u",
						 (unsigned long long)b, flushed[b], newest[b]);
			}
			flushed[b] = newest[b] = v;
		}
		fs_volume_put(vol);
	}
	engine_check_all(e);
	engine_free(e);
}

static void test_pool_close_commits_everything(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 8 * MIB);
	struct model m;

	model_init(&m, 8 * MIB);
	fill_bytes(m.bytes + MIB + 5, 3 * MIB, 9);
	assert_int_equal(engine_write(e, vol, MIB + 5, 3 * MIB, m.bytes + MIB + 5), 0);
	fs_volume_put(vol);
	assert_int_equal(fs_volume_create(e->fs, "gone", MIB, 0, NULL), 0);
	vol = engine_volume(e, "gone", MIB);
	assert_int_equal(engine_write(e, vol, 0, MIB, m.bytes), 0);
	fs_volume_put(vol);
	engine_commit(e);
	assert_int_equal(fs_volume_delete(e->fs, "gone", NULL), 0);
	engine_close(e);
	engine_check_device(e->sim);
	engine_open_only(e);
	assert_int_equal(atomic_load(&e->fs->orphans), 0); /* freed before the close ended */
	vol = engine_volume(e, "v", 0);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static void test_pool_read_only_changes_nothing(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	struct device_sim_stats before, after;
	uint8_t buf[4096], got[4096];
	struct fs_error err;

	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_io(e, vol, FS_WRITE, FS_FUA, 0, 4096, buf), 0);
	fs_volume_put(vol);
	engine_abandon(e); /* what was flushed is in the log only */
	device_sim_get_stats(e->sim, &before);
	e->opt.read_only = true;
	engine_open(e);
	assert_int_equal(fs_volume_get(e->fs, "v", &vol), 0);
	assert_int_equal(engine_read(e, vol, 0, 4096, got), 0);
	assert_memory_equal(buf, got, 4096);
	assert_int_equal(engine_write(e, vol, 0, 4096, buf), -EROFS);
	assert_int_equal(engine_trim(e, vol, 0, 4096), -EROFS);
	assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, 0, 4096, NULL), -EROFS);
	fs_volume_put(vol);
	assert_int_equal(fs_volume_create(e->fs, "w", MIB, 0, &err), -EROFS);
	assert_int_equal(fs_volume_delete(e->fs, "v", &err), -EROFS);
	assert_int_equal(fs_volume_rename(e->fs, "v", "w", &err), -EROFS);
	assert_int_equal(fs_volume_resize(e->fs, "v", 2 * MIB, &err), -EROFS);
	assert_int_equal(fs_grow(e->fs, 128 * MIB, &err), -EROFS);
	engine_close(e);
	device_sim_get_stats(e->sim, &after);
	assert_int_equal(before.ops[DEVICE_WRITE], after.ops[DEVICE_WRITE]);
	assert_int_equal(before.ops[DEVICE_FLUSH], after.ops[DEVICE_FLUSH]);
	assert_int_equal(before.ops[DEVICE_DISCARD], after.ops[DEVICE_DISCARD]);
	engine_free(e);
}

static void test_pool_grows_and_takes_more(void **state)
{
	struct engine *e = engine_new(32 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 256 * MIB);
	struct fs_info before, after;
	struct fs_error err;
	uint8_t *buf = malloc(MIB), *got = malloc(MIB);
	uint64_t at = 0;

	fill_bytes(buf, MIB, 1);
	while (engine_write(e, vol, at, MIB, buf) == 0)
		at += MIB;
	fs_get_info(e->fs, &before);
	assert_int_equal(fs_grow(e->fs, 32 * MIB, &err), -EINVAL);
	assert_int_equal(fs_grow(e->fs, 128 * MIB, &err), 0);
	fs_get_info(e->fs, &after);
	assert_int_equal(after.size, 128 * MIB);
	assert_true(after.free_bytes > before.free_bytes + 80 * MIB);
	for (unsigned i = 0; i < 80; i++, at += MIB)
		assert_int_equal(engine_write(e, vol, at, MIB, buf), 0);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	for (uint64_t off = 0; off < at; off += MIB) {
		assert_int_equal(engine_read(e, vol, off, MIB, got), 0);
		assert_memory_equal(buf, got, MIB);
	}
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
	free(buf);
	free(got);
}

static void test_pool_failing_commit_makes_it_read_only_and_keeps_what_was_flushed(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .error = -EIO};
	uint8_t buf[4096], got[4096];
	struct fs_info info;

	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_io(e, vol, FS_WRITE, FS_FUA, 0, 4096, buf), 0);
	assert_int_equal(engine_write(e, vol, 4096, 4096, buf), 0);
	device_sim_fault_add(e->sim, &fault);
	assert_int_equal(fs_commit(e->fs), -EIO);
	fs_get_info(e->fs, &info);
	assert_true(info.read_only);
	assert_int_equal(engine_read(e, vol, 4096, 4096, got), 0); /* goes on reading */
	assert_memory_equal(buf, got, 4096);
	assert_int_equal(engine_write(e, vol, 0, 4096, buf), -EROFS);
	assert_int_equal(engine_flush(e), -EROFS);
	fs_volume_put(vol);
	device_sim_fault_clear(e->sim);
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_open(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_read(e, vol, 0, 4096, got), 0);
	assert_memory_equal(buf, got, 4096);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pool_new_one_is_empty_and_clean),
		cmocka_unit_test(test_pool_too_small_is_refused),
		cmocka_unit_test(test_pool_of_zeros_and_garbage_is_refused),
		cmocka_unit_test(test_pool_opens_with_any_one_superblock_left),
		cmocka_unit_test(test_volume_names_and_sizes_are_checked),
		cmocka_unit_test(test_volume_of_the_largest_size_takes_data_at_both_ends),
		cmocka_unit_test(test_volume_in_use_is_not_deleted),
		cmocka_unit_test(test_volumes_many_are_listed_and_found_again),
		cmocka_unit_test(test_volume_shrunk_and_grown_again_reads_zeros),
		cmocka_unit_test(test_volume_grown_but_not_committed_survives_a_crash),
		cmocka_unit_test(test_pool_flushed_is_found_after_a_crash_and_the_rest_old_or_new),
		cmocka_unit_test(test_pool_close_commits_everything),
		cmocka_unit_test(test_pool_read_only_changes_nothing),
		cmocka_unit_test(test_pool_grows_and_takes_more),
		cmocka_unit_test(test_pool_failing_commit_makes_it_read_only_and_keeps_what_was_flushed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
