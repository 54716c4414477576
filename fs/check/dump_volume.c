/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/check/dump_volume.c: the volumes and deleted ones that the root tree names, and a volume's extents. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "base/util.h"
#include "fs/check/dump_int.h"
#include "fs/format/block_group_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/volume/extent.h"

typedef unsigned long long ull;

struct root_walk {
	struct dump_walk base;
	const char *name; /* NULL: all are printed; else this one is looked for */
	bool found;
	struct volume_fields vol; /* the one that was found */
	uint64_t printed;
};

static bool wants_more(struct root_walk *rw)
{
	uint64_t max = rw->base.d->opt->max_items;

	return max == 0 || rw->printed++ < max;
}

static void one_volume(struct root_walk *rw, uint64_t id, struct value value)
{
	struct dump *d = rw->base.d;
	struct volume_fields vol;
	const char *why;

	if (volume_item_unpack(id, value, &vol, &why) == 0) {
		if (rw->name && strcmp(rw->name, vol.name.text) == 0) {
			rw->found = true;
			rw->vol = vol;
		} else if (!rw->name && wants_more(rw)) {
			volume_item_print(&d->p, &vol);
		}
	}
	if (why && !rw->name)
		dump_problem(d, "volume with id %llu: %s", (ull)id, why);
}

static void one_orphan(struct root_walk *rw, uint64_t id, struct value value)
{
	struct dump *d = rw->base.d;
	struct orphan_fields orphan;
	const char *why;

	if (rw->name)
		return;
	if (orphan_item_unpack(id, value, &orphan, &why) == 0 && wants_more(rw))
		orphan_item_print(&d->p, &orphan);
	if (why)
		dump_problem(d, "deleted volume %llu: %s", (ull)id, why);
}

static int root_item(struct dump_walk *w, struct key key, struct value value)
{
	struct root_walk *rw = container_of(w, struct root_walk, base);
	uint8_t type = 0;
	uint64_t id = 0;

	(void)key_unpack(key, &type, &id);
	if (type == VOLUME_KEY_TYPE)
		one_volume(rw, id, value);
	else if (type == ORPHAN_KEY_TYPE)
		one_orphan(rw, id, value);
	else
		dump_problem(w->d, "root tree: an item of an unknown kind, %u", type);
	return 0;
}

static int walk_root(struct dump *d, struct root_walk *rw)
{
	struct tree_root root;

	rw->base = (struct dump_walk){.d = d, .name = "root tree", .item = root_item};
	tree_root_unpack(&d->sb.root_tree, TREE_ID_ROOT, &root);
	return dump_walk(&rw->base, &root);
}

int dump_volumes(struct dump *d)
{
	struct root_walk rw = {.name = NULL};

	return walk_root(d, &rw);
}

/* ---- extents --------------------------------------------------------------- */

struct extent_walk {
	struct dump_walk base;
	uint64_t printed;
};

static void print_extent(struct dump *d, const struct extent *e)
{
	struct print *p = &d->p;

	print_begin(p, "extent");
	print_number(p, "blk", e->blk);
	print_number(p, "blocks", e->nblk);
	print_number(p, "generation", e->generation);
	if (e->addr == 0) {
		print_word(p, "addr", "lost");
	} else {
		const struct group_item *g = dump_group_find(d, e->addr, e->nblk * FS_BLOCK_SIZE);

		print_number(p, "addr", e->addr);
		if (g)
			print_number(p, "offset", g->stripe[0] + (e->addr - g->start));
		else
			print_word(p, "offset", "none");
		print_hex(p, "first_crc", le32_to_cpu(e->crc[0]));
	}
	print_end(p);
}

bool dump_extents(struct dump *d, struct key key, struct value value)
{
	struct extent e;

	if (extent_unpack(key, value, &e))
		return false;
	print_extent(d, &e);
	return true;
}

static int one_item(struct dump_walk *w, struct key key, struct value value)
{
	struct extent_walk *ew = container_of(w, struct extent_walk, base);

	if (!dump_within_limit(w->d, &ew->printed))
		return 1;
	if (!dump_extents(w->d, key, value))
		dump_problem(w->d, "%s: the item with block %llu is no extent", w->name,
			     (ull)key_number(&key, 0));
	return 0;
}

int dump_volume(struct dump *d, const char *name)
{
	char tree[FS_NAME_MAX + 16];
	struct extent_walk ew = {.base = {.d = d, .name = tree, .item = one_item}};
	struct root_walk rw = {.name = name};
	int r = walk_root(d, &rw);

	if (r)
		return r;
	if (!rw.found) {
		dump_problem(
			d,
			"volume %s: no commit knows a volume of this name (one that is younger stands in the "
			"flush log)",
			name);
		return 0;
	}
	volume_item_print(&d->p, &rw.vol);
	snprintf(tree, sizeof(tree), "volume %s", name);
	d->p.indent++;
	r = dump_walk(&ew.base, &rw.vol.root);
	d->p.indent--;
	return r;
}
