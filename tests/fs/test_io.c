/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/test_io.c: requests against a byte model: every alignment, every size, several at once, during a commit,
 * and what happens when the device lies or fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/extent.h"
#include "tests/fs/engine.h"

#define POOL_BYTES (192 * MIB)

/* ---- operations on pool and model together -------------------------------------- */

struct op {
	enum fs_op op;
	uint32_t flags;
};

static const struct op changing_ops[] = {
	{FS_WRITE, 0}, {FS_TRIM, 0}, {FS_ZERO, 0}, {FS_ZERO, FS_NO_HOLE}, {FS_WRITE, FS_FUA}, {FS_TRIM, FS_FUA},
};

static void apply_both(struct engine *e, struct fs_volume *vol, struct model *m, struct op op, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len + 1);
	int r;

	assert_non_null(buf);
	fill_bytes(buf, len, rnd(&e->rng));
	r = engine_io(e, vol, op.op, op.flags, off, len, op.op == FS_WRITE ? buf : NULL);
	if (r)
		fail_msg("op %d flags %u off %llu len %llu: %s; %s", op.op, op.flags, (unsigned long long)off,
			 (unsigned long long)len, strerror(-r), e->log);
	if (op.op == FS_WRITE)
		memcpy(m->bytes + off, buf, len);
	else
		memset(m->bytes + off, 0, len);
	free(buf);
}

/* What was there before: a hole, data of this transaction, or data of a committed one; or some of each. */
enum before { BEFORE_HOLE, BEFORE_PENDING, BEFORE_COMMITTED, BEFORE_MIXED, BEFORES };

static void prepare(struct engine *e, struct fs_volume *vol, struct model *m, enum before before, uint64_t off, uint64_t len)
{
	apply_both(e, vol, m, (struct op){FS_TRIM, 0}, off, len);
	if (before == BEFORE_HOLE)
		return;
	if (before == BEFORE_MIXED) {
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, 2 * BLOCK);
		engine_commit(e);
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off + BLOCK, 2 * BLOCK);
		return;
	}
	apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, len);
	if (before == BEFORE_COMMITTED)
		engine_commit(e);
}

static void test_io_every_alignment_near_block_borders(void **state)
{
	static const uint64_t border[] = {0, 1, 2047, 4095, 4096, 4097, 6000, 8191, 8192, 8193, 12287, 12288, 12289, 16384};
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 6 * BLOCK);
	struct model m;

	model_init(&m, 6 * BLOCK);
	for (int before = 0; before < BEFORES; before++) {
		for (size_t o = 0; o < ARRAY_SIZE(changing_ops); o++) {
			for (size_t a = 0; a < ARRAY_SIZE(border); a++) {
				for (size_t b = a + 1; b < ARRAY_SIZE(border); b += 1 + 4 * SANITIZED) {
					prepare(e, vol, &m, before, BLOCK, 4 * BLOCK);
					apply_both(e, vol, &m, changing_ops[o], BLOCK + border[a], border[b] - border[a]);
					model_verify(e, vol, &m, 0, m.size);
					model_verify(e, vol, &m, BLOCK + border[a], border[b] - border[a]);
				}
			}
		}
	}
	for (size_t a = 0; a < ARRAY_SIZE(border); a++)
		for (size_t b = a + 1; b < ARRAY_SIZE(border); b++)
			model_verify(e, vol, &m, border[a], border[b] - border[a]);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static uint64_t random_len(uint64_t *rng)
{
	switch (pick(rng, 8)) {
	case 0: return 1 + pick(rng, FS_IO_MAX);
	case 1: return 1 + pick(rng, MIB);
	case 2: return (1 + pick(rng, 64)) * BLOCK;
	case 3: return BLOCK;
	default: return 1 + pick(rng, 20000);
	}
}

