/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/check/test_check.c: the checker finds nothing in good pools, crashed ones included, finds each
 * kind of damage, mends what it says it mends, and survives any bytes. Caches and rebuilds:
 * test_check_rebuild.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "fs/check/check_int.h"
#include "fs/format/flush_log_format.h"
#include "tests/lib/check_pool.h"
#include "tests/lib/random.h"
#include "base/le.h"
#include "base/util.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/check/check.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/pool/pool.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"
#include "fs/format/volume_format.h"
#include "fs/format/key.h"

/* ---- good pools ------------------------------------------------------------ */

static void test_check_new_pool_is_clean(void **state)
{
	struct device *dev = device_sim_new(FS_POOL_SIZE_MIN, 1);

	assert_int_equal(pool_format(dev, false, NULL), 0);
	assert_clean(dev);
	device_close(dev);
}

static void test_check_crashed_pools_are_clean(void **state)
{
	uint64_t seed = test_seed_or(20240229);
	struct world *w = world_new(seed);

	assert_int_equal(fs_volume_create(w->fs, "a", VOLUME_BYTES, 0, NULL), 0);
	assert_int_equal(fs_volume_create(w->fs, "b", VOLUME_BYTES, 0, NULL), 0);
	for (unsigned round = 0; round < 60; round++) {
		struct device *image;

		world_work(w, pick(&w->rng, 2) ? "a" : "b", 30);
		if (round % 20 == 10)
			assert_int_equal(fs_volume_resize(w->fs, "a", VOLUME_BYTES, NULL), 0);
		if (round % 20 == 19) {
			assert_int_equal(fs_volume_delete(w->fs, "b", NULL), 0);
			assert_int_equal(fs_volume_create(w->fs, "b", VOLUME_BYTES, 0, NULL), 0);
		}
		image = device_sim_crash_image(
			w->dev, (enum device_sim_crash_mode)pick(&w->rng, DEVICE_SIM_CRASH_MODES), round);
		assert_clean(image);
		device_close(image);
	}
	world_abandon(w);
	free(w);
}

/* ---- damage ---------------------------------------------------------------- */

static void test_check_superblock_copies_are_mended(void **state)
{
	static const uint64_t off[] = SUPER_OFFSETS;
	struct subject *s = subject_new();

	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		struct device *dev = device_sim_clone(s->dev, 1);
		struct lines l;

		device_sim_flip(dev, off[copy] + 100, 3);
		assert_int_equal(check_sim(dev, false, &l), 1);
		assert_non_null(strstr(l.all, "has a wrong checksum"));
		assert_found(dev, true, "repaired");
		assert_clean(dev);
		device_close(dev);
	}
	subject_free(s);
}

static void test_check_bad_copy_of_a_node_is_mended(void **state)
{
	struct subject *s = subject_new();
	struct tree_root group_root;
	uint64_t addrs[4];

	tree_root_unpack(&s->sb.group_tree, TREE_ID_GROUP, &group_root);
	addrs[0] = group_root.addr;
	addrs[1] = le64_to_cpu(s->sb.root_tree.addr);
	addrs[2] = s->vol_root.addr;
	addrs[3] = first_leaf(s, s->dev, &s->vol_root);
	for (unsigned i = 0; i < 8; i++) {
		struct device *dev = device_sim_clone(s->dev, 1);
		uint64_t off[GROUP_STRIPES_MAX];
		struct lines l;

		node_places(s, addrs[i / 2], off);
		if (i % 4 < 2)
			device_sim_flip(dev, off[i % 2] + 9000, 1);
		else
			device_sim_bad_range(dev, off[i % 2], NODE_SIZE);
		assert_int_equal(check_sim(dev, false, &l), 1);
		assert_non_null(strstr(l.all, "its twin is good"));
		assert_found(dev, true, "repaired from its twin");
		assert_clean(dev);
		device_close(dev);
	}
	subject_free(s);
}

