/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/cache/cache.h: the one cache of tree nodes (16 KiB) and data blocks (4 KiB), under one limit, by logical
 * address.
 *
 * Memory is mapped in chunks of CACHE_CHUNK_BYTES and cut into frames of 16 KiB; a frame holds one node or
 * four data blocks and changes between the two when it is empty. So memory moves between the classes 16 KiB
 * at a time, on demand, and eviction (one CLOCK hand over all frames) alone decides how it is shared.
 *
 * The limit is on chunk memory: it is at most max(limit rounded down to chunks, one chunk), except that
 * cache_alloc goes above it when everything is pinned. The excess goes back, chunk by chunk, as later
 * allocations find its pins gone. Up to CACHE_SPARES chunks (cache_int.h) are mapped ahead of need. The
 * cache's own structures come on top: at most CACHE_METADATA_PER_BLOCK bytes for each 4 KiB, plus
 * CACHE_METADATA_FIXED.
 *
 * Invariants
 * 1. A published entry's data and address never change. Writers publish a new entry instead.
 * 2. A pinned entry's memory stays as it is, published or not, replaced or not, until its last pin is put.
 * 3. An entry is found by cache_get from publish until it is replaced, invalidated or evicted. Only entries
 *    that nobody pins are evicted.
 * 4. `data` is aligned to 4096 (nodes: to 16384) and can be given to a device as it is.
 * 5. Publishing leaves an entry cold; each cache_get makes it hot. The hand evicts cold entries first, so
 *    what is written or read once goes before what is used again. Nodes outlast data by one round of the
 *    hand.
 * 6. In a full cache, what is fetched ahead (cache_alloc_ahead) takes 1 / CACHE_AHEAD_PART of the limit until
 *    somebody reads it: beyond that the oldest of it goes, not what others use. Its addresses are kept in a
 *    ring, 8 bytes each.
 *
 * Threads: every call from any thread. One thread owns an unpublished entry. Locks: LOCK_CACHE_POOL, then
 * LOCK_CACHE_SHARD; never held across I/O; no call takes any other lock of the engine.
 */
#ifndef FS_CACHE_CACHE_H
#define FS_CACHE_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CACHE_DATA_BYTES 4096u
#define CACHE_NODE_BYTES 16384u
#define CACHE_CHUNK_BYTES (2u << 20)
#define CACHE_METADATA_PER_BLOCK 72u
#define CACHE_METADATA_FIXED 32768u
#define CACHE_AHEAD_PART 8u

enum cache_class { CACHE_DATA, CACHE_NODE, CACHE_CLASSES };

struct cache;
struct cache_frame;

/* Callers read data and addr (of a published entry) and nothing else. */
struct cache_entry {
	void *data;
	uint64_t addr; /* logical byte address, once published */

	struct cache_entry *hash_next; /* the shard's lock */
	struct cache_frame *frame;
	_Atomic uint32_t refs;	   /* pins, and one more while it is published */
	_Atomic uint8_t hot;	   /* rounds of the hand that it survives */
	_Atomic uint8_t published; /* written under the shard's lock */
	uint8_t class;
	uint8_t slot; /* within the frame */
};

/* -ENOMEM. Memory for pages is mapped as it is needed. */
int cache_new(uint64_t limit_bytes, struct cache **ret_cache);
/* Asserts that nothing is pinned. Accepts NULL. */
void cache_free(struct cache *c);

/*
 * Starts a thread that gives chunks their pages before they are needed. Without it writers wait for the
 * kernel to find and clear pages, which takes milliseconds a chunk in a virtual machine. Call it at most
 * once. Returns a negative errno on failure.
 */
int cache_start_thread(struct cache *c);

/* The entry at addr, pinned and made hot; NULL if there is none. */
struct cache_entry *cache_get(struct cache *c, enum cache_class class, uint64_t addr);

/*
 * A new entry, pinned and unpublished, with undefined data. Evicts as needed; goes above the limit when
 * everything is pinned. NULL: memory is out.
 */
struct cache_entry *cache_alloc(struct cache *c, enum cache_class class);
/* As n times cache_alloc, cheaper. False: memory is out, and nothing was allocated. */
bool cache_alloc_many(struct cache *c, enum cache_class class, size_t n, struct cache_entry **ret_entries);

/*
 * For data blocks that nobody has asked for yet, `n` of them: as cache_alloc_many, taking room from older
 * ones of the kind (invariant 6). They are published with cache_publish_ahead.
 */
bool cache_alloc_ahead(struct cache *c, size_t n, struct cache_entry **ret_entries);
void cache_publish_ahead(struct cache *c, struct cache_entry *entry, uint64_t addr);
/* Whether cache_get would find a data block. Makes nothing hot, and does not count as a hit. */
bool cache_has(struct cache *c, uint64_t addr);

/*
 * Makes an unpublished entry of the caller's findable at addr (a multiple of 4096), in place of an older one
 * there, which dies when its pins go. The caller's pin stays.
 */
void cache_publish(struct cache *c, struct cache_entry *entry, uint64_t addr);

/* One more pin on an entry that the caller has pinned. */
static inline void cache_pin(struct cache_entry *entry)
{
	atomic_fetch_add_explicit(&entry->refs, 1, memory_order_relaxed);
}

/* Drops a pin. Frees an entry that is not published (any more) with its last pin. Accepts NULL. */
void cache_put(struct cache *c, struct cache_entry *entry);

/* Removes what is at addr, if anything; a holder of a pin keeps it. */
void cache_invalidate(struct cache *c, enum cache_class class, uint64_t addr);
/* The same for every data block within [addr, addr + len_bytes), both multiples of 4096. */
void cache_invalidate_range(struct cache *c, uint64_t addr, uint64_t len_bytes);

/*
 * For tests. Sets the limit. Growing never fails (without memory for a larger hash table the cache is
 * slower). Shrinking evicts at once everything that is not pinned.
 */
void cache_resize(struct cache *c, uint64_t limit_bytes);

struct cache_stats {
	uint64_t hits[CACHE_CLASSES], misses[CACHE_CLASSES];
	uint64_t evictions[CACHE_CLASSES];
	uint64_t entries[CACHE_CLASSES]; /* published ones */
	uint64_t bytes[CACHE_CLASSES];	 /* held by allocated entries, published or not */
	uint64_t chunk_bytes;		 /* mapped; this is what the limit applies to */
	uint64_t limit_bytes;		 /* in force, after rounding */
	uint64_t metadata_bytes;
};
/* A snapshot; its numbers need not belong to one instant. */
void cache_get_stats(struct cache *c, struct cache_stats *ret_stats);

/*
 * For tests. Asserts all that must hold among frames, hash tables and counts. No other call may be under way.
 */
void cache_check(struct cache *c);

#endif
