/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/cache/write_batch.h: the many writes of a commit. Neighbours are joined, and a bounded number is under
 * way at a time. One thread (the committer), on its own device queue, on which nothing else may be under way.
 */
#ifndef FS_CACHE_WRITE_BATCH_H
#define FS_CACHE_WRITE_BATCH_H

#include <stdint.h>

struct cache;
struct cache_entry;
struct device_queue;
struct write_vector;

#define WRITE_BATCH_NODES 64u /* joined into one write */
#define WRITE_BATCH_UNDER_WAY 64u

struct write_batch {
	struct cache *cache;
	struct device_queue *q;
	struct write_vector *open[2]; /* being filled, by copy */
	unsigned under_way;
	int error; /* the first one of the node writes */
	uint64_t bytes;
};

void write_batch_init(struct write_batch *wb, struct cache *cache, struct device_queue *q);

/* Writes a node to its n (1 or 2) copies. Takes over the caller's pin, also on failure. -ENOMEM. */
int write_batch_node(struct write_batch *wb, struct cache_entry *entry, const uint64_t *off, int n);

/*
 * Writes a buffer (aligned, len a multiple of 4096). *error is set on failure, before write_batch_wait
 * returns. The buffer and `error` stay until then. -ENOMEM.
 */
int write_batch_buffer(struct write_batch *wb, void *buf, uint64_t len, uint64_t off, int *error);

/* Waits for all of it; returns the first error of a node. */
int write_batch_wait(struct write_batch *wb);

#endif