static void test_io_random_against_a_byte_model(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 4 * MIB}; /* less than a request can be */
	struct engine *e = engine_new_with(POOL_BYTES, seed, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 40 * MIB + 12 * KIB);
	struct model m;

	model_init(&m, 40 * MIB + 12 * KIB);
	for (unsigned i = 0; i < (SANITIZED ? 150 : 1200); i++) {
		uint64_t len = random_len(&e->rng), off, at;

		off = pick(&e->rng, m.size - len + 1);
		apply_both(e, vol, &m, changing_ops[pick(&e->rng, ARRAY_SIZE(changing_ops))], off, len);
		at = off > 9000 ? off - 9000 : 0;
		model_verify(e, vol, &m, at, min_u64(len + 18000, min_u64(FS_IO_MAX, m.size - at)));
		if (pick(&e->rng, 30) == 0)
			engine_check_books(e);
		if (pick(&e->rng, 60) == 0)
			engine_commit(e);
		if (pick(&e->rng, 200) == 0) {
			assert_int_equal(engine_flush(e), 0);
			fs_volume_put(vol);
			if (pick(&e->rng, 2)) {
				engine_reopen(e);
			} else {
				engine_crash(e, (enum device_sim_crash_mode)pick(&e->rng, DEVICE_SIM_CRASH_MODES), rnd(&e->rng));
				engine_open(e);
			}
			vol = engine_volume(e, "v", 0);
			model_verify_all(e, vol, &m);
		}
	}
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static void test_io_largest_request_at_any_alignment(void **state)
{
	struct fs_options opt = {.cache_bytes = 2 * MIB};
	struct engine *e = engine_new_with(POOL_BYTES, 1, &opt);
	uint64_t size = FS_IO_MAX + 8 * BLOCK;
	struct fs_volume *vol = engine_volume(e, "v", size);
	static const uint64_t off[] = {0, 1, 4095, 4097};
	struct model m;
	void *buf = calloc(1, FS_IO_MAX + 1);

	model_init(&m, size);
	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, off[i], FS_IO_MAX);
		model_verify(e, vol, &m, off[i], FS_IO_MAX);
		model_verify_all(e, vol, &m);
	}
	assert_int_equal(engine_write(e, vol, 0, FS_IO_MAX + 1, buf), -EINVAL);
	assert_int_equal(engine_read(e, vol, 0, FS_IO_MAX + 1, buf), -EINVAL);
	assert_int_equal(engine_write(e, vol, 5, 0, NULL), 0);
	assert_int_equal(engine_read(e, vol, size, 0, NULL), 0);
	apply_both(e, vol, &m, (struct op){FS_ZERO, FS_NO_HOLE}, 1, size - 2); /* no bound for what carries no data */
	apply_both(e, vol, &m, (struct op){FS_TRIM, 0}, 1, size - 2);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	free(buf);
	engine_free(e);
}

static void test_io_past_the_end_is_refused_and_changes_nothing(void **state)
{
	static const uint64_t over[][2] = {{0, 4}, {3, 2}, {4, 1}, {4, 0}, {5, 0}, {UINT64_MAX, 1}, {1, UINT64_MAX}};
	struct engine *e = engine_new(POOL_BYTES, 1);
	uint64_t size = 4 * BLOCK;
	struct fs_volume *vol = engine_volume(e, "v", size);
	uint8_t buf[5 * FS_BLOCK_SIZE];
	struct model m;

	model_init(&m, size);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, size);
	for (size_t i = 0; i < ARRAY_SIZE(over); i++) {
		/* In blocks, and to the byte just beyond. */
		uint64_t off = over[i][0] == UINT64_MAX ? UINT64_MAX : over[i][0] * BLOCK;
		uint64_t len = over[i][1] == UINT64_MAX ? UINT64_MAX : over[i][1] * BLOCK;
		bool fits = off <= size && len <= size - off;

		for (uint64_t more = 0; more < (len == UINT64_MAX ? 1 : 2); more++) {
			bool ok = fits && (more == 0 || len < size - off);

			assert_int_equal(engine_read(e, vol, off, len + more, buf), ok ? 0 : -EINVAL);
			assert_int_equal(engine_io(e, vol, FS_CACHE, 0, off, len + more, NULL), ok ? 0 : -EINVAL);
			if (ok)
				continue;
			assert_int_equal(engine_write(e, vol, off, len + more, buf), -ENOSPC);
			assert_int_equal(engine_trim(e, vol, off, len + more), -ENOSPC);
			assert_int_equal(engine_io(e, vol, FS_ZERO, 0, off, len + more, NULL), -ENOSPC);
			assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, off, len + more, NULL), -ENOSPC);
		}
	}
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

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
			uint64_t len = 1 + pick(&e->rng, pick(&e->rng, 2) ? 3 * BLOCK : size), off = pick(&e->rng, size - len + 1);

			memset(buf[i], (int)(i + 1), size);
			io[i] = (struct fs_io){.op = FS_WRITE, .vol = vol, .off = off, .len = len, .buf = buf[i]};
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

