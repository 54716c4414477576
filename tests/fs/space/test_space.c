/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_space.c: the books of space are exact whatever happens: after random work, after memory
 * or space ran out at any place of any operation, and for those who wait for space.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "tests/lib/space_hold.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/volume/extent_state.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/io/io.h"
#include "fs/pool/pool.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

#define POOL_BYTES (96 * MIB)

/* ---- random work ------------------------------------------------------------------ */

#define VOLUMES 4u

struct world {
	struct engine *e;
	struct model m[VOLUMES]; /* bytes NULL: there is no such volume */
};

static void volume_name(unsigned i, char name[16])
{
	snprintf(name, 16, "v%u", i);
}

static void random_metadata_op(struct world *w)
{
	unsigned i = (unsigned)pick(&w->e->rng, VOLUMES);
	uint64_t size = (1 + pick(&w->e->rng, 1500)) * BLOCK;
	struct model *m = &w->m[i];
	char name[16];

	volume_name(i, name);
	if (!m->bytes) {
		assert_int_equal(fs_volume_create(w->e->fs, name, size, 0, NULL), 0);
		model_init(m, size);
	} else if (pick(&w->e->rng, 3) == 0) {
		assert_int_equal(fs_volume_delete(w->e->fs, name, NULL), 0);
		model_fini(m);
		m->bytes = NULL;
	} else {
		assert_int_equal(fs_volume_resize(w->e->fs, name, size, NULL), 0);
		m->bytes = realloc(m->bytes, size);
		if (size > m->size)
			memset(m->bytes + m->size, 0, size - m->size);
		m->size = size;
	}
}

/* Requests whose outcome is checked; one may fail when it is told to. */
static void random_io(struct world *w, bool may_fail)
{
	struct engine *e = w->e;
	unsigned i = (unsigned)pick(&e->rng, VOLUMES);
	struct model *m = &w->m[i];
	struct fs_volume *vol;
	uint64_t len, off;
	uint8_t *buf;
	char name[16];
	int r;

	if (!m->bytes)
		return;
	volume_name(i, name);
	assert_int_equal(fs_volume_get(e->fs, name, &vol), 0);
	len = min_u64(1 + pick(&e->rng, pick(&e->rng, 4) ? 20000 : 2 * MIB), m->size);
	off = pick(&e->rng, m->size - len + 1);
	if (pick(&e->rng, 2)) { /* whole blocks: old or new as a whole is then easy to see */
		off = round_down_u64(off, BLOCK);
		len = max_u64(round_down_u64(len, BLOCK), BLOCK);
	}
	buf = malloc(len);
	fill_bytes(buf, len, rnd(&e->rng));
	if (pick(&e->rng, 3)) {
		r = engine_write(e, vol, off, len, buf);
	} else {
		memset(buf, 0, len);
		r = engine_io(e, vol, pick(&e->rng, 2) ? FS_TRIM : FS_ZERO, pick(&e->rng, 2) ? FS_NO_HOLE : 0,
			      off, len, NULL);
	}
	if (r == 0) {
		memcpy(m->bytes + off, buf, len);
	} else { /* some of it may be there: take what is */
		assert_true(may_fail);
		mem_fail_at(0);
		device_sim_fault_clear(e->sim);
		assert_int_equal(engine_read(e, vol, off, len, m->bytes + off), 0);
	}
	fs_volume_put(vol);
	free(buf);
}

static void verify_world(struct world *w)
{
	char name[16];

	for (unsigned i = 0; i < VOLUMES; i++) {
		struct fs_volume *vol;

		volume_name(i, name);
		if (!w->m[i].bytes) {
			assert_int_equal(fs_volume_get(w->e->fs, name, &vol), -ENOENT);
			continue;
		}
		assert_int_equal(fs_volume_get(w->e->fs, name, &vol), 0);
		assert_int_equal(fs_volume_size(vol), w->m[i].size);
		model_verify_all(w->e, vol, &w->m[i]);
		fs_volume_put(vol);
	}
}

