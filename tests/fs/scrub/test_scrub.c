/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/scrub/test_scrub.c: the online scrub reads all that is allocated, mends what has a good copy,
 * names what has none, and gives nobody trouble meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/random.h"
#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/cache/cache.h"
#include "fs/core/clock.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/space/free_space.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/core/report.h"
#include "fs/scrub/scrub.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"

#define POOL (64 * MIB)
#define VOL (24 * MIB)

/* ---- a pool with something in it --------------------------------------------- */

static void write_random(struct engine *e, struct fs_volume *vol, unsigned ops)
{
	static uint8_t buf[64 << 10];

	for (unsigned i = 0; i < ops; i++) {
		uint64_t len = BLOCK << pick(&e->rng, 4), off = pick(&e->rng, (VOL - len) / BLOCK) * BLOCK;

		fill_bytes(buf, len, rnd(&e->rng));
		if (pick(&e->rng, 12) == 0)
			assert_int_equal(engine_trim(e, vol, off, len), 0);
		else
			assert_int_equal(engine_write(e, vol, off, len, buf), 0);
	}
}

/* Two volumes, and a third that is deleted and not quite freed; all committed. */
static struct engine *new_pool(uint64_t seed)
{
	struct engine *e = engine_new(POOL, seed);
	static const char *const names[] = {"a", "b"};

	for (unsigned i = 0; i < 2; i++) {
		struct fs_volume *vol = engine_volume(e, names[i], VOL);

		write_random(e, vol, 1200);
		fs_volume_put(vol);
	}
	engine_commit(e);
	return e;
}

static void run_scrub(struct engine *e, struct fs_scrub_status *st)
{
	struct fs_error err = {""};

	if (fs_scrub_start(e->fs, 0, false, &err))
		fail_msg("%s", err.msg);
	engine_settle(e);
	fs_scrub_get_status(e->fs, st);
	assert_int_equal(st->state, FS_SCRUB_FINISHED);
	assert_true(st->ended_ns >= st->started_ns && st->started_ns > 0);
}

/* Nothing comes from memory. */
static void drop_caches(struct engine *e)
{
	engine_commit(e);
	cache_resize(e->fs->cache, 0);
	cache_resize(e->fs->cache, 16 * MIB);
	engine_close(e);
	engine_open(e);
	engine_commit(e);
}

static void place(struct engine *e, uint64_t addr, uint64_t off[GROUP_STRIPES_MAX])
{
	assert_true(block_group_map(e->fs, addr, BLOCK, off) > 0);
}

static uint64_t block_addr(struct engine *e, const char *name, uint64_t blk)
{
	struct volume_piece piece;
	struct fs_volume *vol;
	uint32_t crc;

	assert_int_equal(fs_volume_get(e->fs, name, &vol), 0);
	assert_int_equal(volume_lookup(vol, e->fs->commit_q, blk, 1, &piece, &crc), 0);
	fs_volume_put(vol);
	return piece.addr;
}

/* ---- it reads all ------------------------------------------------------------- */

/* Which pages of the device were read. */
struct seen {
	uint8_t *page;
	uint64_t reads;
	bool on;
};

static void note_read(void *arg, struct device_queue *q, const struct device_io *io)
{
	struct seen *seen = arg;

	seen->reads += seen->on && io->op == DEVICE_READ;
	for (uint64_t at = io->off; seen->on && io->op == DEVICE_READ && at < io->off + io->len; at += BLOCK)
		seen->page[at / BLOCK] = 1;
}

struct unread {
	struct seen *seen;
	uint64_t used, unread;
};

static void count_unread(struct block_group *g, void *arg)
{
	struct unread *u = arg;

	for (uint32_t i = 0; i < g->nblocks; i++) {
		const struct free_space *space = g->type == GROUP_SYSTEM ? g->avail : g->committed;

		if (free_space_test(space, i, 1, true))
			continue;
		for (unsigned s = 0; s < g->nr_stripes; s++)
			for (uint64_t at = 0; at < g->unit; at += BLOCK) {
				u->used++;
				u->unread +=
					!u->seen->page[(g->stripe[s] + i * (uint64_t)g->unit + at) / BLOCK];
			}
	}
}