/* Many of all kinds: each block ends as one of the requests on it left it; reads see nothing that nobody wrote. */
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
			static const enum fs_op ops[] = {FS_WRITE, FS_WRITE, FS_READ, FS_TRIM, FS_ZERO, FS_FLUSH, FS_CACHE};
			uint64_t n = 1 + pick(&e->rng, 8), b = pick(&e->rng, blocks - n + 1);

			io[i] = (struct fs_io){.op = ops[pick(&e->rng, ARRAY_SIZE(ops))], .vol = vol, .off = b * BLOCK,
					       .len = n * BLOCK, .buf = data + i * 8 * BLOCK};
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
		(void)work_run_one(&d->e->fs->work);
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
		if (round % 3 == 0) { /* what was written meanwhile belongs to the next commit, or to the log */
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
			for (unsigned i = 0; wleft && i < 1000; i++) { /* near full it waits for space that the reader holds */
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

/* ---- durability, holes, cache ------------------------------------------------------------ */

static void test_io_fua_is_durable_by_itself(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct model m;

	model_init(&m, 64 * BLOCK);
	fs_volume_put(engine_volume(e, "v", m.size));
	for (unsigned i = 0; i < 40; i++) {
		static const struct op ops[] = {{FS_WRITE, FS_FUA}, {FS_TRIM, FS_FUA}, {FS_ZERO, FS_FUA}, {FS_ZERO, FS_FUA | FS_NO_HOLE}};
		struct fs_volume *vol = engine_volume(e, "v", 0);
		uint64_t len = 1 + pick(&e->rng, 30000);

		if (i % 2) /* a flush covers it too */
			apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, pick(&e->rng, m.size - 5000), 5000);
		apply_both(e, vol, &m, ops[i % ARRAY_SIZE(ops)], pick(&e->rng, m.size - len + 1), len);
		fs_volume_put(vol);
		engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, i);
		engine_check_device(e->sim);
		engine_open(e);
		vol = engine_volume(e, "v", 0);
		model_verify_all(e, vol, &m);
		fs_volume_put(vol);
	}
	model_fini(&m);
	engine_free(e);
}

/* Also shows that the test above can fail: what nobody flushed is lost with the machine. */
static void test_io_without_flush_is_lost_with_the_machine(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	uint8_t buf[4096], zero[4096] = {0}, got[4096];

	engine_commit(e);
	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_write(e, vol, 0, 4096, buf), 0);
	fs_volume_put(vol);
	engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_open(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_read(e, vol, 0, 4096, got), 0);
	assert_memory_equal(got, zero, 4096);
	fs_volume_put(vol);
	engine_free(e);
}

struct mapped {
	uint8_t *hole; /* by block: 1 hole, 0 data */
	uint64_t next, pieces, stop_after;
};

static int take_piece(void *arg, uint64_t off, uint64_t len, bool hole)
{
	struct mapped *mp = arg;

	assert_int_equal(off, mp->next);
	assert_true(len > 0);
	for (uint64_t b = off / BLOCK; b <= (off + len - 1) / BLOCK; b++)
		mp->hole[b] = hole;
	mp->next = off + len;
	return ++mp->pieces == mp->stop_after ? 42 : 0;
}

