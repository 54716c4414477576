/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/pool/test_threads.c: several contexts on threads of their own, with the pool's own threads,
 * commits every few milliseconds, and volumes that come and go meanwhile. Meant for ThreadSanitizer and
 * AddressSanitizer too.
 *
 * How outcomes are known: a block's bytes all come from its number and a version, which stands in front. A
 * thread that owns blocks knows their versions; of shared ones it knows that they hold one version as a
 * whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

#define RUN_SECONDS (SANITIZED ? 3.0 : 2.5)
#define DEPTH 16u

/* One thread's own way in. */
struct way {
	struct fs *fs;
	struct fs_ctx *ctx;
	uint64_t rng;
};

static void way_open(struct way *w, struct fs *fs, uint64_t seed)
{
	w->fs = fs;
	w->rng = seed;
	ASSERT(fs_ctx_new(fs, &w->ctx) == 0);
}

static void way_close(struct way *w)
{
	fs_ctx_free(w->ctx);
}

static void way_run(struct way *w, struct fs_io *io, unsigned n)
{
	struct fs_io *list[DEPTH];
	unsigned left = n;

	for (unsigned i = 0; i < n; i++) {
		io[i].done = engine_io_done;
		io[i].arg = &left;
		list[i] = &io[i];
	}
	fs_submit(w->ctx, list, n);
	while (left) {
		(void)poll(&(struct pollfd){.fd = fs_ctx_fd(w->ctx), .events = POLLIN}, 1, 100);
		fs_ctx_run(w->ctx);
	}
}

static int way_io(struct way *w, struct fs_volume *vol, enum fs_op op, uint32_t flags, uint64_t off,
		  uint64_t len, void *buf)
{
	struct fs_io io = {.op = op, .flags = flags, .vol = vol, .off = off, .len = len, .buf = buf};

	way_run(w, &io, 1);
	return io.error;
}

static void block_bytes(void *buf, uint64_t blk, uint32_t version)
{
	uint64_t *p = buf, seed = blk * 0x100000001b3u + version;

	p[0] = version;
	for (unsigned i = 1; i < BLOCK / 8; i++)
		p[i] = version ? seed + i * 0x9e3779b97f4a7c15u : 0;
}

/* The version that a block holds; aborts if it is no block of any version at this place. */
static uint32_t version_of(const void *buf, uint64_t blk)
{
	uint8_t want[FS_BLOCK_SIZE];
	uint64_t version;

	memcpy(&version, buf, sizeof(version));
	block_bytes(want, blk, (uint32_t)version);
	if (memcmp(want, buf, BLOCK) != 0) {
		fprintf(stderr, "block %llu holds no version (%llx)\n", (unsigned long long)blk,
			(unsigned long long)version);
		abort();
	}
	return (uint32_t)version;
}

/* ---- each its own range ------------------------------------------------------------- */

struct owner {
	struct fs *fs;
	struct fs_volume *vol;
	uint64_t seed, first, blocks;
	const _Atomic bool *stop;
	uint32_t *version; /* what each block must hold */
	uint64_t ops;
};

