/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/block_group_format.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/print.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

static_assert(GROUP_ITEM_STRIPES_MAX == GROUP_STRIPES_MAX, "a superblock's groups have as many stripes");

uint32_t group_unit(uint8_t type)
{
	return type == GROUP_DATA ? FS_BLOCK_SIZE : NODE_SIZE;
}

void group_key_pack(uint8_t key[ITEM_KEY_LEN], uint64_t start)
{
	key_pack(key, GROUP_KEY_TYPE, start);
}

uint16_t group_item_pack(const struct group_item *item, uint8_t *value)
{
	struct block_group_item raw = {
		.length = cpu_to_le64(item->length),
		.used = cpu_to_le64(item->used),
		.generation = cpu_to_le64(item->generation),
		.cache_generation = cpu_to_le64(item->cache_generation),
		.cache_crc = cpu_to_le32(item->cache_crc),
		.cache_bytes = cpu_to_le32(item->cache_bytes),
		.slot_bytes = cpu_to_le32(item->slot_bytes),
		.cache_slot = item->cache_slot,
		.type = item->type,
		.nr_stripes = item->nr_stripes,
	};

	memcpy(value, &raw, sizeof(raw));
	for (unsigned i = 0; i < item->nr_stripes; i++) {
		struct block_group_stripe stripe = {cpu_to_le64(0), cpu_to_le64(item->stripe[i])};

		memcpy(value + sizeof(raw) + i * sizeof(stripe), &stripe, sizeof(stripe));
	}
	return (uint16_t)(sizeof(raw) + item->nr_stripes * sizeof(struct block_group_stripe));
}

/* What of the bytes does not go into the native struct, or says how many bytes there are. */
static const char *raw_fault(const struct block_group_item *raw, struct value value)
{
	if (raw->nr_stripes < 1 || raw->nr_stripes > GROUP_ITEM_STRIPES_MAX ||
	    value.len != sizeof(*raw) + raw->nr_stripes * sizeof(struct block_group_stripe))
		return "its number of stripes is wrong";
	if (raw->type != GROUP_DATA && raw->type != GROUP_METADATA)
		return "its type is unknown";
	return raw->reserved ? "its reserved bytes are not zero" : NULL;
}

static const char *unpack_stripes(const uint8_t *bytes, struct group_item *item)
{
	for (unsigned i = 0; i < item->nr_stripes; i++) {
		struct block_group_stripe s;

		memcpy(&s, bytes + i * sizeof(s), sizeof(s));
		if (le64_to_cpu(s.device))
			return "it stands on a device that the pool does not have";
		item->stripe[i] = le64_to_cpu(s.offset);
	}
	return NULL;
}

int group_item_unpack(struct key key, struct value value, struct group_item *ret_item, const char **ret_why)
{
	struct group_item item = {0};
	struct block_group_item raw;

	*ret_why = NULL;
	if (key_unpack_type(key, GROUP_KEY_TYPE, &item.start))
		*ret_why = "its key is unknown";
	else if (value.len < sizeof(raw))
		*ret_why = "its item is too short";
	if (*ret_why)
		return -EUCLEAN;
	memcpy(&raw, value.data, sizeof(raw));
	item.length = le64_to_cpu(raw.length);
	item.used = le64_to_cpu(raw.used);
	item.generation = le64_to_cpu(raw.generation);
	item.cache_generation = le64_to_cpu(raw.cache_generation);
	item.cache_crc = le32_to_cpu(raw.cache_crc);
	item.cache_bytes = le32_to_cpu(raw.cache_bytes);
	item.slot_bytes = le32_to_cpu(raw.slot_bytes);
	item.cache_slot = raw.cache_slot;
	item.type = raw.type;
	item.nr_stripes = raw.nr_stripes;
	*ret_why = raw_fault(&raw, value);
	if (!*ret_why)
		*ret_why = unpack_stripes((const uint8_t *)value.data + sizeof(raw), &item);
	if (*ret_why)
		return -EUCLEAN;
	*ret_item = item;
	return 0;
}

static const char *place_fault(const struct group_item *item, const struct group_limits *limits)
{
	uint32_t unit = group_unit(item->type);

	if (item->start == 0 || item->start % limits->step || item->start >= limits->end)
		return "its address is impossible";
	if (item->length == 0 || item->length > limits->step || item->length % unit)
		return "its length is impossible";
	if (item->slot_bytes < free_space_cache_slot_bytes((uint32_t)(item->length / unit)))
		return "its cache slots are too small";
	if (item->slot_bytes % FREE_SPACE_CACHE_ALIGN || item->slot_bytes > GROUP_SLOT_BYTES_MAX)
		return "its cache slots have an impossible size";
	for (unsigned i = 0; limits->device_size && i < item->nr_stripes; i++) {
		uint64_t bytes = item->length + 2ull * item->slot_bytes;

		if (item->stripe[i] > limits->device_size || bytes > limits->device_size - item->stripe[i])
			return "it lies outside the device";
	}
	return NULL;
}

int group_item_validate(const struct group_item *item, const struct group_limits *limits,
			const char **ret_why)
{
	const char *why = place_fault(item, limits);

	if (!why)
		return 0;
	*ret_why = why;
	return -EUCLEAN;
}

const char *group_item_doubt(const struct group_item *item, const struct group_limits *limits)
{
	bool cached = item->cache_slot != CACHE_SLOT_NONE;

	if (item->used > item->length || item->used % group_unit(item->type))
		return "its used bytes are impossible";
	/*
	 * A group that is made while a commit runs belongs to the next transaction and may be in the tree of
	 * this one.
	 */
	if (item->generation > limits->generation + 1 ||
	    (cached && item->cache_generation > limits->generation))
		return "it is younger than the superblock";
	if (cached && item->cache_slot > 1)
		return "its cache slot is impossible";
	if (cached && (item->cache_bytes == 0 || item->cache_bytes > item->slot_bytes))
		return "its cache has an impossible length";
	for (unsigned i = 0; i < item->nr_stripes; i++)
		if (item->stripe[i] < DEVICE_DATA_START)
			return "it stands in the space of the superblocks";
	return NULL;
}

uint64_t group_item_cache_offset(const struct group_item *item, unsigned stripe)
{
	return item->stripe[stripe] + item->length + (uint64_t)item->cache_slot * item->slot_bytes;
}

void group_item_print(struct print *p, const struct group_item *item)
{
	print_begin(p, "group");
	print_number(p, "start", item->start);
	print_word(p, "type", item->type == GROUP_DATA ? "data" : "metadata");
	print_number(p, "length", item->length);
	print_number(p, "used", item->used);
	print_number(p, "generation", item->generation);
	for (unsigned i = 0; i < item->nr_stripes; i++)
		print_number(p, i ? "stripe1" : "stripe0", item->stripe[i]);
	print_number(p, "slot_bytes", item->slot_bytes);
	if (item->cache_slot == CACHE_SLOT_NONE) {
		print_word(p, "cache_slot", "none");
	} else {
		print_number(p, "cache_slot", item->cache_slot);
		print_number(p, "cache_generation", item->cache_generation);
		print_number(p, "cache_bytes", item->cache_bytes);
		print_hex(p, "cache_crc", item->cache_crc);
	}
	print_end(p);
}
