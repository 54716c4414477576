/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_int.h: what the checker's parts share. check.c runs it and checks the superblocks,
 * check_group.c knows what is where and what refers to it, check_tree.c walks trees, check_volume.c knows
 * what is in them, check_data.c reads data, check_log.c reads the flush log, check_report.c puts findings
 * into words.
 *
 * Functions return 0 or a negative errno that ends the check (no memory); what is wrong with the pool is a
 * finding.
 */
#ifndef FS_CHECK_CHECK_INT_H
#define FS_CHECK_CHECK_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

struct node_ident;

struct extent;

#define CHECK_LINES_MAX 10000u /* further findings are only counted */
#define CHECK_DATA_UNDER_WAY 16u
#define CHECK_SUSPECTS_MAX 4096u
#define CHECK_DAMAGE_MAX 4096u

struct check_group {
	uint64_t start, len, used; /* used: what the item says */
	uint64_t generation, cache_generation;
	uint64_t stripe[GROUP_STRIPES_MAX];
	uint32_t unit, nblocks; /* as in block_group.h */
	uint32_t slot_bytes, cache_crc, cache_bytes;
	uint8_t type, nr_stripes, cache_slot;
	bool has_item;	 /* in the group tree */
	bool leaked;	 /* more is in use than is referred to, as the superblock says */
	uint64_t *map;	 /* blocks that the trees refer to; NULL: none */
	uint64_t mapped; /* bits in map */
};

/* A tree to walk: a volume's, or what is left of a deleted one's. */
struct check_volume {
	uint64_t id, size, used_blocks, lost_blocks, progress;
	struct tree_root root;
	bool orphan, named;
	/* Found in its tree, and in what was cut out of that: */
	bool unreadable;
	struct tree_root found;
	uint64_t found_used, found_lost;
	char name[FS_NAME_MAX + 16]; /* "volume vm1" */
};

/* "vm1"; NULL for a deleted one, and for one whose name is not known. */
const char *check_volume_name(const struct check_volume *vol);

enum check_range_kind { RANGE_SUPER, RANGE_LOG, RANGE_GROUP };

/* A piece of the device that has an owner. */
struct check_range {
	uint64_t off, len, id;
	enum check_range_kind kind;
};

struct check_data;
struct check_damage;

struct check {
	struct device *dev;
	struct device_queue *q, *data_q;
	const struct fs_check_options *opt;
	struct super_block sb;
	uint64_t generation, group_step, device_size;
	uint64_t findings;
	bool incomplete;  /* part of a tree could not be read: what that refers to is unknown */
	bool contradicts; /* used bytes and trees do not agree: nothing can be rebuilt */
	bool rebuild;	  /* a cache needs to be rebuilt */
	bool wrote;
	struct check_group **group; /* by start / group_step */
	uint32_t groups;
	struct check_volume *volume;
	size_t volumes, volumes_cap;
	struct check_range *range;
	size_t ranges, ranges_cap;
	void *node[NODE_LEVEL_MAX], *twin;
	struct check_data *data;
	struct check_damage *damage;
	uint64_t data_done, data_total; /* bytes */
};

/* ---- check_report.c ---- */

/* One line about a fault that cannot be repaired here. */
void check_finding(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* One line about a fault that can be. */
void check_finding_cure(struct check *c, enum fs_cure cure, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* One line about bytes of a volume (its name, or NULL). */
void check_finding_range(struct check *c, enum fs_cure cure, const char *volume, uint64_t off, uint64_t len,
			 const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* Something worth knowing that is not a fault. */
void check_note(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Damage that comes piece by piece is put aside and joined: neighbours of one kind become one finding, in
 * order. At most CHECK_DAMAGE_MAX runs are kept; of the others only how much there is, and where it begins
 * and ends.
 */
enum check_damage_kind { DAMAGE_NODE_COPY, DAMAGE_DATA };

struct check_damage_piece {
	enum check_damage_kind kind;
	enum fs_cure cure;
	unsigned copy;
	uint64_t at; /* data: byte of the volume; node: device offset */
	uint64_t len;
	uint64_t dev_off;
	uint64_t addr;	 /* of the node */
	const char *why; /* stays */
};

int check_damage_init(struct check *c);
void check_damage_fini(struct check *c);
void check_damage_add(struct check *c, const struct check_damage_piece *piece);
/*
 * Reports what was put aside since the last call, as damage of this tree. `volume`: the name of the volume
 * that the data is in, or NULL.
 */
void check_damage_tell(struct check *c, const char *tree, const char *volume);

/* Writes if repairing is allowed; true if it was written. */
bool check_rewrite(struct check *c, uint64_t off, void *buf, uint64_t len);

/* ---- check_group.c ---- */

/* Checks the groups that the superblock names. */
int check_system_groups(struct check *c);
/* Walks the group tree. */
int check_group_tree(struct check *c);
/* Checks a group that only the flush log knows of. */
int check_logged_group(struct check *c, uint64_t start, uint64_t len, uint64_t device_off);
/* The group that all of [addr, addr + len) lies in; NULL. */
struct check_group *check_group_find(struct check *c, uint64_t addr, uint64_t len);
/* The trees refer to this range; *ret_again is how many of its blocks they referred to before. */
int check_group_mark(struct check_group *g, uint64_t addr, uint64_t len, uint64_t *ret_again);
/* How many blocks of the range the trees refer to. */
uint64_t check_group_referenced(const struct check_group *g, uint64_t addr, uint64_t len);
int check_add_range(struct check *c, enum check_range_kind kind, uint64_t id, uint64_t off, uint64_t len);
/* Checks that no piece of the device has two owners. */
void check_ranges(struct check *c);
/* When all trees have been walked: checks used bytes and free-space caches. */
int check_group_contents(struct check *c);
void check_groups_fini(struct check *c);

/* ---- check_tree.c ---- */

struct check_walk {
	struct check *c;
	const char *name;
	const char *volume; /* see check_damage_tell */
	const struct tree_root *root;
	uint8_t node_type; /* of the groups that its nodes are in */
	/* Subtrees whose keys are all below it are gone (an orphan's); len 0: none. */
	struct key from;
	int (*item)(struct check_walk *w, const struct node_header *leaf, struct key key, struct value value);
	/*
	 * May be NULL. Called when no copy of a node can be read; everything from `first` (NULL: the
	 * beginning) to before `upper` (NULL: the end) is lost.
	 */
	void (*lost)(struct check_walk *w, const struct node_ident *id, const struct key *first,
		     const struct key *upper, const char *why);

	bool part; /* its counts are compared together with those of other trees */

	/* Found: */
	uint64_t nodes, leaves, items;
	bool unreadable;
	uint16_t prev_len; /* the last key seen; 0: none */
	uint8_t prev[NODE_KEY_MAX];
};

/* Reports what is damaged in the tree, and in the data that `item` gave to check_data_add. */
int check_walk(struct check_walk *w);
/* Compares what a root says about a tree with what was found. */
void check_counts(struct check *c, const char *name, const struct tree_root *said,
		  const struct tree_root *found);

/* ---- check_volume.c ---- */

/* Walks the root tree and notes the volumes; then walks each. */
int check_root_tree(struct check *c);
int check_volumes(struct check *c);

/* ---- check_data.c ---- */

int check_data_init(struct check *c);
void check_data_fini(struct check *c);
/*
 * Reads an extent in each of its copies and compares checksums, at some time before check_data_finish
 * returns; what is bad becomes damage.
 */
int check_data_add(struct check *c, const struct extent *e, const struct check_group *g);
int check_data_finish(struct check *c);

/* ---- check_log.c ---- */

int check_log(struct check *c);

#endif
