/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_tree.c: walks a tree and verifies all that holds for every tree. Recursion ends: a child's
 * level is one less than its parent's, and a node that was visited before is not entered again.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "fs/check/check_int.h"
#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/tree/node.h"

typedef unsigned long long ull;

/* What was found in one copy of a node. */
struct copy {
	int error;
	const char *why;
};

static int read_copy(struct check_walk *w, const struct node_ident *id, uint64_t off, void *buf,
		     struct copy *ret)
{
	struct check *c = w->c;

	ret->error = device_sync(c->q, DEVICE_READ, off, buf, NODE_SIZE);
	if (ret->error) {
		ret->why = strerror(-ret->error);
		return ret->error;
	}
	ret->error = node_validate(buf, id, c->sb.uuid, &ret->why);
	return ret->error;
}

/* Copies that are bad, where one is good. */
static void report_copies(struct check_walk *w, const struct node_ident *id, const struct check_group *g,
			  const struct copy *copy, void *good)
{
	for (unsigned i = 0; i < g->nr_stripes; i++) {
		uint64_t off = g->stripe[i] + (id->addr - g->start);
		struct check_damage_piece p = {DAMAGE_NODE_COPY, FS_CURE_REPAIR, i, off, NODE_SIZE, off,
					       id->addr,	 copy[i].why};

		if (copy[i].error == 0)
			continue;
		if (check_rewrite(w->c, off, good, NODE_SIZE))
			p.cure = FS_CURE_DONE;
		check_damage_add(w->c, &p);
	}
}

/*
 * Reads every copy of a node; the first good one comes into buf. -EUCLEAN: there is none, *ret_why is the
 * last one's fault.
 */
static int read_node(struct check_walk *w, const struct node_ident *id, const struct check_group *g,
		     void *buf, const char **ret_why)
{
	struct copy copy[GROUP_STRIPES_MAX];
	bool good = false;

	*ret_why = "it has no copies";
	for (unsigned i = 0; i < g->nr_stripes; i++) {
		void *into = good ? w->c->twin : buf;

		if (read_copy(w, id, g->stripe[i] + (id->addr - g->start), into, &copy[i])) {
			*ret_why = copy[i].why;
			continue;
		}
		if (good && memcmp(into, buf, NODE_SIZE) != 0)
			copy[i] = (struct copy){-EUCLEAN, "valid, but not the same as its twin"};
		good = true;
	}
	if (good)
		report_copies(w, id, g, copy, buf);
	return good ? 0 : -EUCLEAN;
}

static void report_lost(struct check_walk *w, const struct node_ident *id, const struct key *first,
			const struct key *upper, const char *why)
{
	w->unreadable = true;
	if (w->lost)
		w->lost(w, id, first, upper, why);
	else
		check_finding(w->c, "%s: node %llu (level %u), no copy of it can be used: %s", w->name,
			      (ull)id->addr, id->level, why);
}

/*
 * The place that a node is said to stand in, noted as used. NULL: it cannot be there, or was visited before.
 */
static int claim_node(struct check_walk *w, const struct node_ident *id, struct check_group **ret_group)
{
	struct check_group *g = check_group_find(w->c, id->addr, NODE_SIZE);
	uint64_t again;
	int r;

	*ret_group = NULL;
	if (!g || g->type != w->node_type || (id->addr - g->start) % NODE_SIZE) {
		check_finding(w->c, "%s: a node is said to stand at %llu, where no group for it is", w->name,
			      (ull)id->addr);
		w->unreadable = true;
		return 0;
	}
	r = check_group_mark(g, id->addr, NODE_SIZE, &again);
	if (r)
		return r;
	if (again)
		check_finding(w->c, "%s: node %llu is referred to more than once", w->name, (ull)id->addr);
	else
		*ret_group = g;
	w->unreadable |= again > 0;
	return 0;
}

static int walk_leaf(struct check_walk *w, const struct node_header *node)
{
	int r = 0;

	w->leaves++;
	w->items += node_count(node);
	if (w->from.len && key_cmp(node_key(node, 0), w->from) < 0)
		check_finding(w->c, "%s: leaf %llu holds keys from before the place that freeing has come to",
			      w->name, (ull)le64_to_cpu(node->addr));
	if (w->prev_len && key_cmp((struct key){w->prev, w->prev_len}, node_key(node, 0)) >= 0)
		check_finding(w->c, "%s: the keys of leaf %llu do not follow those of the leaf before it",
			      w->name, (ull)le64_to_cpu(node->addr));
	for (unsigned i = 0; r == 0 && i < node_count(node); i++)
		r = w->item(w, node, node_key(node, i), node_value(node, i));
	struct key last = node_key(node, node_count(node) - 1);

	memcpy(w->prev, last.data, last.len);
	w->prev_len = last.len;
	return r;
}

