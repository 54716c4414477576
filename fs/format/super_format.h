/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/super_format.h: the superblock, and the layout of the device around it.
 *
 * Copies stand at fixed offsets below DEVICE_DATA_START; the valid one with the highest generation wins. A
 * commit writes copy 0, flushes, writes the others and flushes, so that at every moment one copy is whole and
 * durable, and all name a commit that was answered for.
 */
#ifndef FS_FORMAT_SUPER_FORMAT_H
#define FS_FORMAT_SUPER_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/le.h"
#include "fs/format/node_format.h"

struct print;

#define SUPER_MAGIC 0x4c4f4f5045525942ull /* "BYREPOOL" */
#define SUPER_VERSION 2u
#define SUPER_SIZE 4096u
#define SUPER_COPIES 3
#define SUPER_OFFSETS                                                   \
	{                                                               \
		64ull << 10, 512ull << 10, (8ull << 20) - (64ull << 10) \
	}

/* The system group's first stripes stand in [1 MiB, 7 MiB); everything else is allocated from here on. */
#define SYSTEM_AREA_START (1ull << 20)
#define DEVICE_DATA_START (8ull << 20)

#define SUPER_SYSTEM_GROUPS 32
#define GROUP_STRIPES_MAX 2

struct super_stripe {
	le64 device;
	le64 offset;
};

/* What is needed to read the block group tree: the groups that hold it. */
struct super_system_group {
	le64 start; /* logical; 0: unused entry */
	le64 length;
	struct super_stripe stripe[GROUP_STRIPES_MAX];
};
static_assert(sizeof(struct super_system_group) == 48, "super_system_group");

#define FEATURE_COMPAT_KNOWN 0ull
#define FEATURE_RO_COMPAT_KNOWN 0ull
#define FEATURE_INCOMPAT_KNOWN 0ull

#define SUPER_FLAG_SPARSE 1ull /* the file was not preallocated */
/* nodes were lost in every copy: groups may have more in use than the trees refer to */
#define SUPER_FLAG_LEAKED 2ull

/* The scrub that runs, or the last one; how far it is, as of this commit. */
struct super_scrub {
	uint8_t state; /* enum fs_scrub_state; one that runs goes on at the next start */
	/* what it is at: 0 superblocks, 1 the group tree, 2 the root tree, 3 volumes, 4 nothing more */
	uint8_t phase;
	uint8_t reserved[6];
	le64 started_ns, ended_ns; /* since 1970, UTC; 0: not yet */
	le64 volume;		   /* phase 3: the id; all ones: deleted ones */
	/* phase 3: the first block of it that was not read; phase 1: the first group (its start) */
	le64 pos;
	le64 bytes_done, bytes_total;
	le64 found, mended, damaged_bytes;
};
static_assert(sizeof(struct super_scrub) == 80, "super_scrub");

struct super_block {
	le32 crc; /* CRC32C of everything behind this field, SUPER_SIZE - 4 bytes */
	le32 version;
	le64 magic;
	le64 offset; /* where this copy stands */
	le64 generation;
	uint8_t uuid[16];
	le64 compat, ro_compat, incompat;
	le64 flags;
	le64 device_size;
	le64 group_step; /* of the groups' logical addresses, a power of two */
	le32 block_size, node_size;
	le64 ctime_ns;
	le64 next_id; /* of the next volume or tree */
	struct tree_root_item root_tree;
	struct tree_root_item group_tree;
	le64 log_offset, log_size; /* on the device */
	/* where replay starts: position in the endless log (offset modulo log_size) */
	le64 log_tail;
	le64 log_seq; /* of the record expected there */
	/* since the pool was made, by records that had rotted: those that are known of */
	le64 log_lost_flushes;
	le64 log_lost_ns; /* when that was last noticed, since 1970, UTC; 0: never */
	struct super_scrub scrub;
	/*
	 * What changes with every commit stands in front of this, in one sector of 512 bytes: torn, it is the
	 * old or the new one.
	 */
	struct super_system_group system[SUPER_SYSTEM_GROUPS];
	uint8_t reserved[SUPER_SIZE - 344 - 48 * SUPER_SYSTEM_GROUPS];
};
static_assert(sizeof(struct super_block) == SUPER_SIZE, "super_block");
static_assert(offsetof(struct super_block, system) <= 512, "what changes with every commit is in one sector");

/* ---- judged and printed (super_format.c) ----------------------------------- */

/*
 * Checks a copy that was read from `offset` of a device of device_bytes (0: unknown). 0, or -EUCLEAN with a
 * constant string.
 */
int super_validate(const struct super_block *sb, uint64_t offset, uint64_t device_bytes,
		   const char **ret_why);
/* The same without its checksum and its place: whether its fields make sense. */
int super_validate_fields(const struct super_block *sb, const char **ret_why);
uint32_t super_checksum(const struct super_block *sb);

struct group_item;

/* System group number i; false: the superblock names none there. Any bytes are accepted. */
bool super_system_group_unpack(const struct super_block *sb, unsigned i, struct group_item *ret_item);

/* Into a record that was begun. Any bytes are accepted. */
void super_print(struct print *p, const struct super_block *sb);
/* How many fields differ; with `p`, what they are in either, into a record that was begun. */
unsigned super_compare(struct print *p, const struct super_block *a, const struct super_block *b);
/* Records of their own. */
void super_scrub_print(struct print *p, const struct super_scrub *scrub);
void super_system_group_print(struct print *p, unsigned index, const struct super_system_group *group);

#endif
