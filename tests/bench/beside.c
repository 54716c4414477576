/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/bench/beside.c: what one client feels of what others do, through the engine itself. Prints a line for
 * each figure.
 *
 *   beside reserved FILE   random overwrites of a reserved volume: alone, and beside four writers to a full
 *                          thin volume
 *   beside promise FILE    random writes while a reserved volume of 3,000 GiB is made
 *   beside reads FILE      cold random reads: alone, and beside eight that make and delete volumes, map, or
 *                          resize
 *
 * FILE is a sparse pool that is made, and removed at the end. SECONDS=n: how long each lasts (3).
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define SAMPLES_MAX (4u << 20)

static void die(const char *what, int error)
{
	fprintf(stderr, "beside: %s: %s\n", what, strerror(-error));
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double duration(void)
{
	const char *s = getenv("SECONDS");

	return s ? atof(s) : 3;
}

static unsigned long resident_kib(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long size = 0, pages = 0;

	if (!f || fscanf(f, "%lu %lu", &size, &pages) != 2)
		pages = 0;
	if (f)
		fclose(f);
	return pages * 4;
}

/* ---- a client with one request under way ------------------------------------- */

struct client {
	struct fs *fs;
	const char *volume;
	enum fs_op op;
	uint64_t span, len; /* random places in the first `span` bytes */
	double until;
	_Atomic bool *stop;
	uint64_t rng, done, refused;
	float *us; /* each request's; NULL: not kept */
	pthread_t thread;
};

static uint64_t draw(uint64_t *rng, uint64_t n)
{
	*rng = *rng * 6364136223846793005u + 1442695040888963407u;
	return (*rng >> 20) % n;
}

static void ended(struct fs_io *io)
{
	*(bool *)io->arg = true;
}

static void one_request(struct client *c, struct fs_ctx *ctx, struct fs_io *io)
{
	struct fs_io *ios[1] = {io};
	double from = now();
	bool done = false;

	io->off = draw(&c->rng, c->span / c->len) * c->len;
	io->arg = &done;
	fs_submit(ctx, ios, 1);
	while (!done) {
		struct pollfd pfd = {.fd = fs_ctx_fd(ctx), .events = POLLIN};

		(void)poll(&pfd, 1, 1000);
		fs_ctx_run(ctx);
	}
	if (io->error && io->error != -ENOSPC)
		die("a request", io->error);
	c->refused += io->error == -ENOSPC;
	if (c->us && c->done < SAMPLES_MAX)
		c->us[c->done] = (float)((now() - from) * 1e6);
	c->done++;
}

static void *client_main(void *arg)
{
	struct client *c = arg;
	struct fs_io io = {.op = c->op, .len = c->len, .done = ended};
	struct fs_ctx *ctx;
	int r = fs_volume_get(c->fs, c->volume, &io.vol);

	if (r == 0)
		r = fs_ctx_new(c->fs, &ctx);
	io.buf = calloc(1, c->len);
	if (r || !io.buf)
		die(c->volume, r ? r : -ENOMEM);
	memset(io.buf, 1, c->len);
	while (now() < c->until && !atomic_load(c->stop))
		one_request(c, ctx, &io);
	fs_ctx_free(ctx);
	fs_volume_put(io.vol);
	free(io.buf);
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static void report(const char *what, struct client *c, double seconds)
{
	uint64_t n = c->done < SAMPLES_MAX ? c->done : SAMPLES_MAX;
	double sum = 0;

	if (n == 0)
		die("nothing was done", -EIO);
	qsort(c->us, n, sizeof(*c->us), ascending);
	for (uint64_t i = 0; i < n; i++)
		sum += c->us[i];
	printf("%-44s %9.0f a second; mean %8.1f us, median %8.1f, 99%% %9.1f, worst %10.1f\n", what,
	       (double)c->done / seconds, sum / (double)n, c->us[n / 2], c->us[n * 99 / 100], c->us[n - 1]);
	fflush(stdout);
}

static struct client client_of(struct fs *fs, const char *volume, enum fs_op op, uint64_t span, uint64_t len,
			       _Atomic bool *stop)
{
	struct client c = {.fs = fs,
			   .volume = volume,
			   .op = op,
			   .span = span,
			   .len = len,
			   .stop = stop,
			   .rng = span + len};

	return c;
}

/* Measures the client for so long, in this thread. */
static void measure(const char *what, struct client *c, double seconds)
{
	c->us = malloc(SAMPLES_MAX * sizeof(*c->us));
	if (!c->us)
		die(what, -ENOMEM);
	c->done = 0;
	c->until = now() + seconds;
	(void)client_main(c);
	report(what, c, seconds);
	free(c->us);
	c->us = NULL;
}

static void start(struct client *c)
{
	int r;

	c->until = now() + 3600;
	r = -pthread_create(&c->thread, NULL, client_main, c);
	if (r)
		die("pthread_create", r);
}

/* ---- pools ------------------------------------------------------------------- */

static void create(struct fs *fs, const char *name, uint64_t size, uint32_t flags)
{
	struct fs_error err = {""};

	if (fs_volume_create(fs, name, size, flags, &err)) {
		fprintf(stderr, "beside: %s\n", err.msg);
		exit(1);
	}
}

static void fill(struct fs *fs, const char *name, uint64_t size)
{
	struct fs_io io = {.op = FS_WRITE, .len = 4 * MIB, .done = ended};
	int r = fs_volume_get(fs, name, &io.vol);

	io.buf = malloc(io.len);
	if (r || !io.buf)
		die(name, r ? r : -ENOMEM);
	memset(io.buf, 7, io.len);
	for (; io.off < size && r == 0; io.off += io.len)
		r = fs_io_wait(fs, &io);
	if (r && r != -ENOSPC)
		die("fill", r);
	fs_volume_put(io.vol);
	free(io.buf);
}

static struct fs *new_pool(const char *path, uint64_t size, const struct fs_options *opt)
{
	struct fs_create_options co = {.size_bytes = size, .sparse = true, .force = true};
	struct fs_error err = {""};
	struct fs *fs;

	if (fs_create(path, &co, &err) || fs_open(path, opt, &fs, &err)) {
		fprintf(stderr, "beside: %s\n", err.msg);
		exit(1);
	}
	return fs;
}

/* ---- reserved ---------------------------------------------------------------- */

static void reserved(const char *path)
{
	struct fs_options opt = {.cache_bytes = 256 * MIB};
	struct fs *fs = new_pool(path, GIB, &opt);
	_Atomic bool stop = false;
	struct client c, thin[4];
	uint64_t refused = 0;

	create(fs, "r", 64 * MIB, FS_VOLUME_RESERVED);
	create(fs, "t", 4 * GIB, 0);
	fill(fs, "r", 64 * MIB);
	fill(fs, "t", 4 * GIB);
	(void)fs_commit(fs);
	c = client_of(fs, "r", FS_WRITE, 64 * MIB, 4096, &stop);
	measure("reserved volume, pool full, alone", &c, duration());
	for (unsigned i = 0; i < 4; i++) {
		thin[i] = client_of(fs, "t", FS_WRITE, 4 * GIB, 65536, &stop);
		thin[i].rng += i;
		start(&thin[i]);
	}
	measure("reserved volume, beside four thin writers", &c, duration());
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 4; i++) {
		(void)pthread_join(thin[i].thread, NULL);
		refused += thin[i].refused;
	}
	printf("%-44s %9llu\n", "ENOSPC among the thin ones", (unsigned long long)refused);
	(void)fs_close(fs);
}

/* ---- promise ----------------------------------------------------------------- */

static void promise(const char *path)
{
	struct fs_options opt = {.cache_bytes = 64 * MIB, .commit_interval_ms = 600000};
	struct fs *fs = new_pool(path, 3500 * GIB, &opt);
	_Atomic bool stop = false;
	struct client c;
	unsigned long before;
	double from;

	create(fs, "t", GIB, 0);
	c = client_of(fs, "t", FS_WRITE, 16 * MIB, 4096, &stop);
	measure("writes, nothing beside", &c, 1);
	before = resident_kib();
	c.us = malloc(SAMPLES_MAX * sizeof(*c.us));
	if (!c.us)
		die("malloc", -ENOMEM);
	c.done = 0;
	start(&c);
	from = now();
	create(fs, "r", 3000 * GIB, FS_VOLUME_RESERVED);
	printf("%-44s %9.1f ms, %+ld KiB of memory\n", "a reserved volume of 3,000 GiB is made in",
	       (now() - from) * 1e3, (long)(resident_kib() - before));
	atomic_store(&stop, true);
	(void)pthread_join(c.thread, NULL);
	report("writes meanwhile", &c, now() - from);
	free(c.us);
	(void)fs_close(fs);
}

/* ---- reads ------------------------------------------------------------------- */

struct operator
{
	struct fs_work work;
	struct fs *fs;
	unsigned index;
	_Atomic bool *stop, ended;
	uint64_t done;
};

static int count_piece(void *arg, uint64_t off, uint64_t len, bool hole)
{
	(void)off;
	(void)len;
	*(uint64_t *)arg += hole;
	return 0;
}

/* One slow thing after another, on a worker as the server does it. */
static void operate(struct fs_work *work)
{
	struct operator* o =(struct operator*) work;
	char name[32];

	snprintf(name, sizeof(name), "op-%u", o->index);
	if (o->index % 2) {
		struct fs_volume *vol;
		uint64_t holes = 0;

		if (fs_volume_get(o->fs, "v", &vol) == 0) {
			(void)fs_volume_map(vol, 0, fs_volume_size(vol), count_piece, &holes);
			fs_volume_put(vol);
		}
	} else {
		(void)fs_volume_create(o->fs, name, GIB, 0, NULL);
		(void)fs_volume_delete(o->fs, name, NULL);
	}
	o->done++;
	if (atomic_load(o->stop))
		atomic_store(&o->ended, true);
	else
		fs_work(o->fs, &o->work);
}

static void reads(const char *path)
{
	struct fs_options opt = {.cache_bytes = 24 * MIB}; /* less than the nodes of the volume */
	struct fs *fs = new_pool(path, 8 * GIB, &opt);
	_Atomic bool stop = false, never = false;
	struct operator ops[8];
	uint64_t operations = 0;
	struct client c;

	create(fs, "v", 64 * GIB, 0);
	for (unsigned i = 0; i < 2; i++) { /* each block an extent of its own */
		struct client w = client_of(fs, "v", FS_WRITE, 64 * GIB, 4096, &never);

		w.rng += i;
		w.until = now() + 3 * duration();
		(void)client_main(&w);
		(void)fs_commit(fs);
	}
	c = client_of(fs, "v", FS_READ, 64 * GIB, 4096, &never);
	measure("cold random reads, alone", &c, duration());
	for (unsigned i = 0; i < 8; i++) {
		ops[i] = (struct operator){.work = {.fn = operate}, .fs = fs, .index = i, .stop = &stop};
		fs_work(fs, &ops[i].work);
	}
	measure("cold random reads, beside eight operations", &c, duration());
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 8; i++) {
		while (!atomic_load(&ops[i].ended))
			usleep(1000);
		operations += ops[i].done;
	}
	printf("%-44s %9llu\n", "operations meanwhile", (unsigned long long)operations);
	(void)fs_close(fs);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(const char *path);
	} scenes[] = {{"reserved", reserved}, {"promise", promise}, {"reads", reads}};

	for (size_t i = 0; argc == 3 && i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		if (strcmp(argv[1], scenes[i].name) == 0) {
			scenes[i].fn(argv[2]);
			(void)unlink(argv[2]);
			return 0;
		}
	}
	fprintf(stderr, "usage: beside reserved|promise|reads FILE\n");
	return 2;
}