static void test_scrub_reads_all_that_is_allocated(void **state)
{
	static const uint64_t supers[] = SUPER_OFFSETS;
	struct engine *e = new_pool(test_seed());
	struct seen seen = {.page = calloc(POOL / BLOCK, 1)};
	struct unread u = {&seen, 0, 0};
	struct fs_scrub_status st;

	engine_check_committed(e);
	engine_device(e)->before_submit = note_read;
	engine_device(e)->arg = &seen;
	seen.on = true;
	run_scrub(e, &st);
	seen.on = false;
	assert_int_equal(st.found, 0);
	assert_int_equal(st.damaged_bytes, 0);
	/* The commit that says that it has begun may have moved nodes of the root and group tree. */
	block_group_each(e->fs, count_unread, &u);
	print_message("%llu pages in use, %llu of them not read\n", (unsigned long long)u.used,
		      (unsigned long long)u.unread);
	assert_true(u.used > 4000);
	assert_true(u.unread <= 2 * 2 * 2 * NODE_SIZE / BLOCK);
	for (unsigned i = 0; i < SUPER_COPIES; i++)
		assert_true(seen.page[supers[i] / BLOCK]);
	assert_true(st.bytes_done >= u.used * BLOCK);
	/* once, but for the paths to where slices begin */
	assert_true(st.bytes_done < u.used * BLOCK * 11 / 10 + MIB);
	assert_true(seen.reads < u.used / 3); /* neighbours together */
	engine_check_all(e);
	engine_free(e);
	free(seen.page);
}

/* ---- mending -------------------------------------------------------------------- */

/* Rots every node of one copy that is in use, and one copy of what there is besides. */
static void rot_copy(struct block_group *g, void *arg)
{
	struct engine *e = arg;

	if (g->type != GROUP_DATA)
		for (uint32_t i = 0; i < g->nblocks; i++)
			if (!free_space_test(g->type == GROUP_SYSTEM ? g->avail : g->committed, i, 1, true))
				device_sim_flip(e->sim, g->stripe[i & 1] + i * (uint64_t)g->unit + 4000, 3);
	if (g->cache_slot <= 1)
		device_sim_flip(e->sim,
				g->stripe[g->nr_stripes - 1] + g->len +
					g->cache_slot * (uint64_t)g->slot_bytes + 20,
				1);
}

static void test_scrub_mends_one_copy_of_everything(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_scrub_status st;
	struct fs_info info;
	uint64_t nodes;

	drop_caches(e);
	block_group_each(e->fs, rot_copy, e);
	device_sim_flip(e->sim, 512u << 10, 5);
	fs_get_info(e->fs, &info);
	nodes = info.metadata_bytes / NODE_SIZE;
	run_scrub(e, &st);
	print_message("%llu found, %llu mended of %llu nodes; %s\n", (unsigned long long)st.found,
		      (unsigned long long)st.mended, (unsigned long long)nodes, e->log);
	assert_true(st.found > nodes * 9 / 10);
	assert_int_equal(st.mended, st.found);
	assert_int_equal(st.damaged_bytes, 0);
	engine_commit(e);
	run_scrub(e, &st); /* all of it is on the device, not in memory */
	assert_int_equal(st.found, 0);
	engine_check_all(e);
	engine_free(e);
}

