/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/check_pool.h: for the tests of the checker: pools on simulated devices, what a check finds in
 * them, and where things stand on the device, to be damaged.
 */
#ifndef TESTS_FS_CHECK_POOL_H
#define TESTS_FS_CHECK_POOL_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/check/check.h"
#include "fs/device/device_sim.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "base/le.h"
#include "fs/fs.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/tree/tree.h"
#include "fs/space/block_group.h"
#include "fs/volume/volume.h"

struct device;
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

static inline uint64_t rnd(struct world *w, uint64_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return w->rng % n;
}

static inline uint64_t seed_get(void)
{
	const char *env = getenv("SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240229;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed * 2 + 1;
}

/* ---- a pool on a simulated device ------------------------------------------ */

static inline void print_log(void *arg, enum fs_log_level level, const char *msg)
{
	if (level <= FS_LOG_WARNING && getenv("VERBOSE"))
		print_message("log: %s\n", msg);
}

static inline void run_until_idle(struct world *w)
{
	do
		fs_ctx_run(w->ctx);
	while (pool_step(w->fs));
}

static inline void open_world(struct world *w, struct device *dev)
{
	struct fs_options opt = {.cache_bytes = 8u << 20, .log = print_log};
	struct fs_error err = {""};

	w->dev = dev;
	if (pool_open(dev, &opt, true, &w->fs, &err))
		fail_msg("open: %s", err.msg);
	assert_int_equal(fs_ctx_new(w->fs, &w->ctx), 0);
	run_until_idle(w);
}

static inline struct world *new_world(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	struct device *dev = device_sim_new(POOL_BYTES, seed);

	w->rng = seed;
	assert_int_equal(pool_format(dev, false, NULL), 0);
	open_world(w, dev);
	return w;
}

static inline void abandon_world(struct world *w)
{
	run_until_idle(w);
	fs_ctx_free(w->ctx);
	pool_abandon(w->fs);
}

static inline void io_done(struct fs_io *io)
{
	*(bool *)io->arg = true;
}

static inline int do_io(struct world *w, struct fs_volume *vol, enum fs_op op, uint64_t off, uint64_t len)
{
	bool done = false;
	struct fs_io io = {
		.op = op, .vol = vol, .off = off, .len = len, .buf = w->buf, .done = io_done, .arg = &done};
	struct fs_io *ios[1] = {&io};

	fs_submit(w->ctx, ios, 1);
	for (unsigned i = 0; !done; i++) {
		fs_ctx_run(w->ctx);
		pool_step(w->fs);
		assert_true(i < 1000000);
	}
	return io.error;
}

/* Writes, trims and flushes of many sizes on one volume. */
static inline void random_work(struct world *w, const char *name, unsigned ops)
{
	struct fs_volume *vol;

	assert_int_equal(fs_volume_get(w->fs, name, &vol), 0);
	for (unsigned i = 0; i < ops; i++) {
		uint64_t len = (1 + rnd(w, rnd(w, 8) ? 4 : IO_BYTES / FS_BLOCK_SIZE)) * FS_BLOCK_SIZE;
		uint64_t off = rnd(w, (VOLUME_BYTES - len) / FS_BLOCK_SIZE) * FS_BLOCK_SIZE;

		memset(w->buf, (int)rnd(w, 256), len);
		switch (rnd(w, 12)) {
		case 0:
			assert_int_equal(
				do_io(w, vol, FS_TRIM, off, len * 4 < VOLUME_BYTES - off ? len * 4 : len), 0);
			break;
		case 1: assert_int_equal(do_io(w, vol, FS_FLUSH, 0, 0), 0); break;
		default: assert_int_equal(do_io(w, vol, FS_WRITE, off, len), 0); break;
		}
		if (rnd(w, 100) == 0)
			assert_int_equal(fs_commit(w->fs), 0);
	}
	fs_volume_put(vol);
}

static inline void commit_all(struct world *w)
{
	run_until_idle(w);
	assert_int_equal(fs_commit(w->fs), 0);
	run_until_idle(w);
	assert_int_equal(fs_commit(w->fs), 0);
	run_until_idle(w);
}

/* ---- findings -------------------------------------------------------------- */

struct lines {
	unsigned count;
	char all[20000];
};

static inline void take_line(void *arg, const char *line)
{
	struct lines *l = arg;

	l->count++;
	if (strlen(l->all) + strlen(line) + 2 < sizeof(l->all))
		strcat(strcat(l->all, line), "\n");
}

static inline uint64_t check(struct device *dev, bool repair, struct lines *l)
{
	struct fs_check_options opt = {.repair = repair, .finding = take_line, .arg = l};
	struct fs_error err = {""};
	uint64_t findings = UINT64_MAX;
	int r;

	memset(l, 0, sizeof(*l));
	r = check_device(dev, &opt, &findings, &err);
	if (r)
		fail_msg("check: %d: %s", r, err.msg);
	assert_int_equal(findings, l->count);
	return findings;
}

static inline void assert_clean(struct device *dev)
{
	struct lines l;

	if (check(dev, false, &l))
		fail_msg("%u findings:\n%s", l.count, l.all);
}

static inline void assert_found(struct device *dev, bool repair, const char *what)
{
	struct lines l;

	if (!check(dev, repair, &l) || !strstr(l.all, what))
		fail_msg("'%s' is not among the %u findings:\n%s", what, l.count, l.all);
}

/* ---- a pool to be damaged -------------------------------------------------- */

/* A committed pool with some volumes, at rest, and where things stand in it. */
struct subject {
	struct device *dev;
	struct super_block sb;
	struct tree_root vol_root; /* of "a": with an interior root */
	struct world *w;
};

static inline struct subject *new_subject(void)
{
	struct subject *s = calloc(1, sizeof(*s));
	struct fs_volume *vol;
	struct world *w = new_world(seed_get());

	assert_int_equal(fs_volume_create(w->fs, "a", VOLUME_BYTES, 0, NULL), 0);
	assert_int_equal(fs_volume_create(w->fs, "b", VOLUME_BYTES, 0, NULL), 0);
	random_work(w, "a", 1500);
	random_work(w, "b", 100);
	commit_all(w);
	assert_int_equal(fs_volume_get(w->fs, "a", &vol), 0);
	s->vol_root = vol->root;
	fs_volume_put(vol);
	assert_true(s->vol_root.level > 0);
	s->sb = *w->fs->super;
	s->w = w;
	s->dev = w->dev;
	assert_clean(s->dev);
	return s;
}

static inline void free_subject(struct subject *s)
{
	abandon_world(s->w);
	free(s->w);
	free(s);
}

static inline void node_places(struct subject *s, uint64_t addr, uint64_t off[GROUP_STRIPES_MAX])
{
	assert_int_equal(block_group_map(s->w->fs, addr, NODE_SIZE, off), 2);
}

/* The first leaf of a tree, on the device. */
static inline uint64_t first_leaf(struct subject *s, struct device *dev, const struct tree_root *root)
{
	uint64_t addr = root->addr, off[GROUP_STRIPES_MAX];
	uint8_t node[NODE_SIZE];

	for (unsigned level = root->level; level > 0; level--) {
		struct node_ident id;

		node_places(s, addr, off);
		device_sim_peek(dev, off[0], node, NODE_SIZE);
		assert_int_equal(node_child((struct node_header *)node, 0, root->owner, &id), 0);
		addr = id.addr;
	}
	return addr;
}

/* Changes `len` bytes of the value of an item at `at` in both copies of a node, under a right checksum. */
static inline void edit_item(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, size_t at,
			     const void *bytes, size_t len)
{
	uint64_t off[GROUP_STRIPES_MAX];
	uint8_t node[NODE_SIZE];
	struct node_header *h = (struct node_header *)node;

	node_places(s, addr, off);
	device_sim_peek(dev, off[0], node, NODE_SIZE);
	assert_true(at + len <= node_value(h, slot).len);
	memcpy((uint8_t *)(uintptr_t)node_value(h, slot).data + at, bytes, len);
	node_seal(h);
	device_sim_poke(dev, off[0], node, NODE_SIZE);
	device_sim_poke(dev, off[1], node, NODE_SIZE);
}

static inline void edit_u64(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, size_t at,
			    uint64_t v)
{
	le64 raw = cpu_to_le64(v);

	edit_item(s, dev, addr, slot, at, &raw, sizeof(raw));
}

static inline void get_value(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, void *buf,
			     size_t len)
{
	uint64_t off[GROUP_STRIPES_MAX];
	uint8_t node[NODE_SIZE];

	node_places(s, addr, off);
	device_sim_peek(dev, off[0], node, NODE_SIZE);
	assert_true(len <= node_value((struct node_header *)node, slot).len);
	memcpy(buf, node_value((struct node_header *)node, slot).data, len);
}

/* ---- pool files ------------------------------------------------------------ */

static inline uint64_t check_path(const char *path, bool repair, struct lines *l)
{
	struct fs_check_options opt = {.repair = repair, .finding = take_line, .arg = l};
	struct fs_error err = {""};
	uint64_t findings = 0;

	memset(l, 0, sizeof(*l));
	if (fs_check(path, &opt, &findings, &err))
		fail_msg("%s", err.msg);
	return findings;
}

/* Overwrites every free-space cache, which begins with its magic behind its checksum. */
static inline unsigned destroy_caches(const char *path)
{
	int fd = open(path, O_RDWR);
	uint8_t block[4096], zeros[4096] = {0};
	unsigned n = 0;

	for (off_t at = 0; pread(fd, block, sizeof(block), at) == (ssize_t)sizeof(block);
	     at += (off_t)sizeof(block))
		if (memcmp(block + 4, "BFSC", 4) == 0 &&
		    pwrite(fd, zeros, sizeof(zeros), at) == (ssize_t)sizeof(zeros))
			n++;
	close(fd);
	return n;
}

#endif
