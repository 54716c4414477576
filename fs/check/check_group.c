/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_group.c: the block groups: their items, the device space they claim, which of their blocks
 * are referred to, and whether their free-space caches say the same.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/check/check_int.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/free_space.h"
#include "fs/space/free_space_cache.h"

typedef unsigned long long ull;

/* ---- the table ------------------------------------------------------------- */

struct check_group *check_group_find(struct check *c, uint64_t addr, uint64_t len)
{
	uint64_t index = addr / c->group_step;
	struct check_group *g = index < c->groups ? c->group[index] : NULL;

	return g && addr - g->start < g->len && len <= g->len - (addr - g->start) ? g : NULL;
}

/* Takes the group over, also on failure. Its start is sane and its place in the table is free. */
static int put_group(struct check *c, struct check_group *g)
{
	uint32_t index = (uint32_t)(g->start / c->group_step);

	if (index >= c->groups) {
		struct check_group **table = mem_realloc(c->group, (index + 1) * sizeof(*table));

		if (!table) {
			mem_free(g);
			return -ENOMEM;
		}
		memset(table + c->groups, 0, (index + 1 - c->groups) * sizeof(*table));
		c->group = table;
		c->groups = index + 1;
	}
	c->group[index] = g;
	return 0;
}

void check_groups_fini(struct check *c)
{
	for (uint32_t i = 0; i < c->groups; i++) {
		if (!c->group[i])
			continue;
		mem_free(c->group[i]->map);
		mem_free(c->group[i]);
	}
	mem_free(c->group);
	mem_free(c->range);
}

/* ---- what is referred to --------------------------------------------------- */

static bool bit_is_set(const uint64_t *map, uint64_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

int check_group_mark(struct check_group *g, uint64_t addr, uint64_t len, uint64_t *ret_again)
{
	uint64_t first = (addr - g->start) / g->unit, again = 0;

	if (!g->map)
		g->map = mem_zalloc((g->nblocks + 63) / 64 * sizeof(uint64_t));
	if (!g->map)
		return -ENOMEM;
	for (uint64_t i = first; i < first + len / g->unit; i++) {
		again += bit_is_set(g->map, i);
		g->map[i / 64] |= 1ull << (i % 64);
	}
	g->mapped += len / g->unit - again;
	*ret_again = again;
	return 0;
}

uint64_t check_group_referenced(const struct check_group *g, uint64_t addr, uint64_t len)
{
	uint64_t first = (addr - g->start) / g->unit, n = 0;

	for (uint64_t i = first; g->map && i < first + len / g->unit; i++)
		n += bit_is_set(g->map, i);
	return n;
}

/* ---- device space ---------------------------------------------------------- */

int check_add_range(struct check *c, enum check_range_kind kind, uint64_t id, uint64_t off, uint64_t len)
{
	if (c->ranges == c->ranges_cap) {
		size_t cap = c->ranges_cap ? c->ranges_cap * 2 : 64;
		struct check_range *r = mem_realloc(c->range, cap * sizeof(*r));

		if (!r)
			return -ENOMEM;
		c->range = r;
		c->ranges_cap = cap;
	}
	c->range[c->ranges++] = (struct check_range){off, len, id, kind};
	return 0;
}

static int by_off(const void *pa, const void *pb)
{
	const struct check_range *a = pa, *b = pb;

	return a->off < b->off ? -1 : a->off > b->off;
}

static const char *range_name(const struct check_range *r, char *buf, size_t len)
{
	if (r->kind == RANGE_LOG)
		return "the flush log";
	snprintf(buf, len, r->kind == RANGE_SUPER ? "superblock copy %llu" : "block group %llu", (ull)r->id);
	return buf;
}

void check_ranges(struct check *c)
{
	const struct check_range *last = NULL; /* the one that reaches farthest */

	qsort(c->range, c->ranges, sizeof(*c->range), by_off);
	for (size_t i = 0; i < c->ranges; i++) {
		const struct check_range *r = &c->range[i];
		char a[64], b[64];

		if (last && r->off < last->off + last->len)
			check_finding(c, "%s and %s overlap on the device, at offset %llu",
				      range_name(last, a, sizeof(a)), range_name(r, b, sizeof(b)),
				      (ull)r->off);
		if (!last || r->off + r->len > last->off + last->len)
			last = r;
	}
}

static bool is_inside(const struct check *c, uint64_t off, uint64_t len)
{
	return off % FS_BLOCK_SIZE == 0 && off <= c->device_size && len <= c->device_size - off;
}

static int add_stripes(struct check *c, const struct check_group *g)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < g->nr_stripes; i++)
		r = check_add_range(c, RANGE_GROUP, g->start, g->stripe[i], g->len + 2ull * g->slot_bytes);
	return r;
}