static void free_world(struct world *w)
{
	for (unsigned i = 0; i < VOLUMES; i++)
		model_fini(&w->m[i]);
	engine_free(w->e);
}

static void test_space_books_are_exact_after_random_work(void **state)
{
	struct world w = {.e = engine_new(POOL_BYTES, test_seed())};
	struct engine *e = w.e;

	for (unsigned i = 0; i < (SANITIZED ? 600 : 4000); i++) {
		if (pick(&e->rng, 12) == 0)
			random_metadata_op(&w);
		else
			random_io(&w, false);
		engine_check_books(e);
		if (pick(&e->rng, 40) == 0)
			assert_int_equal(engine_flush(e), 0);
		if (pick(&e->rng, 100) == 0)
			engine_check_committed(e);
		if (pick(&e->rng, 300) == 0) {
			if (pick(&e->rng, 2)) {
				engine_reopen(e);
			} else {
				assert_int_equal(engine_flush(e), 0);
				engine_crash(
					e, (enum device_sim_crash_mode)pick(&e->rng, DEVICE_SIM_CRASH_MODES),
					rnd(&e->rng));
				engine_open(e);
			}
			engine_check_books(e);
			verify_world(&w);
			engine_check_all(e);
		}
	}
	verify_world(&w);
	engine_check_all(e);
	free_world(&w);
}

/* Device errors of data writes and reads, and lack of memory, at random, several lives long. */
static void test_space_books_are_exact_after_random_failures(void **state)
{
	struct world w = {.e = engine_new(POOL_BYTES, test_seed())};
	struct engine *e = w.e;
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL, .count = 1, .error = -EIO};

	for (unsigned i = 0; i < 20; i++)
		random_metadata_op(&w);
	for (unsigned i = 0; i < (SANITIZED ? 500 : 3000); i++) {
		bool faulty = pick(&e->rng, 3) == 0, starved = pick(&e->rng, 3) == 0;

		engine_commit(e); /* so that no commit meets the fault: that would be the end of the pool */
		if (faulty) {
			fault.ops = pick(&e->rng, 2) ? DEVICE_SIM_OP(DEVICE_WRITE)
						     : DEVICE_SIM_OP(DEVICE_READ);
			fault.skip = pick(&e->rng, 4);
			device_sim_fault_add(e->sim, &fault);
		}
		if (starved)
			mem_fail_at(1 + pick(&e->rng, 12));
		random_io(&w, faulty || starved);
		mem_fail_at(0);
		device_sim_fault_clear(e->sim);
		engine_check_books(e);
		assert_false(fs_is_read_only(e->fs));
	}
	verify_world(&w);
	engine_check_all(e);
	free_world(&w);
}

/* ---- memory runs out at the n-th allocation ------------------------------------------- */

#define PLACE (2 * MIB)
#define LARGE ((SANITIZED ? 2 : 11) * MIB)

struct attempt {
	const char *name;
	enum fs_op op;
	uint32_t flags;
	uint64_t off, len;
	bool cold; /* nothing of the volume is in the cache */
};

static const struct attempt attempts[] = {
	{"write of a block", FS_WRITE, 0, PLACE, 4096, false},
	{"write of a block, flushed", FS_WRITE, FS_FUA, PLACE, 4096, false},
	{"write of 100 bytes", FS_WRITE, 0, PLACE + 77, 100, false},
	{"write of 100 bytes, cold", FS_WRITE, 0, PLACE + 77, 100, true},
	{"write over three edges, cold", FS_WRITE, 0, PLACE + 4000, 8300, true},
	{"write of 64 KiB", FS_WRITE, 0, PLACE, 65536, false},
	{"large write, unaligned", FS_WRITE, 0, PLACE + 1, LARGE, true},
	{"trim of blocks", FS_TRIM, 0, PLACE, 65536, false},
	{"trim of blocks, flushed", FS_TRIM, FS_FUA, PLACE, 65536, false},
	{"trim inside of a block, cold", FS_TRIM, 0, PLACE + 3, 99, true},
	{"trim with two edges, cold", FS_TRIM, 0, PLACE + 100, 3 * MIB, true},
	{"zero of blocks", FS_ZERO, 0, PLACE, 65536, false},
	{"zero that keeps its space, of several chunks", FS_ZERO, FS_NO_HOLE, PLACE + 10,
	 2 * IO_ZERO_CHUNK + MIB, true},
};

