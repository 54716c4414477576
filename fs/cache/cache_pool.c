/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/cache/cache_pool.c: the memory of the cache and who leaves it: chunks, frames, eviction. See
 * cache_int.h.
 */
#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/cache/cache_int.h"

/*
 * After this many frames without a victim the hand takes hot entries too, to bound the time under the pool's
 * lock.
 */
#define SWEEP_PATIENCE 1024u

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define POISON(p, len) ASAN_POISON_MEMORY_REGION(p, len)
#define UNPOISON(p, len) ASAN_UNPOISON_MEMORY_REGION(p, len)
#else
#define POISON(p, len) ((void)0)
#define UNPOISON(p, len) ((void)0)
#endif

static const uint32_t class_bytes[] = {[CACHE_DATA] = CACHE_DATA_BYTES, [CACHE_NODE] = CACHE_NODE_BYTES};
static const uint8_t mode_mask[] = {
	[FRAME_DATA] = (1u << CACHE_FRAME_SLOTS) - 1, [FRAME_NODE] = 1, [FRAME_FREE] = 0};

/* ---- chunks and frames (the pool's lock is held) -------------------------------- */

static void frame_unlist(struct cache_frame *f)
{
	if (f->listed)
		LIST_REMOVE(f, link);
	f->listed = false;
}

/* Puts the frame on the list that its state asks for. */
static void frame_list(struct cache *c, struct cache_frame *f)
{
	frame_unlist(f);
	if (f->chunk->draining || (f->mode != FRAME_FREE && !f->free_mask))
		return;
	LIST_INSERT_HEAD(f->mode == FRAME_FREE ? &c->free : &c->partial, f, link);
	f->listed = true;
}

static void chunk_init(struct cache *c, struct cache_chunk *chunk)
{
	chunk->free_frames = CACHE_CHUNK_FRAMES;
	POISON(chunk->mem, CACHE_CHUNK_BYTES);
	/* Backwards: the list then gives addresses in ascending order, so that neighbours can be one I/O. */
	for (uint32_t i = CACHE_CHUNK_FRAMES; i-- > 0;) {
		struct cache_frame *f = &chunk->frames[i];

		f->chunk = chunk;
		f->mode = FRAME_FREE;
		for (uint32_t j = 0; j < CACHE_FRAME_SLOTS; j++) {
			f->slots[j].data = chunk->mem + i * CACHE_FRAME_BYTES + j * CACHE_DATA_BYTES;
			f->slots[j].frame = f;
			f->slots[j].slot = (uint8_t)j;
		}
		frame_list(c, f);
	}
}

static bool chunk_add(struct cache *c)
{
	struct cache_chunk *chunk;

	if (c->nchunks == c->chunks_cap) {
		size_t cap = c->chunks_cap ? c->chunks_cap * 2 : 16;
		void *grown = mem_realloc(c->chunks, cap * sizeof(*c->chunks));

		if (!grown)
			return false;
		c->chunks = grown;
		c->chunks_cap = cap;
	}
	chunk = cache_spare_take_locked(c);
	if (!chunk)
		chunk = cache_chunk_new();
	if (!chunk)
		return false;
	chunk_init(c, chunk);
	c->chunks[c->nchunks++] = chunk;
	return true;
}

static void chunk_free(struct cache_chunk *chunk)
{
	UNPOISON(chunk->mem, CACHE_CHUNK_BYTES);
	cache_chunk_free(chunk);
}

static void chunk_release_if_drained(struct cache *c, struct cache_chunk *chunk)
{
	size_t i = 0;

	if (!chunk->draining || chunk->held || chunk->free_frames < CACHE_CHUNK_FRAMES)
		return;
	while (c->chunks[i] != chunk)
		i++;
	c->chunks[i] = c->chunks[--c->nchunks];
	c->ndraining--;
	chunk_free(chunk);
}

static void chunk_set_draining(struct cache *c, struct cache_chunk *chunk, bool draining)
{
	chunk->draining = draining;
	c->ndraining += draining ? 1 : (size_t)-1;
	for (uint32_t i = CACHE_CHUNK_FRAMES; i-- > 0;)
		frame_list(c, &chunk->frames[i]);
}

/* ---- entries in frames (the pool's lock is held) --------------------------------- */

static struct cache_entry *entry_take(struct cache *c, enum cache_class class)
{
	struct cache_frame *f = class == CACHE_DATA ? LIST_FIRST(&c->partial) : NULL;
	struct cache_entry *e;

