/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/node_format.h: the bytes of a tree node.
 *
 * A node is NODE_SIZE bytes: header, an array of item slots that grows up, and the items' bytes (key directly
 * followed by value) that grow down from the end. Keys are byte strings in memcmp order, strictly ascending.
 * In an interior node (level > 0) a value is a struct node_pointer, and its key is exactly the first key of
 * the child. Nodes are never changed after they were written: a change writes a new node somewhere else.
 */
#ifndef FS_FORMAT_NODE_FORMAT_H
#define FS_FORMAT_NODE_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "base/le.h"

struct print;

#define NODE_SIZE 16384u
#define NODE_MAGIC 0x444e5942u /* "BYND" */
#define NODE_LEVEL_MAX 8u      /* levels 0 (leaf) to 7 */
#define NODE_KEY_MAX 1040u

struct node_header {
	le32 crc; /* CRC32C of everything after this field, NODE_SIZE - 4 bytes */
	le32 magic;
	le64 addr;  /* the logical address it was written to */
	le64 owner; /* id of the tree */
	le64 generation;
	uint8_t pool[8]; /* the first bytes of the pool's UUID */
	uint8_t level;
	uint8_t reserved0;
	le16 nritems;
	le32 data_off; /* offset of the lowest item byte; NODE_SIZE in an empty node */
	uint8_t reserved[16];
};
static_assert(sizeof(struct node_header) == 64, "node_header");

struct node_slot {
	le16 off; /* of the key, from the start of the node */
	le16 key_len;
	le16 value_len;
};
static_assert(sizeof(struct node_slot) == 6, "node_slot");

struct node_pointer {
	le64 addr;
	le64 generation;
};
static_assert(sizeof(struct node_pointer) == 16, "node_pointer");

#define NODE_CAPACITY (NODE_SIZE - sizeof(struct node_header))

/* Which counts of a root are only upper bounds, because nodes were lost in every copy. */
enum tree_root_flags {
	TREE_LEAF_LOST = 1, /* `items` is an upper bound */
	/* so are `nodes` and `leaves`: an interior node was lost, and what was below it is unknown */
	TREE_NODE_LOST = 2,
};
#define TREE_ROOT_FLAGS_KNOWN 3u

/* A root, as in the items and superblocks that name a tree. */
struct tree_root_item {
	le64 addr; /* 0: the tree is empty */
	le64 generation;
	le64 nodes; /* all of them, leaves included */
	le64 leaves;
	le64 items; /* in the leaves */
	uint8_t level;
	uint8_t flags; /* enum tree_root_flags */
	uint8_t reserved[6];
};
static_assert(sizeof(struct tree_root_item) == 48, "tree_root_item");

/* ---- the same for the program (node_format.c) ------------------------------ */

struct tree_root {
	uint64_t owner;
	uint64_t addr; /* 0: empty */
	uint64_t generation;
	uint64_t nodes, leaves, items;
	uint8_t level; /* of the root node */
	uint8_t flags; /* enum tree_root_flags */
};

void tree_root_pack(const struct tree_root *root, struct tree_root_item *ret_item);
/* Any bytes are accepted: what they point to is checked when it is read. */
void tree_root_unpack(const struct tree_root_item *item, uint64_t owner, struct tree_root *ret_root);
/* What nobody writes there, although it can be read; NULL: nothing. */
const char *tree_root_doubt(const struct tree_root_item *item);
/* Into a record that was begun: fields whose names begin with the prefix. */
void tree_root_print(struct print *p, const char *prefix, const struct tree_root *root);

uint32_t node_checksum(const struct node_header *node);
/* Into a record that was begun. Any bytes are accepted. */
void node_header_print(struct print *p, const struct node_header *node);

#endif
