/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/space/test_block_group.c: device space, groups that come, fill up and go, and the free-space
 * cache: read late, never believed when it is wrong, written without harm when it cannot be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/device/device_space.h"
#include "fs/space/free_space.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/format/node_format.h"
#include "fs/pool/pool.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"
#include "fs/device/work.h"

#define POOL_BYTES (64 * MIB)
#define GROUPS_MAX 512u

/* ---- device space -------------------------------------------------------------------- */

#define UNITS 300u

static void check_ranges(const struct fs *fs, const bool *unallocated, uint64_t want)
{
	const struct group_table *t = fs->groups;
	uint64_t end = 0, sum = 0, ranges = 0, longest = 0, first = UINT64_MAX, off, len;
	bool found[UNITS] = {false};

	while (device_space_next(&t->unallocated, end, &off, &len)) {
		assert_true(len > 0);
		assert_true(ranges == 0 || off > end); /* in order, and joined where they meet */
		end = off + len;
		sum += len;
		ranges++;
		longest = len > longest ? len : longest;
		if (len >= want && first == UINT64_MAX)
			first = off;
		for (uint64_t u = off / BLOCK; u < end / BLOCK; u++)
			found[u] = true;
	}
	assert_int_equal(sum, atomic_load(&t->unallocated_bytes));
	assert_int_equal(ranges, t->unallocated.ranges);
	assert_int_equal(longest, device_space_longest(&t->unallocated));
	assert_int_equal(device_space_find(&t->unallocated, want, &off), first != UINT64_MAX);
	assert_true(first == UINT64_MAX || off == first);
	assert_memory_equal(found, unallocated, sizeof(found));
}

static bool all_are(const bool *unallocated, uint64_t first, uint64_t n, bool what)
{
	for (uint64_t u = first; u < first + n; u++)
		if (unallocated[u] != what)
			return false;
	return true;
}

static void test_block_group_device_space_against_a_bitmap(void **state)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	struct group_table table = {.fs = fs};
	uint64_t rng = test_seed();
	bool unallocated[UNITS] = {false};

	fs->groups = &table;
	fs->group_size = fs->group_step = MIB;
	assert_int_equal(group_table_init(fs), 0);
	for (unsigned i = 0; i < 50000 / (1 + 9 * SANITIZED); i++) {
		uint64_t n = 1 + pick(&rng, pick(&rng, 4) ? 6 : 60), first = pick(&rng, UNITS - n);
		int r;

		if (pick(&rng, 2) && all_are(unallocated, first, n, false)) {
			if (pick(&rng, 20) == 0)
				mem_fail_at(1);
			r = group_space_add(fs, first * BLOCK, n * BLOCK);
			mem_fail_at(0);
			assert_true(r == 0 || r == -ENOMEM);
			memset(unallocated + first, unallocated[first] || r == 0, n);
		} else {
			bool there = all_are(unallocated, first, n, true);

			r = group_space_take(fs, first * BLOCK, n * BLOCK);
			assert_int_equal(r, there ? 0 : -EUCLEAN);
			if (there)
				memset(unallocated + first, 0, n);
		}
		check_ranges(fs, unallocated, n * BLOCK);
	}
	group_table_fini(fs);
	free(fs);
}

/* ---- groups come and go ------------------------------------------------------------------- */

static void test_block_group_created_until_the_device_is_full(void **state)
{
	static const uint8_t types[] = {GROUP_DATA, GROUP_METADATA};

	for (unsigned k = 0; k < 2; k++) {
		struct engine *e = engine_new(POOL_BYTES, 1);
		struct fs_info before, after;
		uint64_t bytes;
		int r;

		fs_get_info(e->fs, &before);
		while ((r = block_group_create(e->fs, types[k], GROUP_SIZE_MAX, &bytes)) == 0)
			space_group_added(e->fs, types[k], bytes);
		assert_int_equal(r, -ENOSPC);
		fs_get_info(e->fs, &after);
		assert_true(after.unallocated_bytes < group_quantum(e->fs) * (k + 1) * 2);
		assert_true(after.groups_data + after.groups_metadata >
			    before.groups_data + before.groups_metadata + 20);
		engine_check_books(e);
		engine_free(e);
	}
}

