/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/lib/tree_nodes.h: finding nodes of a volume's committed tree on the device, and destroying them. */
#ifndef TESTS_LIB_TREE_NODES_H
#define TESTS_LIB_TREE_NODES_H

#include "fs/tree/node.h"
#include "tests/lib/engine.h"

struct fs_volume;

/* A node, and the blocks whose extents stand below it: [first, end). */
struct tree_place {
	struct node_ident id;
	uint64_t first, end;
};

/* The node of `level` that a look-up of the block comes through. The tree has that many levels. */
struct tree_place tree_place_of(struct engine *e, struct fs_volume *vol, uint64_t blk, uint8_t level);

/* Both copies do not match their checksums any more. */
void rot_node(struct engine *e, uint64_t addr);

#endif
