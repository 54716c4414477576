/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/tree/tree_apply.c: the bulk update of a tree.
 *
 * The old tree is walked from left to right. A subtree that no change falls into is taken over by its
 * pointer; of the others every node is read, and its items, merged with the changes, flow into one buffer a
 * level. A buffer that holds more than two nodes' worth puts a full one out; when a level has to end (a
 * subtree is taken over behind it) the rest leaves as one node, or as two halves, so that no split cascades.
 * Where the rest would be less than half, the next subtree is opened too instead of being taken over, and
 * fills it up.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fault.h"
#include "fs/core/fs_int.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/tree/node.h"
#include "fs/tree/node_prefetch.h"
#include "fs/tree/tree.h"

#define LEVEL_ITEMS_MAX 8192u
#define LEVEL_BYTES_MAX (3 * NODE_SIZE)
#define ITEM_BYTES_MAX 2048u /* of one item; two of them always fit into the slack of a buffer */

struct level_item {
	uint32_t off;
	uint16_t key_len, value_len;
};

struct level {
	uint8_t *bytes;
	struct level_item *item;
	unsigned count;
	uint32_t used;	     /* of bytes[] */
	uint32_t node_bytes; /* that the items take in a node */
};

struct tree_writer {
	struct tree_store *store;
	uint64_t owner;
	int64_t nodes, leaves, items;	/* changes to the root's counts */
	uint8_t flags;			/* that the root gets */
	struct node_prefetch *prefetch; /* NULL: none */
	struct tree_writer *cut;	/* of the subtrees that are cut out; NULL: none yet */
	struct level level[NODE_LEVEL_MAX + 1];
};

static int level_prepare(struct level *lv)
{
	if (lv->bytes)
		return 0;
	lv->bytes = mem_alloc(LEVEL_BYTES_MAX);
	lv->item = mem_alloc(LEVEL_ITEMS_MAX * sizeof(*lv->item));
	return lv->bytes && lv->item ? 0 : -ENOMEM;
}

static struct key level_key(const struct level *lv, unsigned i)
{
	return (struct key){lv->bytes + lv->item[i].off, lv->item[i].key_len};
}

static struct value level_value(const struct level *lv, unsigned i)
{
	return (struct value){lv->bytes + lv->item[i].off + lv->item[i].key_len, lv->item[i].value_len};
}

static uint32_t level_item_bytes(const struct level *lv, unsigned i)
{
	return node_item_bytes(lv->item[i].key_len, lv->item[i].value_len);
}

static void level_drop_front(struct level *lv, unsigned n)
{
	uint32_t from = n < lv->count ? lv->item[n].off : lv->used;

	for (unsigned i = 0; i < n; i++)
		lv->node_bytes -= level_item_bytes(lv, i);
	memmove(lv->bytes, lv->bytes + from, lv->used - from);
	memmove(lv->item, lv->item + n, (lv->count - n) * sizeof(*lv->item));
	lv->count -= n;
	lv->used -= from;
	for (unsigned i = 0; i < lv->count; i++)
		lv->item[i].off -= from;
}

static int emit_at(struct tree_writer *w, unsigned level, struct key key, struct value value);

/* Writes the first n items of a level as one node and hands its pointer to the level above. */
static int put_node(struct tree_writer *w, unsigned level, unsigned n)
{
	struct fs *fs = w->store->fs;
	struct level *lv = &w->level[level];
	struct node_ident id = {
		.generation = w->store->generation, .owner = w->owner, .level = (uint8_t)level};
	struct cache_entry *entry;
	struct node_pointer ptr;
	uint8_t first[NODE_KEY_MAX];
	struct key key = level_key(lv, 0);
	int r;

	if (level + 1 > NODE_LEVEL_MAX)
		return -EFBIG;
	r = w->store->alloc(w->store, w->owner, &id.addr);
	if (r)
		return r;
	entry = cache_alloc(fs->cache, CACHE_NODE);
	if (!entry)
		return -ENOMEM;
	node_init(entry->data, &id, fs->uuid);
	for (unsigned i = 0; i < n; i++)
		node_append(entry->data, level_key(lv, i), level_value(lv, i));
	node_seal(entry->data);
	r = w->store->write(w->store, entry, id.addr); /* takes the pin */
	if (r)
		return r;
	w->nodes++;
	w->leaves += level == 0;
	w->items += level == 0 ? (int64_t)n : 0;
	memcpy(first, key.data, key.len);
	key.data = first;
	level_drop_front(lv, n);
	ptr = (struct node_pointer){cpu_to_le64(id.addr), cpu_to_le64(id.generation)};
	return emit_at(w, level + 1, key, (struct value){&ptr, sizeof(ptr)});
}