static void test_block_group_empty_ones_leave(void **state)
{
	struct engine *e = engine_new(POOL_BYTES, 1);
	struct fs_volume *vol = engine_volume(e, "v", 40 * MIB);
	struct fs_info empty, full, again;
	uint8_t *buf = malloc(MIB), *got = malloc(MIB);

	engine_commit(e);
	fs_get_info(e->fs, &empty);
	for (unsigned round = 0; round < 5; round++) {
		fill_bytes(buf, MIB, round);
		for (uint64_t at = 0; at < 40 * MIB; at += MIB)
			assert_int_equal(engine_write(e, vol, at, MIB, buf), 0);
		engine_commit(e);
		fs_get_info(e->fs, &full);
		assert_true(full.groups_data > empty.groups_data + 30);
		assert_true(full.unallocated_bytes + 35 * MIB < empty.unallocated_bytes);
		engine_check_all(e);
		assert_int_equal(engine_trim(e, vol, 0, 39 * MIB), 0);
		/* freed in the first, empty in the second, gone after the third */
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
			engine_commit(e);
		}
		fs_get_info(e->fs, &again);
		assert_true(again.groups_data < full.groups_data - 30);
		assert_true(again.unallocated_bytes > empty.unallocated_bytes - 8 * MIB);
		assert_true(again.reclaim_groups > 0);
		assert_int_equal(engine_read(e, vol, 39 * MIB, MIB, got), 0);
		assert_memory_equal(buf, got, MIB);
		engine_check_all(e);
		if (round % 2) {
			fs_volume_put(vol);
			engine_crash(e, DEVICE_SIM_CRASH_LOSE_ALL, round);
			engine_open(e);
			vol = engine_volume(e, "v", 0);
		}
	}
	fs_volume_put(vol);
	engine_free(e);
	free(buf);
	free(got);
}

/* ---- a pool with many groups, used in a scattered way --------------------------------------- */

/* Many times written over and trimmed: each group has its own pattern. */
static struct engine *scattered_pool(uint64_t pool_bytes, uint64_t seed, struct model *m)
{
	struct engine *e = engine_new(pool_bytes, seed);
	struct fs_volume *vol = engine_volume(e, "v", m->size);

	for (uint64_t at = 0; at < m->size; at += MIB) {
		fill_bytes(m->bytes + at, MIB, at + seed);
		assert_int_equal(engine_write(e, vol, at, MIB, m->bytes + at), 0);
	}
	engine_commit(e);
	for (unsigned i = 0; i < 1500; i++) {
		uint64_t len = (1 + pick(&e->rng, 8)) * BLOCK,
			 off = pick(&e->rng, (m->size - len) / BLOCK) * BLOCK;

		if (pick(&e->rng, 2)) {
			fill_bytes(m->bytes + off, len, i);
			assert_int_equal(engine_write(e, vol, off, len, m->bytes + off), 0);
		} else {
			memset(m->bytes + off, 0, len);
			assert_int_equal(engine_trim(e, vol, off, len), 0);
		}
		if (i % 300 == 0)
			engine_commit(e);
	}
	fs_volume_put(vol);
	engine_commit(e);
	return e;
}

/* What each group has free, as of the last commit. */
struct picture {
	unsigned groups;
	struct {
		uint64_t start;
		uint32_t words;
		uint64_t *map;
	} group[GROUPS_MAX];
};

static void load_one(struct block_group *g, void *arg)
{
	struct engine *e = arg;

	assert_int_equal(block_group_load(e->fs, e->fs->commit_q, g), 0);
}

