/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/device/work.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/pool/pool.h"
#include "fs/space/pins.h"
#include "fs/volume/volume.h"

/* ---- opening and closing ---------------------------------------------------- */

static void engine_log(void *arg, enum fs_log_level level, const char *msg)
{
	struct engine *e = arg;
	size_t used, len = strlen(msg) + 1;

	if (getenv("VERBOSE"))
		fprintf(stderr, "log %d: %s\n", (int)level, msg);
	if (e->threads || len + 1 > sizeof(e->log))
		return;
	used = strlen(e->log);
	if (used + len + 1 > sizeof(e->log)) {
		e->log[0] = 0;
		used = 0;
	}
	memcpy(e->log + used, msg, len);
	strcat(e->log, "\n");
}

void engine_settle(struct engine *e)
{
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		if (e->ctx)
			fs_ctx_run(e->ctx);
		if (!pool_step(e->fs))
			return;
	}
	fail_msg("the pool does not come to rest");
}

int engine_try_open(struct engine *e)
{
	struct fs_error err = {""};
	int r;

	assert_true(e->sim || e->path[0]);
	e->opt.log = engine_log;
	e->opt.log_arg = e;
	if (!e->opt.cache_bytes)
		e->opt.cache_bytes = 16 * MIB;
	e->fs = NULL;
	e->ctx = NULL;
	r = e->sim ? pool_open(kept_device_new(e->sim), &e->opt,
			       e->threads ? &fs_clock_system : &pool_without_threads, &e->fs, &err)
		   : fs_open(e->path, &e->opt, &e->fs, &err);
	if (r) {
		print_message("open: %s\n", err.msg);
		return r;
	}
	assert_int_equal(fs_ctx_new(e->fs, &e->ctx), 0);
	return 0;
}

void engine_open_only(struct engine *e)
{
	assert_int_equal(engine_try_open(e), 0);
}

void engine_open(struct engine *e)
{
	engine_open_only(e);
	if (!e->threads)
		engine_settle(e);
}

struct engine *engine_new_with(uint64_t size, uint64_t seed, const struct fs_options *opt)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->rng = seed;
	if (opt)
		e->opt = *opt;
	e->sim = device_sim_new(size, seed);
	assert_int_equal(pool_format(e->sim, false, NULL), 0);
	engine_open(e);
	return e;
}

struct engine *engine_new(uint64_t size, uint64_t seed)
{
	return engine_new_with(size, seed, NULL);
}

struct engine *engine_new_sparse(uint64_t size, uint64_t seed)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->rng = seed;
	e->sim = device_sim_new(size, seed);
	device_sim_set_sparse(e->sim);
	assert_int_equal(pool_format(e->sim, true, NULL), 0);
	engine_open(e);
	return e;
}

struct engine *engine_new_threads(uint64_t size, uint64_t seed, const struct fs_options *opt)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->rng = seed;
	e->opt = *opt;
	e->threads = true;
	e->sim = device_sim_new(size, seed);
	assert_int_equal(pool_format(e->sim, false, NULL), 0);
	engine_open(e);
	return e;
}

struct engine *engine_new_file(uint64_t size, uint64_t seed, const struct fs_options *opt)
{
	struct fs_create_options co = {.size_bytes = size, .sparse = true, .force = true};
	struct engine *e = calloc(1, sizeof(*e));
	struct fs_error err = {""};
	int fd;

