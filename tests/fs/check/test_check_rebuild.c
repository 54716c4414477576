/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/check/test_check_rebuild.c: free-space caches that are wrong or gone: the checker tells, and
 * rebuilt free space is right by its measure, after a crash and while clients write too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/space/free_space_cache.h"
#include "tests/lib/check_pool.h"
#include "tests/lib/random.h"
#include "base/le.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/space/free_space.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/pool/pool.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"
#include "fs/core/wakeup.h"

/* ---- caches that lie, or are damaged --------------------------------------- */

static uint64_t slot_of(const struct block_group *g, unsigned stripe)
{
	return g->stripe[stripe] + g->len + (uint64_t)g->cache_slot * g->slot_bytes;
}

static struct block_group *some_group(struct fs *fs, uint8_t type)
{
	struct block_group *found = NULL;

	for (uint32_t i = 1; i < fs->groups->count; i++) {
		struct block_group *g = fs->groups->at_step[i];

		if (g && g->type == type && g->used && g->used < g->len)
			found = g;
	}
	assert_non_null(found);
	assert_true(found->cache_slot <= 1);
	return found;
}

static unsigned group_slot(struct subject *s, const struct block_group *g)
{
	uint8_t node[NODE_SIZE];
	uint64_t off[GROUP_STRIPES_MAX], be = htobe64(g->start);

	node_places(s, le64_to_cpu(s->sb.group_tree.addr), off);
	device_sim_peek(s->dev, off[0], node, NODE_SIZE);
	for (unsigned i = 0; i < node_count((struct node_header *)node); i++)
		if (memcmp(node_key((struct node_header *)node, i).data + 1, &be, 8) == 0)
			return i;
	fail();
	return 0;
}

/* A cache that is whole, and says of two blocks the opposite of what is true. */
static void poke_lying_cache(struct subject *s, struct device *dev, struct block_group *g)
{
	struct free_space *space = free_space_new(g->nblocks, false);
	struct free_space_cache_ident ident = {.group_start = g->start,
					       .group_len = (uint64_t)g->nblocks * FS_BLOCK_SIZE,
					       .generation = g->cache_generation};
	uint8_t *buf = calloc(1, g->slot_bytes);
	uint32_t bytes, crc, at, len, used = 0;
	le32 raw[2];

	free_space_clone_into(space, g->committed);
	while (!free_space_test(space, used, 1, false))
		used++;
	assert_true(free_space_next_free(space, 0, &at, &len));
	assert_true(free_space_take(space, at, 1)); /* the number of free blocks stays right */
	assert_true(free_space_give(space, used, 1));
	memcpy(ident.pool_uuid, s->sb.uuid, 16);
	assert_int_equal(free_space_cache_encode(space, &ident, buf, g->slot_bytes, &bytes, &crc), 0);
	for (unsigned i = 0; i < g->nr_stripes; i++)
		device_sim_poke(dev, slot_of(g, i), buf, g->slot_bytes);
	raw[0] = cpu_to_le32(crc);
	raw[1] = cpu_to_le32(bytes);
	edit_item(s, dev, le64_to_cpu(s->sb.group_tree.addr), group_slot(s, g),
		  offsetof(struct block_group_item, cache_crc), raw, sizeof(raw));
	free_space_free(space);
	free(buf);
}

/* Opens, lets it rebuild and commit, and checks what is then there. */
static void assert_rebuilds(struct device *dev, uint64_t groups)
{
	struct world *w = calloc(1, sizeof(*w));
	struct device_queue *q;
	struct fs_info info;

	w->rng = test_seed_or(20240229);
	world_open(w, dev);
	assert_int_equal(dev->ops->queue_new(dev, &q), 0);
	for (uint32_t i = 1; i < w->fs->groups->count; i++)
		if (w->fs->groups->at_step[i])
			assert_int_equal(block_group_load(w->fs, q, w->fs->groups->at_step[i]), 0);
	device_queue_free(q);
	world_settle(w);
	fs_get_info(w->fs, &info);
	assert_true(info.cache_rebuilt >= groups);
	assert_int_equal(atomic_load(&w->fs->groups->rebuilding), 0);
	world_commit(w);
	assert_clean(dev);
	world_work(w, "a", 200);
	world_commit(w);
	assert_clean(dev);
	world_abandon(w);
	free(w);
}

