/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/check_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/le.h"
#include "fs/check/check.h"
#include "fs/core/fs_int.h"
#include "fs/device/device_sim.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/pool/pool.h"
#include "fs/space/block_group.h"
#include "fs/tree/node.h"
#include "fs/volume/volume.h"
#include "tests/lib/random.h"
#include "fs/device/device.h"

void world_log(void *arg, enum fs_log_level level, const char *msg)
{
	if (level <= FS_LOG_WARNING && getenv("VERBOSE"))
		print_message("log: %s\n", msg);
}

void world_settle(struct world *w)
{
	do
		fs_ctx_run(w->ctx);
	while (pool_step(w->fs));
}

void world_open(struct world *w, struct device *dev)
{
	struct fs_options opt = {.cache_bytes = 8u << 20, .log = world_log};
	struct fs_error err = {""};

	w->dev = dev;
	if (pool_open(dev, &opt, &pool_without_threads, &w->fs, &err))
		fail_msg("open: %s", err.msg);
	assert_int_equal(fs_ctx_new(w->fs, &w->ctx), 0);
	world_settle(w);
}

struct world *world_new(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	struct device *dev = device_sim_new(POOL_BYTES, seed);

	w->rng = seed;
	assert_int_equal(pool_format(dev, false, NULL), 0);
	world_open(w, dev);
	return w;
}

void world_abandon(struct world *w)
{
	world_settle(w);
	fs_ctx_free(w->ctx);
	pool_abandon(w->fs);
}

static void io_done(struct fs_io *io)
{
	*(bool *)io->arg = true;
}

int world_io(struct world *w, struct fs_volume *vol, enum fs_op op, uint64_t off, uint64_t len)
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

void world_work(struct world *w, const char *name, unsigned ops)
{
	struct fs_volume *vol;

	assert_int_equal(fs_volume_get(w->fs, name, &vol), 0);
	for (unsigned i = 0; i < ops; i++) {
		uint64_t len =
			(1 + pick(&w->rng, pick(&w->rng, 8) ? 4 : IO_BYTES / FS_BLOCK_SIZE)) * FS_BLOCK_SIZE;
		uint64_t off = pick(&w->rng, (VOLUME_BYTES - len) / FS_BLOCK_SIZE) * FS_BLOCK_SIZE;

		memset(w->buf, (int)pick(&w->rng, 256), len);
		switch (pick(&w->rng, 12)) {
		case 0:
			assert_int_equal(world_io(w, vol, FS_TRIM, off,
						  len * 4 < VOLUME_BYTES - off ? len * 4 : len),
					 0);
			break;
		case 1: assert_int_equal(world_io(w, vol, FS_FLUSH, 0, 0), 0); break;
		default: assert_int_equal(world_io(w, vol, FS_WRITE, off, len), 0); break;
		}
		if (pick(&w->rng, 100) == 0)
			assert_int_equal(fs_commit(w->fs), 0);
	}
	fs_volume_put(vol);
}

void world_commit(struct world *w)
{
	world_settle(w);
	assert_int_equal(fs_commit(w->fs), 0);
	world_settle(w);
	assert_int_equal(fs_commit(w->fs), 0);
	world_settle(w);
}

void take_line(void *arg, const char *line)
{
	struct lines *l = arg;

	l->count++;
	if (strlen(l->all) + strlen(line) + 2 < sizeof(l->all))
		strcat(strcat(l->all, line), "\n");
}

uint64_t check_sim(struct device *dev, bool repair, struct lines *l)
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

void assert_clean(struct device *dev)
{
	struct lines l;

	if (check_sim(dev, false, &l))
		fail_msg("%u findings:\n%s", l.count, l.all);
}

void assert_found(struct device *dev, bool repair, const char *what)
{
	struct lines l;

	if (!check_sim(dev, repair, &l) || !strstr(l.all, what))
		fail_msg("'%s' is not among the %u findings:\n%s", what, l.count, l.all);
}

struct subject *subject_new(void)
{
	struct subject *s = calloc(1, sizeof(*s));
	struct fs_volume *vol;
	struct world *w = world_new(test_seed_or(20240229));

	assert_int_equal(fs_volume_create(w->fs, "a", VOLUME_BYTES, 0, NULL), 0);
	assert_int_equal(fs_volume_create(w->fs, "b", VOLUME_BYTES, 0, NULL), 0);
	world_work(w, "a", 1500);
	world_work(w, "b", 100);
	world_commit(w);
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

void subject_free(struct subject *s)
{
	world_abandon(s->w);
	free(s->w);
	free(s);
}

void node_places(struct subject *s, uint64_t addr, uint64_t off[GROUP_STRIPES_MAX])
{
	assert_int_equal(block_group_map(s->w->fs, addr, NODE_SIZE, off), 2);
}

uint64_t first_leaf(struct subject *s, struct device *dev, const struct tree_root *root)
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

void edit_item(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, size_t at,
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

void edit_u64(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, size_t at, uint64_t v)
{
	le64 raw = cpu_to_le64(v);

	edit_item(s, dev, addr, slot, at, &raw, sizeof(raw));
}

void get_value(struct subject *s, struct device *dev, uint64_t addr, unsigned slot, void *buf, size_t len)
{
	uint64_t off[GROUP_STRIPES_MAX];
	uint8_t node[NODE_SIZE];

	node_places(s, addr, off);
	device_sim_peek(dev, off[0], node, NODE_SIZE);
	assert_true(len <= node_value((struct node_header *)node, slot).len);
	memcpy(buf, node_value((struct node_header *)node, slot).data, len);
}

uint64_t check_path(const char *path, bool repair, struct lines *l)
{
	struct fs_check_options opt = {.repair = repair, .finding = take_line, .arg = l};
	struct fs_error err = {""};
	uint64_t findings = 0;

	memset(l, 0, sizeof(*l));
	if (fs_check(path, &opt, &findings, &err))
		fail_msg("%s", err.msg);
	return findings;
}

unsigned destroy_caches(const char *path)
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