/* Reads every group's cache and lets rebuilds run to their end. */
static void load_all(struct engine *e)
{
	block_group_each(e->fs, load_one, e);
	for (unsigned i = 0; atomic_load(&e->fs->groups->rebuilding); i++) {
		pool_step(e->fs);
		assert_true(i < 100000);
	}
}

static void take_picture_of(struct block_group *g, void *arg)
{
	struct picture *p = arg;
	uint32_t words = (g->nblocks + 63) / 64;

	if (g->type == GROUP_SYSTEM)
		return;
	assert_int_equal(g->state, GROUP_LOADED);
	assert_true(p->groups < GROUPS_MAX);
	p->group[p->groups].start = g->start;
	p->group[p->groups].words = words;
	p->group[p->groups].map = malloc(words * 8);
	free_space_get_words(g->committed, 0, words, p->group[p->groups].map);
	p->groups++;
}

static struct picture *picture_of(struct engine *e)
{
	struct picture *p = calloc(1, sizeof(*p));

	load_all(e);
	block_group_each(e->fs, take_picture_of, p);
	return p;
}

static void free_picture(struct picture *p)
{
	for (unsigned i = 0; i < p->groups; i++)
		free(p->group[i].map);
	free(p);
}

static void assert_same_picture(const struct picture *a, const struct picture *b)
{
	assert_int_equal(a->groups, b->groups);
	for (unsigned i = 0; i < a->groups; i++) {
		assert_int_equal(a->group[i].start, b->group[i].start);
		assert_memory_equal(a->group[i].map, b->group[i].map, a->group[i].words * 8);
	}
}

/* ---- loading ----------------------------------------------------------------------------------- */

static void test_block_group_loads_only_what_is_needed(void **state)
{
	struct device_sim_stats before, after;
	struct fs_volume *vol;
	struct engine *e;
	struct fs_info info;
	uint8_t got[FS_BLOCK_SIZE];
	struct model m;

	model_init(&m, 40 * MIB);
	e = scattered_pool(POOL_BYTES, 1, &m);
	engine_close(e);
	device_sim_get_stats(e->sim, &before);
	engine_open_only(e);
	device_sim_get_stats(e->sim, &after);
	fs_get_info(e->fs, &info);
	assert_true(info.groups_data > 30);
	assert_int_equal(info.cache_loaded, 0);
	/* Superblocks, the group and root trees, and a window of the log: not the data, nor what is free. */
	assert_true(after.read_bytes - before.read_bytes < 2 * MIB);
	vol = engine_volume(e, "v", 0);
	e->hold_commits = true;
	assert_int_equal(engine_read(e, vol, 0, BLOCK, got), 0);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.cache_loaded, 0); /* a reader needs none */
	e->hold_commits = false;
	assert_int_equal(engine_write(e, vol, 0, BLOCK, m.bytes), 0);
	fs_get_info(e->fs, &info);
	assert_in_range(info.cache_loaded, 1, 3);
	engine_commit(e);
	fs_get_info(e->fs, &info);
	assert_in_range(info.cache_loaded, 1, 6);
	model_verify_all(e, vol, &m);
	engine_check_books(e); /* with groups whose free space nobody has looked at */
	load_all(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.cache_rebuilt, 0);
	assert_true(info.cache_loaded > 30);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static void test_block_group_crash_costs_no_rebuild(void **state)
{
	uint64_t seed = test_seed();
	struct engine *e;
	struct model m;

	model_init(&m, 24 * MIB);
	e = scattered_pool(POOL_BYTES, seed, &m);
	for (unsigned round = 0; round < 12 / (1 + SANITIZED); round++) {
		struct fs_volume *vol = engine_volume(e, "v", 0);
		uint64_t at;

		for (unsigned i = 0; i < 50; i++) {
			uint64_t off = pick(&e->rng, m.size / BLOCK) * BLOCK;

			fill_bytes(m.bytes + off, BLOCK, rnd(&e->rng));
			assert_int_equal(engine_write(e, vol, off, BLOCK, m.bytes + off), 0);
		}
		assert_int_equal(engine_flush(e), 0);
		fs_volume_put(vol);
		at = 1 + pick(&e->rng, 60);
		device_sim_kill_after(e->sim, at);
		(void)fs_commit(e->fs);
		engine_crash(e, (enum device_sim_crash_mode)pick(&e->rng, DEVICE_SIM_CRASH_MODES), round);
		engine_check_device(e->sim);
		engine_open_only(e);
		{
			struct picture *p = picture_of(e);
			struct fs_info info;

			fs_get_info(e->fs, &info);
			assert_int_equal(info.cache_rebuilt, 0);
			free_picture(p);
		}
		engine_settle(e);
		vol = engine_volume(e, "v", 0);
		model_verify_all(e, vol, &m);
		fs_volume_put(vol);
		engine_check_all(e);
	}
	model_fini(&m);
	engine_free(e);
}

