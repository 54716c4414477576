/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/bench/fill.c: fills a pool with a known number of extents, for benchmarks of what depends on that
 * number.
 *
 *   fill POOL VOLUMES EXTENTS
 *
 * Creates volumes fill-0 ... and writes every second block of each (so that no two extents join), round
 * robin, through the engine itself: 4 KiB of data an extent. The content of a block is its number, so that it
 * can be verified.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/core/fs_int.h"
#include "fs/volume/volume.h"

#define DEPTH 256u

struct slot {
	struct fs_io io;
	uint64_t buf[FS_BLOCK_SIZE / sizeof(uint64_t)];
	struct filler *f;
};

struct filler {
	struct fs *fs;
	struct fs_ctx *ctx;
	struct fs_volume **vol;
	uint64_t volumes, extents, next, done;
	int error;
	struct slot slot[DEPTH];
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "fill: %s: %s\n", what, why);
	exit(1);
}

static void start(struct filler *f, struct slot *s);

static void written(struct fs_io *io)
{
	struct slot *s = io->arg;

	if (io->error && !s->f->error)
		s->f->error = io->error;
	s->f->done++;
	start(s->f, s);
}

static void start(struct filler *f, struct slot *s)
{
	struct fs_io *ios[1] = {&s->io};
	uint64_t n = f->next;

	if (n == f->extents || f->error)
		return;
	f->next++;
	for (size_t i = 0; i < FS_BLOCK_SIZE / sizeof(uint64_t); i++)
		s->buf[i] = n;
	s->io = (struct fs_io){.op = FS_WRITE,
			       .vol = f->vol[n % f->volumes],
			       .off = n / f->volumes * 2 * FS_BLOCK_SIZE,
			       .len = FS_BLOCK_SIZE,
			       .buf = s->buf,
			       .done = written,
			       .arg = s};
	fs_submit(f->ctx, ios, 1);
}

static void make_volumes(struct filler *f)
{
	uint64_t size = (f->extents / f->volumes + 1) * 2 * FS_BLOCK_SIZE;
	struct fs_error err;

	f->vol = calloc(f->volumes, sizeof(*f->vol));
	if (!f->vol)
		die("volumes", "out of memory");
	for (uint64_t i = 0; i < f->volumes; i++) {
		char name[32];

		snprintf(name, sizeof(name), "fill-%llu", (unsigned long long)i);
		if (fs_volume_create(f->fs, name, size, 0, &err))
			die(name, err.msg);
		if (fs_volume_get(f->fs, name, &f->vol[i]))
			die(name, "cannot be opened");
	}
}

static void run(struct filler *f)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		f->slot[i].f = f;
		start(f, &f->slot[i]);
	}
	while (f->done < f->next) {
		struct pollfd pfd = {fs_ctx_fd(f->ctx), POLLIN, 0};

		(void)poll(&pfd, 1, 1000);
		fs_ctx_run(f->ctx);
	}
	if (f->error)
		die("write", strerror(-f->error));
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t n = strtoull(s, &end, 10);

	if (*end || n == 0)
		die(s, "not a number");
	return n;
}

int main(int argc, char **argv)
{
	static struct filler f;
	struct fs_options opt = {.cache_bytes = 512u << 20};
	struct fs_error err;

	if (argc != 4) {
		fprintf(stderr, "usage: fill POOL VOLUMES EXTENTS\n");
		return 2;
	}
	f.volumes = number(argv[2]);
	f.extents = number(argv[3]);
	if (fs_open(argv[1], &opt, &f.fs, &err))
		die("open", err.msg);
	if (fs_ctx_new(f.fs, &f.ctx))
		die("context", "cannot be made");
	make_volumes(&f);
	run(&f);
	for (uint64_t i = 0; i < f.volumes; i++)
		fs_volume_put(f.vol[i]);
	fs_ctx_free(f.ctx);
	if (fs_close(f.fs))
		die("close", "the last commit failed");
	free(f.vol);
	printf("%llu extents in %llu volumes\n", (unsigned long long)f.extents,
	       (unsigned long long)f.volumes);
	return 0;
}