static void test_io_map_shows_what_is_allocated(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t blocks = 300;
	struct fs_volume *vol = engine_volume(e, "v", blocks * BLOCK);
	uint8_t hole[300], got[300], buf[20 * FS_BLOCK_SIZE];
	struct mapped mp = {.hole = got};

	memset(hole, 1, sizeof(hole));
	memset(buf, 7, sizeof(buf));
	for (unsigned round = 0; round < 1500; round++) {
		uint64_t b = pick(&e->rng, blocks - 20), n = 1 + pick(&e->rng, 20), off, len;

		switch (pick(&e->rng, 5)) {
		case 0:
		case 1:
			assert_int_equal(engine_write(e, vol, b * BLOCK, n * BLOCK, buf), 0);
			memset(hole + b, 0, n);
			break;
		case 2: /* edges stay, whole blocks go */
			off = b * BLOCK + pick(&e->rng, BLOCK);
			len = pick(&e->rng, n * BLOCK);
			assert_int_equal(engine_io(e, vol, pick(&e->rng, 2) ? FS_TRIM : FS_ZERO, 0, off, len, NULL), 0);
			for (uint64_t k = (off + BLOCK - 1) / BLOCK; (k + 1) * BLOCK <= off + len; k++)
				hole[k] = 1;
			break;
		case 3:
			assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, b * BLOCK + 1, n * BLOCK - 1, NULL), 0);
			memset(hole + b, 0, n);
			break;
		default:
			if (pick(&e->rng, 10) == 0)
				engine_commit(e);
		}
		off = pick(&e->rng, blocks * BLOCK);
		len = pick(&e->rng, blocks * BLOCK - off) + 1;
		mp.next = off;
		mp.pieces = mp.stop_after = 0;
		memset(got, 9, sizeof(got));
		assert_int_equal(fs_volume_map(vol, off, len, take_piece, &mp), 0);
		assert_int_equal(mp.next, off + len);
		for (uint64_t k = 0; k < blocks; k++)
			if (k >= off / BLOCK && k <= (off + len - 1) / BLOCK)
				assert_int_equal(got[k], hole[k]);
			else
				assert_int_equal(got[k], 9);
	}
	mp.next = mp.pieces = 0;
	mp.stop_after = 2;
	assert_int_equal(fs_volume_map(vol, 0, blocks * BLOCK, take_piece, &mp), 42);
	assert_int_equal(mp.pieces, 2);
	assert_int_equal(fs_volume_map(vol, 0, blocks * BLOCK + 1, take_piece, &mp), -EINVAL);
	assert_int_equal(fs_volume_map(vol, UINT64_MAX, 2, take_piece, &mp), -EINVAL);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

static void test_io_no_hole_keeps_its_space(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 32 * MIB);
	struct fs_volume_info info;

	assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, 4096, 9 * MIB, NULL), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 9 * MIB);
	assert_int_equal(engine_io(e, vol, FS_ZERO, FS_NO_HOLE, 4096, MIB, NULL), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 9 * MIB);
	assert_int_equal(engine_io(e, vol, FS_ZERO, 0, 4096, MIB, NULL), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 8 * MIB);
	/* An edge in a hole is zero already: no space for it. */
	assert_int_equal(engine_trim(e, vol, 30 * MIB + 1, 5000), 0);
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 8 * MIB);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

/* Regression: the edge of a trim that found a hole when its turn came took a block for good, and at last all of the reserve. */
static void test_io_edge_of_a_trim_takes_no_space_in_a_hole(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	uint8_t buf[FS_BLOCK_SIZE] = {1};
	struct fs_volume_info info;

	assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
	for (unsigned i = 0; i < 10; i++) {
		struct fs_io io[3] = {
			{.op = FS_WRITE, .vol = vol, .len = BLOCK, .buf = buf}, /* is under way, so that the others wait */
			{.op = FS_TRIM, .vol = vol, .len = BLOCK},
			{.op = FS_TRIM, .vol = vol, .off = 100, .len = 200},
		};
		unsigned left = 0;

		engine_submit(e, io, 3, &left);
		engine_wait(e, &left);
		assert_int_equal(io[0].error | io[1].error | io[2].error, 0);
		if (i % 2)
			engine_commit(e);
	}
	engine_commit(e);
	fs_volume_get_info(vol, &info);
	assert_int_equal(info.used_bytes, 0);
	fs_volume_put(vol);
	engine_check_all(e);
	engine_free(e);
}

static void test_io_cache_request_brings_data_into_memory(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 8 * MIB);
	struct device_sim_stats before, after;
	struct model m;

	model_init(&m, 8 * MIB);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, MIB, 3 * MIB);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	device_sim_get_stats(e->sim, &before);
	assert_int_equal(engine_io(e, vol, FS_CACHE, 0, MIB + 5, 3 * MIB - 10, NULL), 0);
	device_sim_get_stats(e->sim, &after);
	assert_true(after.read_bytes - before.read_bytes >= 3 * MIB);
	model_verify(e, vol, &m, 0, 8 * MIB);
	device_sim_get_stats(e->sim, &before);
	assert_int_equal(before.ops[DEVICE_READ], after.ops[DEVICE_READ]);
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

