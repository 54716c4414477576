/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/engine.h: a pool on a simulated device with one context, and calls that wait. For tests that are
 * linked with cmocka: what must not fail is asserted.
 */
#ifndef TESTS_LIB_ENGINE_H
#define TESTS_LIB_ENGINE_H

#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "tests/lib/kept_device.h"

struct device;
struct fs;
struct fs_ctx;
struct fs_volume;

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define BLOCK ((uint64_t)FS_BLOCK_SIZE)
#define STEPS_MAX 20000000u /* more than any test needs */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

struct engine {
	struct device *sim; /* stays when the pool is closed; NULL: the pool is a file */
	char path[256];
	struct fs *fs;
	struct fs_ctx *ctx;
	struct fs_options opt;
	bool threads;	   /* a real commit thread and workers, on the simulated device */
	bool hold_commits; /* requests that are waited for run workers, but no commit */
	uint64_t rng;
	char log[4096]; /* the last messages */
};

/* Runs what the pool's threads would do, until there is nothing left. */
void engine_settle(struct engine *e);

int engine_try_open(struct engine *e);

/* Opens without running anything yet: what was asked for at open (a first commit) is still to be done. */
void engine_open_only(struct engine *e);

void engine_open(struct engine *e);

struct engine *engine_new_with(uint64_t size, uint64_t seed, const struct fs_options *opt);

struct engine *engine_new(uint64_t size, uint64_t seed);

/* On a sparse file of a host that can run full. */
struct engine *engine_new_sparse(uint64_t size, uint64_t seed);

/* With the pool's own threads, on a simulated device; its outcome depends on them. */
struct engine *engine_new_threads(uint64_t size, uint64_t seed, const struct fs_options *opt);

/* A sparse file in a folder for large temporary files, as a user's pool is. */
struct engine *engine_new_file(uint64_t size, uint64_t seed, const struct fs_options *opt);

void engine_close(struct engine *e);

/* The process dies; the device goes on. */
void engine_abandon(struct engine *e);

void engine_reopen(struct engine *e);

/* The machine dies: what is found again is drawn by `mode`. */
void engine_crash(struct engine *e, enum device_sim_crash_mode mode, uint64_t seed);

/* Frees all; what is not committed is gone. */
void engine_free(struct engine *e);

/*
 * Commits until nothing is left to be done: deleted volumes are freed, pins are released. Nothing may be
 * under way.
 */
void engine_commit(struct engine *e);

void engine_io_done(struct fs_io *io);

/* Runs the pool until *left is 0. */
void engine_wait(struct engine *e, const unsigned *left);

/* The device under an open pool, for before_submit. */
struct kept_device *engine_device(struct engine *e);

/* Starts n requests as one batch; *left counts down. */
void engine_submit(struct engine *e, struct fs_io *ios, unsigned n, unsigned *left);

int engine_io(struct engine *e, struct fs_volume *vol, enum fs_op op, uint32_t flags, uint64_t off,
	      uint64_t len, void *buf);

int engine_write(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len, const void *buf);

int engine_read(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len, void *buf);

int engine_trim(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len);

int engine_flush(struct engine *e);

/* Makes a volume if there is none of that name, and takes a handle. */
struct fs_volume *engine_volume(struct engine *e, const char *name, uint64_t size);

#endif