/* What was mended is durable when the scrub says so. */
static void test_scrub_flushes_what_it_mended(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_scrub_status st;
	uint64_t off[GROUP_STRIPES_MAX];
	struct fs_volume *vol = engine_volume(e, "a", VOL);
	struct device *image;

	place(e, vol->root.addr, off);
	fs_volume_put(vol);
	device_sim_flip(e->sim, off[0] + 100, 1);
	run_scrub(e, &st);
	assert_int_equal(st.mended, 1);
	image = device_sim_crash_image(e->sim, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	engine_check_device(image);
	device_close(image);
	engine_free(e);
}

/* Both copies are bad, and the node is in memory still. */
static void test_scrub_mends_from_memory(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_scrub_status st;
	uint64_t off[GROUP_STRIPES_MAX], addr;
	struct fs_volume *vol = engine_volume(e, "a", VOL);
	static uint8_t buf[4096];

	addr = vol->root.addr;
	place(e, addr, off);
	device_sim_flip(e->sim, off[0] + 100, 1);
	device_sim_bad_range(e->sim, off[1], NODE_SIZE);
	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_write(e, vol, 0, sizeof(buf), buf), 0);
	engine_commit(e);
	assert_int_equal(engine_read(e, vol, 0, sizeof(buf), buf), 0);
	place(e, block_addr(e, "a", 0), off);
	device_sim_flip(e->sim, off[0] + 9, 1);
	fs_volume_put(vol);
	run_scrub(e, &st);
	assert_true(st.found >= 1);
	assert_int_equal(st.mended, st.found);
	assert_int_equal(st.damaged_bytes, 0);
	engine_check_all(e);
	engine_free(e);
}

/* ---- damage -------------------------------------------------------------------- */

static void test_scrub_names_damaged_data(void **state)
{
	struct engine *e = engine_new(POOL, test_seed());
	struct fs_volume *vol = engine_volume(e, "a", VOL);
	static uint8_t buf[MIB];
	struct fs_scrub_damage d[8];
	struct fs_scrub_status st;
	uint64_t off[GROUP_STRIPES_MAX];

	for (uint64_t at = 0; at < 8 * MIB; at += MIB) {
		fill_bytes(buf, MIB, at);
		assert_int_equal(engine_write(e, vol, at, MIB, buf), 0);
	}
	fs_volume_put(vol);
	drop_caches(e);
	for (unsigned blk = 500; blk < 756; blk++) {
		place(e, block_addr(e, "a", blk), off);
		device_sim_flip(e->sim, off[0] + blk, 1);
	}
	place(e, block_addr(e, "a", 3), off);
	device_sim_bad_range(e->sim, off[0], BLOCK);
	run_scrub(e, &st);
	assert_int_equal(st.found, 257);
	assert_int_equal(st.mended, 0);
	assert_int_equal(st.damaged_bytes, 257 * BLOCK);
	assert_int_equal(fs_scrub_get_damage(e->fs, d, ARRAY_SIZE(d)), 2);
	assert_string_equal(d[0].volume, "a");
	assert_int_equal(d[0].off, 3 * BLOCK);
	assert_int_equal(d[0].len, BLOCK);
	assert_int_equal(d[1].off, 500 * BLOCK);
	assert_int_equal(d[1].len, MIB);
	assert_int_equal(d[1].kind, FS_SCRUB_DAMAGED);
	assert_non_null(
		strstr(e->log, "volume a: data at byte 12288 and on is damaged (Input/output error)"));
	assert_non_null(strstr(e->log, "257 pieces were bad, 0 of them are mended"));

	/* Overwriting ends it. */
	vol = engine_volume(e, "a", VOL);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(engine_write(e, vol, d[i].off, d[i].len, buf), 0);
	fs_volume_put(vol);
	engine_commit(e);
	run_scrub(e, &st);
	assert_int_equal(st.found, 0);
	assert_int_equal(fs_scrub_get_damage(e->fs, d, ARRAY_SIZE(d)), 0);
	engine_check_all(e);
	engine_free(e);
}

