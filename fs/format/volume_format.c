/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/volume_format.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/text.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/print.h"
#include "fs/fs.h"

#define FLAGS_KNOWN ((uint32_t)(FS_VOLUME_RESERVED | FS_VOLUME_WRITEBACK | FS_VOLUME_READ_ONLY))

bool fs_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len < 1 || len > FS_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '.' || c == '_' || c == '-'))
			return false;
	}
	return true;
}

bool volume_size_is_valid(uint64_t size)
{
	return size > 0 && size % FS_BLOCK_SIZE == 0 && size <= FS_VOLUME_SIZE_MAX;
}

/* ---- volumes --------------------------------------------------------------- */

uint16_t volume_item_pack(const struct volume_fields *vol, uint8_t *value)
{
	struct volume_item raw = {
		.size = cpu_to_le64(vol->size),
		.used_blocks = cpu_to_le64(vol->used_blocks),
		.lost_blocks = cpu_to_le64(vol->lost_blocks),
		.ctime_ns = cpu_to_le64(vol->ctime_ns),
		.flags = cpu_to_le32(vol->flags),
		.name_len = vol->name.len,
		.comment_len = vol->comment.len,
	};

	tree_root_pack(&vol->root, &raw.root);
	memcpy(raw.uuid, vol->uuid, sizeof(raw.uuid));
	memcpy(value, &raw, sizeof(raw));
	memcpy(value + sizeof(raw), vol->name.text, vol->name.len);
	memcpy(value + sizeof(raw) + vol->name.len, vol->comment.text, vol->comment.len);
	return (uint16_t)(sizeof(raw) + vol->name.len + vol->comment.len);
}

static void unpack_label(const void *text, uint8_t len, struct volume_label *ret_label)
{
	ret_label->len = len;
	memcpy(ret_label->text, text, len);
	ret_label->text[len] = '\0';
}

static const char *volume_doubt(const struct volume_item *raw)
{
	if (!volume_size_is_valid(le64_to_cpu(raw->size)))
		return "its size is impossible";
	if (le32_to_cpu(raw->flags) & ~FLAGS_KNOWN)
		return "it has unknown flags";
	if (raw->reserved[0] || raw->reserved[1])
		return "its reserved bytes are not zero";
	return tree_root_doubt(&raw->root);
}

static const char *unpack_texts(const struct volume_item *raw, struct value value, struct volume_fields *vol)
{
	const char *text = (const char *)value.data + sizeof(*raw);

	if (value.len != sizeof(*raw) + raw->name_len + raw->comment_len)
		return "the length of its name is wrong";
	unpack_label(text, raw->name_len, &vol->name);
	unpack_label(text + raw->name_len, raw->comment_len, &vol->comment);
	if (strlen(vol->name.text) != vol->name.len || !fs_name_is_valid(vol->name.text))
		return "its name is not valid";
	if (!text_is_plain(vol->comment.text, vol->comment.len))
		return "its comment is not valid";
	return NULL;
}

int volume_item_unpack(uint64_t id, struct value value, struct volume_fields *ret_vol, const char **ret_doubt)
{
	struct volume_fields vol = {.id = id};
	struct volume_item raw;
	const char *why;

	if (value.len < sizeof(raw)) {
		*ret_doubt = "its item is too short";
		return -EUCLEAN;
	}
	memcpy(&raw, value.data, sizeof(raw));
	why = unpack_texts(&raw, value, &vol);
	*ret_doubt = why ? why : volume_doubt(&raw);
	if (why)
		return -EUCLEAN;
	tree_root_unpack(&raw.root, id, &vol.root);
	vol.size = le64_to_cpu(raw.size);
	vol.used_blocks = le64_to_cpu(raw.used_blocks);
	vol.lost_blocks = le64_to_cpu(raw.lost_blocks);
	vol.ctime_ns = le64_to_cpu(raw.ctime_ns);
	vol.flags = le32_to_cpu(raw.flags);
	memcpy(vol.uuid, raw.uuid, sizeof(vol.uuid));
	*ret_vol = vol;
	return 0;
}

void volume_item_print(struct print *p, const struct volume_fields *vol)
{
	static const char *const flags[] = {"reserved", "writeback", "read_only"};

	print_begin(p, "volume");
	print_number(p, "id", vol->id);
	print_text(p, "name", vol->name.text, vol->name.len);
	print_uuid(p, "uuid", vol->uuid);
	print_number(p, "size", vol->size);
	print_number(p, "used_blocks", vol->used_blocks);
	print_number(p, "lost_blocks", vol->lost_blocks);
	print_flags(p, "flags", vol->flags, flags, 3);
	print_time(p, "created", vol->ctime_ns);
	tree_root_print(p, "root", &vol->root);
	if (vol->comment.len)
		print_text(p, "comment", vol->comment.text, vol->comment.len);
	print_end(p);
}

/* ---- deleted ones, and what was cut out of trees ---------------------------- */

uint16_t orphan_item_pack(const struct orphan_fields *orphan, uint8_t *value)
{
	struct orphan_item raw = {.used_blocks = cpu_to_le64(orphan->used_blocks),
				  .progress = cpu_to_le64(orphan->progress),
				  .owner = cpu_to_le64(orphan->root.owner)};

	tree_root_pack(&orphan->root, &raw.root);
	memcpy(value, &raw, sizeof(raw));
	return sizeof(raw);
}

int orphan_item_unpack(uint64_t id, struct value value, struct orphan_fields *ret_orphan,
		       const char **ret_doubt)
{
	struct orphan_item raw;

	if (value.len != sizeof(raw)) {
		*ret_doubt = "its item has the wrong length";
		return -EUCLEAN;
	}
	memcpy(&raw, value.data, sizeof(raw));
	*ret_doubt = tree_root_doubt(&raw.root);
	*ret_orphan = (struct orphan_fields){
		.id = id, .used_blocks = le64_to_cpu(raw.used_blocks), .progress = le64_to_cpu(raw.progress)};
	tree_root_unpack(&raw.root, le64_to_cpu(raw.owner), &ret_orphan->root);
	return 0;
}

void orphan_item_print(struct print *p, const struct orphan_fields *orphan)
{
	print_begin(p, orphan->root.owner == orphan->id ? "deleted_volume" : "cut_out");
	print_number(p, "id", orphan->id);
	print_number(p, "owner", orphan->root.owner);
	print_number(p, "used_blocks", orphan->used_blocks);
	print_number(p, "progress", orphan->progress);
	tree_root_print(p, "root", &orphan->root);
	print_end(p);
}
