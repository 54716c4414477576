/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/super_format.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/util.h"
#include "fs/format/block_group_format.h"
#include "fs/format/print.h"
#include "fs/fs.h"

static bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

uint32_t super_checksum(const struct super_block *sb)
{
	return crc32c((const char *)sb + sizeof(sb->crc), SUPER_SIZE - sizeof(sb->crc));
}

static const char *fields_fault(const struct super_block *sb)
{
	uint64_t size = le64_to_cpu(sb->device_size), log = le64_to_cpu(sb->log_offset),
		 log_size = le64_to_cpu(sb->log_size), step = le64_to_cpu(sb->group_step);

	if (le32_to_cpu(sb->version) != SUPER_VERSION)
		return "is of an unknown version";
	if (le32_to_cpu(sb->block_size) != FS_BLOCK_SIZE || le32_to_cpu(sb->node_size) != NODE_SIZE)
		return "has an unknown block size";
	if (size < FS_POOL_SIZE_MIN || size % FS_BLOCK_SIZE)
		return "has an impossible size";
	if (!is_power_of_two(step) || step < GROUP_STEP_MIN || step > GROUP_STEP)
		return "has an impossible step of block groups";
	if (log < DEVICE_DATA_START || log % FS_BLOCK_SIZE || log_size < (64u << 10) ||
	    log_size % FS_BLOCK_SIZE || log_size > size || log > size - log_size)
		return "has an impossible flush log";
	return NULL;
}

int super_validate_fields(const struct super_block *sb, const char **ret_why)
{
	const char *why = fields_fault(sb);

	if (!why)
		return 0;
	*ret_why = why;
	return -EUCLEAN;
}

int super_validate(const struct super_block *sb, uint64_t offset, uint64_t device_bytes, const char **ret_why)
{
	const char *why = NULL;

	if (le64_to_cpu(sb->magic) != SUPER_MAGIC)
		why = "is not that of a Byre pool";
	else if (le32_to_cpu(sb->crc) != super_checksum(sb))
		why = "has a wrong checksum";
	else if (le64_to_cpu(sb->offset) != offset)
		why = "was written to another place";
	else
		why = fields_fault(sb);
	if (!why && device_bytes && le64_to_cpu(sb->device_size) > device_bytes)
		why = "says that the pool is larger than the file: the file was truncated";
	if (!why)
		return 0;
	*ret_why = why;
	return -EUCLEAN;
}

bool super_system_group_unpack(const struct super_block *sb, unsigned i, struct group_item *ret_item)
{
	const struct super_system_group *g = &sb->system[i];

	if (le64_to_cpu(g->start) == 0)
		return false;
	*ret_item = (struct group_item){.start = le64_to_cpu(g->start),
					.length = le64_to_cpu(g->length),
					.type = GROUP_SYSTEM,
					.nr_stripes = GROUP_STRIPES_MAX,
					.cache_slot = CACHE_SLOT_NONE};
	for (unsigned k = 0; k < GROUP_STRIPES_MAX; k++)
		ret_item->stripe[k] = le64_to_cpu(g->stripe[k].offset);
	return true;
}

/* ---- printing -------------------------------------------------------------- */

enum field_kind { FIELD_U32, FIELD_U64, FIELD_HEX, FIELD_UUID, FIELD_TIME, FIELD_ROOT, FIELD_FLAGS };

/* In the order of the bytes; all that is used in front of the system groups, but for the scrub. */
static const struct field {
	const char *name;
	size_t off;
	enum field_kind kind;
	size_t bytes;
} fields[] = {
#define FIELD(f, kind)                                                                          \
	{                                                                                       \
#f, offsetof(struct super_block, f), kind, sizeof(((struct super_block *)0)->f) \
	}
	FIELD(version, FIELD_U32),    FIELD(generation, FIELD_U64),	  FIELD(uuid, FIELD_UUID),
	FIELD(compat, FIELD_HEX),     FIELD(ro_compat, FIELD_HEX),	  FIELD(incompat, FIELD_HEX),
	FIELD(flags, FIELD_FLAGS),    FIELD(device_size, FIELD_U64),	  FIELD(group_step, FIELD_U64),
	FIELD(block_size, FIELD_U32), FIELD(node_size, FIELD_U32),	  FIELD(ctime_ns, FIELD_TIME),
	FIELD(next_id, FIELD_U64),    FIELD(root_tree, FIELD_ROOT),	  FIELD(group_tree, FIELD_ROOT),
	FIELD(log_offset, FIELD_U64), FIELD(log_size, FIELD_U64),	  FIELD(log_tail, FIELD_U64),
	FIELD(log_seq, FIELD_U64),    FIELD(log_lost_flushes, FIELD_U64), FIELD(log_lost_ns, FIELD_TIME),
#undef FIELD
};

