/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/device/test_device_sim_crash.c: the crashes of the simulated device. Every sector that is written
 * carries the number of its write, so that after a crash each sector tells which write it is of, and a model
 * says which ones are legal there.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/device/device_sim.h"
#include "tests/lib/device_test.h"
#include "tests/lib/random.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device.h"

#define SECTOR DEVICE_SIM_SECTOR

/* ---- the model of what may be found after a crash --------------------------------------------- */

#define MODEL_PAGES 24
#define MODEL_SECTORS (MODEL_PAGES * 8)
#define MODEL_IOS 700
#define MODEL_QUEUES 3
#define WRITE_PAGES 6

enum { NEVER = 0 };

struct request {
	struct device_io io;
	struct world *w;
	uint8_t *buf;
	struct iovec iov[WRITE_PAGES];
	uint64_t completed; /* the how-many-th completion it was; NEVER */
	uint64_t submitted; /* so many had completed then */
	bool durable, under_way;
};

struct world {
	uint64_t rng;
	struct device *dev;
	struct device_queue *q[MODEL_QUEUES];
	struct request r[MODEL_IOS]; /* number 0 is not used: it stands for zeros */
	unsigned count;
	uint64_t completions, flushes_done;
};

#define SCATTER 0x9e3779b97f4a7c15u
#define GATHER 0xf1de83e19937733du /* SCATTER * GATHER is 1 */

/* A sector of write number id: the id all over it, mixed with the place, in every byte. */
static void stamp_sector(uint8_t *to, uint64_t id, uint64_t sector)
{
	uint64_t v = (id << 32 | sector) * SCATTER;

	for (unsigned i = 0; i < SECTOR; i += 8)
		memcpy(to + i, &v, 8);
}

/* The id of a sector; it must be of one write and of this place. */
static uint64_t sector_id(const uint8_t *from, uint64_t sector)
{
	uint64_t v, other;

	memcpy(&v, from, 8);
	for (unsigned i = 8; i < SECTOR; i += 8) {
		memcpy(&other, from + i, 8);
		ASSERT(other == v);
	}
	v *= GATHER;
	ASSERT(v == 0 || (v & 0xffffffff) == sector);
	return v >> 32;
}

static bool touches(const struct request *r, uint64_t sector)
{
	return r->io.op == DEVICE_WRITE && sector * SECTOR >= r->io.off &&
	       sector * SECTOR < r->io.off + r->io.len;
}

static void mark_durable(struct world *w, uint64_t before)
{
	for (unsigned i = 1; i < w->count; i++)
		if (w->r[i].io.op == DEVICE_WRITE && w->r[i].completed && w->r[i].completed <= before &&
		    !w->r[i].io.error)
			w->r[i].durable = true;
}

/* After a failed flush the writes that it covered can be lost for good: completed = lost to later flushes. */
static void mark_doubtful(struct world *w, uint64_t before)
{
	for (unsigned i = 1; i < w->count; i++)
		if (w->r[i].completed && w->r[i].completed <= before && !w->r[i].durable)
			w->r[i].io.error = -EIO;
}

static void request_done(struct device_io *io)
{
	struct request *r = container_of(io, struct request, io);
	struct world *w = r->w;

	ASSERT(r->under_way);
	r->under_way = false;
	r->completed = ++w->completions;
	if (io->op == DEVICE_FLUSH && io->error == 0) {
		mark_durable(w, r->submitted);
		w->flushes_done++;
	} else if (io->op == DEVICE_FLUSH) {
		mark_doubtful(w, r->submitted);
	}
}

