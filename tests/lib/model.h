/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/lib/model.h: a byte model of a volume, and operations on both. */
#ifndef TESTS_LIB_MODEL_H
#define TESTS_LIB_MODEL_H

#include "tests/lib/engine.h"
#include "fs/fs.h"

struct fs_volume;

struct model {
	uint8_t *bytes;
	uint64_t size;
};

struct op {
	enum fs_op op;
	uint32_t flags;
};

/* Every way to change a volume. */
#define CHANGING_OPS 6
extern const struct op changing_ops[CHANGING_OPS];

void model_init(struct model *m, uint64_t size);

void model_fini(struct model *m);

/* Reads [off, off+len) and compares; names the first byte that differs. */
void model_verify(struct engine *e, struct fs_volume *vol, const struct model *m, uint64_t off, uint64_t len);

void model_verify_all(struct engine *e, struct fs_volume *vol, const struct model *m);

void apply_both(struct engine *e, struct fs_volume *vol, struct model *m, struct op op, uint64_t off,
		uint64_t len);

#endif
