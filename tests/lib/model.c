/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/lib/random.h"
#include "fs/fs.h"
#include "fs/volume/volume.h"

const struct op changing_ops[CHANGING_OPS] = {
	{FS_WRITE, 0},	       {FS_TRIM, 0},	   {FS_ZERO, 0},
	{FS_ZERO, FS_NO_HOLE}, {FS_WRITE, FS_FUA}, {FS_TRIM, FS_FUA},
};

void model_init(struct model *m, uint64_t size)
{
	m->bytes = calloc(1, size);
	assert_non_null(m->bytes);
	m->size = size;
}

void model_fini(struct model *m)
{
	free(m->bytes);
}

void model_verify(struct engine *e, struct fs_volume *vol, const struct model *m, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len + 1);
	int r;

	assert_non_null(buf);
	memset(buf, 0xa5, len + 1);
	r = engine_read(e, vol, off, len, buf);
	if (r)
		fail_msg("read of %llu bytes at %llu: %s; %s", (unsigned long long)len,
			 (unsigned long long)off, strerror(-r), e->log);
	for (uint64_t i = 0; i < len; i++)
		if (buf[i] != m->bytes[off + i])
			fail_msg("byte %llu is %02x, not %02x", (unsigned long long)(off + i), buf[i],
				 m->bytes[off + i]);
	assert_int_equal(buf[len], 0xa5); /* not a byte more than was asked for */
	free(buf);
}

void model_verify_all(struct engine *e, struct fs_volume *vol, const struct model *m)
{
	for (uint64_t at = 0; at < m->size; at += MIB)
		model_verify(e, vol, m, at, min_u64(MIB, m->size - at));
}

void apply_both(struct engine *e, struct fs_volume *vol, struct model *m, struct op op, uint64_t off,
		uint64_t len)
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