/* ---- the superblock's groups ----------------------------------------------- */

static const char *system_group_fault(const struct check *c, const struct super_system_group *s)
{
	uint64_t start = le64_to_cpu(s->start), len = le64_to_cpu(s->length);

	if (start % c->group_step || start / c->group_step >= GROUP_INDEX_MAX)
		return "its address is impossible";
	if (len == 0 || len > c->group_step || len % NODE_SIZE)
		return "its length is impossible";
	for (unsigned i = 0; i < GROUP_STRIPES_MAX; i++)
		if (le64_to_cpu(s->stripe[i].device) || !is_inside(c, le64_to_cpu(s->stripe[i].offset), len))
			return "it lies outside the device";
	return NULL;
}

int check_system_groups(struct check *c)
{
	for (unsigned i = 0; i < SUPER_SYSTEM_GROUPS; i++) {
		const struct super_system_group *s = &c->sb.system[i];
		uint64_t start = le64_to_cpu(s->start);
		const char *fault;
		struct check_group *g;
		int r;

		if (start == 0)
			continue;
		fault = system_group_fault(c, s);
		if (!fault && check_group_find(c, start, 0))
			fault = "it is there twice";
		if (fault) {
			check_finding(c, "superblock: system group %u: %s", i, fault);
			continue;
		}
		g = mem_zalloc(sizeof(*g));
		if (!g)
			return -ENOMEM;
		*g = (struct check_group){.start = start,
					  .len = le64_to_cpu(s->length),
					  .unit = NODE_SIZE,
					  .type = GROUP_SYSTEM,
					  .nr_stripes = GROUP_STRIPES_MAX,
					  .cache_slot = CACHE_SLOT_NONE};
		g->nblocks = (uint32_t)(g->len / NODE_SIZE);
		for (unsigned k = 0; k < GROUP_STRIPES_MAX; k++)
			g->stripe[k] = le64_to_cpu(s->stripe[k].offset);
		r = put_group(c, g);
		if (r == 0)
			r = add_stripes(c, g);
		if (r)
			return r;
	}
	return 0;
}

/* ---- the group tree -------------------------------------------------------- */

static struct group_limits limits(const struct check *c)
{
	return (struct group_limits){.step = c->group_step,
				     .end = c->group_step * GROUP_INDEX_MAX,
				     .device_size = c->device_size,
				     .generation = c->generation};
}

static struct check_group of_item(const struct group_item *item)
{
	struct check_group g = {
		.start = item->start,
		.len = item->length,
		.used = item->used,
		.generation = item->generation,
		.cache_generation = item->cache_generation,
		.unit = group_unit(item->type),
		.nblocks = (uint32_t)(item->length / group_unit(item->type)),
		.slot_bytes = item->slot_bytes,
		.cache_crc = item->cache_crc,
		.cache_bytes = item->cache_bytes,
		.type = item->type,
		.nr_stripes = item->nr_stripes,
		.cache_slot = item->cache_slot,
	};

	memcpy(g.stripe, item->stripe, sizeof(g.stripe));
	return g;
}

/* Takes the group into the table, with its space on the device. */
static int add_group(struct check *c, const struct check_group *group)
{
	struct check_group *g = mem_alloc(sizeof(*g));
	int r;

	if (!g)
		return -ENOMEM;
	*g = *group;
	r = put_group(c, g);
	return r ? r : add_stripes(c, g);
}

static int one_group(struct check_walk *w, const struct node_header *leaf, struct key key, struct value value)
{
	struct check *c = w->c;
	struct group_limits lim = limits(c);
	uint64_t start = key_number(&key, 0);
	struct group_item item;
	struct check_group g;
	const char *why;

	if (group_item_unpack(key, value, &item, &why) || group_item_validate(&item, &lim, &why)) {
		check_finding(c, "block group %llu: %s", (ull)start, why);
		c->incomplete = true;
		return 0;
	}
	why = group_item_doubt(&item, &lim);
	if (why) {
		check_finding(c, "block group %llu: %s", (ull)start, why);
		item.cache_slot = CACHE_SLOT_NONE;
	}
	if (check_group_find(c, item.start, 0)) {
		check_finding(c, "block group %llu: it is there twice", (ull)item.start);
		return 0;
	}
	g = of_item(&item);
	g.has_item = true;
	return add_group(c, &g);
}

int check_group_tree(struct check *c)
{
	struct tree_root root;
	struct check_walk w = {
		.c = c, .name = "group tree", .root = &root, .node_type = GROUP_SYSTEM, .item = one_group};

	tree_root_unpack(&c->sb.group_tree, TREE_ID_GROUP, &root);
	return check_walk(&w);
}

