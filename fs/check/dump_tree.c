/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/check/dump_tree.c: reads nodes in all their copies, walks trees, and prints single nodes. */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "fs/check/dump_int.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/tree/node.h"

typedef unsigned long long ull;

#define WALK_STOPPED 1 /* inside: the walk ends, and all is said */

/* ---- copies ---------------------------------------------------------------- */

struct node_copy {
	const char *why; /* NULL: it is good */
	uint64_t off;
};

/* Reads each copy into its buffer; how many there are. */
static unsigned read_copies(struct dump *d, const struct node_ident *id, void *const *buf,
			    struct node_copy copy[GROUP_STRIPES_MAX])
{
	const struct group_item *g = dump_group_find(d, id->addr, NODE_SIZE);

	for (unsigned i = 0; g && i < g->nr_stripes; i++) {
		int r;

		copy[i] = (struct node_copy){.off = g->stripe[i] + (id->addr - g->start)};
		r = device_sync(d->q, DEVICE_READ, copy[i].off, buf[i], NODE_SIZE);
		if (r)
			copy[i].why = r == -EINVAL ? "lies where no node can be" : strerror(-r);
		else
			(void)node_validate(buf[i], id, d->sb.uuid, &copy[i].why);
	}
	return g ? g->nr_stripes : 0;
}

/* Says which copies are bad. The first good one; NULL: there is none, which is said too. */
static const struct node_header *read_node(struct dump_walk *w, const struct node_ident *id)
{
	struct node_copy copy[GROUP_STRIPES_MAX];
	void *const *buf = w->d->node[id->level];
	unsigned n = read_copies(w->d, id, buf, copy);
	const struct node_header *good = NULL;

	if (n == 0)
		dump_problem(w->d, "%s: a node is said to stand at %llu, where no block group is", w->name,
			     (ull)id->addr);
	for (unsigned i = 0; i < n; i++) {
		if (copy[i].why || (good && memcmp(good, buf[i], NODE_SIZE) != 0)) {
			w->bad_copies++;
			dump_problem(w->d, "%s: node %llu (level %u), copy %u at offset %llu: %s", w->name,
				     (ull)id->addr, id->level, i, (ull)copy[i].off,
				     copy[i].why ? copy[i].why : "valid, but not the same as its twin");
		} else if (!good) {
			good = buf[i];
		}
	}
	if (!good) {
		w->lost_nodes++;
		dump_problem(w->d,
			     "%s: node %llu (level %u): no copy can be used; what is below it is left out",
			     w->name, (ull)id->addr, id->level);
	}
	return good;
}

/* ---- walking --------------------------------------------------------------- */

static int walk_leaf(struct dump_walk *w, const struct node_header *leaf)
{
	int r = 0;

	w->leaves++;
	for (unsigned i = 0; r == 0 && i < node_count(leaf); i++) {
		w->items++;
		r = w->item(w, node_key(leaf, i), node_value(leaf, i));
	}
	return r;
}

/* A child's level is one less than its parent's, and has a buffer of its own. */
static int walk(struct dump_walk *w, const struct node_ident *id)
{
	const struct node_header *node;
	int r = 0;

	if (w->left == 0) {
		dump_problem(w->d, "%s: it has more nodes than the pool has room for: stopped", w->name);
		return WALK_STOPPED;
	}
	w->left--;
	node = read_node(w, id);
	if (!node)
		return 0;
	w->nodes++;
	if (id->level == 0)
		return walk_leaf(w, node);
	for (unsigned i = 0; r == 0 && i < node_count(node); i++) {
		struct node_ident child;

		if (node_child(node, i, id->owner, &child) == 0)
			r = walk(w, &child);
		else
			dump_problem(w->d, "%s: node %llu: the pointer in slot %u is impossible", w->name,
				     (ull)id->addr, i);
	}
	return r;
}

int dump_walk(struct dump_walk *w, const struct tree_root *root)
{
	struct node_ident id = {root->addr, root->generation, root->owner, root->level};
	struct print *p = &w->d->p;
	int r = 0;

	w->left = w->d->dev->size / NODE_SIZE + 1;
	if (id.addr && (id.level >= NODE_LEVEL_MAX || id.addr % NODE_SIZE))
		dump_problem(w->d, "%s: its root is impossible", w->name);
	else if (id.addr)
		r = walk(w, &id);
	print_begin(p, "tree");
	print_text(p, "name", w->name, strlen(w->name));
	print_bool(p, "whole", r == 0 && w->lost_nodes == 0);
	print_number(p, "nodes", w->nodes);
	print_number(p, "leaves", w->leaves);
	print_number(p, "items", w->items);
	print_number(p, "bad_copies", w->bad_copies);
	print_number(p, "lost_nodes", w->lost_nodes);
	print_end(p);
	return r < 0 ? r : 0;
}

