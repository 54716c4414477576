/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/tree/node.h: tree nodes in memory: reading (with checksum, identity and twin), searching, building.
 *
 * Invariants
 * 1. A node that node_read returned is valid: checksum, own address, owner, generation, level, items inside
 *    the node, keys ascending.
 * 2. Nodes in the cache are immutable; a pinned one stays readable after its space was freed.
 * 3. A copy that fails its check is read from its twin and rewritten, if the pool is writable.
 */
#ifndef FS_TREE_NODE_H
#define FS_TREE_NODE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/cache/cache.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"

struct cache_entry;

struct fs;
struct device_queue;

static inline const struct node_header *node_header(const struct cache_entry *entry)
{
	return entry->data;
}
static inline unsigned node_count(const struct node_header *node)
{
	return le16_to_cpu(node->nritems);
}
struct key node_key(const struct node_header *node, unsigned slot);
struct value node_value(const struct node_header *node, unsigned slot);

/* The last slot whose key is <= key; -1 if there is none. */
int node_floor(const struct node_header *node, struct key key);

/* What is known about a node before it is read. */
struct node_ident {
	uint64_t addr, generation, owner;
	uint8_t level;
};

/*
 * Pins the node. q: the calling thread's queue, on which it may wait; NULL: cache only, -EAGAIN if it is not
 * there. -EUCLEAN: no copy is valid. -EIO: neither, and of one the device says that it cannot read it, which
 * may pass. A node without a good copy is logged only the first time.
 */
int node_read(struct fs *fs, struct device_queue *q, const struct node_ident *id,
	      struct cache_entry **ret_entry);

/* Whether node_read's error means that no copy can be read. */
static inline bool node_is_lost(int error)
{
	return error == -EIO || error == -EUCLEAN;
}

/*
 * The nodes that were found without a good copy, so that each is logged once. Bounded: if there are more, an
 * older one is logged again.
 */
#define BAD_NODES_MAX 256u
struct bad_nodes {
	struct lock lock;
	_Atomic unsigned count; /* of entries that are not 0 */
	unsigned next;
	/* 0: unused. Bit 0: node_read has logged it; bit 1: the volume whose reads it fails was logged. */
	uint64_t addr[BAD_NODES_MAX];
};

void bad_nodes_init(struct bad_nodes *bn);
void bad_nodes_fini(struct bad_nodes *bn);
/* True the first time for this node and this bit. */
bool bad_nodes_note(struct bad_nodes *bn, uint64_t addr, unsigned bit);

/*
 * Bounds and order of an untrusted node whose address was read; 0 or -EUCLEAN, *ret_why is a constant string.
 */
int node_validate(const struct node_header *node, const struct node_ident *id, const uint8_t uuid[16],
		  const char **ret_why);

/* The child that slot points to. -EUCLEAN on an impossible pointer. */
int node_child(const struct node_header *node, unsigned slot, uint64_t owner, struct node_ident *ret_id);

/* Bytes that an item takes in a node. */
static inline unsigned node_item_bytes(unsigned key_len, unsigned value_len)
{
	return (unsigned)sizeof(struct node_slot) + key_len + value_len;
}

/*
 * Building: init an empty node in buf, append items in ascending order (the caller knows that they fit), seal
 * it.
 */
void node_init(struct node_header *node, const struct node_ident *id, const uint8_t uuid[16]);
void node_append(struct node_header *node, struct key key, struct value value);
void node_seal(struct node_header *node);

#endif