static void test_check_node_without_a_good_copy_is_found(void **state)
{
	struct subject *s = subject_new();
	struct device *dev = device_sim_clone(s->dev, 1);
	uint64_t off[GROUP_STRIPES_MAX];
	struct lines l;

	node_places(s, first_leaf(s, dev, &s->vol_root), off);
	device_sim_flip(dev, off[0] + 9000, 1);
	device_sim_flip(dev, off[1] + 9001, 1);
	assert_int_equal(check_sim(dev, true, &l), 1);
	assert_non_null(strstr(l.all, "volume a: "));
	assert_non_null(strstr(l.all, " are lost: node "));
	assert_int_equal(check_sim(dev, false, &l), 1); /* repair did not touch anything */
	device_close(dev);
	subject_free(s);
}

/* What a check told in parts. */
struct told {
	unsigned count, by_cure[FS_CURES];
	uint64_t off[200], len[200];
	char volume[200];
	char line[768];
};

static void take_detail(void *arg, const struct fs_finding *f)
{
	struct told *t = arg;

	if (t->count < ARRAY_SIZE(t->off)) {
		t->off[t->count] = f->off;
		t->len[t->count] = f->len;
		t->volume[t->count] = f->volume ? f->volume[0] : 0;
	}
	t->count++;
	t->by_cure[f->cure]++;
}

static void take_last_line(void *arg, const char *line)
{
	struct told *t = arg;

	snprintf(t->line, sizeof(t->line), "%s", line);
}

static void check_told(struct device *dev, bool repair, struct told *t)
{
	struct fs_check_options opt = {
		.repair = repair, .finding = take_last_line, .detail = take_detail, .arg = t};
	uint64_t findings;

	memset(t, 0, sizeof(*t));
	assert_int_equal(check_device(dev, &opt, &findings, NULL), 0);
	assert_int_equal(findings, t->count);
}

/* Where a block of a volume stands on the device. */
static uint64_t block_place(struct world *w, const char *name, uint64_t blk)
{
	uint64_t off[GROUP_STRIPES_MAX];
	struct volume_piece piece;
	struct fs_volume *vol;
	uint32_t crc;

	assert_int_equal(fs_volume_get(w->fs, name, &vol), 0);
	assert_int_equal(volume_lookup(vol, w->fs->commit_q, blk, 1, &piece, &crc), 0);
	fs_volume_put(vol);
	assert_int_equal(block_group_map(w->fs, piece.addr, FS_BLOCK_SIZE, off), 1);
	return off[0];
}

static void write_all(struct world *w, const char *name)
{
	struct fs_volume *vol;

	assert_int_equal(fs_volume_create(w->fs, name, VOLUME_BYTES / 4, 0, NULL), 0);
	assert_int_equal(fs_volume_get(w->fs, name, &vol), 0);
	for (uint64_t at = 0; at < VOLUME_BYTES / 4; at += IO_BYTES) {
		memset(w->buf, (int)(at / IO_BYTES + 1), IO_BYTES);
		assert_int_equal(world_io(w, vol, FS_WRITE, at, IO_BYTES), 0);
	}
	fs_volume_put(vol);
	world_commit(w);
}

/* 1 MiB in a row is one line, and single blocks are told in order, volume by volume. */
static void test_check_rotten_data_is_found(void **state)
{
	struct world *w = world_new(test_seed_or(20240229));
	struct device *dev;
	struct told t;

	write_all(w, "v");
	write_all(w, "u");
	dev = device_sim_clone(w->dev, 1);
	for (unsigned i = 0; i < 256; i++)
		device_sim_flip(dev, block_place(w, "u", 300 + i) + i, 5);
	check_told(dev, true, &t);
	assert_int_equal(t.count, 1);
	assert_int_equal(t.by_cure[FS_CURE_OVERWRITE], 1);
	assert_int_equal(t.off[0], 300 * FS_BLOCK_SIZE);
	assert_int_equal(t.len[0], 1 << 20);
	assert_int_equal(t.volume[0], 'u');
	assert_non_null(strstr(t.line, "checksum does not match: overwrite or trim this range"));
	for (unsigned i = 0; i < 50; i++)
		device_sim_flip(dev, block_place(w, "v", 2 * i + 7), 5);
	device_sim_bad_range(dev, block_place(w, "v", 8), FS_BLOCK_SIZE);
	check_told(dev, false, &t);
	assert_int_equal(t.count, 52);
	for (unsigned i = 0; i < 51; i++) {
		assert_int_equal(t.volume[i], 'v');
		assert_int_equal(t.off[i], (i < 2 ? 7 + i : 2 * (i - 1) + 7) * FS_BLOCK_SIZE);
		assert_int_equal(t.len[i], FS_BLOCK_SIZE);
	}
	assert_int_equal(t.volume[51], 'u');
	device_close(dev);
	world_abandon(w);
	free(w);
}

