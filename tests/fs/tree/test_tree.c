/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/tree/test_tree.c: tree_apply and the iterator against a sorted array, on a simulated device. After
 * each batch: the items, the counts, the shape of each node, and that delayed refs say exactly which nodes
 * came and went.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device_sim.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/commit/transaction.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/cache/cache.h"
#include "fs/space/delayed_ref.h"
#include "fs/device/device.h"
#include "fs/fs.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/tree.h"
#include "fs/cache/write_batch.h"
#include "fs/format/key.h"

#define OWNER 999u
#define VALUE_MAX 600u
#define NODES_MAX 20000u

struct item {
	uint8_t key[NODE_KEY_MAX];
	uint8_t value[VALUE_MAX];
	uint16_t key_len, value_len;
	bool del; /* in a batch */
};

struct nodes {
	uint64_t addr[NODES_MAX];
	size_t count;
};

struct world {
	struct fs *fs;
	struct tree_root root;
	uint64_t generation;
	struct item **model; /* in order */
	size_t count, cap;
	struct nodes old, now;
	unsigned underfull; /* nodes in a row at each level that are too empty */
	uint64_t rng;
	/* What the keys of this round look like. */
	unsigned key_min, key_max, value_max, alphabet;
};

static uint64_t rnd(struct world *w, uint64_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return w->rng % n;
}

