/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_backing.c: sparse pools on a host that runs full. The simulated device refuses what
 * needs blocks then; the crash simulator does the same at random.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/format/block_group_format.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"
#include "fs/device/work.h"

#define VOL_BYTES (48 * MIB)
#define CHUNK (64u * KIB)

static unsigned said(const struct engine *e, const char *what)
{
	unsigned n = 0;

	for (const char *at = e->log; (at = strstr(at, what)); at++)
		n++;
	return n;
}

/* Writes chunks from `from` on until one is refused: where. */
static uint64_t write_until_refused(struct engine *e, struct fs_volume *vol, uint64_t from, int *ret_error)
{
	static uint8_t buf[CHUNK];

	for (uint64_t off = from; off < fs_volume_size(vol); off += CHUNK) {
		fill_bytes(buf, CHUNK, off);
		*ret_error = engine_write(e, vol, off, CHUNK, buf);
		if (*ret_error)
			return off;
	}
	return fs_volume_size(vol);
}

static void verify(struct engine *e, struct fs_volume *vol, uint64_t off)
{
	uint8_t want[CHUNK], got[CHUNK];

	fill_bytes(want, CHUNK, off);
	assert_int_equal(engine_read(e, vol, off, CHUNK, got), 0);
	assert_memory_equal(got, want, CHUNK);
}

/* A pool of 64 MiB with 4 MiB of data in "v", on a host that is full from then on. */
static struct engine *full_host(struct fs_volume **ret_vol, uint64_t *ret_written)
{
	struct engine *e = engine_new_sparse(64 * MIB, 1);
	int error = 0;

	*ret_vol = engine_volume(e, "v", VOL_BYTES);
	for (*ret_written = 0; *ret_written < 4 * MIB; *ret_written += CHUNK) {
		uint8_t buf[CHUNK];

		fill_bytes(buf, CHUNK, *ret_written);
		assert_int_equal(engine_write(e, *ret_vol, *ret_written, CHUNK, buf), 0);
	}
	device_sim_set_host_full(e->sim, true);
	*ret_written = write_until_refused(e, *ret_vol, *ret_written, &error);
	assert_int_equal(error, -ENOSPC);
	return e;
}

static void give_room(struct engine *e)
{
	device_sim_set_host_full(e->sim, false);
	usleep(BACKING_RETRY_US + 100000);
}