/* ---- one node -------------------------------------------------------------- */

static void print_root_item(struct dump *d, uint8_t type, uint64_t id, struct value value)
{
	struct volume_fields vol;
	struct orphan_fields orphan;
	const char *why = NULL;

	if (type == VOLUME_KEY_TYPE && volume_item_unpack(id, value, &vol, &why) == 0)
		volume_item_print(&d->p, &vol);
	else if (type == ORPHAN_KEY_TYPE && orphan_item_unpack(id, value, &orphan, &why) == 0)
		orphan_item_print(&d->p, &orphan);
	else if (!why)
		why = "of an unknown kind";
	if (why)
		dump_problem(d, "item %llu: %s", (ull)id, why);
}

static void print_leaf_item(struct dump *d, uint64_t owner, struct key key, struct value value)
{
	struct group_item group;
	const char *why = NULL;
	uint64_t number = 0;
	uint8_t type = 0;

	(void)key_unpack(key, &type, &number);
	if (owner == TREE_ID_ROOT)
		print_root_item(d, type, number, value);
	else if (owner != TREE_ID_GROUP)
		why = dump_extents(d, key, value) ? NULL : "no extent";
	else if (group_item_unpack(key, value, &group, &why) == 0)
		group_item_print(&d->p, &group);
	if (why)
		dump_problem(d, "item %llu: %s", (ull)number, why);
}

static void print_pointer(struct dump *d, const struct node_header *node, unsigned slot)
{
	struct key key = node_key(node, slot);
	struct node_ident child;
	int r = node_child(node, slot, le64_to_cpu(node->owner), &child);

	print_begin(&d->p, "pointer");
	print_number(&d->p, "slot", slot);
	print_bytes(&d->p, "key", key.data, key.len);
	print_number(&d->p, "addr", child.addr);
	print_number(&d->p, "generation", child.generation);
	print_bool(&d->p, "possible", r == 0);
	print_end(&d->p);
}

static void print_items(struct dump *d, const struct node_header *node)
{
	uint64_t n = 0;

	d->p.indent++;
	for (unsigned i = 0; i < node_count(node) && dump_within_limit(d, &n); i++) {
		if (node->level)
			print_pointer(d, node, i);
		else
			print_leaf_item(d, le64_to_cpu(node->owner), node_key(node, i), node_value(node, i));
	}
	d->p.indent--;
}

/*
 * What a node says of itself is believed, but for its address: so a copy may be good and still be an old one.
 */
static bool print_copy(struct dump *d, uint64_t addr, unsigned copy, uint64_t off,
		       const struct node_header *node)
{
	struct node_ident id = {addr, le64_to_cpu(node->generation), le64_to_cpu(node->owner), node->level};
	const char *why = NULL;
	bool valid = node_validate(node, &id, d->sb.uuid, &why) == 0;

	print_begin(&d->p, "node");
	print_number(&d->p, "copy", copy);
	print_number(&d->p, "offset", off);
	print_bool(&d->p, "valid", valid);
	print_word(&d->p, "checksum", le32_to_cpu(node->crc) == node_checksum(node) ? "good" : "bad");
	node_header_print(&d->p, node);
	print_end(&d->p);
	if (!valid)
		dump_problem(d, "node %llu, copy %u at offset %llu: %s", (ull)addr, copy, (ull)off, why);
	return valid;
}

void dump_node(struct dump *d, uint64_t addr)
{
	const struct group_item *g = dump_group_find(d, addr, NODE_SIZE);
	const struct node_header *good = NULL;

	if (!g || (addr - g->start) % NODE_SIZE || g->type == GROUP_DATA) {
		dump_problem(d,
			     "node %llu: no node can stand there: no block group for nodes has this address",
			     (ull)addr);
		return;
	}
	for (unsigned i = 0; i < g->nr_stripes; i++) {
		uint64_t off = g->stripe[i] + (addr - g->start);
		struct node_header *node = d->node[0][i];

		if (!dump_read(d, off, node, NODE_SIZE, "node") || !print_copy(d, addr, i, off, node))
			continue;
		if (good && memcmp(good, node, NODE_SIZE) != 0)
			dump_problem(d, "node %llu: its copies are both valid and differ", (ull)addr);
		good = good ? good : node;
	}
	if (good)
		print_items(d, good);
}