/* ---- damaged caches -------------------------------------------------------------------------------- */

enum damage {
	DAMAGE_FLIP_HEADER,
	DAMAGE_FLIP_BODY,
	DAMAGE_ZERO,
	DAMAGE_GARBAGE,
	DAMAGE_OLD,
	DAMAGE_OTHER_GROUP,
	DAMAGE_BAD_SECTOR,
	DAMAGES
};

#define SLOT_COPY 8192u

struct slots {
	struct engine *e;
	enum damage how;
	unsigned count, every, damaged;
	uint8_t type;		      /* only of this one; 0: any */
	uint8_t (*old)[2][SLOT_COPY]; /* by group index: what both slots held some commits ago */
	uint8_t other[SLOT_COPY];
};

static uint64_t slot_offset(const struct block_group *g, unsigned stripe, unsigned slot)
{
	return g->stripe[stripe] + g->len + (uint64_t)slot * g->slot_bytes;
}

static void save_slots(struct block_group *g, void *arg)
{
	struct slots *s = arg;

	if (g->type == GROUP_SYSTEM)
		return;
	for (unsigned slot = 0; slot < 2; slot++)
		device_sim_peek(s->e->sim, slot_offset(g, 0, slot),
				s->old[g->start / s->e->fs->group_step][slot],
				min_u64(SLOT_COPY, g->slot_bytes));
}

static void damage_slot(struct block_group *g, void *arg)
{
	struct slots *s = arg;
	uint8_t buf[SLOT_COPY], mine[SLOT_COPY] = {0};
	size_t len = min_u64(SLOT_COPY, g->slot_bytes);

	if (g->type == GROUP_SYSTEM || (s->type && g->type != s->type) || g->cache_slot > 1 ||
	    s->count++ % s->every)
		return;
	for (unsigned stripe = 0; stripe < g->nr_stripes; stripe++) {
		uint64_t off = slot_offset(g, stripe, g->cache_slot);

		device_sim_peek(s->e->sim, off, buf, len);
		switch (s->how) {
		case DAMAGE_FLIP_HEADER:
			device_sim_flip(s->e->sim, off + 40, 2); /* the generation */
			continue;
		case DAMAGE_FLIP_BODY: device_sim_flip(s->e->sim, off + g->cache_bytes - 1, 7); continue;
		case DAMAGE_ZERO: memset(buf, 0, len); break;
		case DAMAGE_GARBAGE: fill_bytes(buf, len, g->start); break;
		case DAMAGE_OLD: /* a cache that was right once */
			memcpy(buf, s->old[g->start / s->e->fs->group_step][g->cache_slot], len);
			break;
		case DAMAGE_OTHER_GROUP: /* the one before */
			memcpy(mine, buf, len);
			memcpy(buf, s->other, len);
			break;
		default: device_sim_bad_range(s->e->sim, off, BLOCK); continue;
		}
		device_sim_poke(s->e->sim, off, buf, len);
	}
	memcpy(s->other, mine, sizeof(mine));
	s->damaged++;
}