	assert_non_null(e);
	e->rng = seed;
	e->opt = *opt;
	e->threads = true;
	snprintf(e->path, sizeof(e->path), "%s/byre-test-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
	fd = mkstemp(e->path);
	assert_true(fd >= 0);
	close(fd);
	if (fs_create(e->path, &co, &err))
		fail_msg("%s", err.msg);
	engine_open(e);
	return e;
}

void engine_close(struct engine *e)
{
	fs_ctx_free(e->ctx);
	assert_int_equal(fs_close(e->fs), 0);
	e->ctx = NULL;
	e->fs = NULL;
}

void engine_abandon(struct engine *e)
{
	fs_ctx_free(e->ctx);
	pool_abandon(e->fs);
	e->ctx = NULL;
	e->fs = NULL;
}

void engine_reopen(struct engine *e)
{
	engine_close(e);
	engine_open(e);
}

void engine_crash(struct engine *e, enum device_sim_crash_mode mode, uint64_t seed)
{
	struct device *old = e->sim;

	e->sim = device_sim_crash_image(old, mode, seed);
	engine_abandon(e);
	device_close(old);
}

void engine_free(struct engine *e)
{
	if (e->fs)
		engine_abandon(e);
	device_close(e->sim);
	if (e->path[0])
		(void)unlink(e->path);
	free(e);
}

void engine_commit(struct engine *e)
{
	int r;

	for (unsigned i = 0; i < 1000; i++) {
		if (!e->threads)
			engine_settle(e);
		r = fs_commit(e->fs);
		if (r)
			fail_msg("commit: %s; %s", strerror(-r), e->log);
		if (!atomic_load(&e->fs->orphans) && !pins_are_left(e->fs->pins))
			return;
		if (e->threads)
			usleep(1000);
	}
	fail_msg("pins or orphans stay for ever");
}

/* ---- requests that wait ----------------------------------------------------- */

void engine_io_done(struct fs_io *io)
{
	(*(unsigned *)io->arg)--;
}

void engine_wait(struct engine *e, const unsigned *left)
{
	for (unsigned i = 0; *left; i++) {
		if (e->threads)
			(void)poll(&(struct pollfd){.fd = fs_ctx_fd(e->ctx), .events = POLLIN}, 1, 100);
		fs_ctx_run(e->ctx);
		if (e->hold_commits)
			(void)work_run_one(e->fs->work);
		else if (!e->threads)
			pool_step(e->fs);
		if (i >= STEPS_MAX)
			fail_msg("%u requests are never answered", *left);
	}
}

struct kept_device *engine_device(struct engine *e)
{
	return container_of(e->fs->dev, struct kept_device, dev);
}

void engine_submit(struct engine *e, struct fs_io *ios, unsigned n, unsigned *left)
{
	struct fs_io *list[256];

	assert_true(n <= ARRAY_SIZE(list));
	*left += n;
	for (unsigned i = 0; i < n; i++) {
		ios[i].done = engine_io_done;
		ios[i].arg = left;
		ios[i].error = 1; /* done sets it */
		list[i] = &ios[i];
	}
	fs_submit(e->ctx, list, n);
}

int engine_io(struct engine *e, struct fs_volume *vol, enum fs_op op, uint32_t flags, uint64_t off,
	      uint64_t len, void *buf)
{
	struct fs_io io = {.op = op, .flags = flags, .vol = vol, .off = off, .len = len, .buf = buf};
	unsigned left = 0;

	engine_submit(e, &io, 1, &left);
	engine_wait(e, &left);
	return io.error;
}

int engine_write(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len, const void *buf)
{
	return engine_io(e, vol, FS_WRITE, 0, off, len, (void *)(uintptr_t)buf);
}

int engine_read(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len, void *buf)
{
	return engine_io(e, vol, FS_READ, 0, off, len, buf);
}

int engine_trim(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len)
{
	return engine_io(e, vol, FS_TRIM, 0, off, len, NULL);
}

int engine_flush(struct engine *e)
{
	return engine_io(e, NULL, FS_FLUSH, 0, 0, 0, NULL);
}

struct fs_volume *engine_volume(struct engine *e, const char *name, uint64_t size)
{
	struct fs_volume *vol = NULL;
	struct fs_error err = {""};
	int r;

	if (fs_volume_get(e->fs, name, &vol) == 0)
		return vol;
	r = fs_volume_create(e->fs, name, size, 0, &err);
	if (r)
		fail_msg("%s", err.msg);
	assert_int_equal(fs_volume_get(e->fs, name, &vol), 0);
	return vol;
}
