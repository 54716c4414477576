/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/check/dump_group.c: the block groups, which tell where logical addresses stand, and their caches. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/check/dump_int.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/free_space.h"
#include "fs/space/free_space_cache.h"

typedef unsigned long long ull;

/* ---- the table ------------------------------------------------------------- */

const struct group_item *dump_group_find(const struct dump *d, uint64_t addr, uint64_t len)
{
	size_t lo = 0, hi = d->groups; /* those before lo begin at or before addr */
	const struct group_item *g;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (d->group[mid].start <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	g = lo ? &d->group[lo - 1] : NULL;
	return g && len <= g->length && addr - g->start <= g->length - len ? g : NULL;
}

static int add(struct dump *d, const struct group_item *item)
{
	if (d->groups == d->groups_cap) {
		size_t cap = d->groups_cap ? d->groups_cap * 2 : 64;
		struct group_item *g = mem_realloc(d->group, cap * sizeof(*g));

		if (!g)
			return -ENOMEM;
		d->group = g;
		d->groups_cap = cap;
	}
	d->group[d->groups++] = *item;
	return 0;
}

static int by_start(const void *pa, const void *pb)
{
	const struct group_item *a = pa, *b = pb;

	return a->start < b->start ? -1 : a->start > b->start;
}

static void sort(struct dump *d)
{
	if (d->groups)
		qsort(d->group, d->groups, sizeof(*d->group), by_start);
}

static int add_system_groups(struct dump *d)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SUPER_SYSTEM_GROUPS; i++) {
		struct group_item item;

		if (super_system_group_unpack(&d->sb, i, &item))
			r = add(d, &item);
	}
	sort(d);
	return r;
}

/* ---- the group tree -------------------------------------------------------- */

struct group_walk {
	struct dump_walk base;
	struct group_item *found; /* taken into the table when the walk is over: it looks groups up there */
	size_t count, cap;
	bool print;
	uint64_t printed;
};

static int keep(struct group_walk *gw, const struct group_item *item)
{
	if (gw->count == gw->cap) {
		size_t cap = gw->cap ? gw->cap * 2 : 64;
		struct group_item *g = mem_realloc(gw->found, cap * sizeof(*g));

		if (!g)
			return -ENOMEM;
		gw->found = g;
		gw->cap = cap;
	}
	gw->found[gw->count++] = *item;
	return 0;
}

static int one_group(struct dump_walk *w, struct key key, struct value value)
{
	struct group_walk *gw = container_of(w, struct group_walk, base);
	struct dump *d = w->d;
	struct group_limits limits = {.step = le64_to_cpu(d->sb.group_step),
				      .end = le64_to_cpu(d->sb.group_step) * GROUP_INDEX_MAX,
				      .device_size = le64_to_cpu(d->sb.device_size),
				      .generation = le64_to_cpu(d->sb.generation)};
	struct group_item item;
	const char *why;

	if (group_item_unpack(key, value, &item, &why)) {
		dump_problem(d, "block group %llu: %s", (ull)key_number(&key, 0), why);
		return 0;
	}
	if (gw->print && (d->opt->max_items == 0 || gw->printed < d->opt->max_items))
		group_item_print(&d->p, &item);
	gw->printed++;
	if (group_item_validate(&item, &limits, &why)) {
		dump_problem(d, "block group %llu: %s", (ull)item.start, why);
		return 0;
	}
	why = group_item_doubt(&item, &limits);
	if (why)
		dump_problem(d, "block group %llu: %s", (ull)item.start, why);
	return keep(gw, &item);
}

int dump_groups(struct dump *d, bool print)
{
	struct group_walk gw = {.base = {.d = d, .name = "group tree", .item = one_group}, .print = print};
	struct tree_root root;
	int r = add_system_groups(d);

	tree_root_unpack(&d->sb.group_tree, TREE_ID_GROUP, &root);
	if (r == 0)
		r = dump_walk(&gw.base, &root);
	for (size_t i = 0; r == 0 && i < gw.count; i++)
		r = add(d, &gw.found[i]);
	sort(d);
	mem_free(gw.found);
	return r;
}

/* ---- caches ---------------------------------------------------------------- */

static bool is_as_the_item_says(const struct dump *d, const struct group_item *g, const void *buf,
				uint64_t bytes)
{
	uint32_t unit = group_unit(g->type);
	struct free_space_cache_ident ident = {.group_start = g->start,
					       .group_len = g->length / unit * FS_BLOCK_SIZE,
					       .generation = g->cache_generation};
	struct free_space_cache_expect expect = {g->cache_crc, g->cache_bytes,
						 (uint32_t)((g->length - g->used) / unit)};
	struct free_space *space;

	memcpy(ident.pool_uuid, d->sb.uuid, sizeof(ident.pool_uuid));
	if (free_space_cache_decode(buf, bytes, &ident, &expect, &space))
		return false;
	free_space_free(space);
	return true;
}

static void print_entries(struct dump *d, const void *buf)
{
	uint64_t n = 0;

	d->p.indent++;
	for (uint32_t i = 0; i < free_space_cache_entries(buf) && dump_within_limit(d, &n); i++)
		free_space_cache_entry_print(&d->p, buf, i);
	d->p.indent--;
}

/* A slot in one stripe, whether the item names it or not: the other one is that of the commit before. */
static void print_slot(struct dump *d, const struct group_item *g, unsigned slot, unsigned stripe, void *buf,
		       bool entries)
{
	uint64_t off = g->stripe[stripe] + g->length + (uint64_t)slot * g->slot_bytes;
	bool current = slot == g->cache_slot, good;

	if (!dump_read(d, off, buf, g->slot_bytes, "free-space cache"))
		return;
	if (!current && !free_space_cache_is_one(buf))
		return; /* it was never written */
	good = current && is_as_the_item_says(d, g, buf, g->slot_bytes);
	print_begin(&d->p, "cache");
	print_number(&d->p, "group", g->start);
	print_number(&d->p, "slot", slot);
	print_number(&d->p, "copy", stripe);
	print_number(&d->p, "offset", off);
	print_word(&d->p, "state", good ? "good" : current ? "bad" : "not_in_use");
	if (free_space_cache_is_one(buf))
		free_space_cache_print(&d->p, buf);
	print_end(&d->p);
	if (current && !good)
		dump_problem(d, "block group %llu: free-space cache, copy %u, is not what its item says",
			     (ull)g->start, stripe);
	if (good && entries)
		print_entries(d, buf);
}

int dump_caches(struct dump *d, bool entries)
{
	void *buf = mem_alloc_aligned(DEVICE_ALIGN, GROUP_SLOT_BYTES_MAX);
	uint64_t n = 0;

	if (!buf)
		return -ENOMEM;
	for (size_t i = 0; i < d->groups; i++) {
		const struct group_item *g = &d->group[i];

		if (g->type == GROUP_SYSTEM || g->used > g->length)
			continue;
		if (!dump_within_limit(d, &n))
			break;
		for (unsigned slot = 0; slot < 2; slot++)
			for (unsigned k = 0; k < g->nr_stripes; k++)
				print_slot(d, g, slot, k, buf, entries && k == 0);
	}
	mem_free(buf);
	return 0;
}
