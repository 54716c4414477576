/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/flush_log_format.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/util.h"
#include "fs/format/print.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"

uint32_t log_record_checksum(const struct log_record *rec)
{
	return crc32c((const char *)rec + sizeof(rec->crc), le32_to_cpu(rec->bytes) - sizeof(rec->crc));
}

/* ---- items: sound or not ---------------------------------------------------- */

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

/* ---- printing -------------------------------------------------------------- */

void log_record_print(struct print *p, const struct log_record *rec)
{
	static const char *const flags[] = {"last", "data_durable", "pad"};

	print_number(p, "seq", le64_to_cpu(rec->seq));
	print_number(p, "durable", le64_to_cpu(rec->durable));
	print_number(p, "bytes", le32_to_cpu(rec->bytes));
	print_number(p, "items", le32_to_cpu(rec->items));
	print_flags(p, "flags", le32_to_cpu(rec->flags), flags, ARRAY_SIZE(flags));
}

static void print_extent(struct print *p, const struct log_extent *e)
{
	print_number(p, "blk", le64_to_cpu(e->blk));
	print_number(p, "blocks", le64_to_cpu(e->blocks));
	if (le64_to_cpu(e->addr))
		print_number(p, "addr", le64_to_cpu(e->addr));
	else
		print_word(p, "addr", "hole");
}

static void print_create(struct print *p, const struct log_create *c)
{
	print_text(p, "name", c + 1, c->name_len);
	print_number(p, "size", le64_to_cpu(c->size));
	print_uuid(p, "uuid", c->uuid);
	print_hex(p, "flags", le32_to_cpu(c->flags));
	print_time(p, "created", le64_to_cpu(c->ctime_ns));
}

static void print_set(struct print *p, const struct log_set *s)
{
	print_hex(p, "flags", le32_to_cpu(s->flags));
	print_text(p, "comment", s + 1, s->comment_len);
}

static void print_group(struct print *p, const struct log_group_item *g)
{
	print_number(p, "length", le64_to_cpu(g->length));
	print_number(p, "stripe0", le64_to_cpu(g->offset));
}

void log_item_print(struct print *p, const struct log_item *item)
{
	static const char *const types[] = {"",	      "extent", "group",  "create",
					    "delete", "rename", "resize", "set"};
	enum log_item_type type = le16_to_cpu(item->type);
	const struct log_rename *rename = (const struct log_rename *)item;

	print_word(p, "type", types[type]);
	print_number(p, type == LOG_GROUP ? "start" : "volume", le64_to_cpu(item->id));
	print_number(p, "generation", le64_to_cpu(item->generation));
	switch (type) {
	case LOG_EXTENT: print_extent(p, (const struct log_extent *)item); break;
	case LOG_GROUP: print_group(p, (const struct log_group_item *)item); break;
	case LOG_CREATE: print_create(p, (const struct log_create *)item); break;
	case LOG_DELETE: break;
	case LOG_RENAME: print_text(p, "name", rename + 1, rename->name_len); break;
	case LOG_RESIZE: print_number(p, "size", le64_to_cpu(((const struct log_resize *)item)->size)); break;
	case LOG_SET: print_set(p, (const struct log_set *)item); break;
	}
}
