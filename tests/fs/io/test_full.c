/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/io/test_full.c: a full pool: what was acknowledged is there, what frees space always works, and
 * the space can be written again. FULL_4G=1 runs the same on a sparse pool file of 4 GiB in TMPDIR (/var/tmp)
 * and prints its figures.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/io/ctx.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define BATCH 64u
/* by which the figure of free space may be too large: a group's granularity, and requests under way */
#define SLACK (MIB + 64 * KIB)

/* ---- a volume whose blocks carry versions ---------------------------------------- */

struct full {
	struct engine *e;
	struct fs_volume *vol;
	uint32_t *version; /* of each block; 0: zeros */
	uint64_t blocks;
	uint32_t newest;
	uint64_t stored; /* blocks that are not zeros */
};

static void block_bytes(void *buf, uint64_t blk, uint32_t version)
{
	uint64_t *p = buf, seed = blk * 0x100000001b3u + version;

	for (unsigned i = 0; i < BLOCK / 8; i++)
		p[i] = version ? seed + i * 0x9e3779b97f4a7c15u : 0;
}

static void full_init(struct full *f, struct engine *e, uint64_t volume_bytes)
{
	memset(f, 0, sizeof(*f));
	f->e = e;
	f->blocks = volume_bytes / BLOCK;
	f->version = calloc(f->blocks, sizeof(*f->version));
	f->vol = engine_volume(e, "v", volume_bytes);
}

static void full_fini(struct full *f)
{
	fs_volume_put(f->vol);
	engine_free(f->e);
	free(f->version);
}

static void set_version(struct full *f, uint64_t blk, uint32_t version)
{
	f->stored += (version != 0) - (f->version[blk] != 0);
	f->version[blk] = version;
}

/*
 * Writes n pieces of piece_blocks at the places of blk[], all at once. Returns how many were acknowledged;
 * the others must have been refused for space.
 */
static unsigned write_pieces(struct full *f, const uint64_t *blk, unsigned n, uint64_t piece_blocks)
{
	static uint8_t *buf;
	static struct fs_io io[BATCH];
	uint32_t first = f->newest + 1;
	unsigned left = 0, ok = 0;

	buf = realloc(buf, n * piece_blocks * BLOCK);
	for (unsigned i = 0; i < n; i++) {
		io[i] = (struct fs_io){.op = FS_WRITE,
				       .vol = f->vol,
				       .off = blk[i] * BLOCK,
				       .len = piece_blocks * BLOCK,
				       .buf = buf + i * piece_blocks * BLOCK};
		for (uint64_t k = 0; k < piece_blocks; k++)
			block_bytes((char *)io[i].buf + k * BLOCK, blk[i] + k, first + i);
	}
	f->newest += n;
	engine_submit(f->e, io, n, &left);
	engine_wait(f->e, &left);
	for (unsigned i = 0; i < n; i++) {
		if (io[i].error && io[i].error != -ENOSPC)
			fail_msg("write: %s; %s", strerror(-io[i].error), f->e->log);
		ok += io[i].error == 0;
		for (uint64_t k = 0; io[i].error == 0 && k < piece_blocks; k++)
			set_version(f, blk[i] + k, first + i);
	}
	return ok;
}

static void verify_versions(struct full *f)
{
	uint64_t chunk = 256;
	uint8_t *got = malloc(chunk * BLOCK), want[FS_BLOCK_SIZE];

	for (uint64_t b = 0; b < f->blocks; b += chunk) {
		uint64_t n = min_u64(chunk, f->blocks - b);

		assert_int_equal(engine_read(f->e, f->vol, b * BLOCK, n * BLOCK, got), 0);
		for (uint64_t i = 0; i < n; i++) {
			block_bytes(want, b + i, f->version[b + i]);
			if (memcmp(got + i * BLOCK, want, BLOCK) != 0)
				fail_msg("block %llu is not of version %u", (unsigned long long)(b + i),
					 f->version[b + i]);
		}
	}
	free(got);
}

/* ---- filling up -------------------------------------------------------------------- */

/* What was announced as free, and how much was stored then. */
struct promise {
	uint64_t free_bytes, stored;
};

#define PROMISES 64u

