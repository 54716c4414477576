/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/flush_log_reader.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/fault.h"
#include "fs/device/device.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

#define WINDOW_BYTES (1u << 20)
#define READ_TRIES 3
#define SEQ_RANGE (1ull << 24) /* more records than a ring holds */

int log_reader_init(struct log_reader *rd, struct device_queue *q, const struct super_block *sb)
{
	*rd = (struct log_reader){.q = q,
				  .offset = le64_to_cpu(sb->log_offset),
				  .size = le64_to_cpu(sb->log_size),
				  .tail = le64_to_cpu(sb->log_tail),
				  .seq = le64_to_cpu(sb->log_seq)};
	memcpy(rd->pool, sb->uuid, sizeof(rd->pool));
	rd->window = mem_alloc_aligned(DEVICE_ALIGN, WINDOW_BYTES);
	return rd->window ? 0 : -ENOMEM;
}

void log_reader_fini(struct log_reader *rd)
{
	mem_free(rd->window);
}
void log_group_read_fini(struct log_group_read *g)
{
	mem_free(g->bytes);
}

/* ---- records --------------------------------------------------------------- */

static int read_window(struct log_reader *rd, uint64_t at, uint64_t len)
{
	int r = device_sync(rd->q, DEVICE_READ, rd->offset + at, rd->window, len);

	rd->window_off = at;
	rd->window_len = r ? 0 : len;
	return r;
}

/* The bytes at `at` in the ring; NULL: they would pass its end, or cannot be read (*ret_error). */
static const void *bytes_at(struct log_reader *rd, uint64_t at, uint64_t need, int *ret_error)
{
	int r = 0;

	if (at + need > rd->size)
		return NULL;
	if (rd->window_len == 0 || at < rd->window_off || at + need > rd->window_off + rd->window_len) {
		/* What makes a long read fail may be somewhere else. */
		r = read_window(rd, at, min_u64(WINDOW_BYTES, rd->size - at));
		for (int try = 0; r && try < READ_TRIES; try++)
			r = read_window(rd, at, need);
	}
	if (r) {
		*ret_error = r;
		rd->bad_offset = rd->offset + at;
		return NULL;
	}
	return rd->window + (at - rd->window_off);
}

/* The record at a position, whatever its number; NULL: there is none, or it cannot be read. */
static const struct log_record *any_record(struct log_reader *rd, uint64_t pos, int *ret_error)
{
	uint64_t at = pos % rd->size;
	const struct log_record *rec = bytes_at(rd, at, LOG_ALIGN, ret_error);
	uint32_t bytes;

	if (!rec || le32_to_cpu(rec->magic) != LOG_MAGIC ||
	    memcmp(rec->pool, rd->pool, sizeof(rec->pool)) != 0)
		return NULL;
	bytes = le32_to_cpu(rec->bytes);
	if (bytes < sizeof(*rec) || bytes > LOG_RECORD_MAX)
		return NULL;
	rec = bytes_at(rd, at, round_up_u64(bytes, LOG_ALIGN), ret_error);
	if (!rec || (le32_to_cpu(rec->crc) != log_record_checksum(rec) && !FAULT(FAULT_LOG_CHECKSUM)))
		return NULL;
	return rec;
}

const struct log_record *log_reader_record(struct log_reader *rd, uint64_t pos, uint64_t seq, int *ret_error)
{
	const struct log_record *rec = any_record(rd, pos, ret_error);

	return rec && le64_to_cpu(rec->seq) == seq ? rec : NULL;
}

uint64_t log_reader_next(const struct log_reader *rd, uint64_t pos, const struct log_record *rec)
{
	if (le32_to_cpu(rec->flags) & LOG_PAD)
		return pos + rd->size - pos % rd->size;
	return pos + round_up_u64(le32_to_cpu(rec->bytes), LOG_ALIGN);
}

/* ---- groups ---------------------------------------------------------------- */

static int append(struct log_group_read *g, const void *data, uint64_t len)
{
	if (g->used + len > g->cap) {
		uint64_t cap = max_u64(g->used + len, g->cap * 2);
		uint8_t *bytes = mem_realloc(g->bytes, cap);

		if (!bytes)
			return -ENOMEM;
		g->bytes = bytes;
		g->cap = cap;
	}
	memcpy(g->bytes + g->used, data, len);
	g->used += len;
	return 0;
}

int log_reader_group(struct log_reader *rd, uint64_t pos, uint64_t seq, struct log_group_read *g)
{
	g->used = 0;
	for (;;) {
		int error = 0, r;
		const struct log_record *rec = log_reader_record(rd, pos, seq, &error);

		if (!rec)
			return error;
		r = append(g, rec + 1, le32_to_cpu(rec->bytes) - sizeof(*rec));
		if (r)
			return r;
		g->flags = le32_to_cpu(rec->flags);
		pos = log_reader_next(rd, pos, rec);
		seq++;
		if (pos - rd->tail > rd->size)
			return 0;
		if (g->flags & LOG_LAST) {
			g->end = pos;
			g->seq = seq;
			return 1;
		}
	}
}

void log_reader_lost(struct log_reader *rd, uint64_t pos, uint64_t seq, struct log_lost *ret_lost)
{
	uint64_t end = rd->tail + rd->size, upto = min_u64(end, pos + LOG_LOOK_AHEAD);

	*ret_lost = (struct log_lost){0, 0};
	while (pos < upto) {
		int error = 0;
		const struct log_record *rec = any_record(rd, pos, &error);
		uint64_t found = rec ? le64_to_cpu(rec->seq) : 0;

		/* What earlier laps and earlier lives have left has lower numbers. */
		if (rec && found > seq && found - seq < SEQ_RANGE && le64_to_cpu(rec->durable) > seq) {
			ret_lost->records++;
			ret_lost->flushes += (le32_to_cpu(rec->flags) & LOG_LAST) != 0;
			pos = log_reader_next(rd, pos, rec);
			upto = end;
		} else {
			pos += LOG_ALIGN;
		}
	}
	if (ret_lost->records)
		ret_lost->flushes += !ret_lost->flushes;
}
