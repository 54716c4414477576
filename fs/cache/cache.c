/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/cache/cache.c: the calls of cache.h, and the hash table behind them. See cache_int.h. */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache_int.h"
#include "fs/cache/cache.h"
#include "fs/core/lock_rank.h"

static const uint8_t class_heat[] = {[CACHE_DATA] = 1, [CACHE_NODE] = 2};

/* ---- hash table --------------------------------------------------------------- */

static bool shard_has_locked(const struct cache_shard *s, uint64_t buckets)
{
	return s->buckets && buckets <= s->mask + 1;
}

static void shard_rehash_locked(struct cache_shard *s, struct cache_entry **new, uint64_t buckets)
{
	struct cache_entry **old = s->buckets;
	uint64_t old_mask = s->mask;

	s->buckets = new;
	s->mask = buckets - 1;
	for (uint64_t i = 0; old && i <= old_mask; i++) {
		for (struct cache_entry *e = old[i], *next; e; e = next) {
			struct cache_entry **to = &new[cache_hash(e->class, e->addr) & s->mask];

			next = e->hash_next;
			e->hash_next = *to;
			*to = e;
		}
	}
}

/* Failure leaves the table as it is: slower, not wrong. */
static int shard_grow(struct cache_shard *s, uint64_t buckets)
{
	struct cache_entry **new, **old;
	bool has;

	lock_take(&s->lock);
	has = shard_has_locked(s, buckets);
	lock_drop(&s->lock);
	if (has)
		return 0;
	new = mem_zalloc(buckets * sizeof(*new));
	if (!new)
		return -ENOMEM;
	lock_take(&s->lock);
	old = s->buckets;
	if (shard_has_locked(s, buckets)) { /* somebody else was faster */
		old = new;
	} else {
		shard_rehash_locked(s, new, buckets);
	}
	lock_drop(&s->lock);
	mem_free(old);
	return 0;
}

static int shards_grow(struct cache *c, uint64_t limit_bytes)
{
	uint64_t buckets = 16;
	int error = 0;

	while (buckets * CACHE_SHARDS * CACHE_DATA_BYTES < limit_bytes)
		buckets *= 2;
	for (uint32_t i = 0; i < CACHE_SHARDS && !error; i++)
		error = shard_grow(&c->shards[i], buckets);
	return error;
}

/* ---- the calls --------------------------------------------------------------------- */

static size_t limit_chunks(uint64_t limit_bytes)
{
	return max_u64(limit_bytes / CACHE_CHUNK_BYTES, 1);
}

int cache_new(uint64_t limit_bytes, struct cache **ret_cache)
{
	struct cache *c = mem_alloc_aligned(_Alignof(struct cache), sizeof(*c));

	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->max_chunks = limit_chunks(limit_bytes);
	LIST_INIT(&c->free);
	LIST_INIT(&c->partial);
	lock_init(&c->lock, LOCK_CACHE_POOL);
	for (uint32_t i = 0; i < CACHE_SHARDS; i++)
		lock_init(&c->shards[i].lock, LOCK_CACHE_SHARD);
	if (shards_grow(c, c->max_chunks * CACHE_CHUNK_BYTES)) {
		cache_free(c);
		return -ENOMEM;
	}
	cache_ahead_resize(c, c->max_chunks);
	*ret_cache = c;
	return 0;
}

void cache_free(struct cache *c)
{
	if (!c)
		return;
	cache_spare_fini(c);
	cache_pool_fini(c);
	cache_ahead_fini(c);
	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		lock_fini(&c->shards[i].lock);
		mem_free(c->shards[i].buckets);
	}
	lock_fini(&c->lock);
	mem_free(c);
}

struct cache_entry *cache_get(struct cache *c, enum cache_class class, uint64_t addr)
{
	uint64_t hash = cache_hash(class, addr);
	struct cache_shard *s = cache_shard_of(c, hash);
	struct cache_entry *e;

	lock_take(&s->lock);
	e = *cache_shard_find_locked(s, hash, class, addr);
	if (e) {
		atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
		atomic_store_explicit(&e->hot, class_heat[class], memory_order_relaxed);
		s->hits[class]++;
	} else {
		s->misses[class]++;
	}
	lock_drop(&s->lock);
	return e;
}

struct cache_entry *cache_alloc(struct cache *c, enum cache_class class)
{
	struct cache_entry *e;

	lock_take(&c->lock);
	e = cache_pool_alloc_locked(c, class);
	lock_drop(&c->lock);
	return e;
}

bool cache_alloc_many(struct cache *c, enum cache_class class, size_t n, struct cache_entry **ret_entries)
{
	size_t i;

	lock_take(&c->lock);
	for (i = 0; i < n; i++) {
		ret_entries[i] = cache_pool_alloc_locked(c, class);
		if (!ret_entries[i])
			break;
	}
	if (i < n)
		for (size_t j = i; j-- > 0;)
			cache_pool_release_locked(c, ret_entries[j]);
	lock_drop(&c->lock);
	return i == n;
}