/* Nodes do not fit into memory: look-ups wait for the device, on workers. */
static void test_io_nodes_are_read_again_when_the_cache_is_small(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 2 * MIB};
	struct engine *e = engine_new_with(POOL_BYTES, seed, &opt);
	uint64_t n = SANITIZED ? 10000 : 30000;
	struct fs_volume *vol = engine_volume(e, "v", 2 * n * BLOCK);
	uint8_t *buf = malloc(8 * MIB), want[FS_BLOCK_SIZE];
	static struct fs_io io[128];
	struct fs_info before, after;
	unsigned left = 0;

	for (uint64_t b = 0; b < n;) { /* every second block: an item each */
		unsigned k;

		for (k = 0; k < 128 && b < n; k++, b++) {
			fill_bytes(buf + k * BLOCK, BLOCK, b);
			io[k] = (struct fs_io){.op = FS_WRITE, .vol = vol, .off = 2 * b * BLOCK, .len = BLOCK, .buf = buf + k * BLOCK};
		}
		engine_submit(e, io, k, &left);
		engine_wait(e, &left);
		for (unsigned i = 0; i < k; i++)
			assert_int_equal(io[i].error, 0);
	}
	engine_commit(e);
	assert_true(vol->root.nodes * NODE_SIZE > (SANITIZED ? 200 : 1000) * KIB);
	fs_get_info(e->fs, &before);
	for (unsigned round = 0; round < 60; round++) {
		uint64_t at[128];

		/* More than the cache holds at once: nothing else stays. */
		assert_int_equal(engine_read(e, vol, pick(&e->rng, n / 2) * BLOCK, 8 * MIB, buf), 0);
		for (unsigned k = 0; k < 128; k++) {
			at[k] = pick(&e->rng, n);
			io[k] = (struct fs_io){.op = FS_READ, .vol = vol, .off = 2 * at[k] * BLOCK, .len = BLOCK, .buf = buf + k * BLOCK};
		}
		engine_submit(e, io, 128, &left);
		engine_wait(e, &left);
		for (unsigned k = 0; k < 128; k++) {
			assert_int_equal(io[k].error, 0);
			fill_bytes(want, BLOCK, at[k]);
			assert_memory_equal(buf + k * BLOCK, want, BLOCK);
		}
	}
	fs_get_info(e->fs, &after);
	assert_true(after.node_cache_misses - before.node_cache_misses > 500);
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf);
	engine_free(e);
}

/* ---- a device that lies -------------------------------------------------------------------- */

static uint64_t place_of(struct engine *e, struct fs_volume *vol, uint64_t blk)
{
	struct volume_piece vp;
	uint64_t off[GROUP_STRIPES_MAX];
	uint32_t crc;

	assert_int_equal(volume_lookup(vol, e->fs->commit_q, blk, 1, &vp, &crc), 0);
	assert_true(vp.addr != 0);
	assert_int_equal(block_group_map(e->fs, vp.addr, BLOCK, off), 1);
	return off[0];
}

static void test_io_wrong_data_is_an_error_for_that_block_only(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 256 * BLOCK);
	uint64_t bad[] = {0, 17, 128, 255};
	uint8_t *got = malloc(256 * BLOCK);
	struct fs_info info;
	struct model m;

	model_init(&m, 256 * BLOCK);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, m.size);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		device_sim_flip(e->sim, place_of(e, vol, bad[i]) + 1000, 3);
	assert_int_equal(engine_read(e, vol, 0, m.size, got), -EIO);
	for (uint64_t b = 0; b < 256; b++) {
		bool is_bad = b == 0 || b == 17 || b == 128 || b == 255;

		assert_int_equal(engine_read(e, vol, b * BLOCK, BLOCK, got), is_bad ? -EIO : 0);
		if (!is_bad)
			assert_memory_equal(got, m.bytes + b * BLOCK, BLOCK);
	}
	assert_int_equal(engine_read(e, vol, 16 * BLOCK, 3 * BLOCK, got), -EIO);
	assert_int_equal(engine_read(e, vol, 18 * BLOCK, 110 * BLOCK, got), 0);
	assert_non_null(strstr(e->log, "volume v"));
	fs_get_info(e->fs, &info);
	assert_true(info.errors_checksum >= 4);
	assert_false(info.read_only);
	/* A part of it cannot be written over what is not known; all of it can. */
	assert_int_equal(engine_write(e, vol, 17 * BLOCK + 5, 10, m.bytes), -EIO);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 17 * BLOCK, BLOCK);
	model_verify(e, vol, &m, BLOCK, 127 * BLOCK);
	apply_both(e, vol, &m, (struct op){FS_TRIM, 0}, 0, BLOCK);
	model_verify(e, vol, &m, 0, 128 * BLOCK);
	fs_volume_put(vol);
	engine_check_committed(e);
	free(got);
	model_fini(&m);
	engine_free(e);
}