struct lab {
	struct engine *e;
	struct fs_volume *vol;
	struct model old;
	uint8_t *new;
};

static void lab_init(struct lab *lab, uint64_t pool_bytes, uint64_t seed)
{
	lab->e = engine_new(pool_bytes, seed);
	lab->vol = engine_volume(lab->e, "v", 16 * MIB);
	model_init(&lab->old, 16 * MIB);
	lab->new = malloc(16 * MIB);
}

static void lab_fini(struct lab *lab)
{
	fs_volume_put(lab->vol);
	model_fini(&lab->old);
	free(lab->new);
	engine_free(lab->e);
}

/* A context that has nothing in store. */
static void fresh_context(struct engine *e)
{
	fs_ctx_free(e->ctx);
	assert_int_equal(fs_ctx_new(e->fs, &e->ctx), 0);
}

/* Old content is committed over all that the attempt may touch. */
static void lab_prepare(struct lab *lab, const struct attempt *a, uint64_t version)
{
	uint64_t from = round_down_u64(a->off, BLOCK) - BLOCK,
		 to = round_up_u64(a->off + a->len, BLOCK) + BLOCK;

	fill_bytes(lab->old.bytes + from, to - from, version);
	/* A commit, in which groups that the last attempt made and did not fill leave again. */
	assert_int_equal(engine_trim(lab->e, lab->vol, from, to - from), 0);
	engine_commit(lab->e);
	assert_int_equal(engine_write(lab->e, lab->vol, from, to - from, lab->old.bytes + from), 0);
	engine_commit(lab->e);
	memcpy(lab->new, lab->old.bytes, 16 * MIB);
	if (a->op == FS_WRITE)
		fill_bytes(lab->new + a->off, a->len, version + 1000000);
	else
		memset(lab->new + a->off, 0, a->len);
	if (a->cold) {
		fs_volume_put(lab->vol);
		engine_reopen(lab->e);
		lab->vol = engine_volume(lab->e, "v", 0);
		engine_commit(lab->e);
	}
	fresh_context(lab->e);
}

/* Each block is all old or all new; `whole`: new. */
static void lab_verify(struct lab *lab, const struct attempt *a, bool whole)
{
	uint64_t from = round_down_u64(a->off, BLOCK) - BLOCK,
		 to = round_up_u64(a->off + a->len, BLOCK) + BLOCK;
	uint8_t *got = malloc(to - from);

	assert_int_equal(engine_read(lab->e, lab->vol, from, to - from, got), 0);
	for (uint64_t at = from; at < to; at += BLOCK) {
		bool is_new = memcmp(got + at - from, lab->new + at, BLOCK) == 0;

		if (!is_new && (whole || memcmp(got + at - from, lab->old.bytes + at, BLOCK) != 0))
			fail_msg("%s: block at %llu is %s", a->name, (unsigned long long)at,
				 whole ? "not the new one" : "neither old nor new");
	}
	free(got);
}

static int run_attempt(struct lab *lab, const struct attempt *a)
{
	return engine_io(lab->e, lab->vol, a->op, a->flags, a->off, a->len, lab->new + a->off);
}