/* What a volume's item says besides makes it no less of a volume. */
static void test_scrub_reads_a_volume_with_a_comment(void **state)
{
	const struct fs_volume_change change = {.comment = "kept for the auditors"};
	struct engine *e = engine_new(POOL, test_seed());
	struct fs_volume *vol = engine_volume(e, "a", VOL);
	static uint8_t buf[64 * KIB];
	struct fs_scrub_damage d[2];
	struct fs_scrub_status st;
	uint64_t off[GROUP_STRIPES_MAX];

	fill_bytes(buf, sizeof(buf), 1);
	assert_int_equal(engine_write(e, vol, 0, sizeof(buf), buf), 0);
	fs_volume_put(vol);
	assert_int_equal(fs_volume_set(e->fs, "a", &change, NULL), 0);
	drop_caches(e);
	place(e, block_addr(e, "a", 7), off);
	device_sim_flip(e->sim, off[0] + 7, 1);
	run_scrub(e, &st);
	assert_int_equal(st.found, 1);
	assert_int_equal(fs_scrub_get_damage(e->fs, d, ARRAY_SIZE(d)), 1);
	assert_string_equal(d[0].volume, "a");
	assert_int_equal(d[0].off, 7 * BLOCK);
	engine_free(e);
}

/* An error that passes is none. */
static void test_scrub_reads_again_what_failed(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct device_sim_fault fault = {.kind = DEVICE_SIM_FAIL,
					 .ops = DEVICE_SIM_OP(DEVICE_READ),
					 .skip = 10,
					 .count = 1,
					 .error = -EIO};
	struct fs_scrub_status st;

	for (unsigned i = 0; i < 20; i++, fault.skip += 37) {
		(void)device_sim_fault_add(e->sim, &fault);
		run_scrub(e, &st);
		assert_int_equal(st.found, 0);
		device_sim_fault_clear(e->sim);
	}
	engine_check_all(e);
	engine_free(e);
}

/* Both copies of a leaf are gone: all else is read, and the range that went with it is named. */
static void test_scrub_names_what_is_lost(void **state)
{
	struct engine *e = new_pool(test_seed());
	uint64_t off[GROUP_STRIPES_MAX];
	struct fs_scrub_damage d[8];
	struct fs_scrub_status st, clean;
	struct cache_entry *entry;
	struct node_ident id;
	struct fs_volume *vol;
	void *buf;

	run_scrub(e, &clean);
	drop_caches(e);
	vol = engine_volume(e, "a", VOL);
	assert_true(vol->root.level == 1);
	id = (struct node_ident){vol->root.addr, vol->root.generation, vol->root.owner, vol->root.level};
	assert_int_equal(node_read(e->fs, e->fs->commit_q, &id, &entry), 0);
	assert_int_equal(node_child(node_header(entry), 1, vol->root.owner, &id), 0);
	cache_put(e->fs->cache, entry);
	fs_volume_put(vol);
	place(e, id.addr, off);
	cache_invalidate(e->fs->cache, CACHE_NODE, id.addr);
	device_sim_flip(e->sim, off[0] + 5000, 1);
	device_sim_flip(e->sim, off[1] + 6000, 1);
	run_scrub(e, &st);
	assert_int_equal(st.found, 2);
	assert_int_equal(st.mended, 0);
	assert_int_equal(fs_scrub_get_damage(e->fs, d, ARRAY_SIZE(d)), 1);
	assert_int_equal(d[0].kind, FS_SCRUB_LOST);
	assert_string_equal(d[0].volume, "a");
	assert_true(d[0].off > 0 && d[0].len > 0 && d[0].off + d[0].len < VOL);
	assert_true(st.bytes_done > clean.bytes_done / 2);
	assert_false(fs_is_read_only(e->fs));

	/*
	 * A write there makes a commit put "lost" in the node's place; that is told, too, until all of it is
	 * overwritten.
	 */
	vol = engine_volume(e, "a", VOL);
	buf = calloc(1, d[0].len);
	assert_int_equal(engine_write(e, vol, d[0].off + d[0].len / BLOCK / 2 * BLOCK, BLOCK, buf), 0);
	engine_commit(e);
	run_scrub(e, &st);
	assert_int_equal(st.found, 0);
	assert_int_equal(st.damaged_bytes, d[0].len - BLOCK);
	assert_int_equal(engine_write(e, vol, d[0].off, d[0].len, buf), 0);
	engine_commit(e);
	run_scrub(e, &st);
	assert_int_equal(st.damaged_bytes, 0);
	fs_volume_put(vol);
	free(buf);
	engine_free(e);
}

