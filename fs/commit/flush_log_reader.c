/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/flush_log_reader.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/fault.h"
#include "fs/device/device.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
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
	if (!rec ||
	    (le32_to_cpu(rec->crc) != crc32c((const char *)rec + 4, bytes - 4) && !FAULT(FAULT_LOG_CHECKSUM)))
		return NULL;
	return rec;
}

/* The one with this number. */
static const struct log_record *record_at(struct log_reader *rd, uint64_t pos, uint64_t seq, int *ret_error)
{
	const struct log_record *rec = any_record(rd, pos, ret_error);

	return rec && le64_to_cpu(rec->seq) == seq ? rec : NULL;
}

static uint64_t next_position(const struct log_reader *rd, uint64_t pos, const struct log_record *rec)
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
		const struct log_record *rec = record_at(rd, pos, seq, &error);

		if (!rec)
			return error;
		r = append(g, rec + 1, le32_to_cpu(rec->bytes) - sizeof(*rec));
		if (r)
			return r;
		g->flags = le32_to_cpu(rec->flags);
		pos = next_position(rd, pos, rec);
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
			pos = next_position(rd, pos, rec);
			upto = end;
		} else {
			pos += LOG_ALIGN;
		}
	}
	if (ret_lost->records)
		ret_lost->flushes += !ret_lost->flushes;
}

/* ---- items ----------------------------------------------------------------- */

static bool extent_is_sound(const struct log_item *item, uint32_t bytes)
{
	const struct log_extent *e = (const struct log_extent *)item;
	uint64_t n, crcs;

	if (bytes < sizeof(*e))
		return false;
	n = le64_to_cpu(e->blocks);
	crcs = le64_to_cpu(e->addr) ? n : 0;
	return n > 0 && crcs <= LOG_RECORD_MAX / sizeof(le32) &&
	       bytes == round_up_u64(sizeof(*e) + crcs * sizeof(le32), 8) &&
	       le64_to_cpu(e->addr) % FS_BLOCK_SIZE == 0;
}

static bool group_is_sound(const struct log_item *item, uint32_t bytes)
{
	const struct log_group_item *g = (const struct log_group_item *)item;

	return bytes == sizeof(*g) && le64_to_cpu(g->length) > 0 &&
	       le64_to_cpu(g->length) % FS_BLOCK_SIZE == 0;
}

static bool name_is_sound(const void *name, uint8_t len, uint64_t room)
{
	return len > 0 && room == round_up_u64(len, 8) && !memchr(name, 0, len);
}

static bool create_is_sound(const struct log_item *item, uint32_t bytes)
{
	const struct log_create *c = (const struct log_create *)item;

	return bytes >= sizeof(*c) && volume_size_is_valid(le64_to_cpu(c->size)) &&
	       name_is_sound(c + 1, c->name_len, bytes - sizeof(*c));
}

static bool rename_is_sound(const struct log_item *item, uint32_t bytes)
{
	const struct log_rename *rn = (const struct log_rename *)item;

	return bytes >= sizeof(*rn) && name_is_sound(rn + 1, rn->name_len, bytes - sizeof(*rn));
}

static bool resize_is_sound(const struct log_item *item, uint32_t bytes)
{
	return bytes == sizeof(struct log_resize) &&
	       volume_size_is_valid(le64_to_cpu(((const struct log_resize *)item)->size));
}

static bool set_is_sound(const struct log_item *item, uint32_t bytes)
{
	const struct log_set *s = (const struct log_set *)item;

	return bytes >= sizeof(*s) && bytes - sizeof(*s) == round_up_u64(s->comment_len, 8) &&
	       !memchr(s + 1, 0, s->comment_len);
}

int log_item_check(const uint8_t *bytes, uint64_t left, const struct log_item **ret_item)
{
	const struct log_item *item = (const struct log_item *)bytes;
	bool sound = false;
	uint32_t len;

	if (left < sizeof(*item))
		return -EUCLEAN;
	len = le32_to_cpu(item->bytes);
	if (len < sizeof(*item) || len > left || len % 8 || le16_to_cpu(item->reserved))
		return -EUCLEAN;
	switch ((enum log_item_type)le16_to_cpu(item->type)) {
	case LOG_EXTENT: sound = extent_is_sound(item, len); break;
	case LOG_GROUP: sound = group_is_sound(item, len); break;
	case LOG_CREATE: sound = create_is_sound(item, len); break;
	case LOG_DELETE: sound = len == sizeof(*item); break;
	case LOG_RENAME: sound = rename_is_sound(item, len); break;
	case LOG_RESIZE: sound = resize_is_sound(item, len); break;
	case LOG_SET: sound = set_is_sound(item, len); break;
	}
	if (!sound)
		return -EUCLEAN;
	*ret_item = item;
	return 0;
}