static void test_space_memory_out_at_any_allocation_of_a_request(void **state)
{
	struct lab lab;

	lab_init(&lab, POOL_BYTES, 1);
	for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
		const struct attempt *a = &attempts[i];
		bool done = false;
		unsigned n;

		for (n = 1; !done; n++) {
			bool fired;
			int r;

			/* the rest is more of the same, and slow there */
			if (SANITIZED && n > 12 && a->len > MIB)
				break;
			lab_prepare(&lab, a, n);
			mem_fail_at(n);
			r = run_attempt(&lab, a);
			fired = !mem_fail_pending();
			mem_fail_at(0);
			/* A block group that cannot be made for want of memory is space that is not there. */
			if (r && ((r != -ENOMEM && r != -ENOSPC) || !fired))
				fail_msg("%s, allocation %u: %s", a->name, n, strerror(-r));
			done = !fired;
			lab_verify(&lab, a, r == 0);
			engine_check_books(lab.e);
			assert_false(fs_is_read_only(lab.e->fs));
			if (n % 16 == 0)
				engine_check_all(lab.e);
			assert_true(n < 3000);
		}
		if (n < 3)
			fail_msg("%s: no allocation was made to fail", a->name);
		engine_check_all(lab.e);
	}
	lab_fini(&lab);
}

static void test_space_memory_out_at_any_allocation_of_a_read(void **state)
{
	const struct attempt a = {"read", FS_READ, 0, PLACE + 5, 3 * MIB, true};
	uint8_t *got = malloc(a.len);
	struct lab lab;
	bool done = false;

	lab_init(&lab, POOL_BYTES, 1);
	for (unsigned n = 1; !done; n++) {
		struct fs_io io = {.op = FS_READ, .vol = NULL, .off = a.off, .len = a.len, .buf = got};
		int r;

		lab_prepare(&lab, &a, 1);
		io.vol = lab.vol;
		mem_fail_at(n);
		r = n % 2 ? engine_read(lab.e, lab.vol, a.off, a.len, got) : fs_io_wait(lab.e->fs, &io);
		done = mem_fail_pending();
		mem_fail_at(0);
		assert_true(r == 0 || (r == -ENOMEM && !done));
		if (r == 0)
			assert_memory_equal(got, lab.old.bytes + a.off, a.len);
		assert_int_equal(engine_read(lab.e, lab.vol, a.off, a.len, got), 0);
		assert_memory_equal(got, lab.old.bytes + a.off, a.len);
		engine_check_books(lab.e);
	}
	lab_fini(&lab);
	free(got);
}

/* A flush without memory is done all the same, if need be by a commit, or fails and says so. */
static void test_space_memory_out_at_any_allocation_of_a_flush(void **state)
{
	const struct attempt a = {"flush", FS_WRITE, 0, PLACE, 300 * KIB, false};
	struct lab lab;
	bool done = false;
	unsigned n;

	lab_init(&lab, POOL_BYTES, 1);
	for (n = 1; !done; n++) {
		int r;

		lab_prepare(&lab, &a, n);
		mem_free(lab.e->fs->log->group.buf); /* one that fits would need no memory */
		lab.e->fs->log->group.buf = NULL;
		lab.e->fs->log->group.cap = 0;
		assert_int_equal(run_attempt(&lab, &a), 0);
		mem_fail_at(n);
		r = engine_flush(lab.e);
		done = mem_fail_pending();
		mem_fail_at(0);
		assert_true(r == 0 || (r == -ENOMEM && !done));
		if (r)
			assert_int_equal(engine_flush(lab.e), 0);
		engine_check_books(lab.e);
		fs_volume_put(lab.vol);
		engine_crash(lab.e, DEVICE_SIM_CRASH_LOSE_ALL, n);
		engine_check_device(lab.e->sim);
		engine_open(lab.e);
		lab.vol = engine_volume(lab.e, "v", 0);
		lab_verify(&lab, &a, true);
	}
	assert_true(n > 2);
	lab_fini(&lab);
}