/* How many items from the front fill a node up to `target` bytes, at least one, never more than fit. */
static unsigned fit(const struct level *lv, uint32_t target)
{
	uint32_t sum = 0;
	unsigned n = 0;

	while (n < lv->count) {
		uint32_t item = level_item_bytes(lv, n);

		if (n > 0 && (sum >= target || sum + item > NODE_CAPACITY))
			break;
		sum += item;
		n++;
	}
	return n;
}

static int flush_level(struct tree_writer *w, unsigned level)
{
	struct level *lv = &w->level[level];
	int r = 0;

	while (r == 0 && lv->count > 0)
		r = put_node(w, level,
			     fit(lv, lv->node_bytes <= NODE_CAPACITY ? NODE_CAPACITY : lv->node_bytes / 2));
	return r;
}

static int emit_at(struct tree_writer *w, unsigned level, struct key key, struct value value)
{
	struct level *lv = &w->level[level];
	uint32_t len = (uint32_t)key.len + value.len, bytes = node_item_bytes(key.len, value.len);
	int r = level_prepare(lv);

	if (r)
		return r;
	ASSERT(bytes <= ITEM_BYTES_MAX);
	if (lv->node_bytes + bytes > 2 * NODE_CAPACITY - ITEM_BYTES_MAX || lv->count == LEVEL_ITEMS_MAX) {
		r = put_node(w, level, fit(lv, NODE_CAPACITY));
		if (r)
			return r;
	}
	lv->item[lv->count++] = (struct level_item){lv->used, key.len, value.len};
	memcpy(lv->bytes + lv->used, key.data, key.len);
	memcpy(lv->bytes + lv->used + key.len, value.data, value.len);
	lv->used += len;
	lv->node_bytes += bytes;
	return 0;
}

uint64_t tree_writer_owner(const struct tree_writer *w)
{
	return w->owner;
}
int tree_emit(struct tree_writer *w, struct key key, struct value value)
{
	return emit_at(w, 0, key, value);
}

static bool is_underfull(const struct tree_writer *w, unsigned upto)
{
	bool any = false; /* ending the levels below puts pointers into this one, even if it is empty now */

	for (unsigned level = 0; level <= upto; level++) {
		any |= w->level[level].count > 0;
		if (any && w->level[level].node_bytes < NODE_CAPACITY / 2)
			return true;
	}
	return false;
}

static int take_over(struct tree_writer *w, const struct node_header *parent, unsigned slot)
{
	int r = 0;

	for (unsigned level = 0; r == 0 && level < parent->level; level++)
		r = flush_level(w, level);
	return r ? r : emit_at(w, parent->level, node_key(parent, slot), node_value(parent, slot));
}

static int apply_children(struct tree_writer *w, struct tree_changes *ch, const struct node_header *node,
			  const struct key *upper);

/* The changes go into what stands for the subtree from now on. What it referred to stays taken. */
static int replace_lost(struct tree_writer *w, struct tree_changes *ch, const struct key *first,
			const struct key *upper, uint8_t level)
{
	w->nodes--;
	if (level == 0)
		w->leaves--;
	w->flags |= TREE_LEAF_LOST | (level ? TREE_NODE_LOST : 0);
	w->store->lost = true;
	return ch->lost(ch, w, first, upper, level);
}

/*
 * The node of a subtree that holds keys from *first (NULL: it is the whole tree) to before *upper (NULL: no
 * bound). Takes the pin.
 */
static int apply_node(struct tree_writer *w, struct tree_changes *ch, struct cache_entry *entry,
		      const struct key *first, const struct key *upper)
{
	const struct node_header *node = node_header(entry);
	int r;

	if (node->level == 0 && ch->lost && ch->is_sane && !ch->is_sane(ch, node)) {
		r = replace_lost(w, ch, first, upper, 0);
	} else {
		r = w->store->drop(w->store, le64_to_cpu(node->addr));
		w->nodes--;
		if (r == 0 && node->level == 0) {
			w->leaves--;
			w->items -= node_count(node);
			r = ch->merge(ch, w, node, upper);
		} else if (r == 0) {
			r = apply_children(w, ch, node, upper);
		}
	}
	cache_put(w->store->fs->cache, entry);
	return r;
}

static struct tree_writer *writer_new(struct tree_store *store, uint64_t owner)
{
	struct tree_writer *w = mem_zalloc(sizeof(*w));

	if (w) {
		w->store = store;
		w->owner = owner;
	}
	return w;
}

