/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/damage.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "fs/check/check.h"
#include "fs/device/device_sim.h"
#include "fs/volume/extent.h"
#include "fs/commit/flush_log_reader.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/device/super.h"
#include "tests/crash/sim/clock.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/cache/cache.h"
#include "fs/device/device.h"
#include "fs/format/flush_log_format.h"
#include "fs/fs.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"

#define PAGE 4096u
#define GROUPS_MAX 256

/* Where one group stands. */
struct place {
	uint64_t stripe[GROUP_STRIPES_MAX], len;
	uint32_t slot_bytes;
	uint8_t type, nr_stripes;
};

struct map {
	unsigned count;
	struct place place[GROUPS_MAX];
};

static void add_place(struct block_group *g, void *arg)
{
	struct map *map = arg;
	struct place *p = &map->place[map->count];

	if (map->count == GROUPS_MAX)
		return;
	map->count++;
	p->len = g->len;
	p->slot_bytes = g->slot_bytes;
	p->type = g->type;
	p->nr_stripes = g->nr_stripes;
	memcpy(p->stripe, g->stripe, sizeof(p->stripe));
}

/* The groups of the pool on the device, as the engine sees them, from a copy of it. */
static void look(struct world *w, struct map *map)
{
	struct fs_options opt = {.cache_bytes = w->set->cache_bytes, .read_only = true, .workers = 1};
	struct device *copy = device_sim_clone(w->sim, 1);
	struct fs_error err = {""};
	struct fs *fs;

	map->count = 0;
	if (pool_open(copy, &opt, sim_clock_alone(), &fs, &err))
		sim_fail("a copy of the pool cannot be opened read-only: %s", err.msg);
	w->mounts_read_only++;
	block_group_each(fs, add_place, map);
	pool_abandon(fs);
}

static const struct place *some_place(struct world *w, const struct map *map, unsigned types)
{
	for (unsigned i = 0; i < 4 * GROUPS_MAX && map->count; i++) {
		const struct place *p = &map->place[rng_below(&w->rng, map->count)];

		if (p->type & types)
			return p;
	}
	return NULL;
}

/* ---- rot ----------------------------------------------------------------------- */

static void rot_page(struct world *w, uint64_t off)
{
	struct rotten *rot = &w->rotten[w->rottens];
	uint64_t bit = rng_below(&w->rng, PAGE * 8);

	for (unsigned i = 0; i < w->rottens; i++)
		if (w->rotten[i].off == off)
			return;
	if (w->rottens == ROTTEN_MAX)
		return;
	w->rottens++;
	rot->off = off;
	device_sim_peek(w->sim, off, rot->good, PAGE);
	memcpy(rot->bad, rot->good, PAGE);
	rot->bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
	device_sim_poke(w->sim, off, rot->bad, PAGE);
	world_log(w, "rot at device offset %llu", (unsigned long long)off);
}

static void rot(struct world *w, bool clean)
{
	static const uint64_t supers[SUPER_COPIES] = SUPER_OFFSETS;
	struct map *map = calloc(1, sizeof(*map));
	unsigned side = w->history->seed & 1, n = 1 + (unsigned)rng_below(&w->rng, 10);

	ASSERT(map);
	look(w, map);
	for (unsigned i = 0; i < n; i++) {
		const struct place *p = some_place(w, map, GROUP_METADATA | GROUP_SYSTEM);

		/* The first nodes of a group are the likeliest to be in use. */
		if (p)
			rot_page(w, p->stripe[side] +
					    round_down_u64(rng_below(&w->rng,
								     rng_below(&w->rng, 4)
									     ? min_u64(p->len, 512u << 10)
									     : p->len),
							   PAGE));
	}
	if (rng_below(&w->rng, 2))
		rot_page(w, supers[1 + rng_below(&w->rng, SUPER_COPIES - 1)]);
	if (clean && rng_below(&w->rng, 2)) {
		for (unsigned i = 0; i < n; i++) {
			const struct place *p = some_place(w, map, GROUP_DATA);

			if (p)
				rot_page(w, p->stripe[0] + round_down_u64(rng_below(&w->rng, p->len), PAGE));
		}
		w->data_rotten = true;
	}
	free(map);
}

/*
 * Also where it is under a write that is not flushed: when the engine has read a bad copy it writes it anew,
 * and no flush need follow. A crash that loses this write would bring back rot that is no longer known here.
 */
void damage_mend_image(struct world *w, struct device *image)
{
	for (unsigned i = 0; i < w->rottens; i++)
		device_sim_mend(image, w->rotten[i].off, w->rotten[i].bad, w->rotten[i].good);
}

void damage_mend(struct world *w)
{
	damage_mend_image(w, w->sim);
	w->rottens = 0;
	w->data_rotten = false;
}