static uint64_t u64_at(const void *bytes)
{
	le64 raw;

	memcpy(&raw, bytes, sizeof(raw));
	return le64_to_cpu(raw);
}

static void print_root(struct print *p, const char *name, const void *bytes)
{
	struct tree_root_item item;
	struct tree_root root;

	memcpy(&item, bytes, sizeof(item));
	tree_root_unpack(&item, 0, &root);
	tree_root_print(p, name, &root);
}

static void print_field(struct print *p, const char *name, const struct field *f,
			const struct super_block *sb)
{
	static const char *const flags[] = {"sparse", "leaked"};
	const uint8_t *bytes = (const uint8_t *)sb + f->off;
	le32 raw;

	switch (f->kind) {
	case FIELD_U32:
		memcpy(&raw, bytes, sizeof(raw));
		print_number(p, name, le32_to_cpu(raw));
		break;
	case FIELD_U64: print_number(p, name, u64_at(bytes)); break;
	case FIELD_HEX: print_hex(p, name, u64_at(bytes)); break;
	case FIELD_UUID: print_uuid(p, name, bytes); break;
	case FIELD_TIME: print_time(p, name, u64_at(bytes)); break;
	case FIELD_ROOT: print_root(p, name, bytes); break;
	case FIELD_FLAGS: print_flags(p, name, u64_at(bytes), flags, ARRAY_SIZE(flags)); break;
	}
}

void super_print(struct print *p, const struct super_block *sb)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		print_field(p, fields[i].name, &fields[i], sb);
}

/* "1_generation", "2_generation" */
static void print_both(struct print *p, const struct field *f, const struct super_block *a,
		       const struct super_block *b)
{
	char name[64];

	snprintf(name, sizeof(name), "1_%s", f->name);
	print_field(p, name, f, a);
	snprintf(name, sizeof(name), "2_%s", f->name);
	print_field(p, name, f, b);
}

unsigned super_compare(struct print *p, const struct super_block *a, const struct super_block *b)
{
	unsigned differ = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const struct field *f = &fields[i];

		if (memcmp((const char *)a + f->off, (const char *)b + f->off, f->bytes) == 0)
			continue;
		differ++;
		if (p)
			print_both(p, f, a, b);
	}
	if (memcmp(&a->scrub, &b->scrub, SUPER_SIZE - offsetof(struct super_block, scrub)) != 0) {
		differ++;
		if (p)
			print_word(p, "and", "scrub or system groups");
	}
	return differ;
}

void super_scrub_print(struct print *p, const struct super_scrub *scrub)
{
	static const char *const states[] = {"never", "running", "finished", "stopped"};
	static const char *const phases[] = {"superblocks", "groups", "root", "volumes", "ended"};

	print_begin(p, "scrub");
	print_word(p, "state", scrub->state < ARRAY_SIZE(states) ? states[scrub->state] : "unknown");
	print_word(p, "phase", scrub->phase < ARRAY_SIZE(phases) ? phases[scrub->phase] : "unknown");
	print_time(p, "started", le64_to_cpu(scrub->started_ns));
	print_time(p, "ended", le64_to_cpu(scrub->ended_ns));
	print_number(p, "volume", le64_to_cpu(scrub->volume));
	print_number(p, "pos", le64_to_cpu(scrub->pos));
	print_number(p, "bytes_done", le64_to_cpu(scrub->bytes_done));
	print_number(p, "bytes_total", le64_to_cpu(scrub->bytes_total));
	print_number(p, "found", le64_to_cpu(scrub->found));
	print_number(p, "mended", le64_to_cpu(scrub->mended));
	print_number(p, "damaged_bytes", le64_to_cpu(scrub->damaged_bytes));
	print_end(p);
}

void super_system_group_print(struct print *p, unsigned index, const struct super_system_group *group)
{
	print_begin(p, "system_group");
	print_number(p, "index", index);
	print_number(p, "start", le64_to_cpu(group->start));
	print_number(p, "length", le64_to_cpu(group->length));
	print_number(p, "stripe0", le64_to_cpu(group->stripe[0].offset));
	print_number(p, "stripe1", le64_to_cpu(group->stripe[1].offset));
	print_end(p);
}