/* ---- while others work ----------------------------------------------------------- */

/* Slice by slice, with writes, trims, deletes, growing and commits in between. */
static void test_scrub_while_everything_changes(void **state)
{
	uint64_t seed = test_seed();

	for (unsigned round = 0; round < (SANITIZED ? 3 : 10); round++) {
		struct engine *e = new_pool(seed + round);
		struct fs_scrub_status st;
		unsigned slices = 0;

		e->fs->scrub->slices_small = true;
		assert_int_equal(fs_scrub_start(e->fs, 0, false, NULL), 0);
		while (scrub_step(e->fs)) {
			struct fs_volume *vol;

			e->hold_commits = true; /* pool_step would run the scrub, too */
			vol = slices % 40 == 39 ? NULL : engine_volume(e, "a", VOL);
			if (vol) {
				write_random(e, vol, (unsigned)pick(&e->rng, 6));
				fs_volume_put(vol);
			}
			if (slices == 20)
				assert_int_equal(fs_volume_delete(e->fs, "b", NULL), 0);
			if (pick(&e->rng, 3) == 0)
				assert_int_equal(fs_commit(e->fs), 0);
			slices++;
			e->hold_commits = false;
		}
		fs_scrub_get_status(e->fs, &st);
		print_message("%u slices\n", slices);
		assert_int_equal(st.state, FS_SCRUB_FINISHED);
		assert_int_equal(st.found, 0);
		engine_check_all(e);
		engine_free(e);
	}
}

/* It goes on where it was, over any number of starts; and does not where nobody wants that. */
static void test_scrub_goes_on_after_a_start(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_scrub_status st, whole;
	unsigned starts = 0;

	run_scrub(e, &whole);
	e->fs->scrub->slices_small = true;
	assert_int_equal(fs_scrub_start(e->fs, 0, false, NULL), 0);
	for (;; starts++) {
		assert_true(starts < 500);
		for (unsigned i = 0; i < 7; i++)
			if (!scrub_step(e->fs))
				break;
		fs_scrub_get_status(e->fs, &st);
		if (st.state == FS_SCRUB_FINISHED)
			break;
		engine_close(e);
		engine_open(e);
		fs_scrub_get_status(e->fs, &st);
		assert_int_equal(st.state, FS_SCRUB_RUNNING); /* as the superblock has it */
		assert_false(scrub_step(e->fs));	      /* nobody has asked for it */
		e->fs->scrub->slices_small = true;
		e->fs->opt.scrub_goes_on = true;
		scrub_poll(e->fs);
		assert_true(e->fs->scrub->run != NULL);
	}
	print_message("%u starts, %llu bytes, %llu without them\n", starts, (unsigned long long)st.bytes_done,
		      (unsigned long long)whole.bytes_done);
	assert_true(starts > 1);
	/* The root and the group tree are read again after each start, and the path to where it stood. */
	assert_true(st.bytes_done < whole.bytes_done * 5 / 4 + starts * 600 * KIB);
	assert_int_equal(st.found, 0);
	engine_check_all(e);
	engine_free(e);
}