struct filling {
	struct promise promise[PROMISES];
	unsigned promises;
	uint64_t next; /* stored bytes at which the next one is noted */
};

static void note_promise(struct full *f, struct filling *fl, uint64_t every)
{
	struct fs_info info;

	if (f->stored * BLOCK < fl->next || fl->promises == PROMISES)
		return;
	fs_get_info(f->e->fs, &info);
	fl->promise[fl->promises++] = (struct promise){info.free_bytes, f->stored * BLOCK};
	fl->next += every;
}

/* At each moment a client could write at least what was said to be free. */
static void check_promises(struct full *f, const struct filling *fl, uint64_t slack)
{
	for (unsigned i = 0; i < fl->promises; i++) {
		const struct promise *p = &fl->promise[i];
		uint64_t written = f->stored * BLOCK - p->stored;

		if (written + slack < p->free_bytes)
			fail_msg("%llu bytes were free when %llu were stored; only %llu could be written",
				 (unsigned long long)p->free_bytes, (unsigned long long)p->stored,
				 (unsigned long long)written);
	}
}

static void fill_sequential(struct full *f, struct filling *fl, uint64_t piece_blocks)
{
	for (uint64_t b = 0; b + piece_blocks <= f->blocks; b += piece_blocks) {
		note_promise(f, fl, f->blocks * BLOCK / 100);
		if (write_pieces(f, &b, 1, piece_blocks) == 0)
			return;
	}
	fail_msg("the volume is full before the pool");
}

/* Each block once, in an order without order. */
static uint64_t shuffled(const struct full *f, uint64_t i)
{
	return i * 2654435761u % f->blocks; /* blocks is a power of two: a permutation */
}

/* Until the first refusal. `again`: the chance of an overwrite, in percent. */
static void fill_random(struct full *f, struct filling *fl, unsigned again)
{
	uint64_t blk[BATCH], at = 0;

	assert_int_equal(f->blocks & (f->blocks - 1), 0);
	for (;;) {
		unsigned n;

		note_promise(f, fl, f->blocks * BLOCK / 100);
		for (n = 0; n < BATCH; n++) {
			bool used = false;

			if (at > 1000 && pick(&f->e->rng, 100) < again)
				blk[n] = shuffled(f, pick(&f->e->rng, at - BATCH));
			else
				blk[n] = shuffled(f, at++);
			for (unsigned i = 0; i < n; i++)
				used |= blk[i] == blk[n];
			if (used)
				break;
		}
		if (write_pieces(f, blk, n, 1) < n)
			return;
		assert_true(at + 2 * BATCH < f->blocks);
	}
}

/* ---- what must work then --------------------------------------------------------------- */

/* More attempts are answered at once: without a commit for each. */
static void many_more_attempts(struct full *f, unsigned attempts)
{
	uint64_t blk[BATCH], commits, before = f->stored;
	struct fs_info info;
	double start = seconds();

	fs_get_info(f->e->fs, &info);
	commits = info.commits;
	for (unsigned i = 0; i < attempts / BATCH; i++) {
		for (unsigned k = 0; k < BATCH; k++)
			blk[k] = shuffled(f, f->blocks - 1 - i * BATCH - k);
		(void)write_pieces(f, blk, BATCH, 1);
	}
	fs_get_info(f->e->fs, &info);
	print_message("  %u more attempts: %llu stored, %llu commits, %.2f s\n", attempts,
		      (unsigned long long)(f->stored - before), (unsigned long long)(info.commits - commits),
		      seconds() - start);
	assert_true((f->stored - before) * BLOCK < 4 * MIB + f->e->fs->dev->size / 50);
	assert_true(info.commits - commits < 300);
}

