/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_image.c: a damaged pool, through dump, check, repair, open, a short load, and check again.
 * Errors are fine; nothing may crash, hang, assert or leak.
 *
 * Two pools are made once, on simulated devices, with every structure of the format: superblocks with a scrub
 * that stands somewhere, the claim, a root tree and a group tree of two levels, volumes (thin, reserved, with
 * a comment, with a tree of two levels, with a range lost), deleted ones half freed, parts cut out of living
 * ones, groups with and without caches, a flush log with every type of item. One is a sparse file on a host
 * with spares, and on one that is full. That all of this is there is asserted. Each input is a list of edits
 * of one of them; the custom mutator makes and changes these, so that nearly every input reaches the code
 * behind the checksums, which are made right again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/text.h"
#include "base/util.h"
#include "fs/format/backing_format.h"
#include "fs/check/check.h"
#include "fs/check/dump.h"
#include "fs/format/print.h"
#include "fs/format/claim_format.h"
#include "fs/device/device_sim.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/free_space_cache_format.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/format/volume_format.h"
#include "base/le.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/cache/cache.h"
#include "fs/io/ctx.h"
#include "fs/device/device.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/tree/node.h"
#include "fs/format/node_format.h"
#include "fs/core/report.h"
#include "fs/format/super_format.h"
#include "fs/volume/volume.h"
#include "fs/format/key.h"

#define POOL_BYTES (100ull << 20)
#define VOLUME_BLOCKS 2048ull
#define NODES_MAX 512u
#define RECORDS_MAX 64u
#define EDITS_MAX 12u
#define STEPS_MAX 20000u
#define BLOCK ((uint64_t)FS_BLOCK_SIZE)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

enum edit_kind {
	EDIT_SUPER,	  /* a field of the superblock, in all copies */
	EDIT_SUPER_COPY,  /* in one of them */
	EDIT_NODE_VALUE,  /* bytes of an item, key or value */
	EDIT_NODE_HEADER, /* header and slots */
	EDIT_NODE_COPY,	  /* one copy only, or without a right checksum */
	EDIT_NODE_SWAP,	  /* another node's items under this one's name */
	EDIT_CACHE,	  /* a slot, and the checksum in its group's item */
	EDIT_LOG,	  /* a record */
	EDIT_RAW,	  /* any byte of what is in use */
	EDIT_CLAIM,
	EDIT_SPARES, /* either list */
	EDIT_KINDS,
};

struct edit {
	uint8_t kind, how; /* how: which width, and what is done with the value */
	uint16_t target, item, at;
	uint64_t value;
};
static_assert(sizeof(struct edit) == 16, "edit");

struct place {
	uint64_t addr, off[GROUP_STRIPES_MAX];
	bool group_tree;
};

/* A pool as it is before edits, and where things stand in it. */
static struct base {
	struct device *dev;
	bool sparse;
	bool hold_commits; /* while it is made */
	struct super_block sb;
	struct place node[NODES_MAX];
	unsigned nodes;
	uint64_t record[RECORDS_MAX];
	unsigned records;
	uint64_t number[256]; /* addresses, ids and sizes that occur */
	unsigned numbers;
	unsigned log_types, orphans, parts; /* bits; deleted volumes, and what was cut out of living ones */
} bases[2], *base = bases;

static const uint64_t super_offsets[SUPER_COPIES] = SUPER_OFFSETS;

/* ---- making the pool --------------------------------------------------------- */

static void io_done(struct fs_io *io)
{
	*(bool *)io->arg = true;
}

static bool step(struct fs *fs, struct fs_ctx *ctx)
{
	fs_ctx_run(ctx);
	if (base->hold_commits)
		fs->commit_wanted = false;
	return pool_step(fs);
}

static void settle(struct fs *fs, struct fs_ctx *ctx)
{
	for (unsigned i = 0; i < STEPS_MAX; i++)
		if (!step(fs, ctx))
			return;
	ASSERT(!"the pool does not come to rest");
}

static int do_io(struct fs *fs, struct fs_ctx *ctx, struct fs_volume *vol, enum fs_op op, uint64_t off,
		 uint64_t len, void *buf)
{
	bool done = false;
	struct fs_io io = {
		.op = op, .vol = vol, .off = off, .len = len, .buf = buf, .done = io_done, .arg = &done};
	struct fs_io *ios[1] = {&io};

	fs_submit(ctx, ios, 1);
	for (unsigned i = 0; !done; i++) {
		(void)step(fs, ctx);
		ASSERT(i < STEPS_MAX);
	}
	return io.error;
}

static uint64_t rnd(uint64_t *state, uint64_t n)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (*state >> 33) % n;
}

static void note_number(uint64_t v)
{
	if (base->numbers < ARRAY_SIZE(base->number))
		base->number[base->numbers++] = v;
}