static void world_submit(struct world *w, struct device_queue *q)
{
	struct request *r = &w->r[w->count];
	uint64_t n = 1 + rnd(&w->rng) % WRITE_PAGES, first = rnd(&w->rng) % (MODEL_PAGES - n + 1);
	uint64_t id = w->count++;

	*r = (struct request){.w = w, .submitted = w->completions, .under_way = true};
	r->io = (struct device_io){.op = DEVICE_FLUSH, .done = request_done};
	if (rnd(&w->rng) % 7) {
		r->buf = pages(n);
		r->io.op = DEVICE_WRITE;
		r->io.off = first * PAGE;
		r->io.len = n * PAGE;
		r->io.buf = r->buf;
		for (uint64_t s = 0; s < n * 8; s++)
			stamp_sector(r->buf + s * SECTOR, id, first * 8 + s);
		if (rnd(&w->rng) % 2) {
			for (uint64_t i = 0; i < n; i++)
				r->iov[i] = (struct iovec){r->buf + i * PAGE, PAGE};
			r->io.iov = r->iov;
			r->io.iovcnt = (int)n;
		}
	}
	q->dev->ops->submit(q, &r->io);
	q->dev->ops->kick(q);
}

static struct world *world_new(uint64_t seed, struct device *dev)
{
	struct world *w = calloc(1, sizeof(*w));

	w->rng = seed;
	w->dev = dev;
	w->count = 1;
	for (unsigned i = 0; i < MODEL_QUEUES; i++)
		w->q[i] = new_queue(dev);
	return w;
}

/* Some requests and some completions, on queues of all. */
static void world_run(struct world *w, unsigned steps)
{
	for (unsigned i = 0; i < steps && w->count < MODEL_IOS; i++) {
		struct device_queue *q = w->q[rnd(&w->rng) % MODEL_QUEUES];

		if (rnd(&w->rng) % 5 < 3)
			world_submit(w, q);
		else if (rnd(&w->rng) % 2)
			q->dev->ops->poll(q);
		else
			q->dev->ops->wait(q);
	}
}

static void world_free(struct world *w)
{
	for (unsigned i = 0; i < MODEL_QUEUES; i++) {
		while (w->dev->ops->wait(w->q[i]))
			;
		device_queue_free(w->q[i]);
	}
	for (unsigned i = 1; i < w->count; i++)
		mem_free(w->r[i].buf);
	device_close(w->dev);
	free(w);
}

/*
 * Whether write v may be what a crash leaves in the sector: nothing that is durable has certainly come after
 * it.
 */
static bool may_survive(const struct world *w, uint64_t v, uint64_t sector)
{
	if (v >= w->count || (v && !touches(&w->r[v], sector)))
		return false;
	if (v && w->r[v].under_way)
		return true;
	for (unsigned i = 1; i < w->count; i++)
		if (w->r[i].durable && touches(&w->r[i], sector) &&
		    (v == 0 || w->r[i].completed > w->r[v].completed))
			return false;
	return true;
}

/* The last completed (and durable, if asked) write to the sector. */
static uint64_t last_write(const struct world *w, uint64_t sector, bool durable)
{
	uint64_t last = 0;

	for (unsigned i = 1; i < w->count; i++)
		if (touches(&w->r[i], sector) && w->r[i].completed && (w->r[i].durable || !durable) &&
		    (!last || w->r[i].completed > w->r[last].completed))
			last = i;
	return last;
}

static void check_image(const struct world *w, struct device *image, enum device_sim_crash_mode mode,
			bool faults)
{
	uint8_t *got = pages(MODEL_PAGES);

	ASSERT(run_sync(image, DEVICE_READ, 0, got, MODEL_PAGES * PAGE) == 0);
	for (uint64_t s = 0; s < MODEL_SECTORS; s++) {
		uint64_t v = sector_id(got + s * SECTOR, s);

		ASSERT(may_survive(w, v, s));
		if (!faults && mode == DEVICE_SIM_CRASH_LOSE_ALL)
			ASSERT(v == last_write(w, s, true));
		if (!faults && mode == DEVICE_SIM_CRASH_KEEP_COMPLETED)
			ASSERT(v == last_write(w, s, false));
		if (!faults && mode == DEVICE_SIM_CRASH_KEEP_UNDER_WAY)
			ASSERT(v == last_write(w, s, true) || w->r[v].under_way);
		if (!faults && mode == DEVICE_SIM_CRASH_KEEP_ALL)
			ASSERT(v == last_write(w, s, false) || w->r[v].under_way);
	}
	mem_free(got);
}

