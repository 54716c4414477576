/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/test_backing.c: sparse pools on a host that runs full. The simulated device refuses what needs blocks then; the crash
 * simulator does the same at random.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fs/engine.h"

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
	uint64_t refused = e->fs->space.enospc;
	struct fs_error err;
	int error;

	assert_true(refused > 0);
	for (unsigned i = 0; i < 50; i++)
		(void)write_until_refused(e, vol, 40 * MIB, &error);
	assert_int_equal(said(e, "is full"), 1);
	assert_true(e->fs->space.enospc >= refused + 50);
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
		for (uint64_t blk = 0; blk < 300; blk++)
			{
			int r = engine_trim(e, vol, blk * 4096 + 100 * (round + 1), 100);

			if (r)
				fail_msg("round %u, block %llu: %s; %u spares", round, (unsigned long long)blk, strerror(-r), e->fs->backing.spares);
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
	assert_non_null(strstr(err.msg, "file system that it is on"));
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
	assert_false(fs->backing.on);
	assert_int_equal(fs_close(fs), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= 32 * MIB);
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_host_refuses_new_data_and_nothing_else),
		cmocka_unit_test(test_trims_with_edges_go_on_and_on),
		cmocka_unit_test(test_what_is_reserved_has_its_blocks),
		cmocka_unit_test(test_full_before_the_first_write),
		cmocka_unit_test(test_blocks_are_taken_as_needed),
		cmocka_unit_test(test_deleted_space_goes_back_to_the_host),
		cmocka_unit_test(test_a_sparse_copy_is_filled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
