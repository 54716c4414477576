/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/tree/tree.c: roots and walking; the bulk update is in tree_apply.c. */
#include "fs/tree/tree.h"

#include <errno.h>
#include <string.h>

#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"

void tree_sums_add(struct tree_sums *sums, const struct tree_root *root, int sign)
{
	sums->nodes += sign * (int64_t)root->nodes;
	sums->leaves += sign * (int64_t)root->leaves;
	sums->items += sign * (int64_t)root->items;
	if (root->flags & TREE_NODE_LOST)
		sums->unsure += sign * (int64_t)root->leaves;
}

void tree_iter_init(struct tree_iter *it, struct fs *fs, struct device_queue *q, const struct tree_root *root)
{
	memset(it, 0, sizeof(*it));
	it->fs = fs;
	it->q = q;
	it->root = *root;
}

static void unpin_from(struct tree_iter *it, int level)
{
	for (; level >= 0; level--) {
		cache_put(it->fs->cache, it->node[level]);
		it->node[level] = NULL;
	}
}

void tree_iter_fini(struct tree_iter *it)
{
	unpin_from(it, NODE_LEVEL_MAX - 1);
	it->valid = false;
}

/* From the node at `level`, whose slot is set, down to the leaf; `key` NULL: leftmost. */
static int descend(struct tree_iter *it, int level, const struct key *key)
{
	int r;

	for (; level > 0; level--) {
		struct node_ident id;

		r = node_child(node_header(it->node[level]), it->slot[level], it->root.owner, &id);
		if (r == 0)
			r = node_read(it->fs, it->q, &id, &it->node[level - 1]);
		if (r)
			return r;
		int slot = key ? node_floor(node_header(it->node[level - 1]), *key) : 0;
		it->slot[level - 1] = slot < 0 ? 0 : (unsigned)slot;
	}
	it->valid = true;
	return 0;
}

static int seek(struct tree_iter *it, const struct key *key)
{
	struct node_ident id = {it->root.addr, it->root.generation, it->root.owner, it->root.level};
	int r, slot;

	tree_iter_fini(it);
	if (it->root.addr == 0)
		return 0;
	if (id.level >= NODE_LEVEL_MAX || id.addr % NODE_SIZE)
		return -EUCLEAN;
	r = node_read(it->fs, it->q, &id, &it->node[id.level]);
	if (r)
		return r;
	slot = key ? node_floor(node_header(it->node[id.level]), *key) : 0;
	it->slot[id.level] = slot < 0 ? 0 : (unsigned)slot;
	r = descend(it, id.level, key);
	if (r)
		tree_iter_fini(it);
	return r;
}

int tree_iter_seek(struct tree_iter *it, struct key key)
{
	return seek(it, &key);
}
int tree_iter_first(struct tree_iter *it)
{
	return seek(it, NULL);
}

int tree_iter_next(struct tree_iter *it)
{
	int level = 0, r;

	while (level <= it->root.level && it->slot[level] + 1 >= node_count(node_header(it->node[level])))
		level++;
	if (level > it->root.level) {
		tree_iter_fini(it);
		return 0;
	}
	it->slot[level]++;
	if (level == 0)
		return 0;
	unpin_from(it, level - 1);
	r = descend(it, level, NULL);
	if (r)
		tree_iter_fini(it);
	return r;
}

struct key tree_iter_key(const struct tree_iter *it)
{
	return node_key(node_header(it->node[0]), it->slot[0]);
}
struct value tree_iter_value(const struct tree_iter *it)
{
	return node_value(node_header(it->node[0]), it->slot[0]);
}

int tree_get(struct fs *fs, struct device_queue *q, const struct tree_root *root, struct key key, void *buf,
	     size_t cap, size_t *ret_len)
{
	struct tree_iter it;
	int r;

	tree_iter_init(&it, fs, q, root);
	r = tree_iter_seek(&it, key);
	if (r == 0 && (!it.valid || key_cmp(tree_iter_key(&it), key) != 0))
		r = -ENOENT;
	if (r == 0) {
		struct value v = tree_iter_value(&it);

		if (v.len > cap) {
			r = -EUCLEAN;
		} else {
			memcpy(buf, v.data, v.len);
			*ret_len = v.len;
		}
	}
	tree_iter_fini(&it);
	return r;
}
