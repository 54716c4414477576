/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub_int.h: what the parts of the scrub share. scrub.c starts, paces and ends it, and keeps what
 * it found; scrub_walk.c walks trees and knows what is in them; scrub_data.c reads data; scrub_node.c reads
 * and repairs nodes, superblocks and caches.
 */
#ifndef FS_SCRUB_SCRUB_INT_H
#define FS_SCRUB_SCRUB_INT_H

#include <assert.h>

#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/free_space_cache.h"

struct extent;
struct fs;
struct node_ident;

#define SCRUB_SCALE_MAX 8u
#define SCRUB_SLICE_MS 100u /* aimed at */
#define SCRUB_READS 16u
#define SCRUB_READ_MAX (1u << 20)
/* Of one slice, for each unit of scale. */
#define SCRUB_BLOCKS 128u
#define SCRUB_NODES 8u
#define SCRUB_CACHES 4u
static_assert(SCRUB_BLOCKS >= EXTENT_BLOCKS_MAX, "an extent always fits a slice that is empty");
#define SCRUB_BLOCKS_MAX (SCRUB_BLOCKS * SCRUB_SCALE_MAX)

enum scrub_phase { SCRUB_SUPERS, SCRUB_GROUPS, SCRUB_ROOT, SCRUB_VOLUMES, SCRUB_ENDED };

/* Blocks of one extent. */
struct scrub_piece {
	uint64_t blk, addr, off;
	uint32_t nblk;
	uint32_t crc;  /* of its checksums in `crc` */
	uint32_t data; /* of its blocks in `data`: these are in the order of the device */
	uint32_t lead; /* the piece that has the `error` of the read that both were part of */
	int error;
};

struct scrub_read {
	struct device_io io;
	struct scrub_run *run;
	int *error; /* where it goes */
	struct scrub_read *next;
};

/* A free-space cache that is to be read. */
struct scrub_cache {
	struct free_space_cache_ident ident;
	struct free_space_cache_expect expect;
	uint64_t off[GROUP_STRIPES_MAX]; /* of the slot */
	unsigned copies, bad;
};

struct scrub_run {
	struct fs *fs;
	struct device_queue *q;
	uint64_t rate;	  /* bytes a second */
	uint64_t owed_us; /* time to sleep, not yet slept */
	enum scrub_phase phase;
	uint8_t pos[ITEM_KEY_LEN]; /* the first key of the tree that was not seen */
	unsigned scale, scale_max; /* of slices: how much they read */

	/* The volume at hand, or what is left of one. */
	uint64_t id;
	uint8_t type;		    /* of its key in the root tree */
	char name[FS_NAME_MAX + 1]; /* "": a deleted one's */
	uint64_t size;		    /* bytes */

	/* The slice. */
	uint64_t bytes, nodes, found, repaired; /* repaired: not yet flushed */
	struct tree_root root;
	unsigned blocks, pieces, caches;
	struct scrub_piece piece[SCRUB_BLOCKS_MAX];
	uint32_t crc[SCRUB_BLOCKS_MAX];
	struct scrub_cache cache[SCRUB_CACHES * SCRUB_SCALE_MAX];
	struct scrub_read read[SCRUB_READS], *free_read;
	unsigned under_way;

	uint8_t *data;			  /* SCRUB_BLOCKS_MAX blocks */
	uint8_t *node[NODE_LEVEL_MAX];	  /* of the path */
	uint8_t *copy[GROUP_STRIPES_MAX]; /* one node; caches too: CACHE_BUF bytes */
};

#define SCRUB_COPY_BYTES (1u << 20) /* the largest cache slot of any group */

/* ---- scrub.c ---- */

/* A line in the log, unless there were too many. */
void scrub_log(struct scrub_run *r, enum fs_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* A range of the volume at hand cannot be read. */
void scrub_damaged(struct scrub_run *r, enum fs_scrub_damage_kind kind, uint64_t off, uint64_t len,
		   const char *why);
bool scrub_should_stop(struct scrub_run *r);

/* ---- scrub_walk.c ---- */

/* The number in the first key that was not seen: a block, or a group's start. */
uint64_t scrub_pos(const struct scrub_run *r);
/* Starts where an interrupted scrub stopped instead of at the beginning. */
void scrub_go_to(struct scrub_run *r, enum scrub_phase phase, uint64_t volume, uint64_t pos);
/*
 * Reads one more slice, from the current position. -EIO, -EROFS: a flush failed; -EUCLEAN: the root tree
 * cannot be read.
 */
int scrub_slice(struct scrub_run *r);

/* ---- scrub_node.c ---- */

/* Reads every copy, and repairs bad ones. The node comes into buf. -EUCLEAN, -EIO: there is no good one. */
int scrub_node(struct scrub_run *r, const struct node_ident *id, void *buf);
void scrub_supers(struct scrub_run *r);
/* Reads the caches that were put aside: within the slice's epoch, then after it. */
void scrub_caches_read(struct scrub_run *r);
void scrub_caches_renew(struct scrub_run *r);

/* ---- scrub_data.c ---- */

/* Puts an extent aside. False: the slice is full. */
bool scrub_data_add(struct scrub_run *r, const struct extent *e);
/* Reads what was put aside, and names what is damaged. */
void scrub_data_read(struct scrub_run *r);
/* One read by itself, repeated once if it fails: an error that goes away is none. */
int scrub_read(struct scrub_run *r, uint64_t off, void *buf, uint64_t len);
/* Waits for everything under way. */
void scrub_wait(struct scrub_run *r);
/* Starts a read; waits only if SCRUB_READS are under way. *ret_error is set when it ends. */
void scrub_submit(struct scrub_run *r, uint64_t off, void *buf, uint64_t len, int *ret_error);
/* Writes good content to its place, and reads it back into `scratch`. */
bool scrub_mend(struct scrub_run *r, uint64_t off, const void *good, void *scratch, uint64_t len);

#endif