static void test_check_lying_cache_is_dropped_and_rebuilt(void **state)
{
	struct subject *s = subject_new();
	static const uint8_t types[] = {GROUP_DATA, GROUP_METADATA};

	for (unsigned i = 0; i < 2; i++) {
		struct device *dev = device_sim_clone(s->dev, 1);
		struct block_group *g = some_group(s->w->fs, types[i]);
		struct lines l;

		poke_lying_cache(s, dev, g);
		assert_int_equal(check_sim(dev, false, &l), 2);
		assert_non_null(strstr(l.all, "1 blocks are free in its cache but in use"));
		assert_non_null(strstr(l.all, "1 blocks are in use in its cache but free"));
		assert_found(dev, true, "repaired: dropped");
		assert_rebuilds(dev, 1);
	}
	subject_free(s);
}

static void test_check_bad_copy_of_a_cache_is_mended(void **state)
{
	struct subject *s = subject_new();
	struct block_group *g = some_group(s->w->fs, GROUP_METADATA);

	for (unsigned copy = 0; copy < 2; copy++) {
		struct device *dev = device_sim_clone(s->dev, 1);

		device_sim_flip(dev, slot_of(g, copy) + 20, 2);
		assert_found(dev, false, "its twin is good");
		assert_found(dev, true, "repaired from its twin");
		assert_clean(dev);
		device_close(dev);
	}
	subject_free(s);
}

/* ---- no caches at all ------------------------------------------------------- */

/*
 * Zeroes every block that begins as a cache does, with its magic behind its checksum; data here never looks
 * so.
 */
static unsigned wipe_caches(struct device *dev)
{
	uint8_t block[FS_BLOCK_SIZE], zeros[FS_BLOCK_SIZE] = {0};
	unsigned n = 0;

	for (uint64_t at = 0; at < dev->size; at += sizeof(block)) {
		device_sim_peek(dev, at, block, sizeof(block));
		if (memcmp(block + 4, "BFSC", 4) != 0)
			continue;
		device_sim_poke(dev, at, zeros, sizeof(zeros));
		n++;
	}
	return n;
}

static void test_rebuild_all_caches_lost(void **state)
{
	struct subject *s = subject_new();
	struct device *dev = device_sim_clone(s->dev, 1);

	assert_true(wipe_caches(dev) > 2);
	assert_rebuilds(dev, 2);
	subject_free(s);
}

/*
 * Trees that the device cannot read stay so for a while: the pool comes to rest, and does not try again and
 * again.
 */
static void test_rebuild_that_must_fail_is_not_tried_for_ever(void **state)
{
	struct subject *s = subject_new();
	struct device *dev = device_sim_clone(s->dev, 1);
	struct fs_options opt = {.cache_bytes = 8u << 20, .log = world_log};
	uint64_t off[GROUP_STRIPES_MAX];
	unsigned steps = 0;
	struct fs *fs;

	node_places(s, first_leaf(s, dev, &s->vol_root), off);
	for (unsigned i = 0; i < GROUP_STRIPES_MAX; i++)
		device_sim_bad_range(dev, off[i], NODE_SIZE);
	assert_true(wipe_caches(dev) > 2);
	assert_int_equal(pool_open(dev, &opt, &pool_without_threads, &fs, NULL), 0);
	while (pool_step(fs))
		assert_true(steps++ < 100);
	for (unsigned i = 0; i < 5; i++) {
		fs_kick_commit(fs);
		for (steps = 0; pool_step(fs);)
			assert_true(steps++ < 100);
	}
	assert_true(atomic_load(&fs->groups->rebuilding) > 0);
	pool_abandon(fs);
	subject_free(s);
}

/* Deleted volumes half freed, and flushes in the log that refer to groups whose free space is not known. */
static void test_rebuild_after_a_crash(void **state)
{
	struct world *w = world_new(test_seed_or(20240229));

	assert_int_equal(fs_volume_create(w->fs, "a", VOLUME_BYTES, 0, NULL), 0);
	for (unsigned round = 0; round < 8; round++) {
		struct device *image;

		assert_int_equal(fs_volume_create(w->fs, "b", VOLUME_BYTES, 0, NULL), 0);
		world_work(w, "b", 900);
		assert_int_equal(fs_volume_delete(w->fs, "b", NULL), 0);
		world_work(w, "a", 1 + (unsigned)pick(&w->rng, 10));
		image = device_sim_crash_image(
			w->dev, (enum device_sim_crash_mode)pick(&w->rng, DEVICE_SIM_CRASH_MODES), round);
		assert_clean(image);
		assert_true(wipe_caches(image) > 0);
		assert_rebuilds(image, 1);
	}
	world_abandon(w);
	free(w);
}