void cache_publish(struct cache *c, struct cache_entry *entry, uint64_t addr)
{
	uint64_t hash = cache_hash(entry->class, addr);
	struct cache_shard *s = cache_shard_of(c, hash);
	struct cache_entry **at, *old = NULL;

	ASSERT(addr % CACHE_DATA_BYTES == 0);
	ASSERT(!atomic_load_explicit(&entry->published, memory_order_relaxed));
	entry->addr = addr;
	lock_take(&s->lock);
	at = cache_shard_find_locked(s, hash, entry->class, addr);
	if (*at)
		old = cache_shard_remove_locked(s, at);
	entry->hash_next = s->buckets[hash & s->mask];
	s->buckets[hash & s->mask] = entry;
	s->entries[entry->class]++;
	atomic_fetch_add_explicit(&entry->refs, 1, memory_order_relaxed);
	atomic_store_explicit(&entry->published, 1, memory_order_release);
	lock_drop(&s->lock);
	cache_put(c, old);
}

void cache_put(struct cache *c, struct cache_entry *entry)
{
	uint32_t before;

	if (!entry)
		return;
	before = atomic_fetch_sub_explicit(&entry->refs, 1, memory_order_acq_rel);
	ASSERT(before > 0);
	if (before > 1)
		return;
	lock_take(&c->lock);
	cache_pool_release_locked(c, entry);
	lock_drop(&c->lock);
}

void cache_invalidate(struct cache *c, enum cache_class class, uint64_t addr)
{
	uint64_t hash = cache_hash(class, addr);
	struct cache_shard *s = cache_shard_of(c, hash);
	struct cache_entry **at, *e = NULL;

	lock_take(&s->lock);
	at = cache_shard_find_locked(s, hash, class, addr);
	if (*at)
		e = cache_shard_remove_locked(s, at);
	lock_drop(&s->lock);
	cache_put(c, e);
}

static void shard_invalidate_range(struct cache *c, struct cache_shard *s, uint64_t addr, uint64_t len_bytes)
{
	struct cache_entry *dead = NULL, *next;

	lock_take(&s->lock);
	for (uint64_t i = 0; i <= s->mask && s->entries[CACHE_DATA]; i++) {
		struct cache_entry **at = &s->buckets[i];

		while (*at) {
			struct cache_entry *e = *at;

			if (e->class != CACHE_DATA || e->addr - addr >= len_bytes) {
				at = &e->hash_next;
				continue;
			}
			cache_shard_remove_locked(s, at);
			e->hash_next = dead;
			dead = e;
		}
	}
	lock_drop(&s->lock);
	for (; dead; dead = next) {
		next = dead->hash_next;
		cache_put(c, dead);
	}
}

/* Looks up each block, or goes through the whole table, whichever is less. */
void cache_invalidate_range(struct cache *c, uint64_t addr, uint64_t len_bytes)
{
	uint64_t buckets;

	lock_take(&c->shards[0].lock);
	buckets = (c->shards[0].mask + 1) * CACHE_SHARDS;
	lock_drop(&c->shards[0].lock);
	if (len_bytes / CACHE_DATA_BYTES <= buckets) {
		for (uint64_t off = 0; off < len_bytes; off += CACHE_DATA_BYTES)
			cache_invalidate(c, CACHE_DATA, addr + off);
		return;
	}
	for (uint32_t i = 0; i < CACHE_SHARDS; i++)
		shard_invalidate_range(c, &c->shards[i], addr, len_bytes);
}

void cache_resize(struct cache *c, uint64_t limit_bytes)
{
	size_t max_chunks = limit_chunks(limit_bytes);

	(void)shards_grow(c, max_chunks * CACHE_CHUNK_BYTES);
	lock_take(&c->lock);
	cache_pool_resize_locked(c, max_chunks);
	lock_drop(&c->lock);
	cache_ahead_resize(c, max_chunks);
}

void cache_get_stats(struct cache *c, struct cache_stats *ret_stats)
{
	struct cache_stats st = {0};

	lock_take(&c->lock);
	memcpy(st.bytes, c->bytes, sizeof(st.bytes));
	memcpy(st.evictions, c->evictions, sizeof(st.evictions));
	st.chunk_bytes = (uint64_t)(c->nchunks + c->spare.count) * CACHE_CHUNK_BYTES;
	st.limit_bytes = (uint64_t)c->max_chunks * CACHE_CHUNK_BYTES;
	st.metadata_bytes =
		sizeof(*c) + cache_pool_metadata_locked(c) + c->ahead.cap * sizeof(*c->ahead.addr);
	lock_drop(&c->lock);
	for (uint32_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *s = &c->shards[i];

		lock_take(&s->lock);
		for (uint32_t j = 0; j < CACHE_CLASSES; j++) {
			st.hits[j] += s->hits[j];
			st.misses[j] += s->misses[j];
			st.entries[j] += s->entries[j];
		}
		st.metadata_bytes += (s->mask + 1) * sizeof(*s->buckets);
		lock_drop(&s->lock);
	}
	*ret_stats = st;
}
