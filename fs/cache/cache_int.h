/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/cache/cache_int.h: what cache.c and cache_pool.c share. The *pool* (cache_pool.c, one lock) owns memory:
 * chunks, frames, free lists and the CLOCK hand. The *shards* (cache.c, a lock each) are the hash table. A
 * hit takes one shard's lock and never the pool's; eviction takes the pool's, then a shard's.
 *
 * Invariants
 * 1. The hash table holds one reference on each entry in it, the pins are the others. Whoever drops the last
 *    one frees the entry. Only cache_get adds a pin without having one, under the shard's lock. So under that
 *    lock an entry with one reference is the table's alone and can be removed.
 * 2. An entry's address is written once in its life, before `published` is set; its memory goes back, and is
 *    given out again, only under the pool's lock. So the hand may read the address of a published entry.
 * 3. A frame with free blocks is on the list of its kind, unless its chunk is draining. A draining chunk
 *    gives nothing out, and is unmapped when its last frame becomes free.
 * 4. Chunks and spare chunks together stay within the limit, except for what cache_alloc adds when everything
 *    is pinned, and for the chunk that the thread is making.
 */
#ifndef FS_CACHE_CACHE_INT_H
#define FS_CACHE_CACHE_INT_H

#include <pthread.h>
#include <sys/queue.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/cache/cache.h"

#define CACHE_SHARDS 64u
#define CACHE_SHARD_SHIFT 58
#define CACHE_FRAME_BYTES CACHE_NODE_BYTES
#define CACHE_CHUNK_FRAMES (CACHE_CHUNK_BYTES / CACHE_FRAME_BYTES)
#define CACHE_SPARES 8u
#define CACHE_FRAME_SLOTS (CACHE_FRAME_BYTES / CACHE_DATA_BYTES)

enum frame_mode { FRAME_DATA = CACHE_DATA, FRAME_NODE = CACHE_NODE, FRAME_FREE };

struct cache_chunk;

struct cache_frame {
	struct cache_entry slots[CACHE_FRAME_SLOTS];
	LIST_ENTRY(cache_frame) link; /* while `listed` */
	struct cache_chunk *chunk;
	uint8_t mode;
	uint8_t free_mask; /* slots not given out; 0 in a free frame */
	bool listed;
};
LIST_HEAD(frame_list, cache_frame);

struct cache_chunk {
	char *mem;
	uint32_t free_frames;
	bool draining;
	bool held; /* being walked: must not be unmapped now */
	struct cache_frame frames[CACHE_CHUNK_FRAMES];
};

/* Chunks that are mapped and have their pages already: cache_spare.c. */
struct cache_spare {
	struct cache_chunk *chunk[CACHE_SPARES];
	size_t count, wanted; /* wanted: none before the first chunk is used */
	bool runs, stop;
	pthread_t thread;
	pthread_cond_t cond;
};

/* What was fetched ahead, the oldest first. Some may be gone, or read, meanwhile. */
struct cache_ahead {
	uint64_t *addr; /* a ring */
	size_t cap, first, count;
};

struct cache_shard {
	struct lock lock;
	uint64_t mask;
	struct cache_entry **buckets;
	uint64_t entries[CACHE_CLASSES], hits[CACHE_CLASSES], misses[CACHE_CLASSES];
} __attribute__((aligned(64)));

struct cache {
	struct lock lock; /* LOCK_CACHE_POOL: all up to the shards */
	struct cache_chunk **chunks;
	size_t nchunks, chunks_cap, max_chunks, ndraining;
	size_t hand; /* in frames, over all chunks */
	struct frame_list free, partial;
	struct cache_spare spare;
	struct cache_ahead ahead;
	uint64_t bytes[CACHE_CLASSES], evictions[CACHE_CLASSES];
	struct cache_shard shards[CACHE_SHARDS];
};

/* ---- the hash table: cache.c fills it, the pool takes victims out ---- */

static inline uint64_t cache_hash(enum cache_class class, uint64_t addr)
{
	uint64_t h = ((addr / CACHE_DATA_BYTES) * 2 + class) * 0x9e3779b97f4a7c15u;

	return h ^ h >> 32;
}

static inline struct cache_shard *cache_shard_of(struct cache *c, uint64_t hash)
{
	return &c->shards[hash >> CACHE_SHARD_SHIFT];
}

/* The pointer to the entry of this key, or the place at the end of its bucket where it would go. */
static inline struct cache_entry **cache_shard_find_locked(struct cache_shard *s, uint64_t hash,
							   enum cache_class class, uint64_t addr)
{
	struct cache_entry **at = &s->buckets[hash & s->mask];

	while (*at && ((*at)->addr != addr || (*at)->class != class))
		at = &(*at)->hash_next;
	return at;
}

/* Takes the entry out; the table's reference becomes the caller's. */
static inline struct cache_entry *cache_shard_remove_locked(struct cache_shard *s, struct cache_entry **at)
{
	struct cache_entry *e = *at;

	*at = e->hash_next;
	ASSERT(e->class < CACHE_CLASSES);
	atomic_store_explicit(&e->published, 0, memory_order_relaxed);
	s->entries[e->class]--;
	return e;
}

/* ---- cache_spare.c: memory of chunks ---- */

/* A chunk whose pages are not there yet, or NULL. Its frames are all zeros. */
struct cache_chunk *cache_chunk_new(void);
void cache_chunk_free(struct cache_chunk *chunk);
/* A chunk that has its pages, or NULL if there is none. The pool's lock is held, as for the next call. */
struct cache_chunk *cache_spare_take_locked(struct cache *c);
/* Gives back those that the limit has no room for. */
void cache_spare_trim_locked(struct cache *c);
/* Ends the thread and frees them. No lock. */
void cache_spare_fini(struct cache *c);

/* ---- cache_ahead.c ---- */

/*
 * Makes room for that limit, unless another one is in force by now. If memory is out, room stays as it was.
 * No lock.
 */
void cache_ahead_resize(struct cache *c, size_t max_chunks);
void cache_ahead_fini(struct cache *c);

/* ---- cache_pool.c: the pool's lock is held ---- */

/* An entry with one pin; evicts as needed. NULL: memory is out. */
struct cache_entry *cache_pool_alloc_locked(struct cache *c, enum cache_class class);
/* Gives back memory that nobody refers to any more. */
void cache_pool_release_locked(struct cache *c, struct cache_entry *e);
/* Sets the limit and shrinks to it as far as pins allow. */
void cache_pool_resize_locked(struct cache *c, size_t max_chunks);

/* Unmaps everything; asserts that nothing is pinned. No lock: the cache is going. */
void cache_pool_fini(struct cache *c);
/* Bytes of metadata of the pool. */
size_t cache_pool_metadata_locked(const struct cache *c);

#endif