static void write_blocks(struct fs *fs, struct fs_ctx *ctx, const char *name, unsigned n, uint64_t *rng)
{
	static uint8_t buf[8 * 4096];
	struct fs_volume *vol;

	ASSERT(fs_volume_get(fs, name, &vol) == 0);
	for (unsigned i = 0; i < n; i++) {
		uint64_t len = (1 + rnd(rng, rnd(rng, 10) ? 1 : 8)) * BLOCK;

		memset(buf, (int)i + 1, sizeof(buf));
		ASSERT(do_io(fs, ctx, vol, rnd(rng, 20) ? FS_WRITE : FS_TRIM,
			     rnd(rng, VOLUME_BLOCKS - 8) * BLOCK, len, buf) == 0);
	}
	fs_volume_put(vol);
}

/* Every second block: extents that do not join. */
static void write_apart(struct fs *fs, struct fs_ctx *ctx, const char *name, uint64_t nblk)
{
	static uint8_t buf[4096];
	struct fs_volume *vol;

	ASSERT(fs_volume_get(fs, name, &vol) == 0);
	for (uint64_t blk = 0; blk < nblk; blk += 2) {
		memset(buf, (int)blk + 1, sizeof(buf));
		ASSERT(do_io(fs, ctx, vol, FS_WRITE, blk * BLOCK, BLOCK, buf) == 0);
	}
	fs_volume_put(vol);
}

static void commit(struct fs *fs, struct fs_ctx *ctx)
{
	settle(fs, ctx);
	ASSERT(fs_commit(fs) == 0);
}

static void note_tree(struct fs *fs, struct device *dev, const struct node_ident *id)
{
	struct place *p = &base->node[base->nodes];
	uint8_t buf[NODE_SIZE];
	struct node_header *node = (struct node_header *)buf;

	if (base->nodes == NODES_MAX || block_group_map(fs, id->addr, NODE_SIZE, p->off) != 2)
		return;
	p->addr = id->addr;
	p->group_tree = id->owner == TREE_ID_GROUP;
	base->nodes++;
	note_number(id->addr);
	device_sim_peek(dev, p->off[0], buf, NODE_SIZE);
	for (unsigned i = 0; id->level && i < node_count(node); i++) {
		struct node_ident child;

		if (node_child(node, i, id->owner, &child) == 0)
			note_tree(fs, dev, &child);
	}
}

static void note_root(struct fs *fs, struct device *dev, const struct tree_root *root)
{
	struct node_ident id = {root->addr, root->generation, root->owner, root->level};

	if (root->addr)
		note_tree(fs, dev, &id);
}

static void note_volume(struct fs *fs, struct device *dev, const char *name)
{
	struct fs_volume *vol;

	ASSERT(fs_volume_get(fs, name, &vol) == 0);
	note_root(fs, dev, &vol->root);
	note_number(vol->id);
	fs_volume_put(vol);
}

static void note_orphans(struct fs *fs, struct device *dev)
{
	const struct orphan *o;

	TAILQ_FOREACH (o, &fs->volumes->orphans, link) {
		note_root(fs, dev, &o->root);
		note_number(o->id);
		note_number(o->progress);
		base->orphans += o->root.owner == o->id;
		base->parts += o->root.owner != o->id;
	}
}

static void note_items(struct device *dev, uint64_t off, const struct log_record *rec)
{
	for (uint64_t at = sizeof(*rec), n = le32_to_cpu(rec->items); n > 0; n--) {
		struct log_item item;

		device_sim_peek(dev, off + at, &item, sizeof(item));
		base->log_types |= 1u << le16_to_cpu(item.type);
		at += le32_to_cpu(item.bytes);
	}
}

static void note_records(struct fs *fs, struct device *dev)
{
	struct log_record rec;

	for (uint64_t at = fs->log->tail; at < fs->log->head && base->records < RECORDS_MAX;) {
		uint64_t off = fs->log->offset + at % fs->log->size;

		device_sim_peek(dev, off, &rec, sizeof(rec));
		if (le32_to_cpu(rec.magic) != LOG_MAGIC)
			return;
		base->record[base->records++] = off;
		note_items(dev, off, &rec);
		at += round_up_u64(le32_to_cpu(rec.bytes), LOG_ALIGN);
	}
}

/* Both copies of a leaf go, and a write beside makes a commit say "lost". */
static void lose_leaf(struct fs *fs, struct fs_ctx *ctx, struct device *dev, const char *name)
{
	uint8_t buf[NODE_SIZE];
	uint64_t off[GROUP_STRIPES_MAX];
	struct node_ident id;
	struct fs_volume *vol;

	ASSERT(fs_volume_get(fs, name, &vol) == 0);
	ASSERT(vol->root.level == 1 && block_group_map(fs, vol->root.addr, NODE_SIZE, off) == 2);
	device_sim_peek(dev, off[0], buf, NODE_SIZE);
	ASSERT(node_child((struct node_header *)buf, 1, vol->root.owner, &id) == 0);
	ASSERT(block_group_map(fs, id.addr, NODE_SIZE, off) == 2);
	cache_invalidate(fs->cache, CACHE_NODE, id.addr);
	for (unsigned i = 0; i < 2; i++)
		device_sim_flip(dev, off[i] + 999, 1);
	memset(buf, 7, BLOCK);
	ASSERT(do_io(fs, ctx, vol, FS_WRITE, (VOLUME_BLOCKS - 20) * BLOCK, BLOCK, buf) == 0);
	ASSERT(do_io(fs, ctx, vol, FS_WRITE, VOLUME_BLOCKS * 3 / 4 * BLOCK, BLOCK, buf) == 0);
	fs_volume_put(vol);
	commit(fs, ctx);
}