/* A volume whose tree has a few leaves; returns the address of its leaf number `leaf`. */
static uint64_t leaf_address(struct engine *e, struct fs_volume *vol, unsigned leaf)
{
	struct cache_entry *entry;
	struct node_ident id = {vol->root.addr, vol->root.generation, vol->root.owner, vol->root.level}, child;

	assert_int_equal(vol->root.level, 1);
	assert_int_equal(node_read(e->fs, e->fs->commit_q, &id, &entry), 0);
	assert_true(leaf < node_count(node_header(entry)));
	assert_int_equal(node_child(node_header(entry), leaf, id.owner, &child), 0);
	cache_put(e->fs->cache, entry);
	return child.addr;
}

static void peek_node(struct engine *e, uint64_t addr, int copy, uint8_t *buf)
{
	uint64_t off[GROUP_STRIPES_MAX];

	assert_int_equal(block_group_map(e->fs, addr, NODE_SIZE, off), 2);
	device_sim_peek(e->sim, off[copy], buf, NODE_SIZE);
}

static void damage_node(struct engine *e, uint64_t addr, int copy, unsigned how)
{
	uint64_t off[GROUP_STRIPES_MAX];
	uint8_t buf[NODE_SIZE];

	assert_int_equal(block_group_map(e->fs, addr, NODE_SIZE, off), 2);
	switch (how) {
	case 0:
		device_sim_flip(e->sim, off[copy] + 5000, 1);
		break;
	case 1:
		memset(buf, 0, sizeof(buf));
		device_sim_poke(e->sim, off[copy], buf, sizeof(buf));
		break;
	case 2: /* a good node, but another one */
		peek_node(e, leaf_address(e, engine_volume(e, "v", 0), 2), copy, buf);
		device_sim_poke(e->sim, off[copy], buf, sizeof(buf));
		break;
	default:
		device_sim_bad_range(e->sim, off[copy], BLOCK);
	}
}

static struct engine *engine_with_leaves(struct model *m)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", m->size);

	for (uint64_t off = 0; off < m->size; off += 2 * BLOCK)
		apply_both(e, vol, m, (struct op){FS_WRITE, 0}, off, BLOCK);
	fs_volume_put(vol);
	engine_commit(e);
	return e;
}

static void test_io_damaged_node_is_mended_from_its_twin(void **state)
{
	struct model m;
	struct engine *e;

	model_init(&m, 3000 * BLOCK);
	e = engine_with_leaves(&m);
	for (unsigned how = 0; how < 4; how++) {
		struct fs_volume *vol;
		uint8_t good[NODE_SIZE], now[NODE_SIZE];
		struct fs_info info;
		uint64_t leaf;

		engine_reopen(e);
		vol = engine_volume(e, "v", 0);
		leaf = leaf_address(e, vol, 1);
		peek_node(e, leaf, 0, good);
		damage_node(e, leaf, 0, how);
		cache_invalidate(e->fs->cache, CACHE_NODE, leaf);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.errors_corrected, 0);
		model_verify_all(e, vol, &m);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.errors_corrected, 1);
		peek_node(e, leaf, 0, now);
		assert_memory_equal(good, now, NODE_SIZE);
		if (how == 2)
			fs_volume_put(vol); /* damage_node's */
		fs_volume_put(vol);
		engine_check_all(e);
	}
	model_fini(&m);
	engine_free(e);
}

static void test_io_node_lost_in_both_copies_is_an_error_there_only(void **state)
{
	struct fs_volume *vol;
	uint8_t got[FS_BLOCK_SIZE];
	unsigned bad = 0, good = 0;
	struct model m;
	struct engine *e;
	uint64_t leaf;
	int r;

	model_init(&m, 3000 * BLOCK);
	e = engine_with_leaves(&m);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	leaf = leaf_address(e, vol, 1);
	damage_node(e, leaf, 0, 0);
	damage_node(e, leaf, 1, 1);
	for (uint64_t b = 0; b < 3000; b++) {
		r = engine_read(e, vol, b * BLOCK, BLOCK, got);
		if (r == 0) {
			assert_memory_equal(got, m.bytes + b * BLOCK, BLOCK);
			good++;
		} else {
			assert_int_equal(r, -EIO);
			bad++;
		}
	}
	assert_true(bad > 100 && bad < 1000);
	assert_int_equal(good + bad, 3000);
	fs_volume_put(vol);
	model_fini(&m);
	engine_free(e);
}