static void *own_range(void *arg)
{
	struct owner *o = arg;
	uint8_t *buf = malloc(DEPTH * 8 * BLOCK);
	struct fs_io io[DEPTH];
	uint32_t next = 1;
	struct way w;

	way_open(&w, o->fs, o->seed);
	while (!atomic_load(o->stop)) {
		unsigned n = 1 + (unsigned)pick(&w.rng, DEPTH);
		uint64_t at = 0;

		/* Ranges of one batch are apart from each other, in order. */
		for (unsigned i = 0; i < n; i++) {
			uint64_t len = 1 + pick(&w.rng, 8), room = o->blocks / n;
			uint64_t b = at + pick(&w.rng, room - 8), blk = o->first + b;
			unsigned kind = (unsigned)pick(&w.rng, 8);

			at += room;
			io[i] = (struct fs_io){.op = kind < 4	 ? FS_WRITE
						     : kind < 6	 ? FS_READ
						     : kind == 6 ? FS_TRIM
								 : FS_ZERO,
					       .vol = o->vol,
					       .off = blk * BLOCK,
					       .len = len * BLOCK,
					       .buf = buf + i * 8 * BLOCK};
			if (kind == 7)
				io[i].flags = pick(&w.rng, 2) ? FS_NO_HOLE : 0;
			if (pick(&w.rng, 40) == 0)
				io[i].flags |= FS_FUA;
			for (uint64_t k = 0; k < len && io[i].op != FS_READ; k++)
				o->version[b + k] = io[i].op == FS_WRITE ? next : 0;
			for (uint64_t k = 0; k < len && io[i].op == FS_WRITE; k++)
				block_bytes((char *)io[i].buf + k * BLOCK, blk + k, next);
			next += io[i].op == FS_WRITE;
		}
		way_run(&w, io, n);
		for (unsigned i = 0; i < n; i++) {
			ASSERT(io[i].error == 0);
			for (uint64_t k = 0; io[i].op == FS_READ && k < io[i].len / BLOCK; k++)
				ASSERT(version_of((char *)io[i].buf + k * BLOCK, io[i].off / BLOCK + k) ==
				       o->version[io[i].off / BLOCK + k - o->first]);
		}
		if (pick(&w.rng, 50) == 0)
			ASSERT(way_io(&w, NULL, FS_FLUSH, 0, 0, 0, NULL) == 0);
		o->ops += n;
	}
	way_close(&w);
	free(buf);
	return NULL;
}

/* ---- all in the same range ------------------------------------------------------------- */

struct sharer {
	struct fs *fs;
	struct fs_volume *vol;
	uint64_t seed, blocks;
	const _Atomic bool *stop;
	_Atomic uint32_t *next; /* version */
	uint64_t ops;
};

/*
 * Blocks that hold what somebody wrote there, whole; requests of several blocks and of parts of blocks too.
 */
static void *share_range(void *arg)
{
	struct sharer *s = arg;
	uint8_t *buf = malloc(DEPTH * 4 * BLOCK);
	struct fs_io io[DEPTH];
	struct way w;

	way_open(&w, s->fs, s->seed);
	while (!atomic_load(s->stop)) {
		for (unsigned i = 0; i < DEPTH; i++) {
			uint64_t len = 1 + pick(&w.rng, 4), blk = pick(&w.rng, s->blocks - len);
			uint32_t version = atomic_fetch_add(s->next, 1);
			unsigned kind = (unsigned)pick(&w.rng, 7);

			io[i] = (struct fs_io){.op = kind < 3	? FS_WRITE
						     : kind < 6 ? FS_READ
								: FS_TRIM,
					       .vol = s->vol,
					       .off = blk * BLOCK,
					       .len = len * BLOCK,
					       .buf = buf + i * 4 * BLOCK};
			for (uint64_t k = 0; k < len && io[i].op == FS_WRITE; k++)
				block_bytes((char *)io[i].buf + k * BLOCK, blk + k, version);
		}
		way_run(&w, io, DEPTH);
		for (unsigned i = 0; i < DEPTH; i++) {
			ASSERT(io[i].error == 0);
			for (uint64_t k = 0; io[i].op == FS_READ && k < io[i].len / BLOCK; k++)
				(void)version_of((char *)io[i].buf + k * BLOCK, io[i].off / BLOCK + k);
		}
		s->ops += DEPTH;
	}
	way_close(&w);
	free(buf);
	return NULL;
}

/*
 * One block written by one thread in parts, read by others: a part is old or new, never half; and versions
 * only go up.
 */
struct counter {
	struct fs *fs;
	struct fs_volume *vol;
	const _Atomic bool *stop;
	uint64_t blk, ops;
	bool writes;
};