static void make_volumes(struct fs *fs, struct fs_ctx *ctx)
{
	char name[FS_NAME_MAX + 1];

	ASSERT(fs_volume_create(fs, "a", VOLUME_BLOCKS * BLOCK, 0, NULL) == 0);
	ASSERT(fs_volume_create(fs, "lost", VOLUME_BLOCKS * BLOCK, 0, NULL) == 0);
	ASSERT(fs_volume_create(fs, "gone", VOLUME_BLOCKS * BLOCK, 0, NULL) == 0);
	ASSERT(fs_volume_create(fs, "cut", 3 * VOLUME_BLOCKS * BLOCK, 0, NULL) == 0);
	ASSERT(fs_volume_create(fs, "r", VOLUME_BLOCKS * BLOCK, FS_VOLUME_RESERVED, NULL) == 0);
	ASSERT(fs_volume_set(fs, "a", &(struct fs_volume_change){.comment = "what it is for"}, NULL) == 0);
	memset(name, 'x', 240); /* long names make a root tree of two levels */
	for (unsigned i = 0; i < 60; i++) {
		snprintf(name + 240, 10, "%u", i);
		ASSERT(fs_volume_create(fs, name, (i + 1) * BLOCK, 0, NULL) == 0);
	}
	commit(fs, ctx);
}

/* A flush of one volume, which the log has and no commit. */
static void logged(struct fs *fs, struct fs_ctx *ctx, const char *name, enum fs_op op, uint64_t blk,
		   uint64_t nblk, uint8_t byte)
{
	static uint8_t buf[128 * 4096];
	struct fs_volume *vol;

	ASSERT(fs_volume_get(fs, name, &vol) == 0);
	memset(buf, byte, sizeof(buf));
	ASSERT(do_io(fs, ctx, vol, op, blk * BLOCK, nblk * BLOCK, op == FS_WRITE ? buf : NULL) == 0);
	ASSERT(do_io(fs, ctx, vol, FS_FLUSH, 0, 0, NULL) == 0);
	fs_volume_put(vol);
}

static void count_group(struct block_group *g, void *arg)
{
	++*(unsigned *)arg;
}

/* Operations, data, holes, and data groups that no commit knows. */
static void fill_log(struct fs *fs, struct fs_ctx *ctx)
{
	unsigned before = 0, now = 0;

	fs->commit_wanted = false;
	base->hold_commits = true;
	ASSERT(fs_volume_create(fs, "made", VOLUME_BLOCKS * BLOCK, 0, NULL) == 0);
	for (unsigned i = 0; i < 3; i++) {
		logged(fs, ctx, "a", FS_WRITE, i * 100, 4, (uint8_t)i);
		logged(fs, ctx, "r", FS_WRITE, i * 100, 4, (uint8_t)(0x50 + i));
		logged(fs, ctx, "lost", FS_TRIM, i * 100 + 50, 9, 0);
	}
	ASSERT(fs_volume_rename(fs, "made", "renamed", NULL) == 0);
	ASSERT(fs_volume_resize(fs, "renamed", VOLUME_BLOCKS * 2 * BLOCK, NULL) == 0);
	ASSERT(fs_volume_resize(fs, "a", (VOLUME_BLOCKS - 100) * BLOCK, NULL) == 0);
	ASSERT(fs_volume_set(fs, "lost", &(struct fs_volume_change){.comment = "damaged"}, NULL) == 0);
	ASSERT(fs_volume_create(fs, "short", 8 * BLOCK, 0, NULL) == 0);
	ASSERT(fs_volume_delete(fs, "short", NULL) == 0);
	logged(fs, ctx, "r", FS_WRITE, 500, 4, 7); /* a sparse pool may have committed since */
	logged(fs, ctx, "lost", FS_TRIM, 500, 9, 0);
	block_group_each(fs, count_group, &before);
	/* a sparse pool waits for a commit */
	for (unsigned i = 0; !base->sparse && now <= before && i < VOLUME_BLOCKS * 2 / 128; i++) {
		logged(fs, ctx, "renamed", FS_WRITE, i * 128, 128, (uint8_t)i);
		now = 0;
		block_group_each(fs, count_group, &now);
	}
}