/* Takes away every `step`-th block that holds something, in pieces of one block, many at a time. */
static uint64_t trim_scattered(struct full *f, uint64_t step, uint64_t max)
{
	static struct fs_io io[BATCH];
	uint64_t seen = 0, trimmed = 0;
	unsigned n = 0, left = 0;

	for (uint64_t b = 0; b < f->blocks && trimmed < max; b++) {
		if (f->version[b] && ++seen % step == 0) {
			io[n++] =
				(struct fs_io){.op = FS_TRIM, .vol = f->vol, .off = b * BLOCK, .len = BLOCK};
			set_version(f, b, 0);
			trimmed++;
		}
		if (n == BATCH || (n && (b + 1 == f->blocks || trimmed == max))) {
			engine_submit(f->e, io, n, &left);
			engine_wait(f->e, &left);
			for (unsigned i = 0; i < n; i++)
				if (io[i].error)
					fail_msg("trim of a block: %s; %s", strerror(-io[i].error),
						 f->e->log);
			n = 0;
		}
	}
	return trimmed;
}

/* Trims with edges inside of blocks: the edges are overwritten with zeros, which takes space for a while. */
static void trim_unaligned(struct full *f, unsigned rounds)
{
	static struct fs_io io[256];
	unsigned left = 0, n = 0;
	uint64_t b = 0;

	while (rounds > 0) {
		for (; b + 4 < f->blocks && n < 256; b++) {
			uint64_t from = 1 + pick(&f->e->rng, 4000), to = 1 + pick(&f->e->rng, 4000);

			if (!f->version[b] || !f->version[b + 1] || !f->version[b + 2])
				continue;
			io[n++] = (struct fs_io){.op = pick(&f->e->rng, 2) ? FS_TRIM : FS_ZERO,
						 .vol = f->vol,
						 .off = b * BLOCK + from,
						 .len = 2 * BLOCK - from + to};
			b += 3;
		}
		if (n == 0)
			break;
		engine_submit(f->e, io, n, &left);
		engine_wait(f->e, &left);
		for (unsigned i = 0; i < n; i++) {
			uint64_t blk = io[i].off / BLOCK;

			if (io[i].error)
				fail_msg("trim with edges: %s; %s", strerror(-io[i].error), f->e->log);
			/*
			 * What is left at the edges is not of any version: write it anew below, or forget it.
			 */
			assert_int_equal(engine_trim(f->e, f->vol, blk * BLOCK, 3 * BLOCK), 0);
			for (unsigned k = 0; k < 3; k++)
				set_version(f, blk + k, 0);
		}
		n = 0;
		rounds--;
	}
}

/* Writes until a refusal; returns how many blocks that were. */
static uint64_t write_again(struct full *f)
{
	uint64_t blk[BATCH], before = f->stored, b = 0;
	unsigned n;

	for (;;) {
		for (n = 0; n < BATCH && b < f->blocks; b++)
			if (!f->version[b])
				blk[n++] = b;
		if (n == 0 || write_pieces(f, blk, n, 1) < n)
			return f->stored - before;
	}
}

/* Every fourth piece of 1 MiB, whatever it holds; and all such pieces that hold nothing. */
static uint64_t trim_large(struct full *f)
{
	uint64_t before = f->stored;

	for (uint64_t b = 0; b + MIB / BLOCK <= f->blocks; b += 4 * MIB / BLOCK) {
		assert_int_equal(engine_trim(f->e, f->vol, b * BLOCK, MIB), 0);
		for (uint64_t k = 0; k < MIB / BLOCK; k++)
			set_version(f, b + k, 0);
	}
	return before - f->stored;
}

static uint64_t write_large(struct full *f)
{
	uint64_t before = f->stored;

	for (uint64_t b = 0; b + MIB / BLOCK <= f->blocks; b += MIB / BLOCK) {
		bool empty = true;

		for (uint64_t k = 0; empty && k < MIB / BLOCK; k++)
			empty = f->version[b + k] == 0;
		if (empty && write_pieces(f, &b, 1, MIB / BLOCK) == 0)
			break;
	}
	return f->stored - before;
}

static void reopened(struct full *f, void (*how)(struct engine *e))
{
	fs_volume_put(f->vol);
	how(f->e);
	if (f->e->sim)
		engine_check_device(f->e->sim);
	else
		engine_check_file(f->e->path);
	engine_open(f->e);
	f->vol = engine_volume(f->e, "v", 0);
}

static void crash_now(struct engine *e)
{
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
}

/*
 * Once more from full: the space of trims comes back, also through closes and crashes; commands work; deletes
 * work.
 */