static void test_scrub_stop_and_go_on(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_error err = {""};
	struct fs_scrub_status st;
	uint64_t done;

	e->fs->scrub->slices_small = true;
	assert_int_equal(fs_scrub_stop(e->fs, &err), -ENOENT);
	assert_string_equal(err.msg, "scrub stop: none is running");
	assert_int_equal(fs_scrub_start(e->fs, 123456, false, &err), 0);
	assert_int_equal(fs_scrub_start(e->fs, 0, false, &err), -EBUSY);
	for (unsigned i = 0; i < 30; i++)
		assert_true(scrub_step(e->fs));
	assert_int_equal(fs_scrub_stop(e->fs, &err), 0);
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.state, FS_SCRUB_STOPPED);
	assert_int_equal(st.rate, 123456);
	assert_true(st.ended_ns > 0);
	done = st.bytes_done;
	engine_reopen(e);
	assert_int_equal(fs_scrub_start(e->fs, 0, false, &err), 0);
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.bytes_done, done);
	assert_int_equal(st.ended_ns, 0);
	assert_int_equal(fs_scrub_stop(e->fs, &err), 0);
	assert_int_equal(fs_scrub_start(e->fs, 0, true, &err), 0);
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.bytes_done, 0);
	engine_settle(e);
	engine_check_all(e);
	engine_free(e);
}

static void test_scrub_starts_when_it_is_due(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_scrub_status st;

	e->fs->opt.scrub_interval_s = 0;
	scrub_poll(e->fs);
	assert_null(e->fs->scrub->run);
	e->fs->opt.scrub_interval_s = 3600; /* since the pool was made */
	scrub_poll(e->fs);
	assert_null(e->fs->scrub->run);
	e->fs->super->ctime_ns = cpu_to_le64(le64_to_cpu(e->fs->super->ctime_ns) - 3601ull * 1000000000);
	scrub_poll(e->fs);
	assert_non_null(e->fs->scrub->run);
	engine_settle(e);
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.state, FS_SCRUB_FINISHED);
	scrub_poll(e->fs);
	assert_null(e->fs->scrub->run);
	e->fs->scrub->status.ended_ns -= 3601ll * 1000000000;
	scrub_poll(e->fs);
	assert_non_null(e->fs->scrub->run);
	engine_settle(e);
	engine_free(e);
}

/* ---- when things fail -------------------------------------------------------------- */

static void test_scrub_without_memory_says_so(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct fs_scrub_status st;
	uint64_t n;

	for (n = 1;; n++) {
		struct fs_error err = {""};
		int r;

		mem_fail_at(n);
		r = fs_scrub_start(e->fs, 0, true, &err);
		if (mem_fail_pending()) {
			mem_fail_at(0);
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_non_null(strstr(err.msg, "no memory"));
	}
	assert_true(n > 10);
	engine_settle(e);
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.state, FS_SCRUB_FINISHED);
	assert_int_equal(st.found, 0);
	engine_free(e);
}

/* The commit thread asks after each commit, hundreds of times a second perhaps. */
static void test_scrub_that_cannot_start_is_not_tried_at_each_commit(void **state)
{
	struct engine *e = new_pool(test_seed());
	unsigned lines = 0;

	e->fs->opt.scrub_interval_s = 3600;
	e->fs->super->ctime_ns = cpu_to_le64(le64_to_cpu(e->fs->super->ctime_ns) - 3601ull * 1000000000);
	e->log[0] = 0;
	for (unsigned i = 0; i < 10; i++) {
		mem_fail_at(1);
		scrub_poll(e->fs);
		mem_fail_at(0);
	}
	for (const char *at = e->log; (at = strstr(at, "scrub start: no memory")); at++)
		lines++;
	assert_int_equal(lines, 1);
	assert_null(e->fs->scrub->run);
	e->fs->scrub->not_before_us = fs_now_us(e->fs);
	scrub_poll(e->fs);
	assert_non_null(e->fs->scrub->run);
	engine_settle(e);
	engine_free(e);
}