	if (!f) {
		f = LIST_FIRST(&c->free);
		if (!f)
			return NULL;
		f->mode = (uint8_t) class;
		f->free_mask = mode_mask[class];
		f->chunk->free_frames--;
		frame_list(c, f);
	}
	e = &f->slots[__builtin_ctz(f->free_mask)];
	f->free_mask &= (uint8_t)(f->free_mask - 1);
	if (!f->free_mask)
		frame_unlist(f);
	e->class = (uint8_t) class;
	atomic_store_explicit(&e->refs, 1, memory_order_relaxed);
	atomic_store_explicit(&e->hot, 0, memory_order_relaxed);
	UNPOISON(e->data, class_bytes[class]);
	c->bytes[class] += class_bytes[class];
	return e;
}

/* Gives memory back that nobody refers to any more. The frame may be gone afterwards. */
void cache_pool_release_locked(struct cache *c, struct cache_entry *e)
{
	struct cache_frame *f = e->frame;
	bool was_full = !f->free_mask;

	POISON(e->data, class_bytes[e->class]);
	c->bytes[e->class] -= class_bytes[e->class];
	f->free_mask |= (uint8_t)(1u << e->slot);
	if (f->free_mask == mode_mask[f->mode]) {
		f->mode = FRAME_FREE;
		f->free_mask = 0;
		f->chunk->free_frames++;
		frame_list(c, f);
		chunk_release_if_drained(c, f->chunk);
	} else if (was_full) {
		frame_list(c, f);
	}
}

/* ---- eviction (the pool's lock is held) -------------------------------------------- */

static bool entry_is_evictable(struct cache_entry *e)
{
	return atomic_load_explicit(&e->published, memory_order_acquire) &&
	       atomic_load_explicit(&e->refs, memory_order_acquire) == 1;
}

static bool entry_evict(struct cache *c, struct cache_entry *e)
{
	uint64_t hash;
	struct cache_shard *s;
	struct cache_entry *removed;
	bool mine;

	if (!entry_is_evictable(e))
		return false;
	hash = cache_hash(e->class, e->addr);
	s = cache_shard_of(c, hash);
	lock_take(&s->lock);
	mine = entry_is_evictable(e);
	if (mine) {
		removed = cache_shard_remove_locked(s, cache_shard_find_locked(s, hash, e->class, e->addr));
		ASSERT(removed == e);
	}
	lock_drop(&s->lock);
	if (mine) {
		c->evictions[e->class]++;
		cache_pool_release_locked(c, e);
	}
	return mine;
}

/* True when the entry was hot, which it then is one round less. */
static bool entry_cool(struct cache_entry *e)
{
	uint8_t hot = atomic_load_explicit(&e->hot, memory_order_relaxed);

	if (hot)
		atomic_store_explicit(&e->hot, hot - 1, memory_order_relaxed);
	return hot;
}

/* The used slots of a frame. */
static uint8_t frame_used(const struct cache_frame *f)
{
	return mode_mask[f->mode] & (uint8_t)~f->free_mask;
}

static void frame_evict_slots(struct cache *c, struct cache_frame *f, uint8_t slots)
{
	for (uint8_t left = slots; left; left &= (uint8_t)(left - 1))
		entry_evict(c, &f->slots[__builtin_ctz(left)]);
}

/*
 * The hand passes a frame. Data blocks are evicted one by one for data, but for a node only when that empties
 * the frame. `force`: hot ones too.
 */
static void frame_sweep(struct cache *c, struct cache_frame *f, enum cache_class want, bool force)
{
	uint8_t victims = 0, used = frame_used(f);

	for (uint8_t left = used; left; left &= (uint8_t)(left - 1)) {
		uint32_t i = (uint32_t)__builtin_ctz(left);

		if (entry_is_evictable(&f->slots[i]) && (!entry_cool(&f->slots[i]) || force))
			victims |= (uint8_t)(1u << i);
	}
	if (want == CACHE_DATA || victims == used)
		frame_evict_slots(c, f, victims);
}

static bool pool_has(const struct cache *c, enum cache_class class)
{
	return LIST_FIRST(&c->free) || (class == CACHE_DATA && LIST_FIRST(&c->partial));
}

/* Turns the hand until memory for the class is free; false after full rounds in which all was pinned. */
static bool pool_sweep(struct cache *c, enum cache_class class)
{
	size_t frames = c->nchunks * CACHE_CHUNK_FRAMES, patience = min_u64(frames, SWEEP_PATIENCE);

	for (size_t i = 0; i < frames + patience && !pool_has(c, class); i++) {
		struct cache_chunk *chunk;

		c->hand = c->hand + 1 < frames ? c->hand + 1 : 0;
		chunk = c->chunks[c->hand / CACHE_CHUNK_FRAMES];
		if (!chunk->draining)
			frame_sweep(c, &chunk->frames[c->hand % CACHE_CHUNK_FRAMES], class, i >= patience);
	}
	return pool_has(c, class);
}