/* Data groups have one stripe. A group may be in the log more than once. */
int check_logged_group(struct check *c, uint64_t start, uint64_t len, uint64_t device_off)
{
	struct group_limits lim = limits(c);
	struct group_item item = {.start = start,
				  .length = len,
				  .stripe = {device_off},
				  .type = GROUP_DATA,
				  .nr_stripes = 1,
				  .cache_slot = CACHE_SLOT_NONE};
	const char *fault = NULL;
	struct check_group *g, made;

	if (len <= c->group_step)
		item.slot_bytes = free_space_cache_slot_bytes((uint32_t)(len / FS_BLOCK_SIZE));
	if (group_item_validate(&item, &lim, &fault) == 0 && device_off < DEVICE_DATA_START)
		fault = "it stands in the space of the superblocks";
	g = fault ? NULL : check_group_find(c, start, 0);
	if (g && (g->type != GROUP_DATA || g->len != len || g->stripe[0] != device_off))
		fault = "its place is another group's";
	if (fault)
		check_finding(c, "flush log: block group %llu: %s", (ull)start, fault);
	if (fault || g)
		return 0;
	made = of_item(&item);
	return add_group(c, &made);
}

/* ---- contents -------------------------------------------------------------- */

/* How the cache and the trees differ. */
struct difference {
	uint64_t free_but_used, used_but_free; /* blocks */
	uint64_t first_free, first_used;       /* the first of each */
};

static void compare_word(struct difference *d, uint32_t word, uint64_t cache_free, uint64_t used,
			 uint64_t valid)
{
	uint64_t a = cache_free & used, b = ~cache_free & ~used & valid;

	if (a && !d->free_but_used)
		d->first_free = word * 64ull + (unsigned)__builtin_ctzll(a);
	if (b && !d->used_but_free)
		d->first_used = word * 64ull + (unsigned)__builtin_ctzll(b);
	d->free_but_used += (unsigned)__builtin_popcountll(a);
	d->used_but_free += (unsigned)__builtin_popcountll(b);
}

static void compare_space(const struct check_group *g, const struct free_space *space, struct difference *d)
{
	for (uint32_t w = 0; w < (g->nblocks + 63) / 64; w++) {
		uint32_t rest = g->nblocks - w * 64;
		uint64_t valid = rest >= 64 ? UINT64_MAX : (1ull << rest) - 1, words;

		free_space_get_words(space, w, 1, &words);
		compare_word(d, w, words, g->map ? g->map[w] : 0, valid);
	}
}

static uint64_t slot_offset(const struct check_group *g, unsigned stripe)
{
	return g->stripe[stripe] + g->len + (uint64_t)g->cache_slot * g->slot_bytes;
}

/* So that the next open does not use it. */
static bool drop_cache(struct check *c, const struct check_group *g)
{
	bool done = true;

	if (c->incomplete || c->contradicts || !c->opt->repair)
		return false;
	memset(c->twin, 0, DEVICE_ALIGN);
	for (unsigned i = 0; i < g->nr_stripes; i++)
		done &= check_rewrite(c, slot_offset(g, i), c->twin, DEVICE_ALIGN);
	c->rebuild |= done;
	return done;
}

static void report_difference(struct check *c, const struct check_group *g, enum fs_cure cure,
			      uint64_t blocks, uint64_t first, const char *how)
{
	check_finding_cure(c, cure, "block group %llu: %llu blocks are %s, the first at %llu%s",
			   (ull)g->start, (ull)blocks, how, (ull)(g->start + first * g->unit),
			   cure == FS_CURE_DONE ? " (repaired: dropped, to be rebuilt from the trees)" : "");
}

static void report_differences(struct check *c, const struct check_group *g, const struct difference *d)
{
	bool unused = d->used_but_free && !c->incomplete && !g->leaked;
	enum fs_cure cure = c->incomplete || c->contradicts ? FS_CURE_RESTORE : FS_CURE_REPAIR;

	if (!d->free_but_used && !unused)
		return;
	if (drop_cache(c, g))
		cure = FS_CURE_DONE;
	if (d->free_but_used)
		report_difference(c, g, cure, d->free_but_used, d->first_free,
				  "free in its cache but in use");
	if (unused)
		report_difference(c, g, cure, d->used_but_free, d->first_used,
				  "in use in its cache but free");
}

