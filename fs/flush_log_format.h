/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/flush_log_format.h: records of the flush log.
 *
 * The log is a ring of log_size bytes. A flush appends a *group* of one or more records, each a multiple of 4 KiB
 * that does not wrap; the last one of a group has LOG_LAST. Sequence numbers have no gaps. Replay starts at the
 * superblock's log_tail with log_seq and ends at the first record that is not valid or whose group is not whole.
 * A record's items are: struct log_item, then one CRC32C (le32) for each block where addr is not 0. An item of
 * volume LOG_VOLUME_GROUP is a data block group that no commit knows yet: blk is its logical start, blocks its
 * length in bytes, addr the device offset of its stripe, and no checksums follow. It counts whatever its generation, unless
 * the trees have the group: one that was made while a commit was under way may have missed that. So it can also be one
 * generation younger than an item that stands in it.
 */
#ifndef FS_FLUSH_LOG_FORMAT_H
#define FS_FLUSH_LOG_FORMAT_H

#include <assert.h>

#include "base/le.h"

#define LOG_MAGIC 0x474c5942u /* "BYLG" */
#define LOG_ALIGN 4096u
#define LOG_RECORD_MAX (256u << 10)

#define LOG_VOLUME_GROUP 0ull

#define LOG_LAST 1u	    /* the group ends here */
#define LOG_PAD 4u	    /* no items; the next record stands at the start of the ring */
#define LOG_DATA_DURABLE 2u /* the device was flushed between the group's data and its records */

struct log_record {
	le32 crc; /* CRC32C of everything behind this field up to `bytes` */
	le32 magic;
	uint8_t pool[16];
	le64 seq;
	le32 bytes;	 /* of the record without padding */
	le32 items;
	le32 flags;
	le32 reserved;
};
static_assert(sizeof(struct log_record) == 48, "log_record");

struct log_item {
	le64 volume;
	le64 blk;
	le64 blocks;
	le64 addr; /* 0: a hole, and no checksums follow */
	le64 generation; /* of the transaction it belongs to: replayed only if that is not committed. Of a group: when it was made */
};
static_assert(sizeof(struct log_item) == 40, "log_item");

#endif