/* All that a volume can have in single blocks, in order. */
static void test_check_much_damage_is_bounded(void **state)
{
	struct world *w = world_new(test_seed_or(20240229));
	uint64_t blocks = VOLUME_BYTES / FS_BLOCK_SIZE, sum = 0;
	struct fs_volume *vol;
	struct told t;

	assert_int_equal(fs_volume_create(w->fs, "v", VOLUME_BYTES, 0, NULL), 0);
	assert_int_equal(fs_volume_get(w->fs, "v", &vol), 0);
	for (uint64_t at = 0; at < VOLUME_BYTES; at += IO_BYTES)
		assert_int_equal(world_io(w, vol, FS_WRITE, at, IO_BYTES), 0);
	fs_volume_put(vol);
	world_commit(w);
	for (uint64_t i = 0; i < blocks; i += 2) /* neighbours never join */
		device_sim_flip(w->dev, block_place(w, "v", i), 1);
	assert_true(blocks / 2 <= CHECK_DAMAGE_MAX);
	check_told(w->dev, false, &t);
	assert_int_equal(t.count, blocks / 2);
	for (unsigned i = 0; i < ARRAY_SIZE(t.off); i++)
		sum += t.off[i] == 2 * i * FS_BLOCK_SIZE;
	assert_int_equal(sum, ARRAY_SIZE(t.off));
	world_abandon(w);
	free(w);
}

/*
 * As the list is when it runs full: pieces in any order, joined as far as they are known, the rest summed up.
 */
static void test_check_damage_list_runs_full(void **state)
{
	struct told t = {0};
	struct fs_check_options opt = {.detail = take_detail, .arg = &t};
	struct check c = {.opt = &opt};
	struct check_damage_piece p = {DAMAGE_DATA, FS_CURE_OVERWRITE, 0, 0, FS_BLOCK_SIZE, 0, 0, "rotten"};

	assert_int_equal(check_damage_init(&c), 0);
	for (uint64_t i = 2 * CHECK_DAMAGE_MAX; i > 0; i--) { /* backwards, all joins */
		p.at = i * FS_BLOCK_SIZE;
		check_damage_add(&c, &p);
	}
	check_damage_tell(&c, "volume v", "v");
	assert_int_equal(t.count, 1);
	assert_int_equal(t.off[0], FS_BLOCK_SIZE);
	assert_int_equal(t.len[0], 2ull * CHECK_DAMAGE_MAX * FS_BLOCK_SIZE);
	memset(&t, 0, sizeof(t));
	for (uint64_t i = 0; i < 3 * CHECK_DAMAGE_MAX; i++) {
		p.at = i * 2 * FS_BLOCK_SIZE;
		check_damage_add(&c, &p);
	}
	check_damage_tell(&c, "volume v", "v");
	assert_int_equal(t.count, CHECK_DAMAGE_MAX + 1);
	memset(&t, 0, sizeof(t));
	check_damage_tell(&c, "volume v", "v"); /* it is empty again */
	assert_int_equal(t.count, 0);
	check_damage_fini(&c);
}