/* Reads a copy of the cache. NULL in *ret_space and a reason where it cannot be used; negative: no memory. */
static int read_cache(struct check *c, const struct check_group *g, unsigned stripe, void *buf,
		      uint64_t bytes, struct free_space **ret_space, const char **ret_why)
{
	struct free_space_cache_ident ident = {.group_start = g->start,
					       .group_len = (uint64_t)g->nblocks * FS_BLOCK_SIZE,
					       .generation = g->cache_generation};
	struct free_space_cache_expect expect = {g->cache_crc, g->cache_bytes,
						 (uint32_t)((g->len - g->used) / g->unit)};
	int r = device_sync(c->q, DEVICE_READ, slot_offset(g, stripe), buf, bytes);

	*ret_space = NULL;
	if (r) {
		*ret_why = strerror(-r);
		return 0;
	}
	memcpy(ident.pool_uuid, c->sb.uuid, sizeof(ident.pool_uuid));
	r = free_space_cache_decode(buf, bytes, &ident, &expect, ret_space);
	*ret_why = r == -ESTALE ? "is of another generation" : "is damaged";
	return r == -ENOMEM ? r : 0;
}

static int check_cache(struct check *c, struct check_group *g)
{
	uint64_t bytes = round_up_u64(g->cache_bytes, DEVICE_ALIGN);
	struct free_space *space = NULL, *one;
	const char *why[GROUP_STRIPES_MAX];
	unsigned bad = 0;
	void *buf = mem_alloc_aligned(DEVICE_ALIGN, bytes), *good = mem_alloc_aligned(DEVICE_ALIGN, bytes);
	int r = buf && good ? 0 : -ENOMEM;

	for (unsigned i = 0; r == 0 && i < g->nr_stripes; i++) {
		r = read_cache(c, g, i, space ? buf : good, bytes, &one, &why[i]);
		bad |= one ? 0 : 1u << i;
		if (one && !space)
			space = one;
		else
			free_space_free(one);
	}
	for (unsigned i = 0; r == 0 && i < g->nr_stripes; i++) {
		const char *what = "; it will be rebuilt from the trees";
		bool known = !c->incomplete && !c->contradicts; /* what is free */
		enum fs_cure cure = space || known ? FS_CURE_REPAIR : FS_CURE_RESTORE;

		if (!(bad >> i & 1))
			continue;
		if (space ? check_rewrite(c, slot_offset(g, i), good, bytes) : known && c->opt->repair)
			cure = FS_CURE_DONE;
		if (space)
			what = cure == FS_CURE_DONE ? " (repaired from its twin)" : " (its twin is good)";
		else
			c->rebuild = true;
		check_finding_cure(c, cure, "block group %llu: free-space cache, copy %u, %s%s",
				   (ull)g->start, i, why[i], what);
	}
	if (r == 0 && space) {
		struct difference d = {0};

		compare_space(g, space, &d);
		report_differences(c, g, &d);
	}
	free_space_free(space);
	mem_free(buf);
	mem_free(good);
	return r;
}

/*
 * More may be in use than is referred to, where nodes were lost. It is free when the cache has been rebuilt.
 */
static void report_leak(struct check *c, struct check_group *g)
{
	bool done = false;

	if (g->cache_slot > 1)
		done = c->rebuild = true;
	else if (drop_cache(c, g)) { /* nothing is left of it to be checked */
		g->cache_slot = CACHE_SLOT_NONE;
		done = true;
	}
	check_finding_cure(
		c, done && c->opt->repair ? FS_CURE_DONE : FS_CURE_REPAIR,
		"block group %llu: %llu bytes are in use that lost nodes had referred to and nothing does now%s",
		(ull)g->start, (ull)(g->used - g->mapped * g->unit),
		done && c->opt->repair ? " (repaired: freed)" : "");
}

static void check_used(struct check *c, struct check_group *g)
{
	if (c->incomplete || g->used == g->mapped * g->unit)
		return;
	if (g->used > g->mapped * g->unit && le64_to_cpu(c->sb.flags) & SUPER_FLAG_LEAKED) {
		g->leaked = true;
		return;
	}
	check_finding(c, "block group %llu: its item says that %llu bytes are used, the trees refer to %llu",
		      (ull)g->start, (ull)g->used, (ull)(g->mapped * g->unit));
	c->contradicts = true;
}

int check_group_contents(struct check *c)
{
	int r = 0;

	for (uint32_t i = 0; i < c->groups; i++)
		if (c->group[i] && c->group[i]->has_item)
			check_used(c, c->group[i]);
	for (uint32_t i = 0; i < c->groups; i++)
		if (c->group[i] && c->group[i]->leaked)
			report_leak(c, c->group[i]);
	for (uint32_t i = 0; r == 0 && i < c->groups; i++)
		if (c->group[i] && c->group[i]->has_item && c->group[i]->cache_slot <= 1)
			r = check_cache(c, c->group[i]);
	return r;
}
