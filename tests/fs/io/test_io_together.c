/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/io/test_io_together.c: many requests under way at once, and requests during a commit: overlapping
 * ones do not mix, each block ends as one of them left it, and readers keep what they looked up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/util.h"
#include "fs/io/ctx.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/volume/volume.h"
#include "fs/device/work.h"

#define POOL_BYTES (192 * MIB)

/* ---- several at once -------------------------------------------------------------- */

/* Two that overlap: the bytes that both write are all of one of them. */
static void test_io_overlapping_writes_do_not_mix(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t size = 64 * BLOCK;
	struct fs_volume *vol = engine_volume(e, "v", size);
	uint8_t *buf[2] = {malloc(size), malloc(size)}, *got = malloc(size);

	device_sim_set_order(e->sim, DEVICE_SIM_RANDOM, 2);
	for (unsigned round = 0; round < 3000 / (1 + 4 * SANITIZED); round++) {
		struct fs_io io[2];
		unsigned left = 0, winner = 2;

		memset(got, 0x33, size);
		assert_int_equal(engine_write(e, vol, 0, size, got), 0);
		for (unsigned i = 0; i < 2; i++) {
			uint64_t len = 1 + pick(&e->rng, pick(&e->rng, 2) ? 3 * BLOCK : size),
				 off = pick(&e->rng, size - len + 1);

			memset(buf[i], (int)(i + 1), size);
			io[i] = (struct fs_io){
				.op = FS_WRITE, .vol = vol, .off = off, .len = len, .buf = buf[i]};
		}
		engine_submit(e, io, 2, &left);
		engine_wait(e, &left);
		assert_int_equal(io[0].error | io[1].error, 0);
		assert_int_equal(engine_read(e, vol, 0, size, got), 0);
		for (uint64_t b = 0; b < size; b++) {
			bool in[2] = {b - io[0].off < io[0].len, b - io[1].off < io[1].len};

			if (in[0] && in[1]) {
				if (winner == 2)
					winner = got[b] - 1u;
				assert_true(winner < 2);
				assert_int_equal(got[b], winner + 1);
			} else {
				assert_int_equal(got[b], in[0] ? 1 : in[1] ? 2 : 0x33);
			}
		}
	}
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf[0]);
	free(buf[1]);
	free(got);
	engine_free(e);
}

#define FLIGHT 200u

/*
 * Many of all kinds: each block ends as one of the requests on it left it; reads see nothing that nobody
 * wrote.
 */
static void test_io_many_in_flight_leave_what_some_of_them_wrote(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t blocks = 128, size = blocks * BLOCK;
	struct fs_volume *vol = engine_volume(e, "v", size);
	uint8_t *data = malloc(FLIGHT * 8 * BLOCK), *got = malloc(8 * BLOCK);
	static struct fs_io io[FLIGHT];
	uint8_t was[128] = {0};

	device_sim_set_order(e->sim, DEVICE_SIM_RANDOM, 7);
	for (unsigned round = 0; round < 200 / (1 + 9 * SANITIZED); round++) {
		bool may[128][256] = {{false}}; /* what a block may hold: a byte value, all over */
		unsigned left = 0;

		for (uint64_t b = 0; b < blocks; b++)
			may[b][was[b]] = true;
		for (unsigned i = 0; i < FLIGHT; i++) {
			static const enum fs_op ops[] = {FS_WRITE, FS_WRITE, FS_READ, FS_TRIM,
							 FS_ZERO,  FS_FLUSH, FS_CACHE};
			uint64_t n = 1 + pick(&e->rng, 8), b = pick(&e->rng, blocks - n + 1);

			io[i] = (struct fs_io){.op = ops[pick(&e->rng, ARRAY_SIZE(ops))],
					       .vol = vol,
					       .off = b * BLOCK,
					       .len = n * BLOCK,
					       .buf = data + i * 8 * BLOCK};
			memset(io[i].buf, (int)(1 + i), 8 * BLOCK);
			if (io[i].op == FS_ZERO && pick(&e->rng, 2))
				io[i].flags = FS_NO_HOLE;
			if (io[i].op == FS_WRITE && pick(&e->rng, 10) == 0)
				io[i].flags = FS_FUA;
			for (uint64_t k = b; k < b + n; k++) {
				if (io[i].op == FS_WRITE)
					may[k][1 + i] = true;
				if (io[i].op == FS_TRIM || io[i].op == FS_ZERO)
					may[k][0] = true;
			}
		}
		for (unsigned at = 0; at < FLIGHT; at += 50)
			engine_submit(e, io + at, 50, &left);
		engine_wait(e, &left);
		for (unsigned i = 0; i < FLIGHT; i++) {
			assert_int_equal(io[i].error, 0);
			for (uint64_t at = 0; io[i].op == FS_READ && at < io[i].len; at += BLOCK) {
				uint8_t *p = (uint8_t *)io[i].buf + at;

				assert_true(may[(io[i].off + at) / BLOCK][p[0]]);
				assert_memory_equal(p, p + 1, BLOCK - 1);
			}
		}
		for (uint64_t b = 0; b < blocks; b++) {
			assert_int_equal(engine_read(e, vol, b * BLOCK, BLOCK, got), 0);
			assert_memory_equal(got, got + 1, BLOCK - 1);
			assert_true(may[b][got[0]]);
			was[b] = got[0];
		}
		if (round % 10 == 0)
			engine_check_committed(e);
	}
	fs_volume_put(vol);
	engine_check_all(e);
	free(data);
	free(got);
	engine_free(e);
}