static void check_crashes(struct world *w, unsigned per_mode, bool faults)
{
	for (enum device_sim_crash_mode mode = 0; mode < DEVICE_SIM_CRASH_MODES; mode++) {
		for (unsigned i = 0; i < per_mode; i++) {
			struct device *image = device_sim_crash_image(w->dev, mode, rnd(&w->rng));

			check_image(w, image, mode, faults);
			device_close(image);
		}
	}
}

static void run_crash_model(uint64_t seed, bool faults)
{
	struct device_sim_fault flush_fails = {.kind = DEVICE_SIM_FAIL,
					       .ops = DEVICE_SIM_OP(DEVICE_FLUSH),
					       .skip = 3 + seed % 5,
					       .count = 2,
					       .error = -EIO};
	struct device_sim_fault write_fails = {.kind = DEVICE_SIM_FAIL_TORN,
					       .ops = DEVICE_SIM_OP(DEVICE_WRITE),
					       .skip = seed % 11,
					       .count = 4,
					       .error = -EIO};
	struct world *w = world_new(seed, device_sim_new(MODEL_PAGES * PAGE, seed));

	device_sim_set_order(w->dev, seed % 3 ? DEVICE_SIM_RANDOM : DEVICE_SIM_FIFO, (unsigned)(seed % 4));
	if (faults) {
		device_sim_fault_add(w->dev, &flush_fails);
		device_sim_fault_add(w->dev, &write_fails);
	}
	for (unsigned round = 0; round < 6; round++) {
		world_run(w, 30);
		check_crashes(w, 2, faults);
	}
	device_sim_kill(w->dev);
	check_crashes(w, 4, faults);
	world_free(w);
}

static void test_sim_crash_loses_only_what_it_may(void **state)
{
	uint64_t seed = test_seed();

	for (unsigned i = 0; i < 150; i++)
		run_crash_model(seed + i, false);
}

static void test_sim_crash_after_failed_flushes(void **state)
{
	uint64_t seed = test_seed();

	for (unsigned i = 0; i < 150; i++)
		run_crash_model(seed + i, true);
}

/* The crashes are worth something: each kind of outcome does occur. */
static void test_sim_crash_outcomes_all_occur(void **state)
{
	unsigned whole = 0, lost = 0, torn = 0, swapped = 0;
	uint8_t *a = pages(2), *b = pages(2), *got = pages(2);

	for (uint64_t s = 0; s < 16; s++) {
		stamp_sector(a + s * SECTOR, 1, s);
		stamp_sector(b + s * SECTOR, 2, s);
	}
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct device *dev = device_sim_new(2 * PAGE, 1), *image;
		struct device_queue *q = new_queue(dev);
		struct device_io ios[2] = {{.op = DEVICE_WRITE, .len = 2 * PAGE, .buf = a},
					   {.op = DEVICE_WRITE, .len = 2 * PAGE, .buf = b}};
		unsigned n[3] = {0};

		dev->ops->submit(q, &ios[0]);
		dev->ops->submit(q, &ios[1]);
		dev->ops->kick(q);
		image = device_sim_crash(dev, DEVICE_SIM_CRASH_RANDOM, seed);
		device_sim_peek(image, 0, got, 2 * PAGE);
		for (uint64_t s = 0; s < 16; s++)
			n[sector_id(got + s * SECTOR, s)]++;
		lost += n[0] == 16;
		whole += n[2] == 16;
		swapped += n[1] == 16;
		torn += n[0] && n[1] && n[2];
		device_queue_free(q); /* dead: what was under way may be dropped */
		device_close(dev);
		device_close(image);
	}
	assert_true(whole > 10 && lost > 10 && torn > 10 && swapped > 10);
	mem_free(a);
	mem_free(b);
	mem_free(got);
}