static void test_scrub_flush_that_fails_ends_it(void **state)
{
	struct engine *e = new_pool(test_seed());
	struct device_sim_fault fault = {
		.kind = DEVICE_SIM_FAIL, .ops = DEVICE_SIM_OP(DEVICE_FLUSH), .error = -EIO};
	uint64_t off[GROUP_STRIPES_MAX];
	struct fs_scrub_status st;
	struct fs_volume *vol = engine_volume(e, "a", VOL);

	place(e, vol->root.addr, off);
	fs_volume_put(vol);
	device_sim_flip(e->sim, off[0] + 100, 1);
	e->fs->scrub->slices_small = true;
	assert_int_equal(fs_scrub_start(e->fs, 0, false, NULL), 0);
	assert_int_equal(fs_commit(e->fs), 0); /* that it has begun */
	(void)device_sim_fault_add(e->sim, &fault);
	while (scrub_step(e->fs))
		;
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.state, FS_SCRUB_STOPPED);
	assert_int_equal(st.mended, 0);
	assert_true(fs_is_read_only(e->fs));
	engine_free(e);
}

/* ---- with threads -------------------------------------------------------------------- */

static bool has_thread(struct engine *e)
{
	bool has;

	lock_take(&e->fs->scrub->lock);
	has = e->fs->scrub->joinable;
	lock_drop(&e->fs->scrub->lock);
	return has;
}

static void test_scrub_thread_starts_stops_and_closes(void **state)
{
	struct fs_options opt = {.commit_interval_ms = 5, .scrub_goes_on = true};
	struct engine *e = engine_new_threads(POOL, test_seed(), &opt);
	struct fs_volume *vol = engine_volume(e, "a", VOL);
	struct fs_scrub_status st = {0};
	double began;

	write_random(e, vol, 800);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(fs_scrub_start(e->fs, i % 2 ? 1 * MIB : 1ull << 40, false, NULL), 0);
		write_random(e, vol, (unsigned)pick(&e->rng, 20));
		began = seconds();
		(void)fs_scrub_stop(e->fs, NULL); /* it may have ended */
		assert_true(seconds() - began < 5);
	}
	assert_int_equal(fs_scrub_start(e->fs, 1ull << 40, true, NULL), 0);
	while (fs_scrub_get_status(e->fs, &st), st.state == FS_SCRUB_RUNNING)
		write_random(e, vol, 1);
	assert_int_equal(st.state, FS_SCRUB_FINISHED);
	assert_int_equal(st.found, 0);
	/* slow: it is under way when the pool is closed */
	assert_int_equal(fs_scrub_start(e->fs, 64 * KIB, true, NULL), 0);
	fs_volume_put(vol);
	began = seconds();
	engine_close(e);
	assert_true(seconds() - began < 10);
	engine_open(e);
	for (unsigned i = 0; i < 2000 && !has_thread(e); i++)
		usleep(1000);
	fs_scrub_get_status(e->fs, &st);
	assert_int_equal(st.state, FS_SCRUB_RUNNING); /* the commit thread has started it again */
	assert_true(has_thread(e));
	engine_close(e);
	engine_check_device(e->sim);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scrub_reads_all_that_is_allocated),
		cmocka_unit_test(test_scrub_mends_one_copy_of_everything),
		cmocka_unit_test(test_scrub_flushes_what_it_mended),
		cmocka_unit_test(test_scrub_mends_from_memory),
		cmocka_unit_test(test_scrub_names_damaged_data),
		cmocka_unit_test(test_scrub_reads_a_volume_with_a_comment),
		cmocka_unit_test(test_scrub_reads_again_what_failed),
		cmocka_unit_test(test_scrub_names_what_is_lost),
		cmocka_unit_test(test_scrub_while_everything_changes),
		cmocka_unit_test(test_scrub_goes_on_after_a_start),
		cmocka_unit_test(test_scrub_stop_and_go_on),
		cmocka_unit_test(test_scrub_starts_when_it_is_due),
		cmocka_unit_test(test_scrub_without_memory_says_so),
		cmocka_unit_test(test_scrub_that_cannot_start_is_not_tried_at_each_commit),
		cmocka_unit_test(test_scrub_flush_that_fails_ends_it),
		cmocka_unit_test(test_scrub_thread_starts_stops_and_closes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