static int walk_node(struct check_walk *w, const struct node_ident *id, const struct key *first,
		     const struct key *upper);

static int walk_children(struct check_walk *w, const struct node_header *node, const struct key *upper)
{
	for (unsigned i = 0; i < node_count(node); i++) {
		struct key key = node_key(node, i), bound;
		const struct key *child_upper = upper;
		struct node_ident child;
		int r;

		if (i + 1 < node_count(node)) {
			bound = node_key(node, i + 1);
			child_upper = &bound;
		}
		if (w->from.len && child_upper && key_cmp(*child_upper, w->from) <= 0)
			continue;
		if (node_child(node, i, w->root->owner, &child)) {
			check_finding(w->c, "%s: node %llu has an impossible pointer in slot %u", w->name,
				      (ull)le64_to_cpu(node->addr), i);
			w->unreadable = true;
			continue;
		}
		r = walk_node(w, &child, &key, child_upper);
		if (r)
			return r;
	}
	return 0;
}

/* `first`: the key that the parent has for it (NULL: the root); `upper`: that of what comes behind it. */
static int walk_node(struct check_walk *w, const struct node_ident *id, const struct key *first,
		     const struct key *upper)
{
	struct node_header *node = w->c->node[id->level];
	struct check_group *g;
	const char *why;
	struct key last;
	int r = claim_node(w, id, &g);

	if (r || !g)
		return r;
	if (read_node(w, id, g, node, &why)) {
		report_lost(w, id, first, upper, why);
		return 0;
	}
	w->nodes++;
	last = node_key(node, node_count(node) - 1);
	if (first && key_cmp(*first, node_key(node, 0)) != 0)
		check_finding(w->c, "%s: node %llu does not begin with the key that its parent has for it",
			      w->name, (ull)id->addr);
	if (upper && key_cmp(last, *upper) >= 0)
		check_finding(w->c, "%s: node %llu holds keys that belong behind it", w->name, (ull)id->addr);
	return id->level == 0 ? walk_leaf(w, node) : walk_children(w, node, upper);
}

/* What a root says is exact, or at most what is there. */
static bool count_fits(uint64_t found, uint64_t said, bool at_most)
{
	return at_most ? found <= said : found == said;
}

void check_counts(struct check *c, const char *name, const struct tree_root *said,
		  const struct tree_root *found)
{
	if (!count_fits(found->nodes, said->nodes, said->flags & TREE_NODE_LOST) ||
	    !count_fits(found->leaves, said->leaves, said->flags & TREE_NODE_LOST) ||
	    !count_fits(found->items, said->items, said->flags & TREE_LEAF_LOST))
		check_finding(
			c,
			"%s: has %llu nodes, %llu leaves and %llu items, its root says %llu, %llu and %llu",
			name, (ull)found->nodes, (ull)found->leaves, (ull)found->items, (ull)said->nodes,
			(ull)said->leaves, (ull)said->items);
}

int check_walk(struct check_walk *w)
{
	struct node_ident id = {w->root->addr, w->root->generation, w->root->owner, w->root->level};
	int r = 0;

	if (id.addr) {
		if (id.level >= NODE_LEVEL_MAX || id.generation > w->c->generation) {
			check_finding(w->c, "%s: its root is impossible (level %u, generation %llu)", w->name,
				      id.level, (ull)id.generation);
			w->unreadable = true;
		} else {
			r = walk_node(w, &id, NULL, NULL);
		}
	}
	if (r == 0)
		r = check_data_finish(w->c);
	check_damage_tell(w->c, w->name, w->volume);
	w->c->incomplete |= r == 0 && w->unreadable;
	if (r == 0 && !w->unreadable && !w->part)
		check_counts(w->c, w->name, w->root,
			     &(struct tree_root){.nodes = w->nodes, .leaves = w->leaves, .items = w->items});
	return r;
}