/* ---- slots --------------------------------------------------------------------- */

static void damage_slot(struct world *w, uint64_t off, uint64_t len, unsigned how)
{
	uint8_t *buf = malloc(len);

	ASSERT(buf);
	device_sim_peek(w->sim, off, buf, len);
	if (how == 0) {
		memset(buf, 0, len);
	} else if (how == 1) {
		for (unsigned i = 0; i < 4; i++)
			buf[rng_below(&w->rng, 96)] ^= (uint8_t)(1u << rng_below(&w->rng, 8));
	} else if (how == 2) {
		buf[rng_below(&w->rng, len)] ^= (uint8_t)(1u << rng_below(&w->rng, 8));
	} else if (w->old_image &&
		   off + len <=
			   w->old_image->size) { /* of an older generation; the pool may have grown since */
		device_sim_peek(w->old_image, off, buf, len);
	}
	device_sim_poke(w->sim, off, buf, len);
	free(buf);
}

static void damage_group(struct world *w, const struct place *p, bool both_slots, bool both_copies)
{
	unsigned slot = (unsigned)rng_below(&w->rng, 2), copy = (unsigned)rng_below(&w->rng, p->nr_stripes);
	unsigned how = (unsigned)rng_below(&w->rng, 4);

	for (unsigned c = 0; c < p->nr_stripes; c++)
		for (unsigned s = 0; s < 2; s++)
			if ((both_copies || c == copy) && (both_slots || s == slot))
				damage_slot(w, p->stripe[c] + p->len + (uint64_t)s * p->slot_bytes,
					    p->slot_bytes, how);
}

static void slots(struct world *w)
{
	struct map *map = calloc(1, sizeof(*map));
	bool all = rng_below(&w->rng, 3) == 0, both_slots = rng_below(&w->rng, 2),
	     both_copies = rng_below(&w->rng, 2);
	struct device *copy = device_sim_clone(w->sim, 1);

	ASSERT(map);
	look(w, map);
	for (unsigned i = 0; i < map->count; i++)
		if (map->place[i].slot_bytes && (all || rng_below(&w->rng, map->count) == 0))
			damage_group(w, &map->place[i], all || both_slots, all || both_copies);
	w->cache_damaged = w->slots_damaged = w->rebuild_is_fine = true;
	world_log(w, "slots damaged: %s",
		  all	       ? "all"
		  : both_slots ? "both of some groups"
			       : "one of some groups");
	if (w->old_image)
		device_close(w->old_image);
	w->old_image = copy;
	free(map);
}

/* ---- lost nodes ---------------------------------------------------------------- */

/* A node of a tree, and the blocks below it. */
struct victim {
	struct node_ident id;
	uint64_t first, end;
};

/* Goes down at random, as far as is drawn. False: what is on the way is lost already. */
static bool choose_node(struct world *w, struct fs *fs, const struct tree_root *root, uint64_t blocks,
			struct victim *ret)
{
	unsigned down = (unsigned)rng_below(&w->rng, root->level + 1u);

	*ret = (struct victim){{root->addr, root->generation, root->owner, root->level}, 0, blocks};
	if (rng_below(&w->rng, 4)) /* mostly leaves */
		down = root->level;
	for (; down > 0; down--) {
		struct cache_entry *entry;
		const struct node_header *node;
		unsigned slot;

		if (node_read(fs, fs->commit_q, &ret->id, &entry))
			return false;
		node = node_header(entry);
		slot = (unsigned)rng_below(&w->rng, node_count(node));
		ret->first = extent_key_blk(node_key(node, slot));
		if (slot + 1 < node_count(node))
			ret->end = extent_key_blk(node_key(node, slot + 1));
		ASSERT(node_child(node, slot, root->owner, &ret->id) == 0);
		cache_put(fs->cache, entry);
	}
	return true;
}

static void lose_node(struct world *w, struct fs *fs, const struct victim *v)
{
	uint64_t off[GROUP_STRIPES_MAX];
	struct cache_entry *entry;
	uint8_t byte;

	/* What an orphan has freed may be another tree's by now. */
	if (node_read(fs, fs->commit_q, &v->id, &entry) ||
	    block_group_map(fs, v->id.addr, NODE_SIZE, off) != 2)
		return;
	cache_put(fs->cache, entry);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t at = off[i] + rng_below(&w->rng, NODE_SIZE);

		device_sim_peek(w->sim, at, &byte, 1);
		byte ^= 1;
		device_sim_poke(w->sim, at, &byte, 1);
	}
	w->leaked = true;
	world_log(w, "node %llu of tree %llu, level %u, is lost", (unsigned long long)v->id.addr,
		  (unsigned long long)v->id.owner, v->id.level);
}

