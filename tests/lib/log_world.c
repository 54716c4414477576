/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/log_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/lib/engine_check.h"
#include "tests/lib/random.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"

void version_bytes(void *buf, uint32_t version)
{
	if (version)
		fill_bytes(buf, BLOCK, version);
	else
		memset(buf, 0, BLOCK);
}

struct log_world *log_world_new(uint64_t pool_bytes, uint64_t seed)
{
	struct log_world *w = calloc(1, sizeof(*w));

	w->e = engine_new(pool_bytes, seed);
	w->vol = engine_volume(w->e, "v", BLOCKS * BLOCK);
	engine_commit(w->e);
	return w;
}

void log_world_free(struct log_world *w)
{
	if (w->vol)
		fs_volume_put(w->vol);
	engine_free(w->e);
	free(w);
}

void log_world_write(struct log_world *w, uint64_t blk)
{
	uint8_t buf[FS_BLOCK_SIZE];

	version_bytes(buf, ++w->version);
	assert_int_equal(engine_write(w->e, w->vol, blk * BLOCK, BLOCK, buf), 0);
	w->newest[blk] = w->version;
}

void log_world_write_some(struct log_world *w, unsigned n)
{
	static uint8_t buf[64 * FS_BLOCK_SIZE];

	for (unsigned i = 0; i < n; i++) {
		uint64_t len = pick(&w->e->rng, 8) ? 1 : 1 + pick(&w->e->rng, 64),
			 blk = pick(&w->e->rng, BLOCKS - len);

		if (pick(&w->e->rng, 12) == 0) {
			assert_int_equal(engine_trim(w->e, w->vol, blk * BLOCK, len * BLOCK), 0);
			memset(w->newest + blk, 0, len * sizeof(w->newest[0]));
			continue;
		}
		for (uint64_t k = 0; k < len; k++) {
			version_bytes(buf + k * BLOCK, ++w->version);
			w->newest[blk + k] = w->version;
		}
		assert_int_equal(engine_write(w->e, w->vol, blk * BLOCK, len * BLOCK, buf), 0);
	}
}

void log_world_flush(struct log_world *w)
{
	assert_int_equal(engine_flush(w->e), 0);
	memcpy(w->flushed, w->newest, sizeof(w->flushed));
}

void log_world_verify(struct log_world *w, bool between)
{
	uint8_t got[FS_BLOCK_SIZE], want[FS_BLOCK_SIZE];

	for (unsigned b = 0; b < BLOCKS; b++) {
		uint32_t v;

		assert_int_equal(engine_read(w->e, w->vol, b * BLOCK, BLOCK, got), 0);
		version_bytes(want, w->flushed[b]);
		if (memcmp(got, want, BLOCK) == 0) {
			w->newest[b] = w->flushed[b];
			continue;
		}
		for (v = w->newest[b];; v--) {
			version_bytes(want, v);
			if (memcmp(got, want, BLOCK) == 0)
				break;
			if (!between || v <= w->flushed[b])
				fail_msg("block %u: neither version %u nor %u", b, w->flushed[b],
					 w->newest[b]);
		}
		w->newest[b] = w->flushed[b] = v;
	}
}

void log_world_die(struct log_world *w, enum device_sim_crash_mode mode)
{
	fs_volume_put(w->vol);
	engine_crash(w->e, mode, rnd(&w->e->rng));
	engine_check_device(w->e->sim);
	engine_open(w->e);
	w->vol = engine_volume(w->e, "v", 0);
}

int engine_io_during(struct engine *e, struct fs_io *io)
{
	unsigned left = 0;

	engine_submit(e, io, 1, &left);
	for (unsigned i = 0; left && i < 1000; i++)
		fs_ctx_run(e->ctx);
	assert_int_equal(left, 0);
	return io->error;
}