/* Every group changes, so that every cache is written anew. */
static void touch_all(struct engine *e, struct model *m)
{
	struct fs_volume *vol = engine_volume(e, "v", 0);

	for (uint64_t at = 0; at < m->size; at += 16 * BLOCK) {
		fill_bytes(m->bytes + at, BLOCK, rnd(&e->rng));
		assert_int_equal(engine_write(e, vol, at, BLOCK, m->bytes + at), 0);
	}
	fs_volume_put(vol);
	engine_commit(e);
}

static void damaged_caches(enum damage how, unsigned every)
{
	struct slots s = {.how = how, .every = every};
	struct picture *good, *found;
	struct fs_volume *vol;
	struct fs_info info;
	struct engine *e;
	struct model m;

	model_init(&m, 30 * MIB);
	e = s.e = scattered_pool(POOL_BYTES, how, &m);
	s.old = calloc(GROUPS_MAX, sizeof(*s.old));
	block_group_each(e->fs, save_slots, &s);
	touch_all(e, &m);
	touch_all(e, &m);
	engine_reopen(e);
	e->hold_commits = true;
	good = picture_of(e);
	block_group_each(e->fs, damage_slot, &s);
	assert_true(s.damaged > 3);
	engine_abandon(e);

	/* The same free space is found again, from the trees. */
	engine_open_only(e);
	found = picture_of(e);
	assert_same_picture(good, found);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.cache_rebuilt, s.damaged);
	assert_non_null(strstr(e->log, "block group"));
	e->hold_commits = false;
	engine_check_all(e);
	vol = engine_volume(e, "v", 0);
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_close(e);

	/* It was written, too: next time nothing is to be done. */
	engine_open_only(e);
	load_all(e);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.cache_rebuilt, 0);
	engine_check_all(e);
	free_picture(good);
	free_picture(found);
	free(s.old);
	model_fini(&m);
	engine_free(e);
}

static void test_block_group_damaged_cache_is_rebuilt(void **state)
{
	for (int how = 0; how < DAMAGES; how++) {
		if (how == DAMAGE_BAD_SECTOR) /* the slot is not readable until it is written */
			continue;
		if (!SANITIZED)
			damaged_caches(how, 1);
		damaged_caches(how, 3);
	}
	damaged_caches(DAMAGE_BAD_SECTOR, 1);
}

/* The pool is used from the first moment on, by threads, while the free space is being found. */
static void test_block_group_pool_serves_while_caches_are_rebuilt(void **state)
{
	uint64_t seed = test_seed();
	struct slots s = {.how = DAMAGE_ZERO, .every = 2};
	struct fs_volume *vol;
	struct fs_info info;
	struct engine *e;
	struct model m;

	model_init(&m, 40 * MIB);
	e = s.e = scattered_pool(POOL_BYTES, seed, &m);
	engine_reopen(e);
	block_group_each(e->fs, damage_slot, &s);
	engine_abandon(e);
	e->threads = true;
	e->opt.commit_interval_ms = 5;
	e->opt.workers = 2;
	engine_open_only(e);
	vol = engine_volume(e, "v", 0);
	for (unsigned i = 0; i < 600; i++) {
		uint64_t len = (1 + pick(&e->rng, 30)) * BLOCK,
			 off = pick(&e->rng, (m.size - len) / BLOCK) * BLOCK;

		if (pick(&e->rng, 3)) {
			fill_bytes(m.bytes + off, len, rnd(&e->rng));
			assert_int_equal(engine_write(e, vol, off, len, m.bytes + off), 0);
		} else {
			memset(m.bytes + off, 0, len);
			assert_int_equal(engine_trim(e, vol, off, len), 0);
		}
		off = pick(&e->rng, m.size - 100000);
		model_verify(e, vol, &m, off, 100000);
	}
	for (unsigned i = 0; atomic_load(&e->fs->groups->rebuilding); i++) {
		usleep(1000);
		assert_true(i < 60000);
	}
	model_verify_all(e, vol, &m);
	fs_get_info(e->fs, &info);
	assert_true(info.cache_rebuilt > 0);
	fs_volume_put(vol);
	engine_check_committed(e);
	engine_close(e);
	engine_check_device(e->sim);
	model_fini(&m);
	engine_free(e);
}