/* A commit that lacks memory once ends well; nothing is lost, and the pool stays writable. */
static void test_space_memory_out_at_any_allocation_of_a_commit(void **state)
{
	struct lab lab;
	bool done = false;
	uint8_t *got = malloc(BLOCK);
	unsigned n, lost = 0;

	lab_init(&lab, POOL_BYTES, 1);
	for (n = 1; !done; n++) {
		int r;

		for (unsigned i = 0; i < 40; i++) { /* a tree of some leaves, changed here and there */
			uint64_t off = (n == 1 ? i * 30 : pick(&lab.e->rng, 4096)) * BLOCK;

			fill_bytes(lab.old.bytes + off, BLOCK, n * 1000 + i);
			assert_int_equal(engine_write(lab.e, lab.vol, off, BLOCK, lab.old.bytes + off), 0);
		}
		if (n % 4 == 0) {
			assert_int_equal(fs_volume_create(lab.e->fs, "gone", MIB, 0, NULL), 0);
			assert_int_equal(fs_volume_delete(lab.e->fs, "gone", NULL), 0);
			engine_commit(lab.e);
		}
		assert_int_equal(engine_write(lab.e, lab.vol, 0, BLOCK, lab.old.bytes), 0);
		mem_fail_at(n);
		r = fs_commit(lab.e->fs);
		done = mem_fail_pending();
		mem_fail_at(0);
		if (r) {
			print_message("allocation %u: the commit fails: %s\n", n, strerror(-r));
			lost++;
			fs_volume_put(lab.vol);
			engine_crash(lab.e, DEVICE_SIM_CRASH_LOSE_ALL, n);
			engine_check_device(lab.e->sim);
			engine_open(lab.e);
			lab.vol = engine_volume(lab.e, "v", 0);
			for (uint64_t at = 0; at < lab.old.size; at += BLOCK) {
				assert_int_equal(engine_read(lab.e, lab.vol, at, BLOCK, got), 0);
				memcpy(lab.old.bytes + at, got, BLOCK);
			}
		}
		engine_check_books(lab.e);
		model_verify_all(lab.e, lab.vol, &lab.old);
		if (n % 8 == 0)
			engine_check_all(lab.e);
	}
	print_message("%u allocations failed in turn, %u commits with them\n", n - 2, lost);
	assert_true(n > 5);
	assert_int_equal(lost, 0);
	engine_check_all(lab.e);
	lab_fini(&lab);
	free(got);
}

/* ---- volumes and pools without memory ---------------------------------------------------- */

struct names {
	unsigned count;
	uint64_t size;
	char first[FS_NAME_MAX + 1];
};

static int take_name(void *arg, const struct fs_volume_info *info)
{
	struct names *n = arg;

	if (strcmp(info->name, "v") == 0)
		return 0;
	n->count++;
	n->size = info->size;
	strcpy(n->first, info->name);
	return 0;
}