static void writer_free(struct tree_writer *w)
{
	if (!w)
		return;
	writer_free(w->cut);
	for (unsigned i = 0; i <= NODE_LEVEL_MAX; i++) {
		mem_free(w->level[i].bytes);
		mem_free(w->level[i].item);
	}
	mem_free(w);
}

/*
 * A subtree all of which goes is opened as long as leaves may be; then it is cut out. A node above the leaves
 * costs nothing: it is opened only where leaves are left to be.
 */
static bool is_cut(struct tree_changes *ch, const struct key *first, const struct key *upper, uint8_t level)
{
	if (!ch->drops || !ch->drops(ch, first, upper))
		return false;
	if (*ch->open_leaves == 0)
		return true;
	*ch->open_leaves -= level == 0;
	return false;
}

/* The pointer goes into the tree of what is cut out; the changes pass by its range. */
static int cut_child(struct tree_writer *w, struct tree_changes *ch, const struct node_header *node,
		     unsigned slot, const struct key *upper)
{
	int r;

	if (!w->cut)
		w->cut = writer_new(w->store, w->owner);
	r = w->cut ? take_over(w->cut, node, slot) : -ENOMEM;
	return r ? r : ch->merge(ch, w, NULL, upper);
}

/*
 * One child: taken over as it is, or cut out, or opened, or (a part of it is to be changed that cannot be
 * read) replaced.
 */
static int apply_child(struct tree_writer *w, struct tree_changes *ch, const struct node_header *node,
		       unsigned i, const struct key *upper)
{
	struct key first = node_key(node, i), next;
	bool changed = ch->next(ch, &next) && (!upper || key_cmp(next, *upper) < 0);
	struct cache_entry *entry;
	struct node_ident child;
	int r = node_child(node, i, w->owner, &child);

	if (r == 0 && !changed && !is_underfull(w, child.level))
		return take_over(w, node, i);
	if (r == 0 && changed && w->prefetch)
		node_prefetch_take(w->prefetch, child.addr);
	if (r == 0 && changed && is_cut(ch, &first, upper, child.level))
		return cut_child(w, ch, node, i, upper);
	if (r == 0)
		r = changed ? w->store->read(w->store, &child, &entry)
			    : node_read(w->store->fs, w->store->q, &child, &entry);
	if (r == 0)
		return apply_node(w, ch, entry, &first, upper);
	if (node_is_lost(r) && !changed) /* it would only have filled up the node before it */
		return take_over(w, node, i);
	return node_is_lost(r) && ch->lost ? replace_lost(w, ch, &first, upper, (uint8_t)(node->level - 1))
					   : r;
}

/*
 * The children that will have to be read are read ahead, as many as may be; *ahead is the first that was not
 * looked at.
 */
static void look_ahead(struct tree_writer *w, struct tree_changes *ch, const struct node_header *node,
		       const struct key *upper, unsigned *ahead)
{
	for (; w->prefetch && *ahead < node_count(node); ++*ahead) {
		bool last = *ahead + 1 == node_count(node);
		struct key first = node_key(node, *ahead), bound;
		struct node_ident child;

		if (!last)
			bound = node_key(node, *ahead + 1);
		if (ch->touches(ch, &first, last ? upper : &bound) &&
		    node_child(node, *ahead, w->owner, &child) == 0 &&
		    !node_prefetch_want(w->prefetch, &child))
			return;
	}
}

static int apply_children(struct tree_writer *w, struct tree_changes *ch, const struct node_header *node,
			  const struct key *upper)
{
	unsigned ahead = 0;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node_count(node); i++) {
		struct key bound;
		bool last = i + 1 == node_count(node);

		if (!last)
			bound = node_key(node, i + 1);
		ahead = ahead > i ? ahead : i;
		look_ahead(w, ch, node, upper, &ahead);
		r = apply_child(w, ch, node, i, last ? upper : &bound);
	}
	return r;
}

static int apply_root(struct tree_writer *w, struct tree_changes *ch, const struct tree_root *root)
{
	struct node_ident id = {root->addr, root->generation, root->owner, root->level};
	bool possible = id.level < NODE_LEVEL_MAX && id.addr % NODE_SIZE == 0;
	struct cache_entry *entry;
	int r = possible ? w->store->read(w->store, &id, &entry) : -EUCLEAN;

	if (r == 0)
		return apply_node(w, ch, entry, NULL, NULL);
	return node_is_lost(r) && ch->lost ? replace_lost(w, ch, NULL, NULL, id.level) : r;
}

