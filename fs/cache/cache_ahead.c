/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/cache/cache_ahead.c: blocks that were fetched before anybody has read them (cache.h, invariant 6). Who
 * asks for all of a volume to be fetched replaces what he fetched before, and not what others use.
 */
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/cache/cache_int.h"

#define BATCH 64u

void cache_ahead_resize(struct cache *c, size_t max_chunks)
{
	size_t cap = max_chunks * (CACHE_CHUNK_BYTES / CACHE_DATA_BYTES) / CACHE_AHEAD_PART, keep;
	uint64_t *ring = mem_alloc(cap * sizeof(*ring)), *old;
	struct cache_ahead *a = &c->ahead;

	if (!ring)
		return;
	lock_take(&c->lock);
	if (c->max_chunks != max_chunks) { /* somebody else gives it another size meanwhile */
		lock_drop(&c->lock);
		mem_free(ring);
		return;
	}
	keep = min_u64(a->count, cap); /* the youngest; the others are like blocks that somebody has read */
	for (size_t i = 0; i < keep; i++)
		ring[i] = a->addr[(a->first + a->count - keep + i) % a->cap];
	old = a->addr;
	*a = (struct cache_ahead){.addr = ring, .cap = cap, .count = keep};
	lock_drop(&c->lock);
	mem_free(old);
}

void cache_ahead_fini(struct cache *c)
{
	mem_free(c->ahead.addr);
}

/* Nearly, so that what is freed now and then does not hide it. */
static bool is_full_locked(const struct cache *c, size_t n)
{
	uint64_t limit = (uint64_t)c->max_chunks * CACHE_CHUNK_BYTES;

	return c->bytes[CACHE_DATA] + c->bytes[CACHE_NODE] + n * CACHE_DATA_BYTES > limit - limit / 16;
}

/* Up to BATCH addresses that have to go so that there is room for `n`. */
static size_t take_oldest(struct cache *c, size_t n, uint64_t addr[BATCH])
{
	struct cache_ahead *a = &c->ahead;
	size_t taken = 0;

	lock_take(&c->lock);
	for (; taken < BATCH && a->count && a->count + n > a->cap && is_full_locked(c, n); taken++) {
		addr[taken] = a->addr[a->first];
		a->first = (a->first + 1) % a->cap;
		a->count--;
	}
	lock_drop(&c->lock);
	return taken;
}

/* Unless it is in use, or was. */
static void drop_unread(struct cache *c, uint64_t addr)
{
	uint64_t hash = cache_hash(CACHE_DATA, addr);
	struct cache_shard *s = cache_shard_of(c, hash);
	struct cache_entry **at, *e;

	lock_take(&s->lock);
	at = cache_shard_find_locked(s, hash, CACHE_DATA, addr);
	e = *at;
	if (e && (atomic_load_explicit(&e->hot, memory_order_relaxed) || atomic_load(&e->refs) != 1))
		e = NULL;
	if (e)
		cache_shard_remove_locked(s, at);
	lock_drop(&s->lock);
	cache_put(c, e);
}

bool cache_alloc_ahead(struct cache *c, size_t n, struct cache_entry **ret_entries)
{
	uint64_t addr[BATCH];
	size_t taken;

	while ((taken = take_oldest(c, n, addr)))
		for (size_t i = 0; i < taken; i++)
			drop_unread(c, addr[i]);
	return cache_alloc_many(c, CACHE_DATA, n, ret_entries);
}

void cache_publish_ahead(struct cache *c, struct cache_entry *entry, uint64_t addr)
{
	struct cache_ahead *a = &c->ahead;
	uint64_t oldest;
	bool full, drop;

	cache_publish(c, entry, addr);
	lock_take(&c->lock);
	full = a->cap && a->count == a->cap; /* others have allocated at the same time, or there is room */
	drop = full && is_full_locked(c, 0);
	if (full) {
		oldest = a->addr[a->first];
		a->first = (a->first + 1) % a->cap;
		a->count--;
	}
	if (a->cap)
		a->addr[(a->first + a->count++) % a->cap] = addr;
	lock_drop(&c->lock);
	if (drop)
		drop_unread(c, oldest);
}

bool cache_has(struct cache *c, uint64_t addr)
{
	uint64_t hash = cache_hash(CACHE_DATA, addr);
	struct cache_shard *s = cache_shard_of(c, hash);
	bool has;

	lock_take(&s->lock);
	has = *cache_shard_find_locked(s, hash, CACHE_DATA, addr) != NULL;
	lock_drop(&s->lock);
	return has;
}