static void live_on(struct full *f)
{
	struct engine *e = f->e;
	struct fs_info info;
	uint64_t freed, again;
	struct fs_error err;
	int r;

	many_more_attempts(f, 10000);
	verify_versions(f);
	engine_check_books(e);

	trim_unaligned(f, 4);
	freed = trim_scattered(f, 2, f->blocks);
	engine_commit(e);
	engine_check_books(e);
	fs_get_info(e->fs, &info);
	again = write_again(f);
	print_message(
		"  every second block trimmed: %llu freed, %llu free by the figures, %llu written again\n",
		(unsigned long long)freed, (unsigned long long)(info.free_bytes / BLOCK),
		(unsigned long long)again);
	/*
	 * Twice as many items as there were extents before: metadata may run out first, which the figures
	 * then say. No less than half is there in any case.
	 */
	assert_true(again * BLOCK + SLACK >= info.free_bytes && again >= freed / 2);
	verify_versions(f);

	freed = trim_large(f);
	engine_commit(e);
	again = write_large(f);
	print_message("  pieces of 1 MiB trimmed: %llu blocks freed, %llu written again\n",
		      (unsigned long long)freed, (unsigned long long)again);
	assert_true(again + 2 * MIB / BLOCK >= freed);
	verify_versions(f);

	reopened(f, engine_close);
	verify_versions(f);
	freed = trim_scattered(f, 7, 3000);
	assert_int_equal(engine_flush(e), 0);
	if (e->sim) {
		reopened(f, crash_now);
		verify_versions(f);
	}
	engine_commit(e);
	again = write_again(f);
	assert_true(again >= freed / 2);
	assert_int_equal(engine_flush(e), 0);
	reopened(f, engine_abandon);
	verify_versions(f);

	r = fs_volume_create(e->fs, "other", MIB, 0, &err);
	assert_true(r == 0 || r == -ENOSPC);
	if (r == 0) {
		r = fs_volume_rename(e->fs, "other", "another", &err);
		assert_true(r == 0 || r == -ENOSPC);
		assert_int_equal(fs_volume_delete(e->fs, r == 0 ? "another" : "other", &err), 0);
	}
	/* frees: it must work */
	assert_int_equal(fs_volume_resize(e->fs, "v", f->blocks * BLOCK / 2, &err), 0);
	for (uint64_t b = f->blocks / 2; b < f->blocks; b++)
		set_version(f, b, 0);
	f->blocks /= 2;
	engine_commit(e);
	verify_versions(f);
	engine_check_all(e);

	fs_volume_put(f->vol);
	assert_int_equal(fs_volume_delete(e->fs, "v", &err), 0);
	engine_commit(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.data_bytes, 0);
	f->vol = engine_volume(e, "v", f->blocks * 2 * BLOCK);
	f->blocks *= 2;
	memset(f->version, 0, f->blocks * sizeof(*f->version));
	f->stored = 0;
	engine_check_all(e);
}

/* ---- the pools ------------------------------------------------------------------------------ */

struct figure {
	uint64_t pool_bytes, volume_bytes;
	unsigned sequential, random, again; /* percent of the pool's size that must be stored */
};

/*
 * A small pool gives more of itself to metadata, superblocks and the log: 8 MiB stand before the first group.
 */
static const struct figure figures[] = {
	{64 * MIB, 128 * MIB, 78, 78, 78},
	{256 * MIB, 512 * MIB, 91, 89, 89},
};

static unsigned report(struct full *f, const struct figure *fig, const char *what)
{
	uint64_t per_mille = f->stored * BLOCK * 1000 / fig->pool_bytes;
	struct fs_info info;

	fs_get_info(f->e->fs, &info);
	print_message(
		"  %llu MiB pool, %s: %llu.%llu %% stored (metadata %llu KiB, unallocated %llu KiB, free %llu KiB)\n",
		(unsigned long long)(fig->pool_bytes / MIB), what, (unsigned long long)per_mille / 10,
		(unsigned long long)per_mille % 10, (unsigned long long)info.metadata_bytes / 1024,
		(unsigned long long)info.unallocated_bytes / 1024,
		(unsigned long long)info.free_bytes / 1024);
	return (unsigned)(per_mille / 10);
}