static void trees(struct fs *fs, struct fs_ctx *ctx, struct device *dev)
{
	struct fs_volume *vol;
	uint64_t rng = 1;

	make_volumes(fs, ctx);
	write_blocks(fs, ctx, "a", 900, &rng);
	write_blocks(fs, ctx, "lost", 700, &rng);
	write_apart(fs, ctx, "gone", VOLUME_BLOCKS);
	write_apart(fs, ctx, "cut", 3 * VOLUME_BLOCKS);
	write_blocks(fs, ctx, "r", 50, &rng);
	commit(fs, ctx);
	lose_leaf(fs, ctx, dev, "lost");
	ASSERT(fs_scrub_start(fs, 0, true, NULL) == 0);
	(void)pool_step(fs); /* it stands somewhere */
	ASSERT(fs_volume_delete(fs, "gone", NULL) == 0);
	ASSERT(fs_volume_get(fs, "cut", &vol) == 0);
	ASSERT(do_io(fs, ctx, vol, FS_TRIM, 10 * BLOCK, (3 * VOLUME_BLOCKS - 20) * BLOCK, NULL) == 0);
	fs_volume_put(vol);
	ASSERT(fs_commit(fs) == 0);
}

/* A system group's node that nothing refers to. */
static uint64_t free_system_node(struct fs *fs, const struct tree_root *root)
{
	uint64_t start = le64_to_cpu(fs->super->system[0].start),
		 len = le64_to_cpu(fs->super->system[0].length);

	for (uint64_t addr = start; addr < start + len; addr += NODE_SIZE)
		if (addr != root->addr)
			return addr;
	ASSERT(!"a system group of one node");
	return 0;
}

static void put_system_node(struct fs *fs, struct device *dev, struct node_header *node)
{
	uint64_t off[GROUP_STRIPES_MAX];

	node_seal(node);
	ASSERT(block_group_map(fs, le64_to_cpu(node->addr), NODE_SIZE, off) == 2);
	for (unsigned i = 0; i < 2; i++)
		device_sim_poke(dev, off[i], node, NODE_SIZE);
}

/*
 * As in a pool with many groups: the leaf's second half goes to a leaf of its own, and a root stands above
 * both.
 */
static void split_group_tree(struct fs *fs, struct device *dev, struct super_block *sb)
{
	static uint8_t old_bytes[NODE_SIZE], bytes[3][NODE_SIZE];
	struct node_header *old = (struct node_header *)old_bytes, *node[3];
	struct node_ident id = {fs->group_tree->addr, fs->group_tree->generation, TREE_ID_GROUP, 0};
	uint64_t off[GROUP_STRIPES_MAX], first_free;
	unsigned n;

	ASSERT(fs->group_tree->level == 0 && block_group_map(fs, id.addr, NODE_SIZE, off) == 2);
	device_sim_peek(dev, off[0], old, NODE_SIZE);
	n = node_count(old);
	first_free = free_system_node(fs, fs->group_tree);
	for (unsigned i = 0; i < 3; i++) {
		node[i] = (struct node_header *)bytes[i];
		id.level = i == 2;
		node_init(node[i], &id, fs->uuid);
		id.addr = i == 0					   ? first_free
			  : first_free + NODE_SIZE == fs->group_tree->addr ? first_free + 2 * NODE_SIZE
									   : first_free + NODE_SIZE;
	}
	for (unsigned i = 0; i < n; i++)
		node_append(node[i >= n / 2], node_key(old, i), node_value(old, i));
	for (unsigned i = 0; i < 2; i++) {
		struct node_pointer ptr = {node[i]->addr, node[i]->generation};

		node_append(node[2], node_key(node[i], 0), (struct value){&ptr, sizeof(ptr)});
	}
	for (unsigned i = 0; i < 3; i++)
		put_system_node(fs, dev, node[i]);
	sb->group_tree.addr = node[2]->addr;
	sb->group_tree.level = 1;
	sb->group_tree.nodes = cpu_to_le64(3);
	sb->group_tree.leaves = cpu_to_le64(2);
}

static void put_super(struct device *dev, struct super_block sb, unsigned copies);

static void make_pool(bool sparse)
{
	struct fs_options opt = {.cache_bytes = 4u << 20};
	struct device *dev = device_sim_new(POOL_BYTES, 1), *copy;
	struct tree_root groups;
	struct super_block sb;
	struct fs_ctx *ctx;
	struct fs *fs;

	base->sparse = sparse;
	if (sparse)
		device_sim_set_sparse(dev);
	ASSERT(pool_format(dev, sparse, NULL) == 0);
	copy = device_sim_clone(dev, 1); /* pools close their device; this one is looked at meanwhile */
	device_close(dev);
	dev = copy;
	if (sparse)
		device_sim_set_sparse(dev);
	ASSERT(pool_open(dev, &opt, &pool_without_threads, &fs, NULL) == 0 && fs_ctx_new(fs, &ctx) == 0);
	fs->orphan_leaves = 1;
	trees(fs, ctx, dev);
	fill_log(fs, ctx);
	sb = *fs->super;
	groups = *fs->group_tree;
	if (!sparse) {
		split_group_tree(fs, dev, &sb);
		tree_root_unpack(&sb.group_tree, TREE_ID_GROUP, &groups);
		put_super(dev, sb, 7);
	}
	base->hold_commits = false;
	base->sb = sb;
	base->dev = device_sim_clone(dev, 1);
	note_root(fs, dev, &groups);
	note_root(fs, dev, fs->root_tree);
	note_volume(fs, dev, "a");
	note_volume(fs, dev, "lost");
	note_volume(fs, dev, "cut");
	note_volume(fs, dev, "r");
	note_orphans(fs, dev);
	note_records(fs, dev);
	fs_ctx_free(ctx);
	pool_abandon(fs);
}