/* While the trees are walked, what the walk has seen and what it will see is freed and committed. */
struct freeing {
	struct engine *e;
	struct fs_volume *vol;
	struct model *m;
	bool inside;
	unsigned commits;
};

static void free_something(void *arg, struct device_queue *q, const struct device_io *dio)
{
	struct freeing *f = arg;
	struct fs *fs = f->e->fs;

	if (f->inside || q != fs->work->queue[0] || !atomic_load(&fs->groups->rebuilding) ||
	    !atomic_load(&fs->rebuild_running))
		return;
	if (pthread_mutex_trylock(&fs->commit_lock.mutex)) /* the walk has it at the moment */
		return;
	pthread_mutex_unlock(&fs->commit_lock.mutex);
	f->inside = true;
	for (unsigned i = 0; i < 5; i++) {
		uint64_t off = pick(&f->e->rng, f->m->size / BLOCK) * BLOCK;
		struct fs_io io = {.op = FS_TRIM, .vol = f->vol, .off = off, .len = BLOCK};
		unsigned left = 0;

		engine_submit(f->e, &io, 1, &left);
		for (unsigned k = 0; left && k < 1000; k++)
			fs_ctx_run(f->e->ctx);
		assert_int_equal(left, 0);
		assert_int_equal(io.error, 0);
		memset(f->m->bytes + off, 0, BLOCK);
	}
	f->commits += fs_commit(fs) == 0; /* not while the walk's own epoch is in the way of the one before */
	f->inside = false;
}

