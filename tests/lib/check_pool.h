/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/check_pool.h: for the tests of the checker: pools on simulated devices, what a check finds in
 * them, and where things stand on the device, to be damaged.
 */
#ifndef TESTS_LIB_CHECK_POOL_H
#define TESTS_LIB_CHECK_POOL_H

#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/format/node_format.h"

struct device;
struct fs;
struct fs_ctx;
struct fs_volume;

#define POOL_BYTES (64ull << 20)
#define VOLUME_BYTES (32ull << 20)
#define IO_BYTES (256u << 10)

struct world {
	struct device *dev;
	struct fs *fs;
	struct fs_ctx *ctx;
	uint64_t rng;
	uint8_t buf[IO_BYTES];
};

void world_log(void *arg, enum fs_log_level level, const char *msg);

void world_settle(struct world *w);

void world_open(struct world *w, struct device *dev);

struct world *world_new(uint64_t seed);

void world_abandon(struct world *w);

int world_io(struct world *w, struct fs_volume *vol, enum fs_op op, uint64_t off, uint64_t len);

/* Writes, trims and flushes of many sizes on one volume. */
void world_work(struct world *w, const char *name, unsigned ops);

void world_commit(struct world *w);

/* ---- findings ---------------------------------------------------------------- */

struct lines {
	unsigned count;
	char all[20000];
};

void take_line(void *arg, const char *line);

uint64_t check_sim(struct device *dev, bool repair, struct lines *l);

void assert_clean(struct device *dev);

void assert_found(struct device *dev, bool repair, const char *what);

/* ---- a pool to be damaged ---------------------------------------------------- */

/* A committed pool with some volumes, at rest, and where things stand in it. */
struct subject {
	struct device *dev;
	struct super_block sb;
	struct tree_root vol_root; /* of "a": with an interior root */
	struct world *w;
};

struct subject *subject_new(void);

void subject_free(struct subject *s);

void node_places(struct subject *s, uint64_t addr, uint64_t off[GROUP_STRIPES_MAX]);

/* The first leaf of a tree, on the device. */
uint64_t first_leaf(struct subject *s, struct device *dev, const struct tree_root *root);

/* Changes `len` bytes of the value of an item at `at` in both copies of a node, under a right checksum. */
void edit_item(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, size_t at,
	       const void *bytes, size_t len);

void edit_u64(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, size_t at, uint64_t v);

void get_value(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, void *buf, size_t len);

/* ---- pool files -------------------------------------------------------------- */

uint64_t check_path(const char *path, bool repair, struct lines *l);

/* Overwrites every free-space cache, which begins with its magic behind its checksum. */
unsigned destroy_caches(const char *path);

#endif
