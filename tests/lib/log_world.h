/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/log_world.h: what the tests of the flush log share: a volume whose blocks carry versions, and
 * which of them a flush covered.
 */
#ifndef TESTS_LIB_LOG_WORLD_H
#define TESTS_LIB_LOG_WORLD_H

#include "tests/lib/engine.h"
#include "fs/device/device_sim.h"

struct fs_io;
struct fs_volume;

#define BLOCKS 512u

struct log_world {
	struct engine *e;
	struct fs_volume *vol;
	uint32_t newest[BLOCKS], flushed[BLOCKS];
	uint32_t version;
};

void version_bytes(void *buf, uint32_t version);

struct log_world *log_world_new(uint64_t pool_bytes, uint64_t seed);

void log_world_free(struct log_world *w);

void log_world_write(struct log_world *w, uint64_t blk);

/* One of several sizes; a trim now and then. */
void log_world_write_some(struct log_world *w, unsigned n);

void log_world_flush(struct log_world *w);

/*
 * Every block holds the flushed version or the newest one (there was at most one write of a block since the
 * flush, or the block may hold any of them: then `between` says so). What is there becomes the truth.
 */
void log_world_verify(struct log_world *w, bool between);

void log_world_die(struct log_world *w, enum device_sim_crash_mode mode);

/* While a commit is under way: nothing but the context runs. */
int engine_io_during(struct engine *e, struct fs_io *io);

#endif