/* ---- during a commit ----------------------------------------------------------------- */

struct during {
	struct engine *e;
	struct fs_volume *vol;
	struct model *m;
	unsigned calls, skip;
	bool inside;
};

/* pool_step would begin a second commit: only workers run. */
static int io_during(struct during *d, enum fs_op op, uint64_t off, uint64_t len, void *buf)
{
	struct fs_io io = {.op = op, .vol = d->vol, .off = off, .len = len, .buf = buf};
	unsigned left = 0;

	engine_submit(d->e, &io, 1, &left);
	for (unsigned i = 0; left; i++) {
		(void)work_run_one(d->e->fs->work);
		fs_ctx_run(d->e->ctx);
		assert_true(i < STEPS_MAX);
	}
	return io.error;
}

/* At each request of the commit: everything reads as it was last written, and can be written and trimmed. */
static void use_it(void *arg, struct device_queue *q, const struct device_io *dio)
{
	struct during *d = arg;
	uint64_t off, len;
	uint8_t *buf;

	if (q != d->e->fs->commit_q || d->inside)
		return;
	d->inside = true;
	d->calls++;
	buf = malloc(d->m->size);
	for (unsigned i = 0; i < 6; i++) {
		len = 1 + pick(&d->e->rng, 50000);
		off = pick(&d->e->rng, d->m->size - len + 1);
		fill_bytes(buf, len, rnd(&d->e->rng));
		if (pick(&d->e->rng, 3)) {
			assert_int_equal(io_during(d, FS_WRITE, off, len, buf), 0);
			memcpy(d->m->bytes + off, buf, len);
		} else {
			assert_int_equal(io_during(d, FS_TRIM, off, len, NULL), 0);
			memset(d->m->bytes + off, 0, len);
		}
	}
	for (off = 0; off < d->m->size; off += len) {
		len = min_u64(1 + pick(&d->e->rng, 300000), d->m->size - off);
		assert_int_equal(io_during(d, FS_READ, off, len, buf), 0);
		assert_memory_equal(buf, d->m->bytes + off, len);
	}
	free(buf);
	d->inside = false;
}

static void test_io_goes_on_during_a_commit(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 2 * MIB};
	struct engine *e = engine_new_with(POOL_BYTES, seed, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 4 * MIB);
	struct model m;
	struct during d = {.e = e, .vol = vol, .m = &m};

	model_init(&m, 4 * MIB);
	for (unsigned round = 0; round < 12 / (1 + SANITIZED); round++) {
		for (unsigned i = 0; i < 60; i++) {
			uint64_t len = 1 + pick(&e->rng, 30000);

			apply_both(e, vol, &m, changing_ops[pick(&e->rng, ARRAY_SIZE(changing_ops))],
				   pick(&e->rng, m.size - len + 1), len);
		}
		engine_settle(e);
		engine_device(e)->arg = &d;
		engine_device(e)->before_submit = use_it;
		assert_int_equal(fs_commit(e->fs), 0);
		engine_device(e)->before_submit = NULL;
		model_verify_all(e, vol, &m);
		/* what was written meanwhile belongs to the next commit, or to the log */
		if (round % 3 == 0) {
			assert_int_equal(engine_flush(e), 0);
			fs_volume_put(vol);
			engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, rnd(&e->rng));
			engine_check_device(e->sim);
			engine_open(e);
			d.vol = vol = engine_volume(e, "v", 0);
			model_verify_all(e, vol, &m);
		}
	}
	assert_true(d.calls > 40);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* A reader that looked up a place before a commit reads what stood there, although the commit freed it. */
