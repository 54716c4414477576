/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/dump_int.h: what the parts of the dump share. dump.c runs it and prints superblocks, claim and
 * spares; dump_tree.c reads nodes and walks trees; dump_group.c knows the block groups and prints their
 * caches; dump_volume.c prints the root tree and extents; dump_log.c the flush log.
 *
 * Functions return 0 or a negative errno that ends the dump (no memory); what is wrong with the pool is a
 * problem, and counted.
 */
#ifndef FS_CHECK_DUMP_INT_H
#define FS_CHECK_DUMP_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/print.h"
#include "fs/format/super_format.h"

struct device;
struct device_queue;
struct fs_dump_options;
struct group_item;
struct node_ident;

struct dump {
	struct device *dev;
	struct device_queue *q;
	const struct fs_dump_options *opt;
	struct super_block sb; /* the one that the pool would be opened with; if has_super */
	bool has_super, has_groups;
	uint64_t problems;
	struct group_item *group; /* sorted by start */
	size_t groups, groups_cap;
	void *node[NODE_LEVEL_MAX][GROUP_STRIPES_MAX];
	uint8_t *block; /* SUPER_SIZE bytes */
	struct print p;
};

void dump_problem(struct dump *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Counts an item of a list. False: there were as many as are wanted, and that has been said. */
bool dump_within_limit(struct dump *d, uint64_t *n);
/* Bytes of the device. False: they cannot be read, which has been said. */
bool dump_read(struct dump *d, uint64_t off, void *buf, uint64_t len, const char *what);

/* ---- dump_tree.c ---- */

struct dump_walk {
	struct dump *d;
	const char *name;
	/* Nonzero ends the walk and is returned by it. */
	int (*item)(struct dump_walk *w, struct key key, struct value value);
	void *arg;
	/* Found: */
	uint64_t nodes, leaves, items, bad_copies, lost_nodes;
	uint64_t left; /* of nodes, before it has to be a loop */
};

/* Prints a summary. 0, also where nodes are lost; else what `item` returned. */
int dump_walk(struct dump_walk *w, const struct tree_root *root);
/* All that stands in a node, by its logical address. */
void dump_node(struct dump *d, uint64_t addr);

/* ---- dump_group.c ---- */

/* Reads the superblock's groups, and the group tree; prints them where `print` is set. */
int dump_groups(struct dump *d, bool print);
/* The group that all of [addr, addr + len) lies in; NULL. */
const struct group_item *dump_group_find(const struct dump *d, uint64_t addr, uint64_t len);
int dump_caches(struct dump *d, bool entries);

/* ---- dump_volume.c ---- */

int dump_volumes(struct dump *d);
int dump_volume(struct dump *d, const char *name);
/* A record for an item of a volume's tree. False: it is none. */
bool dump_extents(struct dump *d, struct key key, struct value value);

/* ---- dump_log.c ---- */

int dump_log(struct dump *d);

#endif