static void test_sim_under_way_comes_after_what_had_completed(void **state)
{
	uint8_t *a = pages(1), *b = pages(1), got[8];

	memset(a, 1, PAGE);
	memset(b, 2, PAGE);
	for (uint64_t seed = 0; seed < 200; seed++) {
		struct device *dev = device_sim_new(PAGE, seed), *image;
		struct device_queue *q = new_queue(dev);
		struct device_io io = {.op = DEVICE_WRITE, .len = PAGE, .buf = b};

		ASSERT(device_sync(q, DEVICE_WRITE, 0, a, PAGE) == 0);
		dev->ops->submit(q, &io);
		image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_KEEP_ALL, seed);
		device_sim_peek(image, 0, got, 8);
		ASSERT(got[0] == 1); /* not kicked: not there */
		device_close(image);
		dev->ops->kick(q);
		image = device_sim_crash(dev, DEVICE_SIM_CRASH_KEEP_ALL, seed);
		device_sim_peek(image, 0, got, 8);
		assert_int_equal(got[0], 2);
		device_queue_free(q);
		device_close(dev);
		device_close(image);
	}
	mem_free(a);
	mem_free(b);
}

/* Two writes under way together, of which one has completed: either may be the last. */
static void test_sim_under_way_together_in_any_order(void **state)
{
	uint8_t *a = pages(1), *b = pages(1), got[1];
	unsigned wins[3] = {0};

	memset(a, 1, PAGE);
	memset(b, 2, PAGE);
	for (uint64_t seed = 0; seed < 200; seed++) {
		struct device *dev = device_sim_new(PAGE, seed), *image;
		struct device_queue *q = new_queue(dev);
		struct device_io io = {.op = DEVICE_WRITE, .len = PAGE, .buf = b};

		dev->ops->submit(q, &io);
		dev->ops->kick(q);
		assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, a, PAGE), 0); /* on a queue of its own */
		image = device_sim_crash(dev, DEVICE_SIM_CRASH_KEEP_ALL, seed);
		device_sim_peek(image, 0, got, 1);
		wins[got[0]]++;
		device_queue_free(q);
		device_close(dev);
		device_close(image);
	}
	assert_int_equal(wins[0], 0);
	assert_true(wins[1] > 40 && wins[2] > 40);
	mem_free(a);
	mem_free(b);
}

static void flag_done(struct device_io *io)
{
	ASSERT(io->error == 0);
	*(bool *)io->arg = true;
}

static void test_sim_flush_covers_what_completed_before_its_submit(void **state)
{
	struct device *dev = device_sim_new(2 * PAGE, 1), *image;
	struct device_queue *q = new_queue(dev);
	uint8_t *buf = pages(1), got[1];
	bool done = false;
	struct device_io flush = {.op = DEVICE_FLUSH, .done = flag_done, .arg = &done};

	buf[0] = 1;
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, PAGE), 0);
	dev->ops->submit(q, &flush);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, PAGE, buf, PAGE), 0);
	dev->ops->kick(q);
	while (!done)
		dev->ops->wait(q);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	device_sim_peek(image, 0, got, 1);
	assert_int_equal(got[0], 1);
	device_sim_peek(image, PAGE, got, 1);
	assert_int_equal(got[0], 0);
	device_close(image);
	device_queue_free(q);
	device_close(dev);
	mem_free(buf);
}

/* What a failed flush has lost, the next one does not bring back, although reads go on seeing it. */
static void test_sim_failed_flush_loses_for_good(void **state)
{
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .count = 1, .error = -EIO};
	struct device *dev = device_sim_new(MIB, 9), *image;
	uint8_t *buf = pages(128), *got = pages(128);
	unsigned kept = 0;

	memset(buf, 1, 128 * PAGE);
	for (unsigned i = 0; i < 128; i++)
		assert_int_equal(run_sync(dev, DEVICE_WRITE, i * PAGE, buf, PAGE), 0);
	device_sim_fault_add(dev, &fault);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), -EIO);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(run_sync(dev, DEVICE_READ, 0, got, 128 * PAGE), 0);
	assert_memory_equal(got, buf, 128 * PAGE);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_KEEP_ALL, 1);
	device_sim_peek(image, 0, got, 128 * PAGE);
	for (unsigned s = 0; s < 1024; s++)
		kept += got[s * SECTOR];
	assert_in_range(kept, 200, 824);
	assert_int_equal(run_sync(dev, DEVICE_WRITE, 0, buf, 128 * PAGE), 0);
	assert_int_equal(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0), 0);
	device_close(image);
	image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	device_sim_peek(image, 0, got, 128 * PAGE);
	assert_memory_equal(got, buf, 128 * PAGE);
	device_close(image);
	device_close(dev);
	mem_free(buf);
	mem_free(got);
}