/* Ends every level, bottom up, until one pointer is left: the root. */
static int finish(struct tree_writer *w, struct tree_root *ret_root)
{
	for (unsigned level = 0; level <= NODE_LEVEL_MAX; level++) {
		struct level *lv = &w->level[level];
		unsigned above = 0;
		int r;

		for (unsigned l = level + 1; l <= NODE_LEVEL_MAX; l++)
			above += w->level[l].count;
		if (above == 0 && lv->count == 0) {
			ret_root->addr = ret_root->generation = ret_root->level = 0;
			return 0;
		}
		if (above == 0 && lv->count == 1 && level > 0) {
			struct node_pointer ptr;

			memcpy(&ptr, level_value(lv, 0).data, sizeof(ptr));
			ret_root->addr = le64_to_cpu(ptr.addr);
			ret_root->generation = le64_to_cpu(ptr.generation);
			ret_root->level = (uint8_t)(level - 1);
			return 0;
		}
		r = flush_level(w, level);
		if (r)
			return r;
	}
	return -EFBIG;
}

static int apply(struct tree_writer *w, struct tree_changes *changes, struct tree_root *root)
{
	struct tree_root out = *root, cut = {.owner = root->owner};
	int r = root->addr ? apply_root(w, changes, root) : changes->merge(changes, w, NULL, NULL);

	if (r == 0)
		r = finish(w, &out);
	if (r == 0 && w->cut && !FAULT(FAULT_CUT_FORGOTTEN))
		r = finish(w->cut, &cut);
	if (r)
		return r;
	out.nodes += (uint64_t)(w->nodes + (w->cut ? w->cut->nodes : 0));
	out.leaves += (uint64_t)w->leaves;
	out.items += (uint64_t)w->items;
	out.flags |= w->flags;
	*root = out;
	changes->cut = cut;
	return 0;
}

int tree_apply(struct tree_store *store, struct tree_root *root, struct tree_changes *changes)
{
	struct tree_writer *w;
	struct key first;
	int r;

	if (!changes->next(changes, &first))
		return 0;
	w = writer_new(store, root->owner);
	if (!w)
		return -ENOMEM;
	if (changes->touches && root->level > 0) {
		w->prefetch = mem_alloc(sizeof(*w->prefetch));
		if (w->prefetch) /* else it is slower */
			node_prefetch_init(w->prefetch, store->fs, store->q);
	}
	r = apply(w, changes, root);
	if (w->prefetch)
		node_prefetch_fini(w->prefetch);
	mem_free(w->prefetch);
	writer_free(w);
	return r;
}

/* ---- changes by key -------------------------------------------------------- */

static bool keyed_next(struct tree_changes *ch, struct key *ret_key)
{
	struct tree_keyed_changes *kc = container_of(ch, struct tree_keyed_changes, base);

	if (kc->pos == kc->count)
		return false;
	*ret_key = kc->change[kc->pos].key;
	return true;
}

/*
 * Puts out the changes before `end` (NULL: all before upper). An equal old item is replaced: *ret_replaced.
 */
static int keyed_put_until(struct tree_keyed_changes *kc, struct tree_writer *w, const struct key *end,
			   const struct key *upper, bool *ret_replaced)
{
	*ret_replaced = false;
	for (; kc->pos < kc->count; kc->pos++) {
		const struct tree_keyed_change *c = &kc->change[kc->pos];
		int order = end ? key_cmp(c->key, *end) : -1;
		int r;

		if (order > 0 || (upper && key_cmp(c->key, *upper) >= 0))
			return 0;
		if (order == 0)
			*ret_replaced = true;
		r = c->value.data ? tree_emit(w, c->key, c->value) : 0;
		if (r)
			return r;
	}
	return 0;
}

static int keyed_merge(struct tree_changes *ch, struct tree_writer *w, const struct node_header *leaf,
		       const struct key *upper)
{
	struct tree_keyed_changes *kc = container_of(ch, struct tree_keyed_changes, base);
	bool replaced;

	for (unsigned i = 0; leaf && i < node_count(leaf); i++) {
		struct key key = node_key(leaf, i);
		int r = keyed_put_until(kc, w, &key, upper, &replaced);

		if (r == 0 && !replaced)
			r = tree_emit(w, key, node_value(leaf, i));
		if (r)
			return r;
	}
	return keyed_put_until(kc, w, NULL, upper, &replaced);
}

void tree_keyed_changes_init(struct tree_keyed_changes *kc, const struct tree_keyed_change *change,
			     size_t count)
{
	*kc = (struct tree_keyed_changes){
		.base = {.next = keyed_next, .merge = keyed_merge}, .change = change, .count = count};
}