static uint64_t seed_get(void)
{
	const char *env = getenv("SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240229;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed * 2 + 1;
}

static struct world *new_world(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	struct fs_options opt = {.cache_bytes = 4u << 20};
	struct device *dev = device_sim_new(256u << 20, seed);

	assert_int_equal(pool_format(dev, false, NULL), 0);
	assert_int_equal(pool_open(dev, &opt, &pool_without_threads, &w->fs, NULL), 0);
	w->rng = seed;
	w->root.owner = OWNER;
	w->generation = atomic_load(&w->fs->running_generation);
	return w;
}

static void free_world(struct world *w)
{
	pool_abandon(w->fs);
	for (size_t i = 0; i < w->count; i++)
		free(w->model[i]);
	free(w->model);
	free(w);
}

/* ---- the model ------------------------------------------------------------- */

static struct key item_key(const struct item *it)
{
	return (struct key){it->key, it->key_len};
}

/* The first that is not smaller. */
static size_t model_find(const struct world *w, struct key key, bool *ret_equal)
{
	size_t lo = 0, hi = w->count;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (key_cmp(item_key(w->model[mid]), key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	*ret_equal = lo < w->count && key_cmp(item_key(w->model[lo]), key) == 0;
	return lo;
}

static void model_apply(struct world *w, const struct item *it)
{
	bool equal;
	size_t at = model_find(w, item_key(it), &equal);

	if (it->del) {
		if (!equal)
			return;
		free(w->model[at]);
		memmove(w->model + at, w->model + at + 1, (w->count - at - 1) * sizeof(*w->model));
		w->count--;
		return;
	}
	if (!equal) {
		if (w->count == w->cap) {
			w->cap = w->cap ? w->cap * 2 : 1024;
			w->model = realloc(w->model, w->cap * sizeof(*w->model));
		}
		memmove(w->model + at + 1, w->model + at, (w->count - at) * sizeof(*w->model));
		w->model[at] = malloc(sizeof(*it));
		w->count++;
	}
	*w->model[at] = *it;
}

/* ---- batches --------------------------------------------------------------- */

static void random_item(struct world *w, struct item *it, unsigned delete_percent)
{
	it->key_len = (uint16_t)(w->key_min + rnd(w, w->key_max - w->key_min + 1));
	if (it->key_len > 40 && rnd(w, 4)) /* mostly short, some very long */
		it->key_len = (uint16_t)(w->key_min + rnd(w, 40));
	for (unsigned i = 0; i < it->key_len; i++)
		it->key[i] = (uint8_t)rnd(w, w->alphabet);
	it->value_len = (uint16_t)rnd(w, w->value_max + 1);
	memset(it->value, (int)rnd(w, 256), it->value_len);
	it->del = rnd(w, 100) < delete_percent;
	if (it->del && w->count && rnd(w, 8)) { /* mostly one that is there */
		const struct item *victim = w->model[rnd(w, w->count)];

		memcpy(it->key, victim->key, victim->key_len);
		it->key_len = victim->key_len;
	}
}

/* All or most of what lies between two places. */
static size_t delete_range(struct world *w, struct item *batch, size_t n)
{
	size_t from = w->count ? rnd(w, w->count) : 0, k = 0;

	if (rnd(w, 3) == 0)
		from = 0;
	for (size_t i = from; i < w->count && k < n; i++) {
		if (rnd(w, 50) == 0)
			continue;
		batch[k] = *w->model[i];
		batch[k++].del = true;
	}
	return k;
}

static int by_key(const void *a, const void *b)
{
	return key_cmp(item_key(a), item_key(b));
}

static size_t make_batch(struct world *w, struct item *batch, size_t n, unsigned delete_percent)
{
	size_t out = 0;

	if (delete_percent == 100) {
		n = delete_range(w, batch, n);
	} else {
		for (size_t i = 0; i < n; i++)
			random_item(w, &batch[i], delete_percent);
	}
	qsort(batch, n, sizeof(*batch), by_key);
	for (size_t i = 0; i < n; i++)
		if (out == 0 || by_key(&batch[out - 1], &batch[i]) != 0)
			batch[out++] = batch[i];
	return out;
}

/* ---- what the tree is ------------------------------------------------------ */

static void inspect(struct world *w, const struct node_ident *id, const struct key *first, uint64_t counts[3],
		    bool last[NODE_LEVEL_MAX])
{
	struct cache_entry *entry;
	const struct node_header *node;
	uint32_t bytes = 0;

	assert_int_equal(node_read(w->fs, w->fs->commit_q, id, &entry), 0);
	node = node_header(entry);
	assert_true(w->now.count < NODES_MAX);
	w->now.addr[w->now.count++] = id->addr;
	counts[0]++;
	counts[1] += id->level == 0;
	counts[2] += id->level == 0 ? node_count(node) : 0;
	if (first)
		assert_int_equal(key_cmp(*first, node_key(node, 0)), 0);
	for (unsigned i = 0; i < node_count(node); i++)
		bytes += node_item_bytes(node_key(node, i).len, node_value(node, i).len);
	if (bytes < NODE_CAPACITY / 3 && !last[id->level])
		w->underfull++;
	for (unsigned i = 0; id->level > 0 && i < node_count(node); i++) {
		bool child_last[NODE_LEVEL_MAX];
		struct node_ident child;
		struct key key = node_key(node, i);

		memcpy(child_last, last, sizeof(child_last));
		for (unsigned l = 0; l < id->level; l++)
			child_last[l] &= i + 1 == node_count(node);
		assert_int_equal(node_child(node, i, OWNER, &child), 0);
		assert_true(child.generation <= id->generation);
		inspect(w, &child, &key, counts, child_last);
	}
	cache_put(w->fs->cache, entry);
}

static int by_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void inspect_tree(struct world *w)
{
	struct node_ident id = {w->root.addr, w->root.generation, OWNER, w->root.level};
	uint64_t counts[3] = {0, 0, 0};
	bool last[NODE_LEVEL_MAX];

	memset(last, true, sizeof(last));
	w->old = w->now;
	w->now.count = 0;
	w->underfull = 0;
	assert_int_equal(w->root.addr == 0, w->count == 0);
	if (w->root.addr)
		inspect(w, &id, NULL, counts, last);
	assert_int_equal(w->underfull, 0);
	assert_int_equal(counts[0], w->root.nodes);
	assert_int_equal(counts[1], w->root.leaves);
	assert_int_equal(counts[2], w->root.items);
	assert_int_equal(w->count, w->root.items);
	qsort(w->now.addr, w->now.count, sizeof(uint64_t), by_u64);
	for (size_t i = 1; i < w->now.count; i++)
		assert_true(w->now.addr[i - 1] < w->now.addr[i]);
}

static bool has(const struct nodes *n, uint64_t addr)
{
	return bsearch(&addr, n->addr, n->count, sizeof(uint64_t), by_u64) != NULL;
}

/* Settled refs join neighbours; each of their nodes is looked at. */
static void compare_refs(struct world *w, const struct delayed_refs *refs)
{
	size_t added = 0, dropped = 0;

	for (size_t i = 0; i < refs->count; i++) {
		const struct delayed_ref *ref = &refs->ref[i];

		assert_int_equal(ref->len % (NODE_SIZE / FS_BLOCK_SIZE), 0);
		for (uint64_t at = 0; at < ref->len * (uint64_t)FS_BLOCK_SIZE; at += NODE_SIZE) {
			assert_int_equal(has(&w->old, ref->addr + at), ref->delta < 0);
			assert_int_equal(has(&w->now, ref->addr + at), ref->delta > 0);
			added += ref->delta > 0;
			dropped += ref->delta < 0;
		}
	}
	assert_int_equal(w->old.count + added, w->now.count + dropped);
}

static void compare_items(struct world *w)
{
	struct tree_iter it;
	size_t n = 0;

	tree_iter_init(&it, w->fs, w->fs->commit_q, &w->root);
	assert_int_equal(tree_iter_first(&it), 0);
	for (; it.valid; n++) {
		struct value v = tree_iter_value(&it);

		assert_true(n < w->count);
		assert_int_equal(key_cmp(tree_iter_key(&it), item_key(w->model[n])), 0);
		assert_int_equal(v.len, w->model[n]->value_len);
		assert_memory_equal(v.data, w->model[n]->value, v.len);
		assert_int_equal(tree_iter_next(&it), 0);
	}
	assert_int_equal(n, w->count);
	tree_iter_fini(&it);
}

static void compare_lookups(struct world *w)
{
	struct tree_iter it;

	tree_iter_init(&it, w->fs, w->fs->commit_q, &w->root);
	for (unsigned i = 0; i < 50; i++) {
		struct item want;
		uint8_t buf[VALUE_MAX];
		bool equal;
		size_t at, len = 0;
		int r;

		random_item(w, &want, 50);
		at = model_find(w, item_key(&want), &equal);
		r = tree_get(w->fs, w->fs->commit_q, &w->root, item_key(&want), buf, sizeof(buf), &len);
		assert_int_equal(r, equal ? 0 : -ENOENT);
		if (equal) {
			assert_int_equal(len, w->model[at]->value_len);
			assert_memory_equal(buf, w->model[at]->value, len);
		}
		assert_int_equal(tree_iter_seek(&it, item_key(&want)), 0);
		assert_int_equal(it.valid, w->count > 0);
		if (w->count == 0)
			continue;
		if (!equal && at > 0)
			at--; /* the last that is smaller, else the first */
		assert_int_equal(key_cmp(tree_iter_key(&it), item_key(w->model[at])), 0);
	}
	tree_iter_fini(&it);
}

/* ---- a transaction of one tree --------------------------------------------- */

static void give_up(struct world *w, struct transaction *txn)
{
	assert_int_equal(write_batch_wait(&txn->wb), 0);
	for (size_t i = 0; i < txn->refs.count; i++) {
		if (txn->refs.ref[i].delta < 0)
			continue;
		cache_invalidate(w->fs->cache, CACHE_NODE, txn->refs.ref[i].addr);
		block_group_give(w->fs, txn->refs.ref[i].addr, NODE_SIZE);
		space_deallocated_node(w->fs, GROUP_METADATA, NODE_SIZE);
	}
	delayed_refs_fini(&txn->refs);
}

static int apply(struct world *w, struct transaction *txn, const struct tree_keyed_change *change, size_t n,
		 uint64_t fail_at)
{
	struct tree_keyed_changes changes;
	int r;

	*txn = (struct transaction){.fs = w->fs, .q = w->fs->commit_q, .generation = w->generation};
	transaction_open_store(txn);
	write_batch_init(&txn->wb, w->fs->cache, txn->q);
	tree_keyed_changes_init(&changes, change, n);
	mem_fail_at(fail_at);
	r = tree_apply(&txn->store, &w->root, &changes.base);
	mem_fail_at(0);
	return r;
}

static void run_batch(struct world *w, const struct item *batch, size_t n)
{
	struct tree_keyed_change *change = calloc(n + 1, sizeof(*change));
	struct tree_root before = w->root;
	struct transaction txn;
	int r = -ENOMEM;

	for (size_t i = 0; i < n; i++)
		change[i] = (struct tree_keyed_change){
			item_key(&batch[i]), {batch[i].del ? NULL : batch[i].value, batch[i].value_len}};
	/* First without memory at some point: nothing is changed then. */
	for (unsigned tries = (unsigned)rnd(w, 3); tries > 0 && r; tries--) {
		r = apply(w, &txn, change, n, 1 + rnd(w, 60));
		if (r) {
			assert_int_equal(r, -ENOMEM);
			assert_memory_equal(&before, &w->root, sizeof(before));
			give_up(w, &txn);
		}
	}
	if (r)
		assert_int_equal(apply(w, &txn, change, n, 0), 0);
	assert_int_equal(write_batch_wait(&txn.wb), 0);
	for (size_t i = 0; i < n; i++)
		model_apply(w, &batch[i]);
	inspect_tree(w);
	if (txn.refs.count)
		delayed_refs_settle(&txn.refs, w->fs->group_step);
	compare_refs(w, &txn.refs);
	assert_int_equal(block_group_run_refs(w->fs, txn.q, &txn.refs, txn.generation), 0);
	block_group_release_pinned(w->fs, pins_set(w->fs->pins, txn.generation));
	delayed_refs_fini(&txn.refs);
	w->generation++;
	free(change);
}

static void run_rounds(struct world *w, unsigned rounds, size_t batch_max)
{
	struct item *batch = calloc(batch_max, sizeof(*batch));

	for (unsigned round = 0; round < rounds; round++) {
		/* Grows for some rounds, then shrinks, at times by ranges, sometimes to nothing. */
		static const unsigned percent[] = {10, 10, 30, 0, 50, 100, 20, 80, 90, 100};
		size_t want = rnd(w, 4) ? 1 + rnd(w, batch_max) : 1 + rnd(w, 3);
		size_t n = make_batch(w, batch, want, percent[rnd(w, ARRAY_SIZE(percent))]);

		run_batch(w, batch, n);
		if (round % 4 == 0)
			compare_items(w);
		compare_lookups(w);
	}
	while (w->count)
		run_batch(w, batch, delete_range(w, batch, batch_max));
	assert_int_equal(w->root.nodes, 0);
	free(batch);
}

/* ---- tests ----------------------------------------------------------------- */

static void test_tree_small_items_match_the_model(void **state)
{
	struct world *w = new_world(seed_get());

	w->key_min = w->key_max = 6;
	w->alphabet = 256;
	w->value_max = 40;
	run_rounds(w, 120, 4000);
	free_world(w);
}

static void test_tree_all_lengths_match_the_model(void **state)
{
	struct world *w = new_world(seed_get());

	w->key_min = 1;
	w->key_max = NODE_KEY_MAX;
	w->alphabet = 3;
	w->value_max = VALUE_MAX;
	run_rounds(w, 150, 1500);
	free_world(w);
}

static void test_tree_longest_keys_match_the_model(void **state)
{
	struct world *w = new_world(seed_get());

	w->key_min = NODE_KEY_MAX - 40;
	w->key_max = NODE_KEY_MAX;
	w->alphabet = 256;
	w->value_max = 20;
	run_rounds(w, 80, 600);
	free_world(w);
}

/* In order at the end, as a volume that is written from front to back. */
static void test_tree_appending_keeps_nodes_full(void **state)
{
	struct world *w = new_world(seed_get());
	struct item *batch = calloc(500, sizeof(*batch));
	uint64_t next = 0;

	for (unsigned round = 0; round < 40; round++) {
		size_t n = 1 + rnd(w, 500);

		for (size_t i = 0; i < n; i++) {
			uint64_t be = htobe64(next++);

			memcpy(batch[i].key, &be, sizeof(be));
			batch[i].key_len = sizeof(be);
			batch[i].value_len = 30;
			memset(batch[i].value, (int)i, 30);
			batch[i].del = false;
		}
		run_batch(w, batch, n);
	}
	compare_items(w);
	/* No more than the same items would take in nodes that are half full. */
	assert_true(w->root.leaves <= w->count * 44 / (NODE_CAPACITY / 2) + 2);
	free(batch);
	free_world(w);
}

/* A batch that changes one item rewrites the path to it and no more than its neighbours. */
static void test_tree_small_change_writes_little(void **state)
{
	struct world *w = new_world(seed_get());
	struct item *batch = calloc(4000, sizeof(*batch));

	w->key_min = w->key_max = 6;
	w->alphabet = 256;
	w->value_max = 40;
	for (unsigned i = 0; i < 8; i++)
		run_batch(w, batch, make_batch(w, batch, 4000, 0));
	for (unsigned i = 0; i < 100; i++) {
		size_t same = 0;

		run_batch(w, batch, make_batch(w, batch, 1, i % 3 ? 0 : 100));
		for (size_t k = 0; k < w->now.count; k++)
			same += has(&w->old, w->now.addr[k]);
		assert_true(w->now.count - same <= 3u * (w->root.level + 1));
	}
	free(batch);
	free_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tree_small_items_match_the_model),
		cmocka_unit_test(test_tree_all_lengths_match_the_model),
		cmocka_unit_test(test_tree_longest_keys_match_the_model),
		cmocka_unit_test(test_tree_appending_keeps_nodes_full),
		cmocka_unit_test(test_tree_small_change_writes_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
