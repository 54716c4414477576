/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/bench/trim.c: a trim of a volume with very many extents, and what another client feels of it. On a
 * simulated device, which takes no time: figures are of the processor and of memory.
 *
 *   trim [EXTENTS]   (1,000,000) extents of one block each; 100 bytes of memory an extent for the device
 *
 * Prints: how long the trim took to be answered, the longest commit, how many there were until all was freed
 * and how long that took, by how much memory grew at the most (64 MiB of that is the cache, which was empty),
 * and the slowest of the other client's writes with a flush, alone and beside it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/fast_fill.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/io/ctx.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define PAUSE_US 1000u

struct client {
	struct engine *e;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic uint64_t worst_us, sum_us, count;
};

static uint64_t status_kib(const char *field)
{
	unsigned long long kib = 0;
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, field, strlen(field)) == 0)
			(void)sscanf(line + strlen(field), "%llu", &kib);
	if (f)
		fclose(f);
	return kib;
}

static void reset_peak(void)
{
	FILE *f = fopen("/proc/self/clear_refs", "w");

	if (f) {
		fputs("5", f);
		fclose(f);
	}
}

static void io_ended(struct fs_io *io)
{
	*(bool *)io->arg = true;
}

static void one(struct fs_ctx *ctx, struct fs_volume *vol, enum fs_op op, uint64_t off, uint64_t len,
		void *buf)
{
	bool done = false;
	struct fs_io io = {
		.op = op, .vol = vol, .off = off, .len = len, .buf = buf, .done = io_ended, .arg = &done};
	struct fs_io *ios[1] = {&io};

	fs_submit(ctx, ios, 1);
	while (!done) {
		fs_ctx_run(ctx);
		if (!done)
			usleep(20);
	}
	assert_int_equal(io.error, 0);
}

static void *client_run(void *arg)
{
	struct client *c = arg;
	struct fs_volume *vol;
	struct fs_ctx *ctx;
	uint8_t buf[FS_BLOCK_SIZE] = {1};

	assert_int_equal(fs_ctx_new(c->e->fs, &ctx), 0);
	assert_int_equal(fs_volume_get(c->e->fs, "w", &vol), 0);
	for (uint64_t i = 0; !atomic_load(&c->stop); i++) {
		uint64_t start = fs_clock_system.now_us(), us;

		one(ctx, vol, FS_WRITE, i % 1024 * BLOCK, BLOCK, buf);
		one(ctx, vol, FS_FLUSH, 0, 0, NULL);
		us = fs_clock_system.now_us() - start;
		if (us > atomic_load(&c->worst_us))
			atomic_store(&c->worst_us, us);
		atomic_fetch_add(&c->sum_us, us);
		atomic_fetch_add(&c->count, 1);
		usleep(PAUSE_US);
	}
	fs_volume_put(vol);
	fs_ctx_free(ctx);
	return NULL;
}

static void say_client(struct client *c, const char *when)
{
	printf("another client's write with flush, %s: mean %llu us, slowest %.1f ms\n", when,
	       (unsigned long long)(atomic_load(&c->sum_us) /
				    (atomic_load(&c->count) + !atomic_load(&c->count))),
	       (double)atomic_load(&c->worst_us) / 1000);
	atomic_store(&c->worst_us, 0);
	atomic_store(&c->sum_us, 0);
	atomic_store(&c->count, 0);
}

static void measure(struct engine *e, struct client *c, uint64_t size)
{
	struct fs_volume *vol = engine_volume(e, "v", 0);
	uint64_t start, rss = status_kib("VmRSS:"), commits, longest = 0, first;
	uint8_t buf[FS_BLOCK_SIZE], zeros[FS_BLOCK_SIZE] = {0};
	struct fs_info info;

	reset_peak();
	fs_get_info(e->fs, &info);
	commits = info.commits;
	start = fs_clock_system.now_us();
	one(e->ctx, vol, FS_TRIM, 0, size, NULL);
	printf("trim answered after %.1f ms\n", (double)(fs_clock_system.now_us() - start) / 1000);
	one(e->ctx, vol, FS_READ, 0, BLOCK, buf);
	assert_memory_equal(buf, zeros, BLOCK);
	first = info.data_bytes;
	for (bool begun = false; !begun || atomic_load(&e->fs->orphans);) {
		fs_get_info(e->fs, &info);
		longest = max_u64(longest, atomic_load(&e->fs->stats.last_commit_us));
		begun |= info.commits > commits && info.data_bytes < first;
		usleep(500);
	}
	printf("%llu commits in %.2f s until all was freed, the longest %.1f ms\n",
	       (unsigned long long)(info.commits - commits), (double)(fs_clock_system.now_us() - start) / 1e6,
	       (double)longest / 1000);
	printf("memory: %.1f MiB more at the most\n", (double)(status_kib("VmHWM:") - rss) / 1024);
	say_client(c, "beside it");
	fs_volume_put(vol);
}

int main(int argc, char **argv)
{
	uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000,
		 size = (2 * n * BLOCK + MIB - 1) / MIB * MIB;
	const struct fs_options opt = {.cache_bytes = 64 * MIB};
	uint64_t start = fs_clock_system.now_us();
	struct engine *e = engine_new_with(n * BLOCK * 5 / 4 + 1024 * MIB, 1, &opt);
	struct client c = {.e = e};
	struct fs_volume *vol = engine_volume(e, "v", size);

	fs_volume_put(engine_volume(e, "w", 8 * MIB));
	fast_fill(e, vol, 0, n, 2);
	printf("%llu extents in %llu leaves, made in %.0f s\n", (unsigned long long)n,
	       (unsigned long long)vol->root.leaves, (double)(fs_clock_system.now_us() - start) / 1e6);
	fs_volume_put(vol);
	engine_close(e);
	e->threads = true;
	engine_open(e);
	assert_int_equal(pthread_create(&c.thread, NULL, client_run, &c), 0);
	sleep(3);
	say_client(&c, "alone");
	measure(e, &c, size);
	atomic_store(&c.stop, true);
	pthread_join(c.thread, NULL);
	engine_close(e);
	engine_free(e);
	return 0;
}