static void test_io_reader_keeps_what_a_commit_frees(void **state)
{
	struct engine *e = engine_new(32 * MIB, 1);
	struct fs_volume *vol = engine_volume(e, "v", 24 * MIB);
	uint8_t *old = malloc(MIB), *new = malloc(MIB), *got = malloc(MIB);
	struct fs_io io = {.op = FS_READ, .vol = vol, .len = MIB, .buf = got};
	unsigned left = 0, filled = 0;

	fill_bytes(old, MIB, 1);
	fill_bytes(new, MIB, 2);
	assert_int_equal(engine_write(e, vol, 0, MIB, old), 0);
	engine_commit(e);
	fs_volume_put(vol);
	engine_reopen(e); /* nothing is cached */
	io.vol = vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_io(e, vol, FS_READ, 0, 8 * MIB, 4096, got), 0); /* but the nodes */
	engine_submit(e, &io, 1, &left); /* on its way to the device, which has not answered */
	assert_int_equal(left, 1);
	/* From another context: it is replaced, committed, and everything that can be had is written. */
	{
		struct fs_io w = {.op = FS_WRITE, .vol = vol, .len = MIB, .buf = new};
		struct fs_ctx *ctx;
		unsigned wleft;

		assert_int_equal(fs_ctx_new(e->fs, &ctx), 0);
		for (uint64_t off = 0; off < 24 * MIB; off += MIB) {
			w.off = off;
			w.done = engine_io_done;
			w.arg = &wleft;
			wleft = 1;
			fs_submit(ctx, (struct fs_io *const[]){&w}, 1);
			/* near full it waits for space that the reader holds */
			for (unsigned i = 0; wleft && i < 1000; i++) {
				fs_ctx_run(ctx);
				pool_step(e->fs);
			}
			if (wleft)
				break;
			filled += w.error == 0;
			(void)fs_commit(e->fs);
			assert_int_equal(left, 1);
		}
		assert_true(filled > 10);
		engine_wait(e, &left);
		assert_int_equal(io.error, 0);
		assert_memory_equal(got, old, MIB);
		for (unsigned i = 0; wleft && i < 100000; i++) {
			fs_ctx_run(ctx);
			pool_step(e->fs);
		}
		assert_int_equal(wleft, 0);
		fs_ctx_free(ctx);
	}
	assert_int_equal(engine_read(e, vol, 0, MIB, got), 0);
	assert_memory_equal(got, new, MIB);
	fs_volume_put(vol);
	engine_check_all(e);
	free(old);
	free(new);
	free(got);
	engine_free(e);
}

/* ---- the order of arrival ------------------------------------------------------------ */

/* Two requests, the second sent when the first is under way and nothing of it has reached the device. */
static void send_both(struct engine *e, struct fs_io *ios)
{
	unsigned left = 0;

	engine_submit(e, &ios[0], 1, &left);
	assert_int_equal(left, 1);
	engine_submit(e, &ios[1], 1, &left);
	engine_wait(e, &left);
	assert_int_equal(ios[0].error, 0);
	assert_int_equal(ios[1].error, 0);
}

/*
 * Regression: whether the edge of a trim lay in a hole was looked up while an earlier write to it was still
 * on its way.
 */
static void test_io_ragged_trim_comes_after_an_earlier_write(void **state)
{
	static const struct {
		uint64_t off, len;
	} trims[] = {{100, 300},       {100, BLOCK - 100},   {0, 300},
		     {100, 2 * BLOCK}, {50, 3 * BLOCK - 50}, {1, 3 * BLOCK - 2}};
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 4 * MIB);
	struct model m;

	model_init(&m, 4 * MIB);
	for (size_t i = 0; i < ARRAY_SIZE(trims); i++) {
		for (unsigned zero = 0; zero < 2; zero++) { /* each in a place that is a hole */
			uint64_t at = (2 * i + zero) * 16 * BLOCK;
			struct fs_io ios[2] = {{.op = FS_WRITE,
						.vol = vol,
						.off = at,
						.len = 4 * BLOCK,
						.buf = m.bytes + at},
					       {.op = zero ? FS_ZERO : FS_TRIM,
						.vol = vol,
						.off = at + trims[i].off,
						.len = trims[i].len}};
			uint8_t *buf = malloc(4 * BLOCK);

			fill_bytes(buf, 4 * BLOCK, i + 1);
			ios[0].buf = buf;
			send_both(e, ios);
			memcpy(m.bytes + at, buf, 4 * BLOCK);
			memset(m.bytes + at + trims[i].off, 0, trims[i].len);
			model_verify(e, vol, &m, at, 4 * BLOCK);
			free(buf);
		}
	}
	engine_commit(e);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	model_fini(&m);
	engine_check_all(e);
	engine_free(e);
}

/*
 * Regression: zeros that keep their space were written piece by piece, each taking its place in the order
 * when its turn came.
 */
static void test_io_long_zeros_do_not_hit_a_later_write(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 16 * MIB);
	uint8_t *buf = malloc(BLOCK);
	struct fs_io ios[2] = {{.op = FS_ZERO, .flags = FS_NO_HOLE, .vol = vol, .off = 0, .len = 9 * MIB},
			       {.op = FS_WRITE, .vol = vol, .off = 8 * MIB, .len = BLOCK, .buf = buf}};
	struct model m;

	model_init(&m, 16 * MIB);
	fill_bytes(buf, BLOCK, 7);
	send_both(e, ios);
	memcpy(m.bytes + 8 * MIB, buf, BLOCK);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	free(buf);
	model_fini(&m);
	engine_check_all(e);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_overlapping_writes_do_not_mix),
		cmocka_unit_test(test_io_many_in_flight_leave_what_some_of_them_wrote),
		cmocka_unit_test(test_io_goes_on_during_a_commit),
		cmocka_unit_test(test_io_reader_keeps_what_a_commit_frees),
		cmocka_unit_test(test_io_ragged_trim_comes_after_an_earlier_write),
		cmocka_unit_test(test_io_long_zeros_do_not_hit_a_later_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