static struct engine *new_pool(const struct figure *fig, bool file)
{
	struct fs_options opt = {.cache_bytes = 64 * MIB};

	return file ? engine_new_file(fig->pool_bytes, test_seed(), &opt)
		    : engine_new_with(fig->pool_bytes, test_seed(), &opt);
}

static void full_sequential(const struct figure *fig, bool file)
{
	struct filling fl = {.next = 0};
	struct full f;

	full_init(&f, new_pool(fig, file), fig->volume_bytes);
	fill_sequential(&f, &fl, MIB / BLOCK);
	assert_true(report(&f, fig, "sequential 1 MiB") >= fig->sequential);
	check_promises(&f, &fl, SLACK + MIB); /* and the write that did not fit */
	live_on(&f);
	fl = (struct filling){.next = 0};
	fill_sequential(&f, &fl, MIB / BLOCK);
	assert_true(report(&f, fig, "the same once more") >= fig->sequential - 1);
	verify_versions(&f);
	full_fini(&f);
}

static void full_random(const struct figure *fig, bool file)
{
	struct filling fl = {.next = 0};
	struct full f;

	full_init(&f, new_pool(fig, file), fig->volume_bytes);
	fill_random(&f, &fl, 0);
	assert_true(report(&f, fig, "random 4 KiB, none twice") >= fig->random);
	check_promises(&f, &fl, SLACK);
	live_on(&f);
	full_fini(&f);
}

static void full_overwriting(const struct figure *fig, bool file)
{
	struct filling fl = {.next = 0};
	struct full f;

	full_init(&f, new_pool(fig, file), fig->volume_bytes);
	fill_random(&f, &fl, 40);
	assert_true(report(&f, fig, "random 4 KiB with overwrites") >= fig->again);
	check_promises(&f, &fl, SLACK);
	live_on(&f);
	full_fini(&f);
}

static void test_full_sequential_writes(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(figures) - SANITIZED; i++)
		full_sequential(&figures[i], false);
}

static void test_full_random_writes(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(figures) - SANITIZED; i++)
		full_random(&figures[i], false);
}

static void test_full_random_writes_with_overwrites(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(figures) - SANITIZED; i++)
		full_overwriting(&figures[i], false);
}

/* Regression: data groups made for small writes left large ones without metadata. */
static void test_full_of_holes_takes_large_writes(void **state)
{
	struct filling fl = {.next = 0};
	struct fs_info info;
	struct full f;
	uint64_t b, stored = 0;

	full_init(&f, new_pool(&figures[0], false), figures[0].volume_bytes);
	fill_random(&f, &fl, 0);
	assert_int_equal(engine_trim(f.e, f.vol, 0, f.blocks * BLOCK), 0);
	memset(f.version, 0, f.blocks * sizeof(*f.version));
	f.stored = 0;
	engine_commit(f.e);
	fs_get_info(f.e->fs, &info);
	for (b = 0; b + 1024 <= f.blocks && write_pieces(&f, &b, 1, 1024); b += 1024) /* of 4 MiB */
		stored += 4 * MIB;
	assert_true(stored + 4 * MIB + SLACK >= info.free_bytes);
	verify_versions(&f);
	engine_check_all(f.e);
	full_fini(&f);
}

/*
 * At the point of refusal a volume is deleted, with nothing trimmed before, and then all of its space can be
 * written.
 */
static void test_full_deleting_a_volume_makes_room(void **state)
{
	for (unsigned random = 0; random < 2; random++) {
		struct engine *e = new_pool(&figures[0], false);
		struct fs_volume *other = engine_volume(e, "other", 20 * MIB);
		uint8_t *buf = malloc(20 * MIB);
		struct filling fl = {.next = 0};
		struct fs_info info;
		uint64_t again;
		struct full f;

		fill_bytes(buf, 20 * MIB, 1);
		assert_int_equal(engine_write(e, other, 0, 20 * MIB, buf), 0);
		fs_volume_put(other);
		full_init(&f, e, figures[0].volume_bytes);
		if (random)
			fill_random(&f, &fl, 0);
		else
			fill_sequential(&f, &fl, MIB / BLOCK);
		(void)write_again(&f);
		assert_int_equal(fs_volume_delete(e->fs, "other", NULL), 0);
		engine_commit(e);
		engine_check_books(e);
		fs_get_info(e->fs, &info);
		again = write_again(&f) * BLOCK;
		print_message("  20 MiB deleted: %llu KiB free by the figures, %llu KiB written\n",
			      (unsigned long long)info.free_bytes / 1024, (unsigned long long)again / 1024);
		assert_true(again + SLACK >= info.free_bytes && again >= 17 * MIB &&
			    info.free_bytes >= 16 * MIB);
		verify_versions(&f);
		engine_check_all(e);
		free(buf);
		full_fini(&f);
	}
}

