/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/check/check_volume.c: the root tree, and the extents of the volumes that it names. */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/check/check_int.h"
#include "fs/format/block_group_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/tree/node.h"
#include "fs/volume/extent.h"

typedef unsigned long long ull;

const char *check_volume_name(const struct check_volume *vol)
{
	static const char prefix[] = "volume ";

	return !vol->orphan && vol->named ? vol->name + sizeof(prefix) - 1 : NULL;
}

/* ---- the root tree --------------------------------------------------------- */

static const char *root_fault(const struct check *c, const struct tree_root *root)
{
	return root->generation > c->generation ? "its root is younger than the superblock" : NULL;
}

static const char *unpack_volume(struct check *c, struct value value, struct check_volume *vol)
{
	struct volume_fields item;
	const char *why;

	if (volume_item_unpack(vol->id, value, &item, &why))
		return why;
	snprintf(vol->name, sizeof(vol->name), "volume %s", item.name.text);
	vol->named = true;
	vol->size = item.size;
	vol->used_blocks = item.used_blocks;
	vol->lost_blocks = item.lost_blocks;
	vol->root = item.root;
	return why ? why : root_fault(c, &item.root);
}

static const char *unpack_orphan(struct check *c, struct value value, struct check_volume *vol)
{
	struct orphan_fields item;
	const char *why;

	if (orphan_item_unpack(vol->id, value, &item, &why))
		return why;
	snprintf(vol->name, sizeof(vol->name), "deleted volume %llu", (ull)vol->id);
	vol->orphan = true;
	vol->size = FS_VOLUME_SIZE_MAX;
	vol->used_blocks = item.used_blocks;
	vol->progress = item.progress;
	vol->root = item.root;
	if (vol->root.owner != vol->id)
		snprintf(vol->name, sizeof(vol->name), "part %llu, cut out of volume %llu", (ull)vol->id,
			 (ull)vol->root.owner);
	return why ? why : root_fault(c, &item.root);
}