static void test_space_memory_out_at_any_allocation_of_a_volume_command(void **state)
{
	static const char *const command[] = {"create", "rename", "shrink", "grow", "delete"};
	struct lab lab;

	lab_init(&lab, POOL_BYTES, 1);
	for (unsigned c = 0; c < ARRAY_SIZE(command); c++) {
		bool done = false;

		for (unsigned n = 1; !done; n++) {
			struct names before = {0}, after = {0};
			struct fs_error err;
			int r = 0;

			if (c > 0) {
				struct fs_volume *vol;

				assert_int_equal(fs_volume_create(lab.e->fs, "a", 4 * MIB, 0, &err), 0);
				vol = engine_volume(lab.e, "a", 0);
				assert_int_equal(engine_write(lab.e, vol, 0, 4 * MIB, lab.new), 0);
				fs_volume_put(vol);
				engine_commit(lab.e);
			}
			fs_volume_list(lab.e->fs, take_name, &before);
			mem_fail_at(n);
			switch (c) {
			case 0: r = fs_volume_create(lab.e->fs, "a", 4 * MIB, 0, &err); break;
			case 1: r = fs_volume_rename(lab.e->fs, "a", "b", &err); break;
			case 2: r = fs_volume_resize(lab.e->fs, "a", 2 * MIB, &err); break;
			case 3: r = fs_volume_resize(lab.e->fs, "a", 8 * MIB, &err); break;
			default: r = fs_volume_delete(lab.e->fs, "a", &err);
			}
			done = mem_fail_pending();
			mem_fail_at(0);
			if (r && (r != -ENOMEM || done))
				fail_msg("%s, allocation %u: %s", command[c], n, err.msg);
			if (fs_is_read_only(lab.e->fs))
				fail_msg("%s, allocation %u: %s; the pool is read-only", command[c], n,
					 r ? err.msg : "done");
			fs_volume_list(lab.e->fs, take_name, &after);
			if (r == 0) {
				assert_int_equal(after.count, c == 4 ? 0 : 1);
				if (c < 4) {
					assert_int_equal(after.size, (c < 2 ? 4 : c == 2 ? 2 : 8) * MIB);
					assert_string_equal(after.first, c == 1 ? "b" : "a");
				}
			} else {
				assert_int_equal(after.count, before.count);
				assert_int_equal(after.size, before.size);
				assert_string_equal(after.first, before.first);
			}
			engine_check_books(lab.e);
			engine_check_all(lab.e);
			if (after.count)
				assert_int_equal(fs_volume_delete(lab.e->fs, after.first, &err), 0);
		}
	}
	lab_fini(&lab);
}

static void test_space_memory_out_at_any_allocation_of_open(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	uint8_t buf[4096], got[4096];
	bool done = false;

	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_write(e, vol, 0, 4096, buf), 0);
	engine_commit(e);
	assert_int_equal(engine_io(e, vol, FS_WRITE, FS_FUA, 8192, 4096, buf), 0); /* something to replay */
	fs_volume_put(vol);
	engine_abandon(e);
	for (unsigned n = 1; !done; n++) {
		struct device *image = device_sim_clone(e->sim, n);
		struct fs *fs = NULL;
		struct fs_options opt = {.cache_bytes = 8 * MIB};
		int r;

		mem_fail_at(n);
		r = pool_open(kept_device_new(image), &opt, &pool_without_threads, &fs, NULL);
		done = mem_fail_pending();
		mem_fail_at(0);
		assert_true(r == 0 || (r == -ENOMEM && !done));
		if (r == 0) {
			struct fs_io io = {.op = FS_READ, .off = 8192, .len = 4096, .buf = got};

			assert_int_equal(fs_volume_get(fs, "v", &io.vol), 0);
			assert_int_equal(fs_io_wait(fs, &io), 0);
			assert_memory_equal(buf, got, 4096);
			fs_volume_put(io.vol);
			assert_int_equal(fs_close(fs), 0);
		}
		engine_check_device(image);
		device_close(image);
	}
	engine_free(e);
}

/* ---- space runs out at the n-th reservation ------------------------------------------------- */

static void test_space_out_at_any_reservation_of_a_request(void **state)
{
	struct lab lab;

	lab_init(&lab, 64 * MIB, 1);
	for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
		const struct attempt *a = &attempts[i];
		uint64_t step = a->len > MIB ? (SANITIZED ? 2 * MIB : 600 * KIB) : BLOCK;
		uint64_t blocks = a->op == FS_WRITE ? (a->off % BLOCK + a->len + BLOCK - 1) / BLOCK
						    : IO_ZERO_CHUNK / BLOCK;
		bool frees = a->op == FS_TRIM || (a->op == FS_ZERO && !(a->flags & FS_NO_HOLE));
		bool done = false;
		unsigned refused = 0;

		for (uint64_t left = 0; !done; left += step) {
			struct space_reservation held;
			int r;

			lab_prepare(&lab, a, left / BLOCK + 1);
			held = hold_all_but(lab.e, left, blocks);
			r = run_attempt(&lab, a);
			if (r && (r != -ENOSPC || frees))
				fail_msg("%s, %llu bytes left: %s", a->name, (unsigned long long)left,
					 strerror(-r));
			done = r == 0;
			refused += r != 0;
			lab_verify(&lab, a, done);
			space_unreserve(lab.e->fs, &held);
			engine_check_books(lab.e);
			assert_true(left < 40 * MIB);
		}
		if (frees ? refused > 0 : refused == 0)
			fail_msg("%s: refused %u times", a->name, refused);
		engine_check_all(lab.e);
	}
	lab_fini(&lab);
}