static void print_finding(void *arg, const char *line)
{
	fprintf(stderr, "%s\n", line);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct fs_check_options opt = {.finding = getenv("VERBOSE") ? print_finding : NULL};
	uint64_t findings;

	(void)argc;
	(void)argv;
	for (unsigned i = 0; i < 2; i++) {
		struct spares_block spares[2];

		base = &bases[i];
		make_pool(i == 1);
		device_sim_peek(base->dev, SPARES_OFFSET, spares, sizeof(spares));
		ASSERT(base->nodes > 20 && base->nodes < NODES_MAX && base->records > 2 &&
		       base->orphans > 0 && base->parts > 0);
		ASSERT(i ? base->log_types & 1u << LOG_EXTENT : base->log_types == (2u << LOG_SET) - 2);
		ASSERT(base->sb.scrub.state &&
		       (i == 0 || le32_to_cpu(spares[0].count) || le32_to_cpu(spares[1].count)));
		ASSERT(check_device(base->dev, &opt, &findings, NULL) == 0);
		if (getenv("VERBOSE"))
			fprintf(stderr, "%u nodes, %u records, %llu findings\n", base->nodes, base->records,
				(unsigned long long)findings);
	}
	return 0;
}

/* ---- edits ------------------------------------------------------------------- */

static uint64_t new_value(const struct edit *e, uint64_t old)
{
	static const uint64_t odd[] = {0,	   1,	       2,	  127,	      128,
				       4095,	   4096,       16384,	  UINT32_MAX, 1ull << 32,
				       1ull << 40, 1ull << 62, INT64_MAX, 1ull << 63, UINT64_MAX - 4095,
				       UINT64_MAX};

	switch (e->how >> 2 & 7) {
	case 0: return e->value;
	case 1: return old ^ 1ull << e->value % 64;
	case 2: return old + 1;
	case 3: return old - 1;
	case 4: return odd[e->value % ARRAY_SIZE(odd)];
	case 5: return base->number[e->value % base->numbers];
	case 6: return old + BLOCK * (int8_t)e->value;
	default: return old * 2;
	}
}

/* Changes 1, 2, 4 or 8 bytes at `at` of buf. */
static void edit_bytes(const struct edit *e, uint8_t *buf, size_t at, size_t size)
{
	size_t width = 1u << (e->how & 3);
	le64 raw = {0};

	if (size < width)
		return;
	at = at % (size - width + 1);
	if (!(e->how & 32)) /* mostly where fields are */
		at -= at % width;
	memcpy(&raw, buf + at, width);
	raw = cpu_to_le64(new_value(e, le64_to_cpu(raw)));
	memcpy(buf + at, &raw, width);
}

static void put_super(struct device *dev, struct super_block sb, unsigned copies)
{
	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		if (!(copies >> i & 1))
			continue;
		sb.offset = cpu_to_le64(super_offsets[i]);
		sb.crc = cpu_to_le32(crc32c((char *)&sb + 4, SUPER_SIZE - 4));
		device_sim_poke(dev, super_offsets[i], &sb, SUPER_SIZE);
	}
}

static void edit_super(struct device *dev, const struct edit *e)
{
	struct super_block sb;

	device_sim_peek(dev, super_offsets[0], &sb, sizeof(sb));
	edit_bytes(e, (uint8_t *)&sb + 24, e->at, (e->how & 64 ? SUPER_SIZE : 700) - 24);
	put_super(dev, sb, e->kind == EDIT_SUPER ? 7 : 1u << e->target % SUPER_COPIES);
}

static void put_node(struct device *dev, const struct place *p, uint8_t *buf)
{
	node_seal((struct node_header *)buf);
	for (unsigned i = 0; i < 2; i++)
		device_sim_poke(dev, p->off[i], buf, NODE_SIZE);
}

/* Whether an item of a node that may be broken already can be looked at. */
static bool item_range(const uint8_t *buf, unsigned slot, size_t *ret_at, size_t *ret_len)
{
	const struct node_slot *s = (const struct node_slot *)(buf + sizeof(struct node_header)) + slot;

	*ret_at = le16_to_cpu(s->off);
	*ret_len = (size_t)le16_to_cpu(s->key_len) + le16_to_cpu(s->value_len);
	return *ret_at + *ret_len <= NODE_SIZE && *ret_len;
}