static void *count_up(void *arg)
{
	struct counter *c = arg;
	uint64_t last[2] = {0, 0}, now[2], value = 0;
	struct way w;

	way_open(&w, c->fs, c->blk);
	while (!atomic_load(c->stop)) {
		uint64_t off = c->blk * BLOCK + 100;

		if (c->writes) { /* two neighbours in one unaligned request */
			now[0] = now[1] = ++value;
			ASSERT(way_io(&w, c->vol, FS_WRITE, 0, off, sizeof(now), now) == 0);
		}
		ASSERT(way_io(&w, c->vol, FS_READ, 0, off, sizeof(now), now) == 0);
		ASSERT(now[0] == now[1] && now[0] >= last[0]);
		ASSERT(!c->writes || now[0] == value);
		memcpy(last, now, sizeof(last));
		c->ops++;
	}
	way_close(&w);
	return NULL;
}

/* ---- volumes come and go ------------------------------------------------------------------ */

struct manager {
	struct fs *fs;
	uint64_t seed;
	const _Atomic bool *stop;
	uint64_t ops;
};

static void *manage_volumes(void *arg)
{
	struct manager *m = arg;
	uint8_t buf[FS_BLOCK_SIZE];
	uint64_t n = 0;
	struct way w;

	way_open(&w, m->fs, m->seed);
	while (!atomic_load(m->stop)) {
		struct fs_volume *vol;
		struct fs_error err;
		char name[64], other[80];

		snprintf(name, sizeof(name), "m%llu-%llu", (unsigned long long)m->seed,
			 (unsigned long long)n++);
		snprintf(other, sizeof(other), "%s.renamed", name);
		ASSERT(fs_volume_create(m->fs, name, 64 * BLOCK, 0, &err) == 0);
		ASSERT(fs_volume_get(m->fs, name, &vol) == 0);
		for (unsigned i = 0; i < 20; i++) {
			uint64_t blk = pick(&w.rng, 64);

			block_bytes(buf, blk, i + 1);
			ASSERT(way_io(&w, vol, FS_WRITE, i == 10 ? FS_FUA : 0, blk * BLOCK, BLOCK, buf) == 0);
			ASSERT(way_io(&w, vol, FS_READ, 0, blk * BLOCK, BLOCK, buf) == 0);
			ASSERT(version_of(buf, blk) == i + 1);
		}
		ASSERT(fs_volume_resize(m->fs, name, (1 + pick(&w.rng, 100)) * BLOCK, &err) == 0);
		ASSERT(fs_volume_rename(m->fs, name, other, &err) == 0);
		ASSERT(fs_volume_delete(m->fs, other, &err) == -EBUSY);
		fs_volume_put(vol);
		ASSERT(fs_volume_delete(m->fs, other, &err) == 0);
		m->ops++;
	}
	way_close(&w);
	return NULL;
}

/* Somebody who looks at everything all the time. */
static int see_volume(void *arg, const struct fs_volume_info *info)
{
	ASSERT(info->size % BLOCK == 0 && info->size > 0);
	return 0;
}

static int see_piece(void *arg, uint64_t off, uint64_t len, bool hole)
{
	uint64_t *next = arg;

	ASSERT(off == *next && len > 0);
	*next = off + len;
	return 0;
}

static void *look_around(void *arg)
{
	struct counter *c = arg;

	while (!atomic_load(c->stop)) {
		struct fs_volume_info vi;
		uint64_t next = 0, size = fs_volume_size(c->vol);
		struct fs_info info;

		fs_get_info(c->fs, &info);
		ASSERT(!info.read_only);
		fs_volume_get_info(c->vol, &vi);
		ASSERT(fs_volume_list(c->fs, see_volume, NULL) == 0);
		ASSERT(fs_volume_map(c->vol, 0, size, see_piece, &next) == 0 && next == size);
		c->ops++;
	}
	return NULL;
}

