/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/tree/node_prefetch.h: reads nodes that one thread will need soon into the cache, many at a time.
 *
 * Invariants
 * 1. A node that was read ahead stays pinned until it is taken, or the whole ends. At most NODE_PREFETCH_MAX
 *    are under way or pinned, and no more than a sixteenth of the cache.
 * 2. It only helps: what cannot be read ahead, for whatever reason, is left to node_read, which tries twins
 *    and reports errors. So a read ahead changes nothing but the cache, and logs nothing.
 */
#ifndef FS_TREE_NODE_PREFETCH_H
#define FS_TREE_NODE_PREFETCH_H

#include "fs/device/device.h"
#include "fs/tree/node.h"

struct cache_entry;
struct fs;

#define NODE_PREFETCH_MAX 64u

struct node_prefetch;

struct prefetch_slot {
	struct node_prefetch *pf;
	struct device_io io;
	struct node_ident id; /* addr 0: the slot is free */
	struct cache_entry *entry;
	bool under_way;
};

struct node_prefetch {
	struct fs *fs;
	struct device_queue *q;
	unsigned max_leaves, leaves;	 /* that may be, and that are, in slots */
	unsigned max_interior, interior; /* likewise; few of these lead to many leaves */
	struct prefetch_slot slot[NODE_PREFETCH_MAX];
};

/* q: the thread's queue; writes may be under way on it as well. */
void node_prefetch_init(struct node_prefetch *pf, struct fs *fs, struct device_queue *q);
/* Waits for what is under way. */
void node_prefetch_fini(struct node_prefetch *pf);
/* Starts to read the node, if it is not there or under way. False: not now, too many are. */
bool node_prefetch_want(struct node_prefetch *pf, const struct node_ident *id);
/* The caller reads the node next: waits for it if it is under way, and makes room for others. */
void node_prefetch_take(struct node_prefetch *pf, uint64_t addr);

#endif