/* A volume with a fault is still walked where its root is known. */
static int note_volume(struct check *c, const struct check_volume *vol)
{
	if (c->volumes == c->volumes_cap) {
		size_t cap = c->volumes_cap ? c->volumes_cap * 2 : 16;
		struct check_volume *v = mem_realloc(c->volume, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		c->volume = v;
		c->volumes_cap = cap;
	}
	c->volume[c->volumes++] = *vol;
	c->data_total += min_u64(vol->used_blocks, c->device_size / FS_BLOCK_SIZE) * FS_BLOCK_SIZE;
	return 0;
}

static int root_item(struct check_walk *w, const struct node_header *leaf, struct key key, struct value value)
{
	struct check *c = w->c;
	struct check_volume vol = {0};
	const char *fault;
	uint8_t type = 0;

	(void)key_unpack(key, &type, &vol.id);
	snprintf(vol.name, sizeof(vol.name), "volume with id %llu", (ull)vol.id);
	if (type != VOLUME_KEY_TYPE && type != ORPHAN_KEY_TYPE) {
		check_finding(c, "root tree: leaf %llu holds an item of an unknown kind",
			      (ull)le64_to_cpu(leaf->addr));
		return 0;
	}
	fault = type == VOLUME_KEY_TYPE ? unpack_volume(c, value, &vol) : unpack_orphan(c, value, &vol);
	if (!fault && (vol.id < TREE_ID_FIRST_FREE || vol.id >= le64_to_cpu(c->sb.next_id)))
		fault = "its id was never given out";
	if (fault) {
		check_finding(c, "%s: %s", vol.name, fault);
		c->incomplete |= vol.root.addr == 0;
	}
	return note_volume(c, &vol);
}

static int by_name(const void *pa, const void *pb)
{
	const struct check_volume *const *a = pa, *const *b = pb;

	return strcmp((*a)->name, (*b)->name);
}

static int by_id(const void *pa, const void *pb)
{
	const struct check_volume *const *a = pa, *const *b = pb;

	return (*a)->id < (*b)->id ? -1 : (*a)->id > (*b)->id;
}

static int check_unique(struct check *c)
{
	const struct check_volume **v = mem_alloc((c->volumes + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < c->volumes; i++)
		v[i] = &c->volume[i];
	qsort(v, c->volumes, sizeof(*v), by_name);
	for (size_t i = 1; i < c->volumes; i++)
		if (!v[i]->orphan && strcmp(v[i - 1]->name, v[i]->name) == 0)
			check_finding(c, "%s: another volume has the same name", v[i]->name);
	qsort(v, c->volumes, sizeof(*v), by_id);
	for (size_t i = 1; i < c->volumes; i++)
		if (v[i - 1]->id == v[i]->id)
			check_finding(c, "%s: %s has the same id", v[i]->name, v[i - 1]->name);
	mem_free(v);
	return 0;
}

int check_root_tree(struct check *c)
{
	struct tree_root root;
	struct check_walk w = {
		.c = c, .name = "root tree", .root = &root, .node_type = GROUP_METADATA, .item = root_item};
	int r;

	tree_root_unpack(&c->sb.root_tree, TREE_ID_ROOT, &root);
	r = check_walk(&w);
	return r ? r : check_unique(c);
}

/* ---- extents --------------------------------------------------------------- */

struct volume_walk {
	struct check_walk base;
	const struct check_volume *vol;
	uint64_t end;	 /* of the extent before */
	uint64_t blocks; /* found */
	uint64_t lost;	 /* blocks of lost extents */
};

static int claim_extent(struct volume_walk *vw, const struct extent *e)
{
	struct check *c = vw->base.c;
	uint64_t len = e->nblk * FS_BLOCK_SIZE, again;
	struct check_group *g = check_group_find(c, e->addr, len);
	int r;

	if (!g || g->type != GROUP_DATA || !g->has_item) {
		check_finding(c,
			      "%s: the extent at byte %llu is said to stand at %llu, where no data group is",
			      vw->vol->name, (ull)(e->blk * FS_BLOCK_SIZE), (ull)e->addr);
		return 0;
	}
	r = check_group_mark(g, e->addr, len, &again);
	if (r)
		return r;
	if (again)
		check_finding(c, "%s: the extent at byte %llu shares %llu blocks at %llu with another one",
			      vw->vol->name, (ull)(e->blk * FS_BLOCK_SIZE), (ull)again, (ull)e->addr);
	return check_data_add(c, e, g);
}

static int extent_item(struct check_walk *w, const struct node_header *leaf, struct key key,
		       struct value value)
{
	struct volume_walk *vw = container_of(w, struct volume_walk, base);
	struct check *c = w->c;
	const char *name = vw->vol->name;
	struct extent e;
	ull byte;

	if (extent_unpack(key, value, &e)) {
		check_finding(c, "%s: leaf %llu holds an item that is not an extent", name,
			      (ull)le64_to_cpu(leaf->addr));
		w->unreadable = true;
		return 0;
	}
	byte = e.blk * FS_BLOCK_SIZE;
	if (e.blk < vw->end)
		check_finding(c, "%s: the extent at byte %llu overlaps the one before it", name, byte);
	if (e.blk + e.nblk > vw->vol->size / FS_BLOCK_SIZE)
		check_finding(c, "%s: the extent at byte %llu lies behind the end of the volume", name, byte);
	if (e.generation > le64_to_cpu(leaf->generation))
		check_finding(c, "%s: the extent at byte %llu is younger than the node it stands in", name,
			      byte);
	vw->end = e.blk + e.nblk;
	if (e.addr == 0) {
		vw->lost += e.nblk;
		if (!vw->vol->orphan)
			check_finding_range(
				c, FS_CURE_OVERWRITE, check_volume_name(vw->vol), byte,
				e.nblk * FS_BLOCK_SIZE,
				"%s: %llu bytes from byte %llu on were lost with a node that could not be read",
				name, (ull)(e.nblk * FS_BLOCK_SIZE), byte);
		return 0;
	}
	vw->blocks += e.nblk;
	return claim_extent(vw, &e);
}

static uint64_t key_byte(const struct key *key, uint64_t none)
{
	uint64_t blk = key_number(key, none);

	return blk < none / FS_BLOCK_SIZE ? blk * FS_BLOCK_SIZE : none;
}

/* A part of a volume of which nobody knows where it stands. */
static void lost_node(struct check_walk *w, const struct node_ident *id, const struct key *first,
		      const struct key *upper, const char *why)
{
	const struct check_volume *vol = container_of(w, struct volume_walk, base)->vol;
	uint64_t from = first ? key_byte(first, vol->size) : 0, to = key_byte(upper, vol->size);

	check_finding_range(
		w->c, FS_CURE_OVERWRITE, w->volume, from, to > from ? to - from : 0,
		"%s: %llu bytes from byte %llu on are lost: node %llu (level %u), no copy of it can be used: %s",
		w->name, (ull)(to > from ? to - from : 0), (ull)from, (ull)id->addr, id->level, why);
}

/* The first item with this id, among those of one kind, which stand in order. */
static struct check_volume *find_volume(struct check *c, uint64_t id, bool orphan)
{
	size_t lo = 0, hi = c->volumes;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct check_volume *v = &c->volume[mid];

		if (v->orphan < orphan || (v->orphan == orphan && v->id < id))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->volumes && c->volume[lo].id == id && c->volume[lo].orphan == orphan ? &c->volume[lo]
											   : NULL;
}

/* The volume that a tree counts with, or what became of that volume. NULL: an error, which was reported. */
static struct check_volume *find_owner(struct check *c, const struct check_volume *vol)
{
	struct check_volume *owner = find_volume(c, vol->root.owner, false);

	if (!owner)
		owner = find_volume(c, vol->root.owner, true);
	if (!owner)
		check_finding(c, "%s: it was cut out of volume %llu, which is not there", vol->name,
			      (ull)vol->root.owner);
	return owner;
}

static int check_volume(struct check *c, const struct check_volume *vol)
{
	struct volume_walk vw = {
		.base = {.c = c,
			 .name = vol->name,
			 .volume = check_volume_name(vol),
			 .root = &vol->root,
			 .node_type = GROUP_METADATA,
			 .item = extent_item,
			 .part = true,
			 .lost = vol->orphan ? NULL : lost_node},
		.vol = vol,
	};
	struct check_volume *owner;
	uint8_t from[EXTENT_KEY_LEN];
	int r;

	if (vol->orphan && vol->progress) {
		extent_key_pack(from, vol->progress);
		vw.base.from = (struct key){from, sizeof(from)};
	}
	r = check_walk(&vw.base);
	owner = find_owner(c, vol);
	if (!owner)
		return r;
	owner->unreadable |= vw.base.unreadable;
	owner->found.nodes += vw.base.nodes;
	owner->found.leaves += vw.base.leaves;
	owner->found.items += vw.base.items;
	owner->found_used += vw.blocks;
	owner->found_lost += vw.lost;
	return r;
}

/* What its item says of its tree, and of what was cut out of that. */
static void check_sums(struct check *c, const struct check_volume *vol)
{
	if (vol->unreadable || vol->root.owner != vol->id)
		return;
	if (vol->root.addr == 0 && vol->found.nodes == 0 && (vol->root.nodes || vol->root.items))
		check_finding(c, "%s: its tree is empty, and its counts are not zero", vol->name);
	else
		check_counts(c, vol->name, &vol->root, &vol->found);
	if (vol->root.flags ? vol->found_used < vol->used_blocks : vol->found_used != vol->used_blocks)
		check_finding(c, "%s: refers to %llu blocks, its item says %llu", vol->name,
			      (ull)vol->found_used, (ull)vol->used_blocks);
	/* At most, too, where a node that was cut out was passed over. */
	if (!vol->orphan &&
	    (vol->root.flags ? vol->found_lost > vol->lost_blocks : vol->found_lost != vol->lost_blocks))
		check_finding(c, "%s: %llu blocks are lost, its item says %llu", vol->name,
			      (ull)vol->found_lost, (ull)vol->lost_blocks);
}

int check_volumes(struct check *c)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->volumes; i++)
		r = check_volume(c, &c->volume[i]);
	for (size_t i = 0; r == 0 && i < c->volumes; i++)
		check_sums(c, &c->volume[i]);
	return r;
}