static void lose_of_volume(struct world *w, struct fs *fs, struct model_volume *mv)
{
	struct fs_volume *vol;
	struct victim v;

	if (fs_volume_get(fs, mv->name, &vol))
		return;
	if (vol->root.addr && choose_node(w, fs, &vol->root, mv->blocks, &v)) {
		lose_node(w, fs, &v);
		for (uint64_t blk = v.first; blk < min_u64(v.end, mv->blocks); blk++)
			model_may_lose(w->model, mv, blk);
	}
	fs_volume_put(vol);
}

/* Nodes of volumes, and of deleted ones, in both copies. */
static void lose(struct world *w)
{
	struct fs_options opt = {.cache_bytes = w->set->cache_bytes, .read_only = true, .workers = 1};
	struct device *copy = device_sim_clone(w->sim, 1);
	struct fs_error err = {""};
	struct orphan *o;
	struct victim v;
	struct fs *fs;

	if (pool_open(copy, &opt, sim_clock_alone(), &fs, &err))
		sim_fail("a copy of the pool cannot be opened read-only: %s", err.msg);
	w->mounts_read_only++;
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++)
		if (w->model->volume[i].exists && rng_below(&w->rng, 2) == 0)
			lose_of_volume(w, fs, &w->model->volume[i]);
	TAILQ_FOREACH (o, &fs->volumes->orphans, link)
		if (rng_below(&w->rng, 2) == 0 && choose_node(w, fs, &o->root, 0, &v))
			lose_node(w, fs, &v);
	pool_abandon(fs);
}

/* ---- the flush log ------------------------------------------------------------- */

/* Where one record stands, not in the last group; 0: the log has fewer than two. */
static uint64_t log_record_place(struct device *dev, uint64_t *rng)
{
	struct log_group_read g = {0};
	struct device_queue *q;
	struct log_reader rd;
	struct super_block sb;
	unsigned bad, old, groups = 0;
	uint64_t place = 0, last = 0;

	if (dev->ops->queue_new(dev, &q) || super_read(q, dev->size, &sb, &bad, &old, NULL) ||
	    log_reader_init(&rd, q, &sb))
		sim_fail("the flush log of a copy cannot be read");
	for (uint64_t pos = rd.tail, seq = rd.seq; log_reader_group(&rd, pos, seq, &g) == 1;
	     pos = g.end, seq = g.seq) {
		if (groups && rng_below(rng, groups) == 0)
			place = last;
		groups++;
		last = rd.offset + pos % rd.size;
	}
	log_group_read_fini(&g);
	log_reader_fini(&rd);
	device_queue_free(q);
	return place;
}

static void count_lost(void *arg, const char *line)
{
	*(unsigned *)arg += strstr(line, "cannot be replayed") != NULL;
}

static void check_lost(struct device *dev)
{
	unsigned told = 0;
	struct fs_check_options opt = {.finding = count_lost, .arg = &told};
	struct fs_error err = {""};
	uint64_t findings;

	if (check_device(dev, &opt, &findings, &err))
		sim_fail("the check of a pool with a rotten record cannot be run: %s", err.msg);
	if (!told)
		sim_fail("a record of the flush log has rotted, and the check does not say so");
}

void damage_log(struct world *w)
{
	struct fs_options opt = {.cache_bytes = w->set->cache_bytes, .workers = 1};
	uint64_t rng = w->rng ^ w->crashes, place; /* histories stay what they are */
	struct device *copy;
	struct fs_error err = {""};
	struct fs_info info;
	struct fs *fs;

	if (rng_below(&rng, 4))
		return;
	copy = device_sim_clone(w->sim, 1);
	place = log_record_place(copy, &rng);
	if (!place) {
		device_close(copy);
		return;
	}
	device_sim_flip(copy, place + rng_below(&rng, sizeof(struct log_record)),
			(unsigned)rng_below(&rng, 8));
	check_lost(copy);
	if (pool_open(copy, &opt, sim_clock_alone(), &fs, &err))
		sim_fail("a pool with a rotten record in its log cannot be opened: %s", err.msg);
	fs_get_info(fs, &info);
	if (info.log_lost_flushes == 0)
		sim_fail("a record of the flush log has rotted, and nobody is told");
	if (fs_commit(fs))
		sim_fail("a pool with a rotten record in its log cannot commit");
	pool_abandon(fs);
}

void damage_do(struct world *w, bool clean)
{
	if (w->set->profile == PROFILE_LOST && w->unsure.kind == CLIENT_NONE && rng_below(&w->rng, 3))
		lose(w);

	if (w->set->profile == PROFILE_ROT)
		rot(w, clean);
	if (w->set->profile == PROFILE_SLOTS && rng_below(&w->rng, 4))
		slots(w);
}