static void edit_node(struct device *dev, const struct edit *e)
{
	const struct place *p = &base->node[e->target % base->nodes];
	uint8_t buf[NODE_SIZE], other[NODE_SIZE];
	struct node_header *node = (struct node_header *)buf;
	unsigned n;
	size_t at, len;

	device_sim_peek(dev, p->off[0], buf, NODE_SIZE);
	n = min_u64(node_count(node), (NODE_SIZE - sizeof(*node)) / sizeof(struct node_slot));
	switch (e->kind) {
	case EDIT_NODE_VALUE:
		if (n == 0 || !item_range(buf, e->item % n, &at, &len))
			return;
		edit_bytes(e, buf + at, e->at, len);
		break;
	case EDIT_NODE_HEADER:
		edit_bytes(e, buf + 4, e->at, sizeof(*node) - 4 + n * sizeof(struct node_slot));
		break;
	case EDIT_NODE_SWAP:
		device_sim_peek(dev, base->node[e->item % base->nodes].off[0], other, NODE_SIZE);
		memcpy(buf + sizeof(*node), other + sizeof(*node), NODE_SIZE - sizeof(*node));
		node->nritems = ((struct node_header *)other)->nritems;
		node->data_off = ((struct node_header *)other)->data_off;
		break;
	default: /* EDIT_NODE_COPY */
		edit_bytes(e, buf, e->at, NODE_SIZE);
		if (e->how & 128)
			node_seal(node);
		device_sim_poke(dev, p->off[e->item & 1], buf, NODE_SIZE);
		return;
	}
	put_node(dev, p, buf);
}

/* A leaf of the group tree: they come first. */
static const struct place *group_leaf(struct device *dev, unsigned number, uint8_t *buf)
{
	unsigned first, n = 0;

	while (n < base->nodes && base->node[n].group_tree)
		n++;
	first = n > 1; /* the root is in front of its leaves */
	device_sim_peek(dev, base->node[first + number % (n - first)].off[0], buf, NODE_SIZE);
	return &base->node[first + number % (n - first)];
}

/* A slot of a group, whose item is in some node of the group tree. */
static void edit_cache(struct device *dev, const struct edit *e)
{
	uint8_t buf[NODE_SIZE], slot[64 << 10];
	struct node_header *node = (struct node_header *)buf;
	struct free_space_cache_header *h = (struct free_space_cache_header *)slot;
	struct block_group_stripe stripe;
	struct block_group_item item;
	const struct place *p;
	size_t at, len;
	uint64_t off;

	p = group_leaf(dev, e->item, buf);
	if (node->level || node_count(node) == 0 || node_count(node) > 400 ||
	    !item_range(buf, e->target % node_count(node), &at, &len) ||
	    len < 9 + sizeof(item) + sizeof(stripe))
		return;
	memcpy(&item, buf + at + 9, sizeof(item));
	memcpy(&stripe, buf + at + 9 + sizeof(item), sizeof(stripe));
	len = le32_to_cpu(item.cache_bytes);
	off = le64_to_cpu(stripe.offset) + le64_to_cpu(item.length) +
	      (uint64_t)item.cache_slot * le32_to_cpu(item.slot_bytes);
	if (item.cache_slot > 1 || len < sizeof(*h) || len > sizeof(slot) || off > POOL_BYTES - sizeof(slot))
		return;
	device_sim_peek(dev, off, slot, len);
	edit_bytes(e, slot + 4, e->at, len - 4);
	h->crc32c = cpu_to_le32(crc32c(slot + 4, len - 4));
	device_sim_poke(dev, off, slot, len);
	item.cache_crc = h->crc32c;
	memcpy(buf + at + 9, &item, sizeof(item));
	put_node(dev, p, buf);
}

static void edit_log(struct device *dev, const struct edit *e)
{
	uint64_t off = base->record[e->target % base->records];
	static uint8_t buf[64 << 10];
	struct log_record *rec = (struct log_record *)buf;
	uint32_t bytes;

	device_sim_peek(dev, off, buf, sizeof(*rec));
	bytes = le32_to_cpu(rec->bytes);
	if (bytes < sizeof(*rec) || bytes > sizeof(buf))
		return;
	device_sim_peek(dev, off, buf, bytes);
	edit_bytes(e, buf + 4, e->at, bytes - 4);
	bytes = le32_to_cpu(rec->bytes);
	if (bytes >= sizeof(*rec) && bytes <= sizeof(buf) && !(e->how & 128))
		rec->crc = cpu_to_le32(crc32c(buf + 4, bytes - 4));
	device_sim_poke(dev, off, buf, min_u64(max_u64(bytes, sizeof(*rec)), sizeof(buf)));
}

static void edit_raw(struct device *dev, const struct edit *e)
{
	uint64_t off = ((uint64_t)e->target << 16 | e->item) * 512 % (POOL_BYTES - BLOCK);
	uint8_t buf[512];

	device_sim_peek(dev, off, buf, sizeof(buf));
	edit_bytes(e, buf, e->at, sizeof(buf));
	device_sim_poke(dev, off, buf, sizeof(buf));
}