/* ---- all of it at once ---------------------------------------------------------------------- */

#define OWNERS 3u
#define OWNED 2000u /* blocks of each */
#define SHARED 200u
#define COUNTED (OWNERS * OWNED + 1) /* a block */
#define BLOCKS (COUNTED + 8)

static void verify_owned(struct engine *e, struct fs_volume *vol, struct owner *owner)
{
	uint8_t *buf = malloc(OWNED * BLOCK);

	for (unsigned i = 0; i < OWNERS; i++) {
		assert_int_equal(engine_read(e, vol, owner[i].first * BLOCK, OWNED * BLOCK, buf), 0);
		for (uint64_t b = 0; b < OWNED; b++)
			assert_int_equal(version_of(buf + b * BLOCK, owner[i].first + b),
					 owner[i].version[b]);
	}
	free(buf);
}

static void verify_shared(struct engine *e, struct fs_volume *vol)
{
	uint8_t *buf = malloc(SHARED * BLOCK);

	assert_int_equal(engine_read(e, vol, 0, SHARED * BLOCK, buf), 0);
	for (uint64_t b = 0; b < SHARED; b++)
		(void)version_of(buf + b * BLOCK, b);
	free(buf);
}

static void run_all(uint64_t seed, uint64_t cache_bytes)
{
	struct fs_options opt = {.cache_bytes = cache_bytes, .commit_interval_ms = 10, .workers = 3};
	struct engine *e = engine_new_threads(160 * MIB, seed, &opt);
	struct fs_volume *vol = engine_volume(e, "v", BLOCKS * BLOCK),
			 *shared = engine_volume(e, "shared", SHARED * BLOCK);
	_Atomic bool stop = false;
	_Atomic uint32_t next = 1;
	struct owner owner[OWNERS];
	struct sharer sharer[2];
	struct counter counter[3], looker = {.fs = e->fs, .vol = vol, .stop = &stop};
	struct manager manager[2];
	pthread_t thread[16];
	unsigned n = 0;
	struct fs_info info;

	for (unsigned i = 0; i < OWNERS; i++) {
		owner[i] = (struct owner){.fs = e->fs,
					  .vol = vol,
					  .seed = seed + i,
					  .first = i * OWNED,
					  .blocks = OWNED,
					  .stop = &stop,
					  .version = calloc(OWNED, sizeof(uint32_t))};
		assert_int_equal(pthread_create(&thread[n++], NULL, own_range, &owner[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		sharer[i] = (struct sharer){.fs = e->fs,
					    .vol = shared,
					    .seed = seed + 10 + i,
					    .blocks = SHARED,
					    .stop = &stop,
					    .next = &next};
		manager[i] = (struct manager){.fs = e->fs, .seed = seed + 20 + i, .stop = &stop};
		assert_int_equal(pthread_create(&thread[n++], NULL, manage_volumes, &manager[i]), 0);
		assert_int_equal(pthread_create(&thread[n++], NULL, share_range, &sharer[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		counter[i] = (struct counter){
			.fs = e->fs, .vol = vol, .stop = &stop, .blk = COUNTED + 1, .writes = i == 0};
		assert_int_equal(pthread_create(&thread[n++], NULL, count_up, &counter[i]), 0);
	}
	assert_int_equal(pthread_create(&thread[n++], NULL, look_around, &looker), 0);
	usleep((useconds_t)(RUN_SECONDS * 1e6));
	atomic_store(&stop, true);
	for (unsigned i = 0; i < n; i++)
		pthread_join(thread[i], NULL);

	fs_get_info(e->fs, &info);
	print_message(
		"  owners %llu, sharers %llu, counters %llu, volumes %llu, looks %llu, commits %llu, flush groups %llu\n",
		(unsigned long long)(owner[0].ops + owner[1].ops + owner[2].ops),
		(unsigned long long)(sharer[0].ops + sharer[1].ops),
		(unsigned long long)(counter[0].ops + counter[1].ops + counter[2].ops),
		(unsigned long long)(manager[0].ops + manager[1].ops), (unsigned long long)looker.ops,
		(unsigned long long)info.commits, (unsigned long long)info.log_groups);
	assert_true(info.commits > 5 && manager[0].ops > 0 && looker.ops > 0 && owner[0].ops > 50);
	verify_owned(e, vol, owner);
	verify_shared(e, shared);
	engine_check_committed(e);
	fs_volume_put(vol);
	fs_volume_put(shared);
	engine_close(e);
	engine_check_device(e->sim);
	engine_open(e);
	vol = engine_volume(e, "v", 0);
	verify_owned(e, vol, owner);
	fs_volume_put(vol);
	engine_close(e);
	for (unsigned i = 0; i < OWNERS; i++)
		free(owner[i].version);
	engine_free(e);
}

static void test_threads_all_at_once(void **state)
{
	run_all(test_seed(), 32 * MIB);
}

static void test_threads_all_at_once_with_a_small_cache(void **state)
{
	run_all(test_seed(), 2 * MIB);
}

/* ---- the machine dies under load ----------------------------------------------------------------- */

/* Each thread remembers the last version of its block that a flush covered. */
struct flusher {
	struct fs *fs;
	struct fs_volume *vol;
	const _Atomic bool *stop;
	uint64_t blk;
	_Atomic uint32_t flushed, written;
};

static void *write_and_flush(void *arg)
{
	struct flusher *f = arg;
	uint8_t buf[FS_BLOCK_SIZE];
	uint32_t version = 0;
	struct way w;

	way_open(&w, f->fs, f->blk);
	while (!atomic_load(f->stop)) {
		block_bytes(buf, f->blk, ++version);
		atomic_store(&f->written, version);
		if (way_io(&w, f->vol, FS_WRITE, 0, f->blk * BLOCK, BLOCK, buf))
			break;
		if (way_io(&w, NULL, FS_FLUSH, 0, 0, 0, NULL))
			break;
		atomic_store(&f->flushed, version);
	}
	way_close(&w);
	return NULL;
}

static void test_threads_flushed_is_found_when_the_machine_dies(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 8 * MIB, .commit_interval_ms = 7, .workers = 2};
	unsigned images = SANITIZED ? 4 : 15;
	struct engine *e = engine_new_threads(48 * MIB, seed, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 64 * BLOCK);
	_Atomic bool stop = false;
	struct flusher f[8];
	pthread_t thread[8];

	for (unsigned i = 0; i < 8; i++) {
		memset(&f[i], 0, sizeof(f[i]));
		f[i].fs = e->fs;
		f[i].vol = vol;
		f[i].stop = &stop;
		f[i].blk = i * 8;
		assert_int_equal(pthread_create(&thread[i], NULL, write_and_flush, &f[i]), 0);
	}
	for (unsigned k = 0; k < images; k++) {
		struct engine found = {.opt = {.cache_bytes = 8 * MIB}};
		struct fs_volume *v;
		uint32_t before[8], after[8];

		usleep(60000);
		for (unsigned i = 0; i < 8; i++)
			before[i] = atomic_load(&f[i].flushed);
		found.sim = device_sim_crash_image(
			e->sim, (enum device_sim_crash_mode)(k % DEVICE_SIM_CRASH_MODES), seed + k);
		for (unsigned i = 0; i < 8; i++)
			after[i] = atomic_load(&f[i].written);
		engine_check_device(found.sim);
		engine_open(&found);
		v = engine_volume(&found, "v", 0);
		for (unsigned i = 0; i < 8; i++) {
			uint8_t buf[FS_BLOCK_SIZE];
			uint32_t version;

			assert_int_equal(engine_read(&found, v, f[i].blk * BLOCK, BLOCK, buf), 0);
			version = version_of(buf, f[i].blk);
			if (version < before[i] || version > after[i])
				fail_msg("image %u, block %llu: version %u, flushed were %u, written %u", k,
					 (unsigned long long)f[i].blk, version, before[i], after[i]);
		}
		fs_volume_put(v);
		engine_check_all(&found);
		engine_abandon(&found);
		device_close(found.sim);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	assert_true(f[0].flushed > images);
	fs_volume_put(vol);
	engine_check_committed(e);
	engine_close(e);
	engine_free(e);
}

/* ---- a pool that fills up and empties ---------------------------------------------------------------- */

static void *fill_and_trim(void *arg)
{
	struct owner *o = arg;
	uint8_t *buf = malloc(DEPTH * 16 * BLOCK);
	struct fs_io io[DEPTH];
	struct way w;

	way_open(&w, o->fs, o->seed);
	while (!atomic_load(o->stop)) {
		for (unsigned i = 0; i < DEPTH; i++) {
			uint64_t len = 1 + pick(&w.rng, 16), blk = o->first + pick(&w.rng, o->blocks - len);

			io[i] = (struct fs_io){.op = pick(&w.rng, 8) ? FS_WRITE : FS_TRIM,
					       .vol = o->vol,
					       .off = blk * BLOCK,
					       .len = len * BLOCK,
					       .buf = buf + i * 16 * BLOCK};
			if (io[i].op == FS_TRIM && pick(&w.rng, 2)) { /* edges inside of blocks */
				io[i].off += 10;
				io[i].len -= 20;
			}
			if (io[i].op == FS_WRITE)
				memset(io[i].buf, (int)o->ops | 1, io[i].len);
		}
		way_run(&w, io, DEPTH);
		for (unsigned i = 0; i < DEPTH; i++)
			if (io[i].error && (io[i].error != -ENOSPC || io[i].op != FS_WRITE)) {
				fprintf(stderr, "op %d: %s\n", io[i].op, strerror(-io[i].error));
				abort();
			}
		o->ops += DEPTH;
	}
	way_close(&w);
	free(buf);
	return NULL;
}

static void test_threads_on_the_edge_of_a_full_pool(void **state)
{
	uint64_t seed = test_seed();
	struct fs_options opt = {.cache_bytes = 8 * MIB, .commit_interval_ms = 10, .workers = 2};
	struct engine *e = engine_new_threads(32 * MIB, seed, &opt);
	struct fs_volume *vol = engine_volume(e, "v", 64 * MIB);
	_Atomic bool stop = false;
	struct owner owner[4];
	struct fs_info info;
	pthread_t thread[4];

	for (unsigned i = 0; i < 4; i++) {
		owner[i] = (struct owner){.fs = e->fs,
					  .vol = vol,
					  .seed = seed + i,
					  .first = i * 4096,
					  .blocks = 4096,
					  .stop = &stop};
		assert_int_equal(pthread_create(&thread[i], NULL, fill_and_trim, &owner[i]), 0);
	}
	usleep((useconds_t)(RUN_SECONDS * 1e6));
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	fs_get_info(e->fs, &info);
	print_message("  %llu requests, %llu refused, %llu commits\n",
		      (unsigned long long)(owner[0].ops + owner[1].ops + owner[2].ops + owner[3].ops),
		      (unsigned long long)info.enospc, (unsigned long long)info.commits);
	assert_true(info.enospc > 0);
	engine_check_committed(e);
	assert_int_equal(engine_trim(e, vol, 0, 64 * MIB), 0);
	fs_volume_put(vol);
	engine_check_committed(e);
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_all_at_once),
		cmocka_unit_test(test_threads_all_at_once_with_a_small_cache),
		cmocka_unit_test(test_threads_flushed_is_found_when_the_machine_dies),
		cmocka_unit_test(test_threads_on_the_edge_of_a_full_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