static void test_block_group_frees_during_a_rebuild_are_seen(void **state)
{
	/* a commit waits for metadata's */
	struct slots s = {.how = DAMAGE_ZERO, .every = 1, .type = GROUP_DATA};
	struct freeing f;
	struct fs_volume *vol;
	struct engine *e;
	struct model m;

	model_init(&m, 30 * MIB);
	e = s.e = scattered_pool(POOL_BYTES, test_seed(), &m);
	engine_reopen(e);
	e->hold_commits = true;
	load_all(e);
	block_group_each(e->fs, damage_slot, &s);
	engine_abandon(e);
	engine_open_only(e);
	vol = engine_volume(e, "v", 0);
	f = (struct freeing){.e = e, .vol = vol, .m = &m};
	engine_device(e)->arg = &f;
	engine_device(e)->before_submit = free_something;
	load_all(e);
	engine_device(e)->before_submit = NULL;
	assert_true(f.commits > 0);
	e->hold_commits = false;
	model_verify_all(e, vol, &m);
	fs_volume_put(vol);
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

/* The pool is used from the first moment on, by threads, while the free space is being found. */
/*
 * A commit needs to know where metadata may go: a rebuild for which there is no memory at some place is done
 * again.
 */
static void test_block_group_commit_insists_on_metadata(void **state)
{
	struct slots s = {.how = DAMAGE_ZERO, .every = 1, .type = GROUP_METADATA};
	struct engine *e;
	struct model m;
	bool fired = true;

	model_init(&m, 8 * MIB);
	e = s.e = scattered_pool(POOL_BYTES, test_seed(), &m);
	for (unsigned n = 1; fired; n += 1 + n / 20) {
		struct fs_volume *vol;

		engine_reopen(e);
		s.damaged = 0;
		block_group_each(e->fs, damage_slot, &s);
		assert_true(s.damaged > 0);
		engine_abandon(e);
		engine_open_only(e);
		vol = engine_volume(e, "v", 0);
		fill_bytes(m.bytes, BLOCK, n);
		e->hold_commits = true;
		assert_int_equal(engine_write(e, vol, 0, BLOCK, m.bytes), 0);
		e->hold_commits = false;
		mem_fail_at(n);
		assert_int_equal(fs_commit(e->fs), 0);
		fired = !mem_fail_pending();
		mem_fail_at(0);
		assert_false(fs_is_read_only(e->fs));
		assert_int_equal(atomic_load(&e->fs->groups->rebuilding), 0);
		model_verify(e, vol, &m, 0, MIB);
		fs_volume_put(vol);
	}
	engine_check_all(e);
	model_fini(&m);
	engine_free(e);
}

static unsigned walks(const struct engine *e)
{
	unsigned n = 0;

	for (const char *at = e->log; (at = strstr(at, "rebuilding the free space")); at++)
		n++;
	return n;
}

/* A pool whose metadata's caches are all bad, opened, with two volumes; nothing has asked for a cache yet. */
static void open_without_metadata(struct slots *s, struct model *m, struct fs_volume *ret_vol[2])
{
	struct engine *e;

	*s = (struct slots){.how = DAMAGE_ZERO, .every = 1, .type = GROUP_METADATA};
	model_init(m, 8 * MIB);
	e = s->e = scattered_pool(POOL_BYTES, test_seed(), m);
	fs_volume_put(engine_volume(e, "w", MIB));
	engine_reopen(e);
	block_group_each(e->fs, damage_slot, s);
	engine_abandon(e);
	engine_open_only(e);
	ret_vol[0] = engine_volume(e, "v", 0);
	ret_vol[1] = engine_volume(e, "w", 0);
	e->log[0] = 0;
}

static void write_and_commit(struct engine *e, struct fs_volume *vol, uint64_t seed)
{
	uint8_t buf[FS_BLOCK_SIZE];

	fill_bytes(buf, BLOCK, seed);
	e->hold_commits = true;
	assert_int_equal(engine_write(e, vol, 0, BLOCK, buf), 0);
	e->hold_commits = false;
	assert_int_equal(fs_commit(e->fs), 0);
}

static void close_broken(struct slots *s, struct model *m, struct fs_volume *vol[2])
{
	fs_volume_put(vol[0]);
	fs_volume_put(vol[1]);
	engine_abandon(s->e);
	model_fini(m);
	engine_free(s->e);
}

static void lose_a_node(struct block_group *g, void *arg)
{
	if (g->type == GROUP_METADATA)
		g->used -= NODE_SIZE;
}

/* An item that says something else than the trees: no walk will make them agree. */
static void test_block_group_contradicting_one_is_walked_once(void **state)
{
	struct fs_volume *vol[2];
	struct slots s;
	struct model m;

	open_without_metadata(&s, &m, vol);
	block_group_each(s.e->fs, lose_a_node, NULL);
	for (unsigned n = 0; n < 3; n++)
		write_and_commit(s.e, vol[1], n);
	assert_int_equal(walks(s.e), 1);
	assert_non_null(strstr(s.e->log, "its item says otherwise: it is not used"));
	close_broken(&s, &m, vol);
}

/*
 * Neither copy of a volume's root can be read: commits of other volumes go on, and do not try that again and
 * again.
 */
static void test_block_group_rebuild_that_cannot_read_is_tried_once_a_commit(void **state)
{
	uint64_t off[GROUP_STRIPES_MAX];
	struct fs_volume *vol[2];
	struct slots s;
	struct model m;
	int copies;

	open_without_metadata(&s, &m, vol);
	copies = block_group_map(s.e->fs, vol[0]->root.addr, NODE_SIZE, off);
	for (int i = 0; i < copies; i++)
		device_sim_bad_range(s.e->sim, off[i], NODE_SIZE);
	write_and_commit(s.e, vol[1], 1);
	assert_int_equal(walks(s.e), 1);
	close_broken(&s, &m, vol);
}

/* ---- caches that cannot be written ------------------------------------------------------------------- */

struct victim {
	uint64_t off, len;
	unsigned seen, which;
};

static void find_victim(struct block_group *g, void *arg)
{
	struct victim *v = arg;

	if (g->type == GROUP_DATA && v->seen++ == v->which) {
		v->off = slot_offset(g, 0, 0);
		v->len = 2ull * g->slot_bytes;
	}
}

static void test_block_group_cache_that_cannot_be_written_is_rebuilt_alone(void **state)
{
	for (unsigned which = 0; which < 6; which += 2) {
		struct device_sim_fault fault = {.kind = which ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN,
						 .error = -EIO,
						 .ops = DEVICE_SIM_OP(DEVICE_WRITE)};
		struct victim v = {.which = which};
		struct picture *p;
		struct engine *e;
		struct fs_info info;
		struct fs_volume *vol;
		struct model m;

		model_init(&m, 30 * MIB);
		e = scattered_pool(POOL_BYTES, which, &m);
		block_group_each(e->fs, find_victim, &v);
		assert_true(v.len > 0);
		fault.off = v.off;
		fault.len = v.len;
		device_sim_fault_add(e->sim, &fault);
		touch_all(e, &m); /* the commit succeeds */
		assert_false(fs_is_read_only(e->fs));
		assert_non_null(strstr(e->log, "could not be written"));
		device_sim_fault_clear(e->sim);
		engine_check_device(e->sim);
		engine_abandon(e);
		engine_open_only(e);
		p = picture_of(e);
		fs_get_info(e->fs, &info);
		assert_int_equal(info.cache_rebuilt, 1);
		free_picture(p);
		engine_settle(e);
		vol = engine_volume(e, "v", 0);
		model_verify_all(e, vol, &m);
		fs_volume_put(vol);
		engine_check_all(e);
		model_fini(&m);
		engine_free(e);
	}
}

/*
 * ---- memory ---------------------------------------------------------------------------------------------
 */

static void test_block_group_free_space_takes_little_memory(void **state)
{
	uint64_t size = 256 * MIB;
	struct engine *e = engine_new(size, 1);
	struct fs_volume *vol = engine_volume(e, "v", 256 * MIB);
	struct books b = {.fs = e->fs};
	uint8_t *buf = malloc(MIB);
	uint64_t stored;

	fill_bytes(buf, MIB, 1);
	for (stored = 0; engine_write(e, vol, stored, MIB, buf) == 0;)
		stored += MIB;
	/* every second block: the worst for lists of extents */
	for (uint64_t at = 0; at < stored; at += 2 * BLOCK)
		assert_int_equal(engine_trim(e, vol, at, BLOCK), 0);
	engine_commit(e);
	block_group_each(e->fs, books_add_group, &b);
	print_message("  free space of a %llu MiB pool: %llu bytes of memory, 1/%llu\n",
		      (unsigned long long)(size / MIB), (unsigned long long)b.memory,
		      (unsigned long long)(size / b.memory));
	assert_true(b.memory < size / 4000);
	fs_volume_put(vol);
	engine_check_all(e);
	free(buf);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_block_group_device_space_against_a_bitmap),
		cmocka_unit_test(test_block_group_created_until_the_device_is_full),
		cmocka_unit_test(test_block_group_empty_ones_leave),
		cmocka_unit_test(test_block_group_loads_only_what_is_needed),
		cmocka_unit_test(test_block_group_crash_costs_no_rebuild),
		cmocka_unit_test(test_block_group_damaged_cache_is_rebuilt),
		cmocka_unit_test(test_block_group_pool_serves_while_caches_are_rebuilt),
		cmocka_unit_test(test_block_group_frees_during_a_rebuild_are_seen),
		cmocka_unit_test(test_block_group_commit_insists_on_metadata),
		cmocka_unit_test(test_block_group_contradicting_one_is_walked_once),
		cmocka_unit_test(test_block_group_rebuild_that_cannot_read_is_tried_once_a_commit),
		cmocka_unit_test(test_block_group_cache_that_cannot_be_written_is_rebuilt_alone),
		cmocka_unit_test(test_block_group_free_space_takes_little_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
