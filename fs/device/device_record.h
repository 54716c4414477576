/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_record.h: the log of a recorded device (device_record() in device.h), and its reader.
 *
 * Format, little-endian
 *   one struct record_header, then records. Each is a struct record_entry, followed for WRITE by its `len`
 *   bytes.
 *
 * Invariants
 * 1. Entries are numbered 1, 2, 3, ... A write, discard or flush gets its entry when it has completed without
 *    error, before its `done` runs.
 * 2. A FLUSH covers the entries 1 to `covers`: those that existed when it was submitted. So once the FLUSH is
 *    there, they are durable. Writes that completed while the flush was under way stand before it but are not
 *    covered.
 * 3. Therefore the image at the start plus the entries 1 to n is a legal state after a crash, for every n; so
 *    is the same without any of the entries that no FLUSH among the n covers.
 * 4. A log that was cut off (by a crash of the writer) ends at its last whole entry. Two overlapping writes
 *    that were under way together are in the order in which their completions were seen.
 */
#ifndef FS_DEVICE_DEVICE_RECORD_H
#define FS_DEVICE_DEVICE_RECORD_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/le.h"

#define RECORD_MAGIC "BYREWLOG"
#define RECORD_VERSION 1u

struct record_header {
	char magic[8];
	le32 version;
	le32 crc;  /* crc32c of this struct with crc 0 */
	le64 size; /* of the device, at the start */
};
static_assert(sizeof(struct record_header) == 24, "record_header");

enum record_type {
	RECORD_WRITE = 1,
	RECORD_DISCARD = 2, /* the range may hold anything; the replay makes it zeros */
	RECORD_FLUSH = 3,
	RECORD_SIZE = 4, /* the device has grown to `len` bytes */
};

struct record_entry {
	le32 type;
	le32 crc; /* crc32c of this struct with crc 0 */
	le64 seq;
	le64 off;
	le64 len;
	le64 covers; /* FLUSH; else 0 */
	/* WRITE: over its blocks of 4096 bytes, crc = crc32c(le32 crc so far, le32 crc32c(block)), from 0 */
	le32 data_crc;
	le32 reserved;
};
static_assert(sizeof(struct record_entry) == 48, "record_entry");

/* Adds one block to a data_crc. */
uint32_t record_crc_block(uint32_t crc, const void *block);

/* ---- reading ------------------------------------------------------------------------ */

struct record_reader;

struct record {
	enum record_type type;
	uint64_t seq, off, len, covers;
	const void *data; /* WRITE; valid until the next call */
};

/* For tests. Reads the header. -EBADMSG: not such a log. One thread at a time. */
int record_reader_open(const char *path, struct record_reader **ret_reader);
void record_reader_close(struct record_reader *reader); /* accepts NULL */
/* The device's size, as of the records read so far. */
uint64_t record_reader_size(const struct record_reader *reader);
/* 1: a record. 0: the end. -EBADMSG: what is there is no record. Other negative errno: reading failed. */
int record_reader_next(struct record_reader *reader, struct record *ret_record);
/* At the end: whether the last record was cut off. */
bool record_reader_is_cut(const struct record_reader *reader);

#endif