static void test_sim_dies_at_the_nth_event(void **state)
{
	uint8_t *buf = pages(1), got[8];

	for (uint64_t n = 1; n <= 12; n++) {
		struct device *dev = device_sim_new(16 * PAGE, n), *image;
		unsigned acked = 0;

		device_sim_kill_after(dev, n);
		for (unsigned i = 0; i < 6; i++) {
			memset(buf, (int)i + 1, PAGE);
			if (run_sync(dev, DEVICE_WRITE, i * PAGE, buf, PAGE) == 0 &&
			    run_sync(dev, DEVICE_FLUSH, 0, NULL, 0) == 0)
				acked++;
		}
		assert_int_equal(acked, (n - 1) / 2);
		assert_true(device_sim_is_dead(dev));
		assert_int_equal(run_sync(dev, DEVICE_READ, 0, buf, PAGE), -EIO);
		image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_LOSE_ALL, 0);
		for (unsigned i = 0; i < 6; i++) {
			device_sim_peek(image, i * PAGE, got, 8);
			assert_int_equal(got[0], i < acked ? i + 1 : 0);
		}
		device_close(image);
		image = device_sim_crash_image(dev, DEVICE_SIM_CRASH_KEEP_ALL, 0);
		device_sim_peek(image, (n - 1) / 2 * PAGE, got, 8);
		assert_int_equal(got[0], acked + 1); /* it was under way */
		assert_int_equal(run_sync(image, DEVICE_WRITE, 0, buf, PAGE), 0);
		device_close(image);
		device_close(dev);
	}
	mem_free(buf);
}

/* ---- history ------------------------------------------------------------------------------------ */

static void test_sim_history_replays_every_prefix(void **state)
{
	uint64_t seed = test_seed();
	uint8_t *now = pages(MODEL_PAGES), *then = pages(MODEL_PAGES);

	for (unsigned i = 0; i < 20; i++) {
		struct world *w = world_new(seed + i, device_sim_new(MODEL_PAGES * PAGE, seed + i));
		struct device *snapshots[400];
		uint64_t counts[400];
		unsigned n = 0;

		device_sim_set_order(w->dev, DEVICE_SIM_RANDOM, 2);
		world_run(w, 20);
		device_sim_history_start(w->dev);
		while (n < 60) {
			snapshots[n] = device_sim_clone(w->dev, 0);
			counts[n++] = device_sim_history_count(w->dev);
			world_run(w, 3);
		}
		for (unsigned k = 0; k < n; k++) {
			struct device *image = device_sim_history_image(w->dev, counts[k],
									DEVICE_SIM_CRASH_KEEP_COMPLETED, 0);

			device_sim_peek(snapshots[k], 0, then, MODEL_PAGES * PAGE);
			device_sim_peek(image, 0, now, MODEL_PAGES * PAGE);
			assert_memory_equal(now, then, MODEL_PAGES * PAGE);
			device_close(image);
			device_close(snapshots[k]);
		}
		world_free(w);
	}
	mem_free(now);
	mem_free(then);
}

/* Of every event, and in every mode: what a flush before it covered is there, and what came later is not. */
static void check_history_event(struct device *dev, uint64_t n, const uint64_t *durable, uint64_t seed)
{
	for (enum device_sim_crash_mode mode = 0; mode < DEVICE_SIM_CRASH_MODES; mode++) {
		struct device *image = device_sim_history_image(dev, n, mode, seed);

		for (uint64_t s = 0; s < MODEL_SECTORS; s++) {
			uint8_t sector[SECTOR];
			uint64_t v;

			device_sim_peek(image, s * SECTOR, sector, SECTOR);
			v = sector_id(sector, s);
			ASSERT(v >= durable[s / 8]);
			if (mode == DEVICE_SIM_CRASH_LOSE_ALL)
				ASSERT(v == durable[s / 8]);
		}
		device_close(image);
	}
}