static void chunk_drain(struct cache *c, struct cache_chunk *chunk)
{
	chunk->held = true;
	for (uint32_t i = 0; i < CACHE_CHUNK_FRAMES; i++)
		frame_evict_slots(c, &chunk->frames[i], frame_used(&chunk->frames[i]));
	chunk->held = false;
	chunk_release_if_drained(c, chunk);
}

/* Brings the chunks towards the limit, as far as pins allow. */
static void pool_shrink(struct cache *c)
{
	for (size_t i = c->nchunks; i-- > 0 && c->nchunks > c->max_chunks;) {
		if (!c->chunks[i]->draining && c->nchunks - c->ndraining > c->max_chunks)
			chunk_set_draining(c, c->chunks[i], true);
		if (c->chunks[i]->draining)
			chunk_drain(c, c->chunks[i]);
	}
}

/* Everything is pinned: memory beyond the limit, from a chunk that was to go or a new one. */
static bool pool_exceed(struct cache *c, enum cache_class class)
{
	for (size_t i = 0; i < c->nchunks; i++) {
		if (c->chunks[i]->draining)
			chunk_set_draining(c, c->chunks[i], false);
		if (pool_has(c, class))
			return true;
	}
	return chunk_add(c);
}

struct cache_entry *cache_pool_alloc_locked(struct cache *c, enum cache_class class)
{
	if (!pool_has(c, class)) {
		if (c->nchunks > c->max_chunks)
			pool_shrink(c);
		if (!(c->nchunks < c->max_chunks && chunk_add(c)) && !pool_sweep(c, class) &&
		    !pool_exceed(c, class))
			return NULL;
	}
	return entry_take(c, class);
}

void cache_pool_resize_locked(struct cache *c, size_t max_chunks)
{
	c->max_chunks = max_chunks;
	for (size_t i = 0; i < c->nchunks; i++)
		if (c->chunks[i]->draining)
			chunk_set_draining(c, c->chunks[i], false);
	cache_spare_trim_locked(c);
	pool_shrink(c);
}

/* ---- the end, and checking ------------------------------------------------------------ */

static void chunk_assert_unpinned(struct cache_chunk *chunk)
{
	for (uint32_t i = 0; i < CACHE_CHUNK_FRAMES; i++) {
		struct cache_frame *f = &chunk->frames[i];

		for (uint8_t left = frame_used(f); left; left &= (uint8_t)(left - 1))
			ASSERT(entry_is_evictable(&f->slots[__builtin_ctz(left)]));
	}
}

void cache_pool_fini(struct cache *c)
{
	for (size_t i = 0; i < c->nchunks; i++) {
		chunk_assert_unpinned(c->chunks[i]);
		chunk_free(c->chunks[i]);
	}
	mem_free(c->chunks);
}

size_t cache_pool_metadata_locked(const struct cache *c)
{
	return c->chunks_cap * sizeof(*c->chunks) +
	       (c->nchunks + c->spare.count) * sizeof(struct cache_chunk);
}

static void frame_check(struct cache *c, struct cache_frame *f, uint64_t *bytes, uint64_t *published)
{
	bool has_free = f->mode == FRAME_FREE || f->free_mask;

	ASSERT(f->listed == (has_free && !f->chunk->draining));
	ASSERT(f->mode == FRAME_FREE || frame_used(f));
	for (uint8_t left = frame_used(f); left; left &= (uint8_t)(left - 1)) {
		struct cache_entry *e = &f->slots[__builtin_ctz(left)];
		uint64_t hash = cache_hash(e->class, e->addr);

		ASSERT(e->class == f->mode && e->refs > 0);
		bytes[e->class] += class_bytes[e->class];
		if (!e->published)
			continue;
		published[e->class]++;
		ASSERT(*cache_shard_find_locked(cache_shard_of(c, hash), hash, e->class, e->addr) == e);
	}
}

void cache_check(struct cache *c)
{
	uint64_t bytes[CACHE_CLASSES] = {0}, published[CACHE_CLASSES] = {0};
	struct cache_stats st;
	size_t draining = 0;

	for (size_t i = 0; i < c->nchunks; i++) {
		struct cache_chunk *chunk = c->chunks[i];
		uint32_t free_frames = 0;

		for (uint32_t j = 0; j < CACHE_CHUNK_FRAMES; j++) {
			frame_check(c, &chunk->frames[j], bytes, published);
			free_frames += chunk->frames[j].mode == FRAME_FREE;
		}
		ASSERT(free_frames == chunk->free_frames);
		draining += chunk->draining;
	}
	ASSERT(draining == c->ndraining);
	cache_get_stats(c, &st);
	for (uint32_t i = 0; i < CACHE_CLASSES; i++)
		ASSERT(st.entries[i] == published[i] && st.bytes[i] == bytes[i]);
}