/*
 * In a full pool a reserved volume takes what a trim, or the deletion of a volume, has just freed, with no
 * commit in between.
 */
static void test_full_reserved_volume_takes_what_was_just_freed(void **state)
{
	struct engine *e = new_pool(&figures[1], false);
	struct filling fl = {.next = 0};
	struct fs_error err;
	struct full f;

	full_init(&f, e, figures[1].volume_bytes);
	fill_sequential(&f, &fl, MIB / BLOCK);
	engine_commit(e);
	/* it needs twice its size */
	assert_int_equal(fs_volume_create(e->fs, "r", 24 * MIB, FS_VOLUME_RESERVED, &err), -ENOSPC);
	assert_int_equal(engine_trim(e, f.vol, 0, 64 * MIB), 0);
	assert_int_equal(fs_volume_create(e->fs, "r", 24 * MIB, FS_VOLUME_RESERVED, &err), 0);
	assert_int_equal(engine_trim(e, f.vol, 64 * MIB, 32 * MIB), 0);
	assert_int_equal(fs_volume_resize(e->fs, "r", 40 * MIB, &err), 0);
	assert_int_equal(fs_volume_resize(e->fs, "r", 56 * MIB, &err), -ENOSPC);
	fs_volume_put(f.vol);
	assert_int_equal(fs_volume_delete(e->fs, "v", &err), 0);
	assert_int_equal(fs_volume_resize(e->fs, "r", 96 * MIB, &err), 0);
	engine_check_all(e);
	free(f.version);
	engine_free(e);
}

/* Some requests at once. None may fail. */
static void many_together(struct engine *e, struct fs_io *io, unsigned n)
{
	unsigned left = 0;

	engine_submit(e, io, n, &left);
	engine_wait(e, &left);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(io[i].error, 0);
}

/* Single blocks of all of a reserved volume, apart; then overwrites, trims and longer writes anywhere. */
static void wear_out(struct engine *e, struct fs_volume *vol, uint64_t blocks, uint8_t *buf)
{
	struct fs_io io[16];
	unsigned n = 0;

	for (uint64_t k = 0; k < 3; k++) {
		for (uint64_t b = k; b < blocks; b += 3) {
			io[n++] = (struct fs_io){
				.op = FS_WRITE, .vol = vol, .off = b * BLOCK, .len = BLOCK, .buf = buf};
			if (n == ARRAY_SIZE(io) || b + 3 >= blocks) {
				many_together(e, io, n);
				n = 0;
			}
		}
	}
	for (uint64_t i = 0; i < blocks; i++) {
		uint64_t b = pick(&e->rng, blocks),
			 len = 1 + pick(&e->rng, min_u64(blocks - b, i % 50 ? 8 : 300));

		io[n++] = (struct fs_io){.op = i % 5 ? FS_WRITE : FS_TRIM,
					 .vol = vol,
					 .off = b * BLOCK + 7,
					 .len = len * BLOCK - 7,
					 .buf = buf,
					 .flags = i % 3 ? 0 : FS_FUA};
		if (n > i % ARRAY_SIZE(io)) {
			many_together(e, io, n);
			n = 0;
		}
	}
	many_together(e, io, n);
}

/*
 * In a pool that is otherwise empty, or one that a thin volume fills first or afterwards. False: the reserved
 * volume is refused.
 */