/* One write at a time here, so that ids grow with time. */
static void test_sim_history_crashes_at_every_event(void **state)
{
	uint64_t seed = test_seed(), durable[MODEL_PAGES] = {0}, done[MODEL_PAGES] = {0}, rng = seed, n = 0;
	struct device *dev = device_sim_new(MODEL_PAGES * PAGE, seed);
	struct device_sim_event e;
	uint8_t *buf = pages(1);

	device_sim_history_start(dev);
	for (uint64_t id = 1; id <= 300; id++) {
		uint64_t page = rnd(&rng) % MODEL_PAGES;

		for (uint64_t s = 0; s < 8; s++)
			stamp_sector(buf + s * SECTOR, id, page * 8 + s);
		ASSERT(run_sync(dev, DEVICE_WRITE, page * PAGE, buf, PAGE) == 0);
		if (rnd(&rng) % 9 == 0)
			ASSERT(run_sync(dev, DEVICE_FLUSH, 0, NULL, 0) == 0);
	}
	for (uint64_t id = 0; n < device_sim_history_count(dev);) {
		device_sim_history_get(dev, ++n, &e);
		if (e.op == DEVICE_WRITE) {
			done[e.off / PAGE] = ++id;
			assert_int_equal(e.start, n - 1);
		} else {
			assert_int_equal(e.covers, n - 1);
			memcpy(durable, done, sizeof(done));
		}
		check_history_event(dev, n, durable, seed + n);
	}
	assert_true(n > 310);
	mem_free(buf);
	device_close(dev);
}

#define COPIES 120

/*
 * Requests under way on several queues: what history makes of event n is legal as of just before the next
 * event.
 */
static void test_sim_history_crashes_with_requests_under_way(void **state)
{
	uint64_t seed = test_seed();

	for (unsigned i = 0; i < 5; i++) {
		struct world *w = world_new(seed + i, device_sim_new(MODEL_PAGES * PAGE, seed + i));
		struct world *copies[COPIES];
		uint64_t counts[COPIES];

		device_sim_set_order(w->dev, DEVICE_SIM_RANDOM, 1);
		device_sim_history_start(w->dev);
		for (unsigned k = 0; k < COPIES; k++) {
			do
				world_submit(w, w->q[rnd(&w->rng) % MODEL_QUEUES]);
			while (rnd(&w->rng) % 3);
			counts[k] = device_sim_history_count(w->dev);
			copies[k] = malloc(sizeof(*w));
			memcpy(copies[k], w, sizeof(*w));
			while (device_sim_history_count(w->dev) == counts[k])
				w->dev->ops->wait(w->q[rnd(&w->rng) % MODEL_QUEUES]);
		}
		for (unsigned k = 0; k < COPIES; k++) {
			for (enum device_sim_crash_mode mode = 0; mode < DEVICE_SIM_CRASH_MODES; mode++) {
				struct device *image =
					device_sim_history_image(w->dev, counts[k], mode, seed + k);

				check_image(copies[k], image, mode, false);
				device_close(image);
			}
			free(copies[k]);
		}
		world_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sim_crash_loses_only_what_it_may),
		cmocka_unit_test(test_sim_crash_after_failed_flushes),
		cmocka_unit_test(test_sim_crash_outcomes_all_occur),
		cmocka_unit_test(test_sim_under_way_comes_after_what_had_completed),
		cmocka_unit_test(test_sim_under_way_together_in_any_order),
		cmocka_unit_test(test_sim_flush_covers_what_completed_before_its_submit),
		cmocka_unit_test(test_sim_failed_flush_loses_for_good),
		cmocka_unit_test(test_sim_dies_at_the_nth_event),
		cmocka_unit_test(test_sim_history_replays_every_prefix),
		cmocka_unit_test(test_sim_history_crashes_at_every_event),
		cmocka_unit_test(test_sim_history_crashes_with_requests_under_way),
	};

	return cmocka_run_group_tests_name("crashes of the simulated device", tests, NULL, NULL);
}