/* A block with its checksum in front, of which nearly all is unused. */
static void edit_block(struct device *dev, const struct edit *e, uint64_t off, size_t used)
{
	uint8_t buf[FS_BLOCK_SIZE];
	le32 crc;

	device_sim_peek(dev, off, buf, sizeof(buf));
	edit_bytes(e, buf + 4, e->at, (e->how & 64 ? sizeof(buf) : used) - 4);
	crc = cpu_to_le32(crc32c((char *)buf + 4, sizeof(buf) - 4));
	if (!(e->how & 128))
		memcpy(buf, &crc, sizeof(crc));
	device_sim_poke(dev, off, buf, sizeof(buf));
}

static void apply(struct device *dev, const struct edit *e)
{
	switch (e->kind % EDIT_KINDS) {
	case EDIT_SUPER:
	case EDIT_SUPER_COPY: edit_super(dev, e); break;
	case EDIT_CACHE: edit_cache(dev, e); break;
	case EDIT_LOG: edit_log(dev, e); break;
	case EDIT_RAW: edit_raw(dev, e); break;
	case EDIT_CLAIM: edit_block(dev, e, CLAIM_OFFSET, 144); break;
	case EDIT_SPARES:
		edit_block(dev, e, SPARES_OFFSET + (e->target & 1) * SPARES_BYTES, 40 + 8 * SPARES_MAX);
		break;
	default: edit_node(dev, e); break;
	}
}

/* ---- what is done with it ------------------------------------------------------ */

/* Whatever stands on the disk, a line is one line, and not more than people can be shown. */
static void see_line(void *arg, const char *text)
{
	size_t len = strlen(text);

	ASSERT(len > 0 && len < PRINT_LINE_MAX && text_is_plain(text, len));
	++*(uint64_t *)arg;
}

/* Every part, with a volume's extents and some nodes, which the edits may have hit. */
static void dump(struct device *dev, bool json)
{
	uint64_t nodes[8], lines = 0, found = 0;
	struct fs_dump_options opt = {.parts = UINT32_MAX,
				      .volume = "lost",
				      .nodes = nodes,
				      .json = json,
				      .line = see_line,
				      .arg = &lines};

	for (; opt.nr_nodes < ARRAY_SIZE(nodes) && opt.nr_nodes < base->nodes; opt.nr_nodes++)
		nodes[opt.nr_nodes] = base->node[opt.nr_nodes].addr;
	ASSERT(dump_device(dev, &opt, &found, NULL) == 0);
	ASSERT(found < lines); /* something else is printed, too: the claim at least */
}

static void check(struct device *dev, bool repair)
{
	struct fs_check_options opt = {.repair = repair};
	uint64_t findings;

	(void)check_device(dev, &opt, &findings, NULL);
}

struct found {
	unsigned count;
	struct fs_volume_info info[4];
};

static int find(void *arg, const struct fs_volume_info *info)
{
	struct found *f = arg;

	f->info[f->count++] = *info;
	return f->count == ARRAY_SIZE(f->info);
}

static int see_piece(void *arg, uint64_t off, uint64_t len, bool hole)
{
	return ++*(unsigned *)arg > 50;
}

/* Commits until the pool has nothing left to do, or will not. */
static void rest(struct fs *fs, struct fs_ctx *ctx)
{
	for (unsigned i = 0; i < STEPS_MAX; i++)
		if (!step(fs, ctx) || fs_is_read_only(fs))
			return;
	ASSERT(!"the pool does not come to rest");
}

static void use_volume(struct fs *fs, struct fs_ctx *ctx, const struct fs_volume_info *info, uint64_t *rng)
{
	static uint8_t buf[64 << 10];
	struct fs_volume *vol;
	unsigned pieces = 0;
	uint64_t blocks = info->size / BLOCK;

	if (fs_volume_get(fs, info->name, &vol))
		return;
	(void)fs_volume_map(vol, 0, info->size, see_piece, &pieces);
	for (unsigned i = 0; i < 12; i++) {
		uint64_t n = 1 + rnd(rng, min_u64(blocks, 16)),
			 blk = rnd(rng, min_u64(blocks, VOLUME_BLOCKS * 2) - n + 1);
		static const enum fs_op ops[] = {FS_READ, FS_READ, FS_WRITE, FS_WRITE, FS_TRIM, FS_FLUSH};
		enum fs_op op = ops[rnd(rng, ARRAY_SIZE(ops))];

		(void)do_io(fs, ctx, vol, op, blk * BLOCK, n * BLOCK,
			    op == FS_TRIM || op == FS_FLUSH ? NULL : buf);
	}
	if (rnd(rng, 4) == 0)
		(void)do_io(fs, ctx, vol, FS_TRIM, 0, info->size, NULL);
	fs_volume_put(vol);
	rest(fs, ctx); /* operations on volumes wait for rebuilds, which nobody but us runs here */
	if (rnd(rng, 4) == 0)
		(void)fs_volume_resize(fs, info->name, max_u64(BLOCK, info->size / 2 / BLOCK * BLOCK), NULL);
	if (rnd(rng, 4) == 0)
		(void)fs_volume_delete(fs, info->name, NULL);
}

