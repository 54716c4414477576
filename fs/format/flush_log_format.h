/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/flush_log_format.h: records of the flush log.
 *
 * The log is a ring of log_size bytes. A flush appends a *log group* of one or more records, each a multiple
 * of 4 KiB that does not wrap; the last one of a log group has LOG_LAST. Sequence numbers have no gaps.
 * Replay starts at the superblock's log_tail with log_seq and ends at the first record that is not valid or
 * whose log group is not whole.
 *
 * A log group is written when the one before it is durable, and `durable` in each of its records is the
 * number of its first record. So a valid record whose `durable` is above the number that replay ended at
 * proves that a record was lost after a flush had made it durable.
 *
 * A record's items follow each other without gaps. Each begins with a struct log_item with its type and
 * length, a multiple of 8. An unknown type is an error: formats that add one set an incompat feature bit. An
 * item of a data block group (LOG_GROUP) names one that no commit knows of yet. It counts whatever its
 * generation, unless the trees have the group: one that was made while a commit was under way may have missed
 * that commit. So it can also be one generation younger than an item whose data is in it.
 */
#ifndef FS_FORMAT_FLUSH_LOG_FORMAT_H
#define FS_FORMAT_FLUSH_LOG_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/le.h"

struct print;

#define LOG_MAGIC 0x474c5942u /* "BYLG" */
#define LOG_ALIGN 4096u
#define LOG_RECORD_MAX (256u << 10)

#define LOG_LAST 1u	    /* the log group ends here */
#define LOG_PAD 4u	    /* no items; the next record is at the start of the ring */
#define LOG_DATA_DURABLE 2u /* the device was flushed between the log group's data and its records */

struct log_record {
	le32 crc; /* CRC32C of everything after this field up to `bytes` */
	le32 magic;
	uint8_t pool[16];
	le64 seq;
	/* the number of its log group's first record: all before that were durable when it was written */
	le64 durable;
	le32 bytes; /* of the record without padding */
	le32 items;
	le32 flags;
	le32 reserved;
};
static_assert(sizeof(struct log_record) == 56, "log_record");

enum log_item_type {
	LOG_EXTENT = 1, /* a range of a volume was written, or became a hole */
	LOG_GROUP = 2,
	/*
	 * Operations on volumes, by id and never by name, in their order; those of a transaction before its
	 * extents.
	 */
	LOG_CREATE = 3,
	LOG_DELETE = 4, /* a struct log_item and no more */
	LOG_RENAME = 5,
	LOG_RESIZE = 6,
	LOG_SET = 7,
};

struct log_item {
	le16 type;
	le16 reserved;
	le32 bytes; /* of the item, this included */
	le64 id;    /* of the volume; LOG_GROUP: the logical start */
	/*
	 * of the transaction it belongs to: replayed only if that is not committed. LOG_GROUP: when it was
	 * made
	 */
	le64 generation;
};
static_assert(sizeof(struct log_item) == 24, "log_item");

struct log_extent {
	struct log_item item;
	le64 blk;
	le64 blocks;
	/* 0: a hole; else one CRC32C (le32) for each block follows, and zeros up to a multiple of 8 */
	le64 addr;
};
static_assert(sizeof(struct log_extent) == 48, "log_extent");

struct log_group_item {
	struct log_item item;
	le64 length;
	le64 offset; /* of its stripe on the device */
};
static_assert(sizeof(struct log_group_item) == 40, "log_group_item");

struct log_create {
	struct log_item item;
	le64 size;
	le64 ctime_ns;
	uint8_t uuid[16];
	le32 flags; /* enum fs_volume_flags */
	uint8_t name_len;
	uint8_t reserved[3]; /* then the name, and zeros up to a multiple of 8 */
};
static_assert(sizeof(struct log_create) == 64, "log_create");

struct log_rename {
	struct log_item item;
	uint8_t name_len;
	uint8_t reserved[7]; /* then the name, and zeros up to a multiple of 8 */
};
static_assert(sizeof(struct log_rename) == 32, "log_rename");

struct log_resize {
	struct log_item item;
	le64 size; /* everything past it becomes a hole */
};
static_assert(sizeof(struct log_resize) == 32, "log_resize");

/* All flags, and the comment, as they are from then on. */
struct log_set {
	struct log_item item;
	le32 flags;	     /* enum fs_volume_flags */
	uint8_t comment_len; /* 0: there is none */
	uint8_t reserved[3]; /* then the comment, and zeros up to a multiple of 8 */
};
static_assert(sizeof(struct log_set) == 32, "log_set");

/* ---- judged and printed (flush_log_format.c) ------------------------------- */

/* Of the whole record, whose `bytes` are within LOG_RECORD_MAX and can be read. */
uint32_t log_record_checksum(const struct log_record *rec);

/*
 * The item at `bytes`, of which there are `left`. -EUCLEAN: it is none that this version knows, or makes no
 * sense.
 */
int log_item_check(const uint8_t *bytes, uint64_t left, const struct log_item **ret_item);

/* Into records that were begun. The item is one that log_item_check has found good. */
void log_record_print(struct print *p, const struct log_record *rec);
void log_item_print(struct print *p, const struct log_item *item);

#endif