/* As much metadata is promised as may be: what frees goes on, from the reserve. */
static void test_space_frees_when_all_metadata_is_promised(void **state)
{
	struct space_ticket held[64];
	unsigned n = 0;
	struct lab lab;

	lab_init(&lab, 64 * MIB, 1);
	assert_int_equal(engine_write(lab.e, lab.vol, 0, 8 * BLOCK, lab.new), 0);
	engine_commit(lab.e);
	for (uint64_t touches = 1 << 16; touches > 0; touches /= 2) {
		for (;; n++) {
			held[n] = (struct space_ticket){.flags = SPACE_NOTICKET,
							.want = {.pending = {touches, touches * 100}}};
			assert_true(n + 1 < ARRAY_SIZE(held));
			if (space_reserve(lab.e->fs, &held[n]))
				break;
		}
	}
	lab.e->hold_commits = true; /* one would not help */
	for (uint64_t b = 0; b < 8; b++)
		assert_int_equal(engine_trim(lab.e, lab.vol, b * BLOCK + b % 2 * 100, BLOCK - b % 2 * 200),
				 0);
	lab.e->hold_commits = false;
	while (n > 0)
		space_unreserve(lab.e->fs, &held[--n].want);
	engine_check_all(lab.e);
	lab_fini(&lab);
}

/* ---- those who wait -------------------------------------------------------------------------- */

static void test_space_waiting_requests_are_served_in_order(void **state)
{
	struct lab lab;
	struct space_reservation held;
	struct fs_io big, small, trim;
	unsigned big_left = 0, small_left = 0, trim_left = 0;
	struct fs_info info;

	lab_init(&lab, 64 * MIB, 1);
	assert_int_equal(engine_write(lab.e, lab.vol, 0, 12 * MIB, lab.new), 0);
	engine_commit(lab.e);
	assert_int_equal(engine_trim(lab.e, lab.vol, 0, 8 * MIB), 0);
	/* what the trim freed is only to be had after a commit, which nobody has run yet */
	held = hold_all_but(lab.e, MIB, 6 * MIB / BLOCK);
	big = (struct fs_io){.op = FS_WRITE, .vol = lab.vol, .len = 6 * MIB, .buf = lab.new};
	small = (struct fs_io){.op = FS_WRITE, .vol = lab.vol, .off = 14 * MIB, .len = BLOCK, .buf = lab.new};
	trim = (struct fs_io){.op = FS_TRIM, .vol = lab.vol, .off = 15 * MIB, .len = BLOCK};
	engine_submit(lab.e, &big, 1, &big_left);
	engine_submit(lab.e, &small, 1, &small_left);
	for (unsigned i = 0; i < 20; i++)
		fs_ctx_run(lab.e->ctx);
	assert_int_equal(big_left, 1);
	assert_int_equal(small_left, 1); /* it would fit, but does not overtake */
	assert_int_equal(lab.e->fs->space->nr_tickets, 2);
	engine_submit(lab.e, &trim, 1, &trim_left); /* what frees space need not wait */
	for (unsigned i = 0; i < 20; i++)
		fs_ctx_run(lab.e->ctx);
	assert_int_equal(trim_left, 0);
	assert_int_equal(trim.error, 0);
	while (big_left || small_left) {
		assert_true(big_left || small_left == 0 || lab.e->fs->space->nr_tickets < 2);
		if (!small_left)
			assert_true(lab.e->fs->space->nr_tickets == 0);
		pool_step(lab.e->fs);
		fs_ctx_run(lab.e->ctx);
	}
	assert_int_equal(big.error, 0);
	assert_int_equal(small.error, 0);
	fs_get_info(lab.e->fs, &info);
	assert_int_equal(info.enospc, 0);
	space_unreserve(lab.e->fs, &held);
	engine_check_all(lab.e);
	lab_fini(&lab);
}