static void test_full_host_refuses_new_data_and_nothing_else(void **state)
{
	struct fs_volume *vol, *other;
	uint64_t written;
	struct engine *e = full_host(&vol, &written);
	uint64_t refused = e->fs->space->enospc;
	struct fs_error err;
	int error;

	assert_true(refused > 0);
	for (unsigned i = 0; i < 50; i++)
		(void)write_until_refused(e, vol, 40 * MIB, &error);
	assert_int_equal(said(e, "is full"), 1);
	assert_true(e->fs->space->enospc >= refused + 50);
	assert_int_equal(engine_flush(e), 0);
	engine_commit(e);
	assert_int_equal(engine_trim(e, vol, 1 * MIB, 1 * MIB), 0);
	assert_int_equal(engine_io(e, vol, FS_ZERO, 0, 2 * MIB, MIB / 2, NULL), 0);
	assert_int_equal(fs_volume_create(e->fs, "w", MIB, 0, &err), 0);
	assert_int_equal(fs_volume_rename(e->fs, "w", "x", &err), 0);
	assert_int_equal(fs_volume_get(e->fs, "x", &other), 0);
	fs_volume_put(other);
	assert_int_equal(fs_volume_delete(e->fs, "x", &err), 0);
	engine_commit(e);
	assert_false(fs_is_read_only(e->fs));
	for (uint64_t off = 0; off < MIB; off += CHUNK)
		verify(e, vol, off);

	give_room(e);
	assert_int_equal(write_until_refused(e, vol, 8 * MIB, &error), VOL_BYTES);
	engine_commit(e);
	verify(e, vol, 20 * MIB);
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

static void test_trims_with_edges_go_on_and_on(void **state)
{
	struct fs_volume *vol;
	uint64_t written;
	struct engine *e = full_host(&vol, &written);

	for (unsigned round = 0; round < 3; round++) {
		for (uint64_t blk = 0; blk < 300; blk++) {
			int r = engine_trim(e, vol, blk * 4096 + 100 * (round + 1), 100);

			if (r)
				fail_msg("round %u, block %llu: %s; %u spares", round,
					 (unsigned long long)blk, strerror(-r), e->fs->backing->spares);
		}
		fs_volume_put(vol);
		engine_crash(e, round ? DEVICE_SIM_CRASH_RANDOM : DEVICE_SIM_CRASH_LOSE_ALL, round);
		engine_open(e);
		assert_int_equal(fs_volume_get(e->fs, "v", &vol), 0);
	}
	assert_false(fs_is_read_only(e->fs));
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

static void test_what_is_reserved_has_its_blocks(void **state)
{
	struct engine *e = engine_new_sparse(64 * MIB, 2);
	struct fs_volume *vol, *thin = engine_volume(e, "thin", VOL_BYTES);
	struct fs_error err;
	int error = 0;

	assert_int_equal(fs_volume_create(e->fs, "kept", 4 * MIB, FS_VOLUME_RESERVED, &err), 0);
	assert_int_equal(fs_volume_get(e->fs, "kept", &vol), 0);
	device_sim_set_host_full(e->sim, true);
	assert_true(write_until_refused(e, thin, 0, &error) < VOL_BYTES);
	for (unsigned round = 0; round < 3; round++) /* overwritten, too */
		assert_int_equal(write_until_refused(e, vol, 0, &error), 4 * MIB);
	assert_int_equal(fs_volume_create(e->fs, "more", 20 * MIB, FS_VOLUME_RESERVED, &err), -ENOSPC);
	if (!strstr(err.msg, "file system that it is on"))
		fail_msg("%s", err.msg);
	fs_volume_put(vol);
	fs_volume_put(thin);
	engine_reopen(e);
	assert_int_equal(fs_volume_get(e->fs, "kept", &vol), 0);
	assert_int_equal(write_until_refused(e, vol, 0, &error), 4 * MIB);
	verify(e, vol, 2 * MIB);
	fs_volume_put(vol);

	give_room(e);
	assert_int_equal(fs_volume_create(e->fs, "more", 20 * MIB, FS_VOLUME_RESERVED, &err), 0);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/*
 * What is promised has its place in data groups, which have their blocks: there is no unallocated space to
 * count on.
 */
static void check_promises(struct engine *e)
{
	const struct space_info *si = e->fs->space;
	const struct space_counts *d = &si->kind[SPACE_DATA];

	assert_int_equal(si->aside, 0);
	assert_true(d->allocated + d->may_use + d->unavailable + si->volume_reserved <= d->total);
}

/*
 * Created in an idle pool, and known by its record in the log alone when the power goes: its groups are there
 * all the same.
 */
static void test_what_was_reserved_in_an_idle_pool_outlives_a_crash(void **state)
{
	struct engine *e = engine_new_sparse(64 * MIB, 6);
	struct fs_volume *vol;
	struct fs_error err;
	int error = 0;

	for (unsigned round = 0; round < 4; round++) {
		char name[] = {'r', (char)('0' + round), 0};

		for (unsigned i = 0; i < 4; i++) { /* until nothing but the promise wants a commit */
			e->fs->super_dirty = true;
			engine_commit(e);
		}
		assert_int_equal(fs_volume_create(e->fs, name, 2 * MIB, FS_VOLUME_RESERVED, &err), 0);
		engine_crash(e, round % 2 ? DEVICE_SIM_CRASH_RANDOM : DEVICE_SIM_CRASH_LOSE_ALL, round);
		device_sim_set_host_full(e->sim, true);
		engine_open_only(e);
		check_promises(e);
		engine_settle(e);
		assert_int_equal(fs_volume_get(e->fs, name, &vol), 0);
		assert_int_equal(write_until_refused(e, vol, 0, &error), 2 * MIB);
		fs_volume_put(vol);
		give_room(e);
	}
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

static uint64_t host_bytes(struct engine *e)
{
	return device_sim_host_pages(e->sim) * 4096;
}

/*
 * What the host has no room for is refused before anything of it is allocated, and the line has both figures.
 */
static void test_a_promise_larger_than_the_hosts_room_is_refused_at_once(void **state)
{
	struct engine *e = engine_new_sparse(256 * MIB, 7);
	struct fs_volume *thin = engine_volume(e, "thin", VOL_BYTES);
	struct fs_error err;
	uint64_t before;
	int error = 0;

	assert_int_equal(write_until_refused(e, thin, 44 * MIB, &error), VOL_BYTES);
	engine_commit(e);
	before = host_bytes(e);
	device_sim_set_host_left(e->sim, 80 * MIB);
	assert_int_equal(fs_volume_create(e->fs, "big", 100 * MIB, FS_VOLUME_RESERVED, &err), -ENOSPC);
	if (!strstr(err.msg, "has 80 MiB free of 1"))
		fail_msg("%s", err.msg);
	assert_int_equal(fs_volume_create(e->fs, "larger", 1ull << 40, FS_VOLUME_RESERVED, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "are missing: grow the pool"));
	assert_true(host_bytes(e) <= before + 2 * MIB); /* what the worker makes ahead */
	assert_int_equal(said(e, "is full"), 0);
	device_sim_set_host_left(e->sim, UINT64_MAX);
	assert_int_equal(fs_volume_create(e->fs, "big", 80 * MIB, FS_VOLUME_RESERVED, &err), 0);
	fs_volume_put(thin);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/* What is free in the pool, and what of it the host has room for. */
static void test_usable_bytes_are_no_more_than_the_host_has(void **state)
{
	struct engine *e = engine_new_sparse(256 * MIB, 9);
	struct fs_volume *vol = engine_volume(e, "v", 200 * MIB);
	uint64_t end;
	struct fs_info info;
	uint64_t usable;
	int error = 0;

	fs_get_info(e->fs, &info);
	assert_true(info.sparse && !info.host_full && info.free_bytes > 200 * MIB &&
		    info.host_free_bytes > info.free_bytes);
	assert_int_equal(info.host_short_bytes, 0);
	device_sim_set_host_left(e->sim, 40 * MIB);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.host_free_bytes, 40 * MIB);
	usable = info.free_bytes - info.host_short_bytes;
	assert_true(info.free_bytes > 200 * MIB && usable < 40 * MIB && usable > 30 * MIB);
	end = write_until_refused(e, vol, 0, &error);
	assert_int_equal(error, -ENOSPC);
	assert_true(end >= usable && end < 40 * MIB);
	fs_get_info(e->fs, &info);
	assert_true(info.host_full);
	assert_int_equal(info.host_short_bytes, info.free_bytes);
	fs_volume_put(vol);
	engine_close(e);
	engine_free(e);
}

static int boasts(struct device *dev, struct device_host *ret_host)
{
	*ret_host = (struct device_host){.free_bytes = 1ull << 40};
	return 0;
}

/* Others took the room meanwhile: what was made goes back. */
static void test_a_promise_that_is_refused_on_the_way_gives_back(void **state)
{
	struct engine *e = engine_new_sparse(256 * MIB, 8);
	struct fs_volume *vol, *thin = engine_volume(e, "thin", VOL_BYTES);
	struct fs_error err;
	uint64_t before;
	int error = 0;

	engine_commit(e);
	before = host_bytes(e);
	engine_device(e)->ops.host = boasts;
	device_sim_set_host_left(e->sim, 100 * MIB);
	assert_int_equal(fs_volume_create(e->fs, "big", 80 * MIB, FS_VOLUME_RESERVED, &err), -ENOSPC);
	assert_true(host_bytes(e) > before + 50 * MIB);
	assert_false(atomic_load(&e->fs->backing->promised));
	for (unsigned i = 0; i < 6; i++) {
		e->fs->super_dirty = true;
		engine_commit(e);
		backing_discard_tick(e->fs);
		engine_settle(e);
	}
	assert_true(host_bytes(e) < before + 20 * MIB); /* a few groups stay for what comes next */
	give_room(e);
	assert_int_equal(write_until_refused(e, thin, 0, &error), VOL_BYTES);
	assert_int_equal(fs_volume_create(e->fs, "kept", MIB, FS_VOLUME_RESERVED, &err), 0);
	assert_int_equal(fs_volume_get(e->fs, "kept", &vol), 0);
	assert_int_equal(write_until_refused(e, vol, 0, &error), MIB);
	fs_volume_put(vol);
	fs_volume_put(thin);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

static void test_full_before_the_first_write(void **state)
{
	struct engine *e = calloc(1, sizeof(*e));
	struct fs_error err;
	struct fs_volume *vol;
	int error;

	assert_non_null(e);
	e->sim = device_sim_new(64 * MIB, 3);
	device_sim_set_sparse(e->sim);
	assert_int_equal(pool_format(e->sim, true, NULL), 0);
	device_sim_set_host_full(e->sim, true);
	engine_open(e);
	assert_int_equal(fs_volume_create(e->fs, "v", VOL_BYTES, 0, &err), -ENOSPC);
	engine_commit(e);
	give_room(e);
	vol = engine_volume(e, "v", VOL_BYTES);
	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/* Blocks for all of the metadata, and none for data that was not written. */
static void test_blocks_are_taken_as_needed(void **state)
{
	struct engine *e = engine_new_sparse(256 * MIB, 4);
	struct fs_volume *vol;
	uint64_t empty = device_sim_host_pages(e->sim) * 4096, full;
	int error;

	assert_true(empty < 20 * MIB);
	vol = engine_volume(e, "v", VOL_BYTES);
	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	engine_commit(e);
	full = device_sim_host_pages(e->sim) * 4096;
	assert_true(full >= empty + VOL_BYTES && full < empty + VOL_BYTES + VOL_BYTES / 8);
	fs_volume_put(vol);
	engine_close(e);
	engine_free(e);
}

/* Groups that leave give their blocks back, and what is written then is right. */
static void test_deleted_space_goes_back_to_the_host(void **state)
{
	struct engine *e = engine_new_sparse(128 * MIB, 5);
	struct fs_volume *vol = engine_volume(e, "v", VOL_BYTES);
	uint64_t full, kept;
	struct fs_info info;
	struct fs_error err;
	int error;

	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	engine_commit(e);
	full = device_sim_host_pages(e->sim) * 4096;
	fs_volume_put(vol);
	assert_int_equal(fs_volume_delete(e->fs, "v", &err), 0);
	for (unsigned i = 0; i < 8; i++) {
		e->fs->super_dirty = true;
		engine_commit(e);
		backing_discard_tick(e->fs);
		engine_settle(e);
	}
	kept = device_sim_host_pages(e->sim) * 4096;
	fs_get_info(e->fs, &info);
	assert_true(info.discarded_bytes > VOL_BYTES / 2);
	assert_true(kept < full - VOL_BYTES / 2);
	vol = engine_volume(e, "w", VOL_BYTES);
	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	for (uint64_t off = 0; off < VOL_BYTES; off += MIB)
		verify(e, vol, off);
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

static void discard_rounds(struct engine *e, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		e->fs->super_dirty = true;
		engine_commit(e);
		backing_discard_tick(e->fs);
		engine_settle(e);
	}
}

static uint64_t discarded(struct engine *e)
{
	struct fs_info info;

	fs_get_info(e->fs, &info);
	return info.discarded_bytes;
}

/* Every second MiB of a volume goes: the groups stay, and what is free inside them goes back. */
static void test_free_runs_inside_groups_go_back(void **state)
{
	struct engine *e = engine_new_sparse(128 * MIB, 10);
	struct fs_volume *vol = engine_volume(e, "v", VOL_BYTES);
	struct fs_error err;
	uint64_t full;
	int error;

	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	discard_rounds(e, 2);
	full = host_bytes(e);
	for (uint64_t off = 0; off < VOL_BYTES; off += 2 * MIB)
		assert_int_equal(engine_trim(e, vol, off, MIB), 0);
	backing_discard_tick(e->fs); /* nothing is free before the commit */
	assert_int_equal(work_run_one(e->fs->work), 0);
	assert_int_equal(host_bytes(e), full);
	discard_rounds(e, 6);
	assert_true(host_bytes(e) <= full - VOL_BYTES / 2 + VOL_BYTES / 16);
	for (uint64_t off = MIB; off < VOL_BYTES; off += 2 * MIB)
		for (uint64_t at = 0; at < MIB; at += CHUNK)
			verify(e, vol, off + at);
	engine_check_committed(e);

	/* With a reserved volume nothing of that happens; and when it has gone, all of it does. */
	assert_int_equal(fs_volume_create(e->fs, "kept", MIB, FS_VOLUME_RESERVED, &err), 0);
	full = host_bytes(e);
	for (uint64_t off = MIB; off < VOL_BYTES / 2; off += 2 * MIB)
		assert_int_equal(engine_trim(e, vol, off, MIB / 2), 0);
	discard_rounds(e, 6);
	assert_true(host_bytes(e) + MIB >= full);
	assert_int_equal(fs_volume_delete(e->fs, "kept", &err), 0);
	discard_rounds(e, 8);
	assert_true(host_bytes(e) < full - VOL_BYTES / 4);
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/* As on a device, on one that discards 1 MiB at a time; off, nothing is discarded but by fs_trim. */
static void test_a_device_discards_what_is_free(void **state)
{
	struct fs_options opt = {.discard = FS_DISCARD_ON, .as_device = true};
	struct engine *e = engine_new_with(128 * MIB, 11, &opt);
	struct fs_volume *vol = engine_volume(e, "v", VOL_BYTES);
	struct fs_error err;
	struct fs_info info;
	uint64_t before;
	int error;

	e->fs->dev->discard_unit = MIB / 2;
	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	discard_rounds(e, 3);
	before = discarded(e);
	for (uint64_t off = 0; off < VOL_BYTES; off += 4 * MIB)
		assert_int_equal(engine_trim(e, vol, off, 2 * MIB), 0);
	discard_rounds(e, 6);
	assert_in_range(discarded(e) - before, VOL_BYTES / 4, VOL_BYTES);
	for (uint64_t off = 2 * MIB; off < VOL_BYTES; off += 4 * MIB)
		verify(e, vol, off);
	fs_volume_put(vol);
	engine_close(e);

	e->opt.discard = FS_DISCARD_OFF;
	engine_open(e);
	vol = engine_volume(e, "v", VOL_BYTES);
	for (uint64_t off = 2 * MIB; off < VOL_BYTES; off += 4 * MIB)
		assert_int_equal(engine_trim(e, vol, off, MIB), 0);
	discard_rounds(e, 4);
	assert_int_equal(discarded(e), 0);
	assert_int_equal(fs_trim(e->fs, &err), 0);
	discard_rounds(e, 4);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.trim_left_bytes, 0);
	assert_in_range(info.discarded_bytes, 64 * MIB, 128 * MIB);
	for (uint64_t off = 3 * MIB; off < VOL_BYTES; off += 4 * MIB)
		verify(e, vol, off);
	assert_int_equal(write_until_refused(e, vol, 0, &error), VOL_BYTES);
	engine_check_committed(e);
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/*
 * With the pool's threads: discards go on beside writes, trims and commits, and what is read is what was
 * written.
 */
static void test_discards_beside_writers(void **state)
{
	struct fs_options opt = {.discard = FS_DISCARD_ON, .as_device = true, .commit_interval_ms = 5};
	struct engine *e = engine_new_threads(64 * MIB, 12, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 32 * MIB);
	uint8_t *buf = malloc(MIB);
	struct fs_error err;
	struct model m;

	assert_non_null(buf);
	model_init(&m, 32 * MIB);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t off = (i * 37 % 128) * (MIB / 4), len = MIB / 4 * (1 + i % 3);

		len = min_u64(len, m.size - off);
		if (i % 3 == 2) {
			assert_int_equal(engine_trim(e, vol, off, len), 0);
			memset(m.bytes + off, 0, len);
		} else {
			fill_bytes(buf, len, i);
			assert_int_equal(engine_write(e, vol, off, len, buf), 0);
			memcpy(m.bytes + off, buf, len);
		}
		if (i % 100 == 99)
			assert_int_equal(fs_trim(e->fs, &err), 0);
	}
	model_verify_all(e, vol, &m);
	for (unsigned i = 0; i < 1000 && discarded(e) < 16 * MIB; i++)
		usleep(10000);
	assert_true(discarded(e) >= 16 * MIB);
	model_verify_all(e, vol, &m);
	model_fini(&m);
	free(buf);
	fs_volume_put(vol);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/* What was preallocated and has holes in the copy has its blocks again when it is opened. */
static void test_a_sparse_copy_is_filled(void **state)
{
	struct fs_create_options co = {.size_bytes = 32 * MIB};
	struct fs_options opt = {0};
	char path[] = "/var/tmp/byre-backing-XXXXXX";
	struct fs_error err;
	struct stat st;
	struct fs *fs;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(fs_create(path, &co, &err), 0);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 16 * MIB, 16 * MIB), 0);
	assert_int_equal(fs_open(path, &opt, &fs, &err), 0);
	assert_false(fs->backing->on);
	assert_int_equal(fs_close(fs), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= 32 * MIB);
	close(fd);
	unlink(path);
}

/* A group that gives no space before a commit names it is free all the same: the figure must not dip. */
static void test_free_goes_on_while_a_group_is_made(void **state)
{
	static const uint8_t types[] = {GROUP_METADATA, GROUP_DATA};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		struct engine *e = engine_new_sparse(1024 * MIB, 11 + i);
		uint64_t bytes, before;

		engine_commit(e);
		/* so that data groups wait for a commit, too */
		atomic_store(&e->fs->backing->promised, true);
		before = space_free_bytes(e->fs);
		assert_int_equal(block_group_create(e->fs, types[i], 16 * MIB, &bytes), 0);
		assert_int_equal(bytes, 0);
		assert_true(backing_has_uncounted(e->fs));
		assert_in_range(space_free_bytes(e->fs), before - MIB, before + MIB);
		engine_commit(e);
		assert_false(backing_has_uncounted(e->fs));
		assert_in_range(space_free_bytes(e->fs), before - MIB, before + MIB);
		engine_free(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_free_goes_on_while_a_group_is_made),
		cmocka_unit_test(test_full_host_refuses_new_data_and_nothing_else),
		cmocka_unit_test(test_trims_with_edges_go_on_and_on),
		cmocka_unit_test(test_what_is_reserved_has_its_blocks),
		cmocka_unit_test(test_what_was_reserved_in_an_idle_pool_outlives_a_crash),
		cmocka_unit_test(test_a_promise_larger_than_the_hosts_room_is_refused_at_once),
		cmocka_unit_test(test_usable_bytes_are_no_more_than_the_host_has),
		cmocka_unit_test(test_a_promise_that_is_refused_on_the_way_gives_back),
		cmocka_unit_test(test_full_before_the_first_write),
		cmocka_unit_test(test_blocks_are_taken_as_needed),
		cmocka_unit_test(test_deleted_space_goes_back_to_the_host),
		cmocka_unit_test(test_free_runs_inside_groups_go_back),
		cmocka_unit_test(test_a_device_discards_what_is_free),
		cmocka_unit_test(test_discards_beside_writers),
		cmocka_unit_test(test_a_sparse_copy_is_filled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