static void test_io_failed_device_write_keeps_the_old_content(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e = engine_new(POOL_BYTES, seed);
	uint64_t size = 8 * MIB;
	struct fs_volume *vol = engine_volume(e, "v", size);
	uint8_t *buf = malloc(size);
	struct model m;

	model_init(&m, size);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, size);
	for (unsigned i = 0; i < 200; i++) {
		struct device_sim_fault fault = {.kind = i % 2 ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN, .error = -EIO,
						 .ops = DEVICE_SIM_OP(DEVICE_WRITE), .skip = pick(&e->rng, 3), .count = 1};
		uint64_t len = 1 + pick(&e->rng, i % 3 ? 30000 : 4 * MIB), off = pick(&e->rng, size - len + 1);
		int r;

		fill_bytes(buf, len, rnd(&e->rng));
		device_sim_fault_add(e->sim, &fault);
		r = engine_write(e, vol, off, len, buf);
		device_sim_fault_clear(e->sim);
		if (r == 0)
			memcpy(m.bytes + off, buf, len);
		else
			assert_int_equal(r, -EIO);
		if (i % 2)
			engine_check_books(e);
		model_verify(e, vol, &m, off, len);
	}
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	free(buf);
	engine_free(e);
}

static void test_io_failed_device_read_is_an_error_once(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL, .error = -EIO, .ops = DEVICE_SIM_OP(DEVICE_READ), .count = 1};
	struct fs_volume *vol = engine_volume(e, "v", MIB);
	struct fs_info info;
	uint8_t got[8192];
	struct model m;

	model_init(&m, MIB);
	apply_both(e, vol, &m, (struct op){FS_WRITE, 0}, 0, MIB);
	fs_volume_put(vol);
	engine_reopen(e);
	vol = engine_volume(e, "v", 0);
	assert_int_equal(engine_read(e, vol, MIB - 4096, 4096, got), 0); /* nodes are in memory */
	device_sim_fault_add(e->sim, &fault);
	assert_int_equal(engine_read(e, vol, 0, 8192, got), -EIO);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.errors_io, 1);
	model_verify_all(e, vol, &m);
	device_sim_fault_add(e->sim, &(struct device_sim_fault){.kind = DEVICE_SIM_LOSE, .ops = DEVICE_SIM_OP(DEVICE_READ), .count = 1});
	fs_volume_put(vol);
	device_sim_fault_clear(e->sim);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_every_alignment_near_block_borders),
		cmocka_unit_test(test_io_random_against_a_byte_model),
		cmocka_unit_test(test_io_largest_request_at_any_alignment),
		cmocka_unit_test(test_io_past_the_end_is_refused_and_changes_nothing),
		cmocka_unit_test(test_io_overlapping_writes_do_not_mix),
		cmocka_unit_test(test_io_many_in_flight_leave_what_some_of_them_wrote),
		cmocka_unit_test(test_io_goes_on_during_a_commit),
		cmocka_unit_test(test_io_reader_keeps_what_a_commit_frees),
		cmocka_unit_test(test_io_fua_is_durable_by_itself),
		cmocka_unit_test(test_io_without_flush_is_lost_with_the_machine),
		cmocka_unit_test(test_io_map_shows_what_is_allocated),
		cmocka_unit_test(test_io_no_hole_keeps_its_space),
		cmocka_unit_test(test_io_edge_of_a_trim_takes_no_space_in_a_hole),
		cmocka_unit_test(test_io_cache_request_brings_data_into_memory),
		cmocka_unit_test(test_io_nodes_are_read_again_when_the_cache_is_small),
		cmocka_unit_test(test_io_wrong_data_is_an_error_for_that_block_only),
		cmocka_unit_test(test_io_damaged_node_is_mended_from_its_twin),
		cmocka_unit_test(test_io_node_lost_in_both_copies_is_an_error_there_only),
		cmocka_unit_test(test_io_failed_device_write_keeps_the_old_content),
		cmocka_unit_test(test_io_failed_device_read_is_an_error_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