static void test_space_impossible_request_is_refused_and_the_next_one_served(void **state)
{
	struct lab lab;
	struct space_reservation held;
	struct fs_io io[2];
	unsigned left = 0;
	struct fs_info info;

	lab_init(&lab, 64 * MIB, 1);
	/* so that a commit might help */
	assert_int_equal(engine_write(lab.e, lab.vol, 0, 2 * MIB, lab.new), 0);
	held = hold_all_but(lab.e, MIB, 6 * MIB / BLOCK);
	io[0] = (struct fs_io){.op = FS_WRITE, .vol = lab.vol, .len = 6 * MIB, .buf = lab.new};
	io[1] = (struct fs_io){
		.op = FS_WRITE, .vol = lab.vol, .off = 8 * MIB, .len = 64 * KIB, .buf = lab.new};
	engine_submit(lab.e, io, 2, &left);
	engine_wait(lab.e, &left);
	assert_int_equal(io[0].error, -ENOSPC);
	assert_int_equal(io[1].error, 0);
	fs_get_info(lab.e->fs, &info);
	assert_int_equal(info.enospc, 1);
	space_unreserve(lab.e->fs, &held);
	engine_check_all(lab.e);
	lab_fini(&lab);
}

/* A request that goes away while it waits (the pool turns read-only) gives everything back. */
static void test_space_waiting_requests_end_when_the_pool_turns_read_only(void **state)
{
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .error = -EIO};
	struct fs_io io[8];
	struct space_reservation held;
	struct lab lab;
	unsigned left = 0;

	lab_init(&lab, 64 * MIB, 1);
	assert_int_equal(engine_write(lab.e, lab.vol, 0, 2 * MIB, lab.new), 0);
	held = hold_all_but(lab.e, 0, MIB / BLOCK);
	for (unsigned i = 0; i < 8; i++)
		io[i] = (struct fs_io){
			.op = FS_WRITE, .vol = lab.vol, .off = i * MIB, .len = MIB, .buf = lab.new};
	device_sim_fault_add(lab.e->sim, &fault);
	engine_submit(lab.e, io, 8, &left);
	engine_wait(lab.e, &left);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(io[i].error, -EROFS);
	space_unreserve(lab.e->fs, &held);
	assert_int_equal(lab.e->fs->space->kind[SPACE_DATA].may_use, 0);
	assert_int_equal(lab.e->fs->space->in_flight.touches, 0);
	assert_int_equal(extent_state_count(&lab.vol->states), 0);
	lab_fini(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_space_books_are_exact_after_random_work),
		cmocka_unit_test(test_space_books_are_exact_after_random_failures),
		cmocka_unit_test(test_space_memory_out_at_any_allocation_of_a_request),
		cmocka_unit_test(test_space_memory_out_at_any_allocation_of_a_read),
		cmocka_unit_test(test_space_memory_out_at_any_allocation_of_a_flush),
		cmocka_unit_test(test_space_memory_out_at_any_allocation_of_a_commit),
		cmocka_unit_test(test_space_memory_out_at_any_allocation_of_a_volume_command),
		cmocka_unit_test(test_space_memory_out_at_any_allocation_of_open),
		cmocka_unit_test(test_space_out_at_any_reservation_of_a_request),
		cmocka_unit_test(test_space_frees_when_all_metadata_is_promised),
		cmocka_unit_test(test_space_waiting_requests_are_served_in_order),
		cmocka_unit_test(test_space_impossible_request_is_refused_and_the_next_one_served),
		cmocka_unit_test(test_space_waiting_requests_end_when_the_pool_turns_read_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
