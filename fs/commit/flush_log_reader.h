/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/flush_log_reader.h: reads the flush log's records from a device, for replay and for the checker.
 * Changes nothing.
 *
 * Invariants
 * 1. Nothing that comes from the device is believed before it was verified: record by record, then item by
 *    item.
 * 2. A place that cannot be read is an error and never the log's end: what is there may have been flushed.
 *
 * The end of the log. As a rule, a record that is not valid is the end of the log: nothing was ever written
 * there, or a power cut tore the last group, whose flush was never acknowledged. It can also be a record that
 * was durable and has rotted. Then records of later groups may follow. Each of them says from which number on
 * it could not rely on what came before (`durable`). If that is higher than the number of the missing record,
 * it proves the loss (log_reader_lost). Only a later group can prove it: in the very last one, rot and a torn
 * write look alike.
 *
 * What is lost then, and what is kept. Replay still ends at the missing record. Later groups are not applied,
 * although their flushes were acknowledged, for these reasons:
 * - What the lost group changed is unknown: ranges of any volume, new block groups, volumes made, renamed or
 *   resized. A later group applied without it would make a state that the volumes never had. File systems and
 *   databases write in order, and recover from any state that existed at one moment; they neither expect nor
 *   notice a hole in that order.
 * - What comes before the hole is such a state, of all volumes at one moment, and it is whole: what it refers
 *   to is overwritten or given out again only after a commit, and no commit came after the tail. So nothing
 *   that later groups replaced is gone. The log, the pool's figures and the checker say how many flushes are
 *   lost; volumes stay writable.
 *
 * Why records have no twin. One would have to be written with every flush: 12 KiB instead of 8 for a flush of
 * one block, and on a disk that seeks, a second seek. It would help only against rot between the flush and
 * the commit that makes the record obsolete, usually five seconds; a failed write is noticed at once. The
 * nodes of trees, which have twins, live for years.
 *
 * Growth: memory holds one group at a time, whose size the writer bounds (FLUSH_GROUP_MAX). log_reader_lost
 * reads at most LOG_LOOK_AHEAD, and more only if something is lost.
 */
#ifndef FS_COMMIT_FLUSH_LOG_READER_H
#define FS_COMMIT_FLUSH_LOG_READER_H

#include <stdbool.h>
#include <stdint.h>

struct device_queue;
struct log_record;
struct super_block;

/* A lost group and the one after it begin within this. */
#define LOG_LOOK_AHEAD (64ull << 20)

struct log_reader {
	struct device_queue *q;
	uint64_t offset, size; /* of the ring on the device */
	uint8_t pool[16];
	uint64_t tail, seq; /* where it starts */
	uint8_t *window;
	uint64_t window_off, window_len;
	/* on the device: of the place that could not be read, when a call returned -EIO */
	uint64_t bad_offset;
};

/* A whole group. Start with {0}; the same one can be used again. */
struct log_group_read {
	uint8_t *bytes; /* the items */
	uint64_t used, cap;
	uint32_t flags; /* of its last record */
	uint64_t end;	/* the position after it */
	uint64_t seq;	/* of the record after it */
};

/* -ENOMEM. */
int log_reader_init(struct log_reader *rd, struct device_queue *q, const struct super_block *sb);
void log_reader_fini(struct log_reader *rd);

/*
 * The record at a position, if it has this number; NULL: it has not, or its place cannot be read (*ret_error,
 * which is untouched else). Valid until the next call.
 */
const struct log_record *log_reader_record(struct log_reader *rd, uint64_t pos, uint64_t seq, int *ret_error);
/* Where the record behind this one begins. */
uint64_t log_reader_next(const struct log_reader *rd, uint64_t pos, const struct log_record *rec);

/* Collects the group at pos. 1: it is there, whole; 0: it is not; -EIO (rd->bad_offset), -ENOMEM. */
int log_reader_group(struct log_reader *rd, uint64_t pos, uint64_t seq, struct log_group_read *g);
void log_group_read_fini(struct log_group_read *g);

/* What comes after a record that is missing although it was durable. */
struct log_lost {
	uint64_t records; /* valid ones of later groups; 0: nothing shows that anything is lost */
	uint64_t flushes; /* groups whose ends were seen */
};

/* The log ended at pos, where seq was expected. -ENOMEM; places that cannot be read prove nothing. */
void log_reader_lost(struct log_reader *rd, uint64_t pos, uint64_t seq, struct log_lost *ret_lost);

#endif