static bool reserved_never_fails(uint64_t pool_bytes, uint64_t blocks, unsigned thin, uint8_t *buf)
{
	struct engine *e = engine_new(pool_bytes, blocks);
	struct filling fl = {.next = 0};
	struct fs_volume *vol;
	struct full f;
	bool made;

	if (thin) {
		full_init(&f, e, 512 * MIB); /* a power of two of blocks */
	} else {			     /* block groups that another volume has left */
		fs_volume_put(engine_volume(e, "before", BLOCK));
		assert_int_equal(fs_volume_delete(e->fs, "before", NULL), 0);
		if (blocks % 2)
			engine_reopen(e);
	}
	if (thin == 1) {
		fill_random(&f, &fl, 0);
		assert_int_equal(engine_trim(e, f.vol, 0, f.blocks * BLOCK / 2), 0);
		memset(f.version, 0, f.blocks / 2 * sizeof(*f.version));
	}
	made = fs_volume_create(e->fs, "r", blocks * BLOCK, FS_VOLUME_RESERVED, NULL) == 0;
	if (made) {
		if (thin == 2)
			fill_random(&f, &fl, 0);
		vol = engine_volume(e, "r", 0);
		wear_out(e, vol, blocks, buf);
		fs_volume_put(vol);
		if (thin)
			verify_versions(&f);
		engine_check_all(e);
	}
	if (thin)
		full_fini(&f);
	else
		engine_free(e);
	return made;
}

/*
 * Regression: the commits of a reserved volume's changes had no room, as its promise counted the items that
 * it may have but not the nodes that a commit writes anew beside the old ones.
 */
static void test_full_reserved_volume_never_fails(void **state)
{
	static const uint64_t pools[] = {16 * MIB, 19 * MIB, 33 * MIB, 64 * MIB};
	uint8_t *buf = malloc(2 * MIB);

	fill_bytes(buf, 2 * MIB, 1);
	for (size_t i = 0; i < ARRAY_SIZE(pools) - 2 * SANITIZED; i++) {
		/* the first pool is small enough for metadata to be what lacks */
		uint64_t step = (SANITIZED ? 300 : 61) << i;

		for (unsigned thin = 0; thin < 3; thin++)
			for (uint64_t blocks = step / 2; reserved_never_fails(pools[i], blocks, thin, buf);
			     blocks += step)
				;
	}
	free(buf);
}

/* ---- many threads ----------------------------------------------------------------------------- */

#define THREADS 16u

struct writer {
	struct engine *e;
	struct fs_volume *vol;
	unsigned index;
	uint64_t region; /* bytes of each writer's own part of the volume */
	uint64_t acknowledged, piece;
	double slowest;
	int error;
};

static void *write_until_full(void *arg)
{
	struct writer *w = arg;
	struct fs_ctx *ctx;
	static const unsigned depth = 8;
	struct fs_io io[8];
	double begun[8];
	uint8_t *buf = malloc(depth * w->piece);
	uint64_t off = 0;
	bool full = false;

	w->error = fs_ctx_new(w->e->fs, &ctx);
	while (!w->error && !full) {
		unsigned left = 0;

		for (unsigned i = 0; i < depth; i++) {
			io[i] = (struct fs_io){.op = FS_WRITE,
					       .vol = w->vol,
					       .off = w->index * w->region + off + i * w->piece,
					       .len = w->piece,
					       .buf = buf + i * w->piece,
					       .done = engine_io_done,
					       .arg = &left};
			memset(io[i].buf, 0, w->piece);
			for (uint64_t k = 0; k < w->piece; k += BLOCK)
				block_bytes((char *)io[i].buf + k, (io[i].off + k) / BLOCK, w->index + 1);
		}
		left = depth;
		for (unsigned i = 0; i < depth; i++) {
			struct fs_io *one[1] = {&io[i]};

			begun[i] = seconds();
			fs_submit(ctx, one, 1);
		}
		while (left) {
			(void)poll(&(struct pollfd){.fd = fs_ctx_fd(ctx), .events = POLLIN}, 1, 100);
			fs_ctx_run(ctx);
		}
		for (unsigned i = 0; i < depth; i++) {
			double took = seconds() - begun[i];

			w->slowest = took > w->slowest ? took : w->slowest;
			if (io[i].error == 0)
				w->acknowledged += w->piece;
			else if (io[i].error == -ENOSPC)
				full = true;
			else
				w->error = io[i].error;
		}
		off += depth * w->piece;
		if (off + depth * w->piece > w->region)
			break;
	}
	if (!w->error)
		fs_ctx_free(ctx);
	free(buf);
	return NULL;
}