/* Each changes one number in an item, under right checksums. */
static void test_check_wrong_extents_are_found(void **state)
{
	struct subject *s = subject_new();
	uint64_t leaf = first_leaf(s, s->dev, &s->vol_root), system = le64_to_cpu(s->sb.system[0].start);
	const struct {
		unsigned slot;
		size_t at;
		uint64_t value;
		const char *finding;
	} edits[] = {
		{3, offsetof(struct extent_item, addr), 1ull << 60, "where no data group is"},
		{3, offsetof(struct extent_item, addr), leaf, "where no data group is"},
		{3, offsetof(struct extent_item, addr), system, "where no data group is"},
		{3, offsetof(struct extent_item, addr), 0, "holds an item that is not an extent"},
		{3, offsetof(struct extent_item, addr), 4097, "holds an item that is not an extent"},
		{3, offsetof(struct extent_item, generation), 1ull << 50, "is younger than the node"},
		{3, offsetof(struct extent_item, blocks), 0, "holds an item that is not an extent"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		struct device *dev = device_sim_clone(s->dev, 1);

		edit_u64(s, dev, leaf, edits[i].slot, edits[i].at, edits[i].value);
		assert_found(dev, true, edits[i].finding);
		device_close(dev);
	}
	subject_free(s);
}

static void test_check_doubly_referred_block_is_found(void **state)
{
	struct subject *s = subject_new();
	struct device *dev = device_sim_clone(s->dev, 1);
	uint64_t leaf = first_leaf(s, dev, &s->vol_root);
	struct extent_item item, next;
	struct lines l;
	unsigned slot;

	for (slot = 0;; slot++) { /* two neighbours of equal length */
		get_value(s, dev, leaf, slot, &item, sizeof(item));
		get_value(s, dev, leaf, slot + 1, &next, sizeof(next));
		if (le32_to_cpu(item.blocks) == le32_to_cpu(next.blocks))
			break;
	}
	edit_u64(s, dev, leaf, slot + 1, offsetof(struct extent_item, addr), le64_to_cpu(item.addr));
	check_sim(dev, false, &l);
	assert_non_null(strstr(l.all, "with another one"));
	assert_non_null(strstr(l.all, "in use in its cache but free"));
	assert_non_null(strstr(l.all, "bytes are used, the trees refer to"));
	device_close(dev);
	subject_free(s);
}

/* The root tree has one leaf: volume a, volume b. */
static void test_check_wrong_volumes_are_found(void **state)
{
	struct subject *s = subject_new();
	uint64_t leaf = le64_to_cpu(s->sb.root_tree.addr);
	size_t root = offsetof(struct volume_item, root), name = sizeof(struct volume_item);
	const struct {
		size_t at, len;
		uint64_t value;
		const char *finding;
	} edits[] = {
		{name, 1, 'b', "another volume has the same name"},
		{name, 1, '.', "its name is not valid"},
		{name, 1, 0, "its name is not valid"},
		{offsetof(struct volume_item, name_len), 1, 2, "the length of its name is wrong"},
		{offsetof(struct volume_item, reserved), 1, 2, "reserved bytes"},
		{offsetof(struct volume_item, flags), 4, 0x80, "unknown flags"},
		{offsetof(struct volume_item, size), 8, VOLUME_BYTES + 1, "its size is impossible"},
		{offsetof(struct volume_item, size), 8, FS_BLOCK_SIZE, "behind the end of the volume"},
		{offsetof(struct volume_item, used_blocks), 8, 1, "its item says 1"},
		{root + offsetof(struct tree_root_item, nodes), 8, 1, "its root says 1"},
		{root + offsetof(struct tree_root_item, leaves), 8, 1, "its root says"},
		{root + offsetof(struct tree_root_item, items), 8, 1, "its root says"},
		{root + offsetof(struct tree_root_item, generation), 8, UINT64_MAX,
		 "younger than the superblock"},
		{root + offsetof(struct tree_root_item, generation), 8, 1, "is of another generation"},
		{root + offsetof(struct tree_root_item, level), 1, 0, "is of another level"},
		{root + offsetof(struct tree_root_item, level), 1, 255, "its root is impossible"},
		{root + offsetof(struct tree_root_item, addr), 8, 0, "its counts are not zero"},
		{root + offsetof(struct tree_root_item, addr), 8, NODE_SIZE, "where no group for it is"},
		{root + offsetof(struct tree_root_item, addr), 8, leaf, "more than once"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		struct device *dev = device_sim_clone(s->dev, 1);
		le64 raw = cpu_to_le64(edits[i].value);

		edit_item(s, dev, leaf, 0, edits[i].at, &raw, edits[i].len);
		assert_found(dev, true, edits[i].finding);
		device_close(dev);
	}
	subject_free(s);
}

static void test_check_wrong_groups_are_found(void **state)
{
	struct subject *s = subject_new();
	uint64_t leaf = le64_to_cpu(s->sb.group_tree.addr);
	size_t stripe = sizeof(struct block_group_item);
	const struct {
		size_t at, len;
		uint64_t value;
		const char *finding;
	} edits[] = {
		{offsetof(struct block_group_item, type), 1, 8, "its type is unknown"},
		{offsetof(struct block_group_item, nr_stripes), 1, 3, "its number of stripes is wrong"},
		{offsetof(struct block_group_item, nr_stripes), 1, 0, "its number of stripes is wrong"},
		{offsetof(struct block_group_item, length), 8, 1ull << 40, "its length is impossible"},
		{offsetof(struct block_group_item, length), 8, 4097, "its length is impossible"},
		{offsetof(struct block_group_item, used), 8, 1ull << 40, "its used bytes are impossible"},
		{offsetof(struct block_group_item, used), 8, 0, "bytes are used, the trees refer to"},
		{offsetof(struct block_group_item, slot_bytes), 4, 0, "its cache slots are too small"},
		{offsetof(struct block_group_item, slot_bytes), 4, 1u << 31,
		 "its cache slots have an impossible size"},
		{offsetof(struct block_group_item, cache_slot), 1, 7, "its cache slot is impossible"},
		{offsetof(struct block_group_item, cache_bytes), 4, 0x7fffffff,
		 "its cache has an impossible length"},
		{offsetof(struct block_group_item, cache_bytes), 4, 100,
		 "free-space cache, copy 0, is damaged"},
		{offsetof(struct block_group_item, cache_crc), 4, 1, "free-space cache, copy 0, is damaged"},
		{offsetof(struct block_group_item, cache_generation), 8, 1,
		 "free-space cache, copy 0, is of another generation"},
		{offsetof(struct block_group_item, generation), 8, 1ull << 40, "younger than the superblock"},
		{stripe, 8, 1, "a device that the pool does not have"},
		{stripe + 8, 8, 1ull << 50, "it lies outside the device"},
		{stripe + 8, 8, DEVICE_DATA_START, "overlap on the device"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		struct device *dev = device_sim_clone(s->dev, 1);
		le64 raw = cpu_to_le64(edits[i].value);

		edit_item(s, dev, leaf, 0, edits[i].at, &raw, edits[i].len);
		assert_found(dev, true, edits[i].finding);
		device_close(dev);
	}
	subject_free(s);
}

/* ---- the flush log --------------------------------------------------------- */

/* Two flushes of one block each, not committed; the places of their records and of their data. */
struct log_subject {
	struct world *w;
	struct device *image;
	uint64_t record[2], data[2], committed;
};

static void new_log_subject(struct log_subject *ls)
{
	struct world *w = ls->w = world_new(test_seed_or(20240229));
	struct volume_piece piece;
	struct fs_volume *vol;
	uint32_t crc;
	uint64_t off[GROUP_STRIPES_MAX];

	assert_int_equal(fs_volume_create(w->fs, "a", VOLUME_BYTES, 0, NULL), 0);
	world_work(w, "a", 50);
	world_commit(w);
	assert_int_equal(fs_volume_get(w->fs, "a", &vol), 0);
	memset(w->buf, 1, FS_BLOCK_SIZE);
	assert_int_equal(world_io(w, vol, FS_WRITE, FS_BLOCK_SIZE, FS_BLOCK_SIZE), 0);
	world_commit(w);
	assert_int_equal(volume_lookup(vol, w->fs->commit_q, 1, 1, &piece, &crc), 0);
	ls->committed = piece.addr;
	for (unsigned i = 0; i < 2; i++) {
		ls->record[i] = w->fs->log->offset + w->fs->log->head % w->fs->log->size;
		assert_int_equal(world_io(w, vol, FS_WRITE, (100 + i) * FS_BLOCK_SIZE, FS_BLOCK_SIZE), 0);
		assert_int_equal(world_io(w, vol, FS_FLUSH, 0, 0), 0);
		assert_int_equal(volume_lookup(vol, w->fs->commit_q, 100 + i, 1, &piece, &crc), 0);
		assert_int_equal(block_group_map(w->fs, piece.addr, FS_BLOCK_SIZE, off), 1);
		ls->data[i] = off[0];
	}
	fs_volume_put(vol);
	ls->image = device_sim_crash_image(w->dev, DEVICE_SIM_CRASH_LOSE_ALL, 1);
	assert_clean(ls->image);
}

static void free_log_subject(struct log_subject *ls)
{
	device_close(ls->image);
	world_abandon(ls->w);
	free(ls->w);
}

#define EXTENT_BYTES (sizeof(struct log_extent) + 8) /* of one block */

/* Changes a field of the last item of a record, and its checksum. */
static void edit_record(struct device *dev, uint64_t at, size_t field, uint64_t value)
{
	uint8_t block[FS_BLOCK_SIZE];
	struct log_record *rec = (struct log_record *)block;
	uint32_t bytes;
	le64 raw = cpu_to_le64(value);

	device_sim_peek(dev, at, block, sizeof(block));
	bytes = le32_to_cpu(rec->bytes);
	assert_int_equal(le32_to_cpu(rec->magic), LOG_MAGIC);
	assert_true(bytes >= sizeof(*rec) + EXTENT_BYTES && bytes <= sizeof(block));
	memcpy(block + bytes - EXTENT_BYTES + field, &raw, sizeof(raw));
	rec->crc = cpu_to_le32(crc32c((char *)rec + 4, bytes - 4));
	device_sim_poke(dev, at, block, sizeof(block));
}

static void test_check_log_damage_is_found(void **state)
{
	struct log_subject ls;
	struct device *dev;
	struct log_extent item;

	new_log_subject(&ls);
	/*
	 * The first flush was answered before the second began: its data has to be there. Not so that of the
	 * last.
	 */
	for (unsigned i = 0; i < 2; i++) {
		dev = device_sim_clone(ls.image, 1);
		device_sim_flip(dev, ls.data[i] + 7, 1);
		if (i == 0)
			assert_found(dev, true, "flush log, volume a: data at byte");
		else
			assert_clean(dev);
		device_close(dev);
	}
	const struct {
		size_t field;
		uint64_t value;
		const char *finding;
	} edits[] = {
		{offsetof(struct log_item, id), 12345, "which do not exist"},
		{offsetof(struct log_extent, blk), VOLUME_BYTES / FS_BLOCK_SIZE, "which do not exist"},
		{offsetof(struct log_extent, blk), UINT64_MAX, "which do not exist"},
		{offsetof(struct log_extent, addr), 1ull << 50, "where no data group is"},
		{offsetof(struct log_extent, addr), ls.committed, "that the trees refer to"},
		{offsetof(struct log_extent, blocks), 1ull << 40, "makes no sense"},
		{offsetof(struct log_extent, addr), ls.committed + 1, "makes no sense"},
		{offsetof(struct log_item, type), 0xee, "makes no sense"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		dev = device_sim_clone(ls.image, 1);
		edit_record(dev, ls.record[1], edits[i].field, edits[i].value);
		assert_found(dev, true, edits[i].finding);
		device_close(dev);
	}
	/* The second gives the block of the first to another place. */
	dev = device_sim_clone(ls.image, 1);
	device_sim_peek(dev, ls.record[0] + sizeof(struct log_record), &item, sizeof(item));
	edit_record(dev, ls.record[1], offsetof(struct log_extent, addr), le64_to_cpu(item.addr));
	assert_found(dev, true, "or twice to one");
	device_close(dev);
	/* The last may be torn: it ends there. One before it was durable: it has rotted. */
	for (unsigned i = 0; i < 2; i++) {
		dev = device_sim_clone(ls.image, 1);
		device_sim_flip(dev, ls.record[i] + 60, 1);
		if (i == 0)
			assert_found(dev, true, "cannot be replayed");
		else
			assert_clean(dev);
		device_close(dev);
	}
	/* One that cannot be read may be either: nothing is replayed until somebody decides. */
	dev = device_sim_clone(ls.image, 1);
	device_sim_bad_range(dev, ls.record[1], FS_BLOCK_SIZE);
	assert_found(dev, false, "cannot be read, and the pool cannot be opened");
	assert_found(dev, true, "gives up what was flushed there (done)");
	assert_clean(dev);
	device_close(dev);
	free_log_subject(&ls);
}

/* ---- any bytes ------------------------------------------------------------- */

/*
 * Writes garbage over a few bytes of a random node of the three trees' upper parts, under a right checksum.
 */
static void scribble(struct subject *s, struct device *dev)
{
	uint64_t addrs[] = {le64_to_cpu(s->sb.group_tree.addr), le64_to_cpu(s->sb.root_tree.addr),
			    s->vol_root.addr, first_leaf(s, s->dev, &s->vol_root)};
	uint64_t off[GROUP_STRIPES_MAX];
	uint8_t node[NODE_SIZE];
	struct node_header *h = (struct node_header *)node;

	node_places(s, addrs[pick(&s->w->rng, 4)], off);
	device_sim_peek(dev, off[0], node, NODE_SIZE);
	for (unsigned n = 1 + (unsigned)pick(&s->w->rng, 3); n > 0; n--) {
		unsigned slot = (unsigned)pick(&s->w->rng, node_count(h));
		struct key key = node_key(h, slot);
		uint64_t at =
			(uint64_t)(key.data - node) + pick(&s->w->rng, key.len + node_value(h, slot).len);

		if (pick(&s->w->rng, 10) == 0)
			at = sizeof(struct node_header) +
			     pick(&s->w->rng, node_count(h) * sizeof(struct node_slot));
		node[at] = pick(&s->w->rng, 3) ? (uint8_t)pick(&s->w->rng, 256) : 0xff;
		node_seal(h);
		if (at < sizeof(struct node_header) + 6000)
			break; /* slots may be broken now */
	}
	device_sim_poke(dev, off[0], node, NODE_SIZE);
	device_sim_poke(dev, off[1], node, NODE_SIZE);
}

static void scribble_super(struct subject *s, struct device *dev)
{
	static const uint64_t off[] = SUPER_OFFSETS;
	struct super_block sb = s->sb;

	for (unsigned n = 1 + (unsigned)pick(&s->w->rng, 4); n > 0; n--)
		((uint8_t *)&sb)[104 + pick(&s->w->rng, 248 + 48 - 104)] = (uint8_t)pick(&s->w->rng, 256);
	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		sb.offset = cpu_to_le64(off[i]);
		sb.crc = cpu_to_le32(crc32c((char *)&sb + 4, SUPER_SIZE - 4));
		device_sim_poke(dev, off[i], &sb, SUPER_SIZE);
	}
}

static void test_check_survives_any_bytes(void **state)
{
	struct subject *s = subject_new();
	struct lines *l = calloc(1, sizeof(*l));
	struct fs_check_options opt = {.repair = true, .finding = take_line, .arg = l};

	for (unsigned i = 0; i < 300; i++) {
		struct device *dev = device_sim_clone(s->dev, i);
		uint64_t findings;

		if (i % 4 == 0)
			scribble_super(s, dev);
		else
			scribble(s, dev);
		l->all[0] = '\0';
		(void)check_device(dev, &opt, &findings, NULL);
		device_close(dev);
	}
	free(l);
	subject_free(s);
}

static void test_check_without_memory_says_so(void **state)
{
	struct subject *s = subject_new();
	struct fs_check_options opt = {0};
	uint64_t findings, n;

	for (n = 1;; n++) {
		struct fs_error err = {""};
		int r;

		mem_fail_at(n);
		r = check_device(s->dev, &opt, &findings, &err);
		if (mem_fail_pending()) {
			mem_fail_at(0);
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_true(err.msg[0] != '\0');
	}
	assert_true(n > 10);
	subject_free(s);
}

/* ---- by path --------------------------------------------------------------- */

static void write_file_pool(const char *path)
{
	struct fs_create_options create = {.size_bytes = POOL_BYTES, .sparse = true};
	struct fs_options opt = {.cache_bytes = 8u << 20, .device_kind = FS_DEVICE_THREADS};
	struct fs_error err = {""};
	struct fs_volume *vol;
	static uint8_t buf[64 << 10];
	struct fs *fs;

	if (fs_create(path, &create, &err) || fs_open(path, &opt, &fs, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(fs_volume_create(fs, "a", VOLUME_BYTES, 0, &err), 0);
	assert_int_equal(fs_volume_get(fs, "a", &vol), 0);
	for (unsigned i = 0; i < 100; i++) {
		struct fs_io io = {.op = FS_WRITE,
				   .vol = vol,
				   .off = i * 3 * sizeof(buf) / 2,
				   .len = sizeof(buf),
				   .buf = buf};

		memset(buf, (int)i, sizeof(buf));
		assert_int_equal(fs_io_wait(fs, &io), 0);
	}
	fs_volume_put(vol);
	assert_int_equal(fs_close(fs), 0);
}

static void test_check_file_is_repaired(void **state)
{
	char path[] = "/tmp/byre-test-check-XXXXXX";
	struct fs_error err = {""};
	struct fs_check_options opt = {0};
	uint64_t findings;
	struct lines l;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	assert_true(fs_check(path, &opt, &findings, &err) < 0);
	assert_non_null(strstr(err.msg, path));
	write_file_pool(path);
	assert_int_equal(check_path(path, false, &l), 0);
	assert_true(destroy_caches(path) > 0);
	assert_true(check_path(path, false, &l) > 0);
	assert_true(check_path(path, false, &l) > 0);
	assert_true(check_path(path, true, &l) > 0);
	if (check_path(path, false, &l))
		fail_msg("%s", l.all);
	unlink(path);
}

static int check_error(const char *path, struct fs_error *err)
{
	struct fs_check_options opt = {0};
	uint64_t findings;

	return fs_check(path, &opt, &findings, err);
}

static void take_note(void *arg, const char *line)
{
	snprintf(arg, 512, "%s", line);
}

/* A file that lacks a byte, or has some more. */
static void test_check_short_file_names_the_size(void **state)
{
	char path[] = "/tmp/byre-test-check-XXXXXX", note[512] = "";
	struct fs_options open_opt = {.device_kind = FS_DEVICE_THREADS};
	struct fs_check_options opt = {.note = take_note, .arg = note};
	struct fs_error err = {""};
	uint64_t findings;
	struct fs *fs;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	write_file_pool(path);
	for (off_t less = 1; less < (off_t)POOL_BYTES / 2; less = less * 50 + 4095) {
		assert_int_equal(truncate(path, (off_t)POOL_BYTES - less), 0);
		assert_int_equal(check_error(path, &err), -EUCLEAN);
		assert_non_null(strstr(err.msg, path));
		assert_non_null(strstr(err.msg, "truncate -s 67108864 "));
		assert_int_equal(fs_open(path, &open_opt, &fs, &err), -EUCLEAN);
		assert_non_null(strstr(err.msg, "truncate -s 67108864 "));
		assert_int_equal(truncate(path, (off_t)POOL_BYTES), 0); /* the end of this pool is not used */
		assert_int_equal(fs_check(path, &opt, &findings, &err), 0);
		assert_int_equal(findings, 0);
		assert_string_equal(note, "");
	}
	assert_int_equal(truncate(path, (off_t)POOL_BYTES + 8192), 0);
	assert_int_equal(fs_check(path, &opt, &findings, &err), 0);
	assert_int_equal(findings, 0);
	assert_non_null(strstr(note, "8192 bytes more"));
	assert_non_null(strstr(note, "truncate -s 67108864 "));
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check_new_pool_is_clean),
		cmocka_unit_test(test_check_crashed_pools_are_clean),
		cmocka_unit_test(test_check_superblock_copies_are_mended),
		cmocka_unit_test(test_check_bad_copy_of_a_node_is_mended),
		cmocka_unit_test(test_check_node_without_a_good_copy_is_found),
		cmocka_unit_test(test_check_rotten_data_is_found),
		cmocka_unit_test(test_check_much_damage_is_bounded),
		cmocka_unit_test(test_check_damage_list_runs_full),
		cmocka_unit_test(test_check_short_file_names_the_size),
		cmocka_unit_test(test_check_wrong_extents_are_found),
		cmocka_unit_test(test_check_doubly_referred_block_is_found),
		cmocka_unit_test(test_check_wrong_volumes_are_found),
		cmocka_unit_test(test_check_wrong_groups_are_found),
		cmocka_unit_test(test_check_log_damage_is_found),
		cmocka_unit_test(test_check_survives_any_bytes),
		cmocka_unit_test(test_check_without_memory_says_so),
		cmocka_unit_test(test_check_file_is_repaired),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