static void load(struct fs *fs, uint64_t seed)
{
	struct found found = {0};
	struct fs_info info;
	struct fs_ctx *ctx;

	if (fs_ctx_new(fs, &ctx))
		return;
	rest(fs, ctx);
	(void)fs_scrub_start(fs, 0, true, NULL);
	(void)fs_volume_list(fs, find, &found);
	for (unsigned i = 0; i < found.count; i++)
		use_volume(fs, ctx, &found.info[i], &seed);
	rest(fs, ctx);
	(void)fs_volume_create(fs, "new", 64 * BLOCK, seed & 1 ? FS_VOLUME_RESERVED : 0, NULL);
	(void)fs_volume_rename(fs, "a", "b", NULL);
	rest(fs, ctx);
	(void)fs_commit(fs);
	rest(fs, ctx);
	fs_get_info(fs, &info);
	fs_ctx_free(ctx);
}

static void print_log(void *arg, enum fs_log_level level, const char *msg)
{
	fprintf(stderr, "log %d: %s\n", level, msg);
}

/* dev is used up. */
static void use(struct device *dev, bool read_only, uint64_t seed)
{
	struct fs_options opt = {
		.cache_bytes = 4u << 20, .read_only = read_only, .log = getenv("VERBOSE") ? print_log : NULL};
	struct fs *fs;

	if (pool_open(dev, &opt, &pool_without_threads, &fs, NULL))
		return;
	load(fs, seed);
	if (seed & 2)
		(void)fs_close(fs);
	else
		pool_abandon(fs);
}

/* What a daemon opens. */
static struct device *copy_of(struct device *dev, uint64_t seed)
{
	struct device *copy = device_sim_clone(dev, 1);

	if (base->sparse) {
		device_sim_set_sparse(copy);
		device_sim_set_host_full(copy, seed % 4 == 0);
	}
	return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t seed = size;
	struct device *dev;

	/* of the first edit */
	base = &bases[size < sizeof(struct edit) ? 0 : data[offsetof(struct edit, item) + 1] >> 7];
	dev = device_sim_clone(base->dev, 1);

	for (size_t i = 0; i + sizeof(struct edit) <= size && i < EDITS_MAX * sizeof(struct edit);
	     i += sizeof(struct edit)) {
		struct edit e;

		memcpy(&e, data + i, sizeof(e));
		e.kind %= EDIT_KINDS;
		apply(dev, &e);
		seed = seed * 31 + e.value + e.at;
	}
	dump(dev, seed & 1);
	check(dev, false);
	use(copy_of(dev, seed), seed % 8 == 0, seed);
	check(dev, true);
	check(dev, false);
	use(copy_of(dev, seed + 1), false, seed + 1);
	device_close(dev);
	return 0;
}

/* ---- the mutator ---------------------------------------------------------------- */

static struct edit random_edit(uint64_t *rng)
{
	return (struct edit){
		.kind = (uint8_t)rnd(rng, EDIT_KINDS),
		.how = (uint8_t)rnd(rng, 256),
		.target = (uint16_t)rnd(rng, 65536),
		.item = (uint16_t)rnd(rng, 65536),
		.at = (uint16_t)rnd(rng, 65536),
		.value = rnd(rng, 1ull << 31) << 33 | rnd(rng, 1ull << 31),
	};
}

/* Adds, drops, replaces or changes one edit. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	uint64_t rng = seed * 0x9e3779b97f4a7c15u + 1;
	size_t n = min_u64(size / sizeof(struct edit), EDITS_MAX),
	       most = min_u64(max_size / sizeof(struct edit), EDITS_MAX);
	struct edit e = random_edit(&rng), *at;

	if (most == 0)
		return 0;
	if (n == 0 || (n < most && rnd(&rng, 3) == 0)) {
		memcpy(data + n * sizeof(e), &e, sizeof(e));
		return (n + 1) * sizeof(e);
	}
	at = (struct edit *)(data + rnd(&rng, n) * sizeof(e));
	switch (rnd(&rng, 8)) {
	case 0:
		if (n > 1) {
			memcpy(at, data + (n - 1) * sizeof(e), sizeof(e));
			n--;
		}
		break;
	case 1: memcpy(at, &e, sizeof(e)); break;
	case 2: at->kind = e.kind; break;
	case 3: at->how = e.how; break;
	case 4: at->target = e.target; break;
	case 5: at->item = e.item; break;
	case 6: at->at = rnd(&rng, 2) ? e.at : (uint16_t)(at->at + 1); break;
	default: at->value = rnd(&rng, 2) ? e.value : rnd(&rng, 300); break;
	}
	return n * sizeof(e);
}