/* ---- while clients write --------------------------------------------------- */

/* Overwrites, trims, deletes and commits while the free space of every group is being rebuilt. */
static void work_during_rebuild(struct fs *fs, uint64_t *rng)
{
	struct device_queue *q;
	struct fs_volume *vol;
	static uint8_t buf[FS_BLOCK_SIZE * 4];
	unsigned ops = 0;

	assert_int_equal(fs_volume_get(fs, "a", &vol), 0);
	assert_int_equal(fs->dev->ops->queue_new(fs->dev, &q), 0);
	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++)
		if (fs->groups->at_step[i])
			assert_int_equal(block_group_load(fs, q, fs->groups->at_step[i]), 0);
	device_queue_free(q);
	assert_int_equal(fs_volume_delete(fs, "b", NULL), 0);
	while (atomic_load(&fs->groups->rebuilding) || ops < 200) {
		struct fs_io io = {.vol = vol, .len = sizeof(buf), .buf = buf};

		*rng = *rng * 6364136223846793005u + 1442695040888963407u;
		io.op = *rng >> 60 ? FS_WRITE : FS_TRIM;
		io.off = (*rng >> 20) % (VOLUME_BYTES / sizeof(buf)) * sizeof(buf);
		assert_int_equal(fs_io_wait(fs, &io), 0);
		if (ops++ % 8 == 0)
			assert_int_equal(fs_commit(fs), 0);
	}
	fs_volume_put(vol);
}

static void fill_volume(struct fs *fs, const char *name, uint64_t *rng, unsigned ops)
{
	static uint8_t buf[FS_BLOCK_SIZE];
	struct fs_volume *vol;

	assert_int_equal(fs_volume_create(fs, name, VOLUME_BYTES, 0, NULL), 0);
	assert_int_equal(fs_volume_get(fs, name, &vol), 0);
	for (unsigned i = 0; i < ops; i++) {
		struct fs_io io = {.op = FS_WRITE, .vol = vol, .len = sizeof(buf), .buf = buf};

		*rng = *rng * 6364136223846793005u + 1442695040888963407u;
		io.off = (*rng >> 20) % (VOLUME_BYTES / sizeof(buf)) * sizeof(buf);
		assert_int_equal(fs_io_wait(fs, &io), 0);
	}
	fs_volume_put(vol);
}

static void test_rebuild_while_clients_write(void **state)
{
	char path[] = "/tmp/byre-test-check-XXXXXX";
	struct fs_create_options create = {.size_bytes = 2 * POOL_BYTES, .sparse = true, .force = true};
	struct fs_options opt = {.cache_bytes = 4u << 20, .device_kind = FS_DEVICE_THREADS};
	uint64_t rng = test_seed_or(20240229);
	struct lines l;
	struct fs *fs;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(fs_create(path, &create, NULL), 0);
	assert_int_equal(fs_open(path, &opt, &fs, NULL), 0);
	fill_volume(fs, "a", &rng, 4000);
	fill_volume(fs, "b", &rng, 2000);
	assert_int_equal(fs_close(fs), 0);
	assert_true(destroy_caches(path) > 0);
	assert_int_equal(fs_open(path, &opt, &fs, NULL), 0);
	work_during_rebuild(fs, &rng);
	assert_true(atomic_load(&fs->stats.cache_rebuilt) > 0);
	assert_int_equal(fs_close(fs), 0);
	if (check_path(path, false, &l))
		fail_msg("%s", l.all);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check_lying_cache_is_dropped_and_rebuilt),
		cmocka_unit_test(test_check_bad_copy_of_a_cache_is_mended),
		cmocka_unit_test(test_rebuild_all_caches_lost),
		cmocka_unit_test(test_rebuild_that_must_fail_is_not_tried_for_ever),
		cmocka_unit_test(test_rebuild_after_a_crash),
		cmocka_unit_test(test_rebuild_while_clients_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