/* The sum of what was acknowledged is what is there. */
static uint64_t count_stored(struct engine *e, struct fs_volume *vol, uint64_t region)
{
	uint64_t sum = 0, size = fs_volume_size(vol);
	uint8_t *got = malloc(MIB), want[FS_BLOCK_SIZE];

	for (uint64_t at = 0; at < size; at += MIB) {
		assert_int_equal(engine_read(e, vol, at, MIB, got), 0);
		for (uint64_t k = 0; k < MIB; k += BLOCK) {
			if (got[k] == 0 && memcmp(got + k, got + k + 1, BLOCK - 1) == 0)
				continue;
			block_bytes(want, (at + k) / BLOCK, (uint32_t)((at + k) / region) + 1);
			assert_memory_equal(got + k, want, BLOCK);
			sum += BLOCK;
		}
	}
	free(got);
	return sum;
}

static void threads_until_full(struct engine *e, uint64_t pool_bytes)
{
	uint64_t region = round_up_u64(pool_bytes / 8, MIB), acknowledged = 0;
	struct fs_volume *vol = engine_volume(e, "v", THREADS * region);
	struct writer w[THREADS];
	pthread_t thread[THREADS];
	double slowest = 0, start = seconds();

	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct writer){.e = e,
				       .vol = vol,
				       .index = i,
				       .region = region,
				       .piece = i % 2 ? BLOCK : 16 * BLOCK};
		assert_int_equal(pthread_create(&thread[i], NULL, write_until_full, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(w[i].error, 0);
		acknowledged += w[i].acknowledged;
		slowest = w[i].slowest > slowest ? w[i].slowest : slowest;
	}
	print_message(
		"  %u threads: %llu MiB of %llu acknowledged in %.1f s, the slowest request took %.2f s\n",
		THREADS, (unsigned long long)(acknowledged / MIB), (unsigned long long)(pool_bytes / MIB),
		seconds() - start, slowest);
	assert_true(slowest < 5.0);
	engine_check_books(e);
	assert_int_equal(count_stored(e, vol, region), acknowledged);
	assert_int_equal(engine_trim(e, vol, 0, THREADS * region), 0);
	fs_volume_put(vol);
	engine_check_all(e);
}

static void test_full_sixteen_threads_at_once(void **state)
{
	struct fs_options opt = {.cache_bytes = 32 * MIB, .commit_interval_ms = 200};
	uint64_t size = (SANITIZED ? 48 : 192) * MIB;
	struct engine *e = engine_new_threads(size, test_seed(), &opt);

	threads_until_full(e, size);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

/* ---- 4 GiB, on a disk ---------------------------------------------------------------------------- */

static void test_full_pool_of_4_gib(void **state)
{
	static const struct figure fig = {4096 * MIB, 8192 * MIB, 95, 88, 88};
	struct fs_options opt = {.cache_bytes = 256 * MIB};
	struct engine *e;

	if (!getenv("FULL_4G"))
		skip();
	full_sequential(&fig, true);
	full_random(&fig, true);
	full_overwriting(&fig, true);
	e = engine_new_file(fig.pool_bytes, test_seed(), &opt);
	threads_until_full(e, fig.pool_bytes);
	engine_close(e);
	engine_check_file(e->path);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_sequential_writes),
		cmocka_unit_test(test_full_random_writes),
		cmocka_unit_test(test_full_random_writes_with_overwrites),
		cmocka_unit_test(test_full_of_holes_takes_large_writes),
		cmocka_unit_test(test_full_deleting_a_volume_makes_room),
		cmocka_unit_test(test_full_reserved_volume_takes_what_was_just_freed),
		cmocka_unit_test(test_full_reserved_volume_never_fails),
		cmocka_unit_test(test_full_sixteen_threads_at_once),
		cmocka_unit_test(test_full_pool_of_4_gib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
