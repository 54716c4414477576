/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/node_format.h"

#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "fs/format/print.h"

void tree_root_pack(const struct tree_root *root, struct tree_root_item *ret_item)
{
	memset(ret_item, 0, sizeof(*ret_item));
	ret_item->addr = cpu_to_le64(root->addr);
	ret_item->generation = cpu_to_le64(root->generation);
	ret_item->nodes = cpu_to_le64(root->nodes);
	ret_item->leaves = cpu_to_le64(root->leaves);
	ret_item->items = cpu_to_le64(root->items);
	ret_item->level = root->level;
	ret_item->flags = root->flags;
}

void tree_root_unpack(const struct tree_root_item *item, uint64_t owner, struct tree_root *ret_root)
{
	*ret_root = (struct tree_root){
		.owner = owner,
		.addr = le64_to_cpu(item->addr),
		.generation = le64_to_cpu(item->generation),
		.nodes = le64_to_cpu(item->nodes),
		.leaves = le64_to_cpu(item->leaves),
		.items = le64_to_cpu(item->items),
		.level = item->level,
		.flags = item->flags,
	};
}

const char *tree_root_doubt(const struct tree_root_item *item)
{
	for (size_t i = 0; i < sizeof(item->reserved); i++)
		if (item->reserved[i])
			return "the reserved bytes of its root are not zero";
	return item->flags & ~TREE_ROOT_FLAGS_KNOWN ? "its root has unknown flags" : NULL;
}

static void number(struct print *p, const char *prefix, const char *name, uint64_t value)
{
	char full[64];

	snprintf(full, sizeof(full), "%s_%s", prefix, name);
	print_number(p, full, value);
}

void tree_root_print(struct print *p, const char *prefix, const struct tree_root *root)
{
	static const char *const flags[] = {"leaf_lost", "node_lost"};
	char full[64];

	number(p, prefix, "addr", root->addr);
	number(p, prefix, "generation", root->generation);
	number(p, prefix, "level", root->level);
	number(p, prefix, "nodes", root->nodes);
	number(p, prefix, "leaves", root->leaves);
	number(p, prefix, "items", root->items);
	snprintf(full, sizeof(full), "%s_flags", prefix);
	if (root->flags)
		print_flags(p, full, root->flags, flags, 2);
}

uint32_t node_checksum(const struct node_header *node)
{
	return crc32c((const char *)node + sizeof(node->crc), NODE_SIZE - sizeof(node->crc));
}

void node_header_print(struct print *p, const struct node_header *node)
{
	print_number(p, "addr", le64_to_cpu(node->addr));
	print_number(p, "owner", le64_to_cpu(node->owner));
	print_number(p, "generation", le64_to_cpu(node->generation));
	print_number(p, "level", node->level);
	print_number(p, "items", le16_to_cpu(node->nritems));
	print_number(p, "data_off", le32_to_cpu(node->data_off));
	print_bytes(p, "pool", node->pool, sizeof(node->pool));
	print_hex(p, "crc", le32_to_cpu(node->crc));
}
