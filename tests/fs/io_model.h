/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/fs/io_model.h: for the tests of requests: operations on a pool and on a byte model together. */
#ifndef TESTS_FS_IO_MODEL_H
#define TESTS_FS_IO_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/fs/engine.h"
#include "fs/fs.h"

struct fs_volume;

#define POOL_BYTES (192 * MIB)

struct op {
	enum fs_op op;
	uint32_t flags;
};

static const struct op changing_ops[] = {
	{FS_WRITE, 0},	       {FS_TRIM, 0},	   {FS_ZERO, 0},
	{FS_ZERO, FS_NO_HOLE}, {FS_WRITE, FS_FUA}, {FS_TRIM, FS_FUA},
};

static inline void apply_both(struct engine *e, struct fs_volume *vol, struct model *m, struct op op,
			      uint64_t off, uint64_t len)
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

#endif
