/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/check/check.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "fs/check/check_int.h"
#include "fs/core/clock.h"
#include "fs/core/epoch.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/claim.h"
#include "fs/device/device.h"
#include "fs/device/super.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"

typedef unsigned long long ull;

#define REBUILD_POLL_MS 5u
#define REBUILD_WAIT_MS (30u * 60 * 1000)

static const uint64_t super_offsets[SUPER_COPIES] = SUPER_OFFSETS;

bool check_rewrite(struct check *c, uint64_t off, void *buf, uint64_t len)
{
	if (!c->opt->repair || device_sync(c->q, DEVICE_WRITE, off, buf, len))
		return false;
	c->wrote = true;
	return true;
}

/* ---- superblocks ----------------------------------------------------------- */

/* Two copies of one commit differ in where they stand and nothing else. */
static bool same_super(const struct super_block *a, const struct super_block *b)
{
	return memcmp(&a->magic, &b->magic, sizeof(a->magic)) == 0 &&
	       memcmp(&a->generation, &b->generation,
		      SUPER_SIZE - offsetof(struct super_block, generation)) == 0;
}

static int check_super(struct check *c, unsigned copy, struct super_block *sb)
{
	const char *why = NULL;
	bool done;
	int r = device_sync(c->q, DEVICE_READ, super_offsets[copy], sb, SUPER_SIZE);

	if (r)
		why = strerror(-r);
	else if (super_validate(sb, super_offsets[copy], c->dev->size, &why) == 0)
		why = le64_to_cpu(sb->generation) == c->generation && !same_super(sb, &c->sb)
			      ? "is valid, but differs from the others of its generation"
			      : NULL;
	if (!why)
		return 0;
	done = c->opt->repair && super_write_copy(c->q, &c->sb, copy) == 0;
	c->wrote |= done;
	check_finding_cure(c, done ? FS_CURE_DONE : FS_CURE_REPAIR, "superblock copy %u at offset %llu: %s%s",
			   copy, (ull)super_offsets[copy], why, done ? " (repaired from a good one)" : "");
	return 0;
}

static int check_supers(struct check *c, struct fs_error *err)
{
	struct super_block *sb;
	unsigned bad, old;
	int r = super_read(c->q, c->dev->size, &c->sb, &bad, &old, err);

	if (r)
		return r;
	if (le64_to_cpu(c->sb.ro_compat) & ~FEATURE_RO_COMPAT_KNOWN)
		return fs_fail(
			err, -ENOTSUP,
			"the pool uses features that this version cannot check (0x%llx): use a newer one",
			(ull)le64_to_cpu(c->sb.ro_compat));
	c->generation = le64_to_cpu(c->sb.generation);
	c->group_step = le64_to_cpu(c->sb.group_step);
	c->device_size = le64_to_cpu(c->sb.device_size);
	if (le64_to_cpu(c->sb.next_id) < TREE_ID_FIRST_FREE)
		check_finding(c, "superblock: its next id, %llu, is impossible",
			      (ull)le64_to_cpu(c->sb.next_id));
	sb = mem_alloc_aligned(DEVICE_ALIGN, SUPER_SIZE);
	if (!sb)
		return -ENOMEM;
	for (unsigned i = 0; r == 0 && i < SUPER_COPIES; i++)
		r = check_super(c, i, sb);
	mem_free(sb);
	return r;
}

/* What belongs to no group. */
static int add_fixed_ranges(struct check *c)
{
	int r = check_add_range(c, RANGE_LOG, 0, le64_to_cpu(c->sb.log_offset), le64_to_cpu(c->sb.log_size));

	for (unsigned i = 0; r == 0 && i < SUPER_COPIES; i++)
		r = check_add_range(c, RANGE_SUPER, i, super_offsets[i], SUPER_SIZE);
	return r;
}

/* ---- all of it ------------------------------------------------------------- */

static int check_init(struct check *c)
{
	int r = c->dev->ops->queue_new(c->dev, &c->q);

	if (r == 0)
		r = c->dev->ops->queue_new(c->dev, &c->data_q);
	if (r == 0)
		r = check_data_init(c);
	if (r == 0)
		r = check_damage_init(c);
	for (unsigned i = 0; r == 0 && i < NODE_LEVEL_MAX; i++) {
		c->node[i] = mem_alloc_aligned(DEVICE_ALIGN, NODE_SIZE);
		r = c->node[i] ? 0 : -ENOMEM;
	}
	c->twin = mem_alloc_aligned(DEVICE_ALIGN, NODE_SIZE);
	return r == 0 && !c->twin ? -ENOMEM : r;
}

static void check_fini(struct check *c)
{
	check_data_fini(c);
	check_damage_fini(c);
	check_groups_fini(c);
	mem_free(c->volume);
	for (unsigned i = 0; i < NODE_LEVEL_MAX; i++)
		mem_free(c->node[i]);
	mem_free(c->twin);
	device_queue_free(c->data_q);
	device_queue_free(c->q);
}

/* Growing that was interrupted leaves a longer file: it is no fault. */
static void note_size(struct check *c)
{
	uint64_t more = c->dev->size - c->device_size;

	if (more && c->dev->block_device)
		check_note(
			c,
			"the device has %llu bytes more than the pool, which are not used: byre pool grow takes them",
			(ull)more);
	else if (more)
		check_note(
			c,
			"the file has %llu bytes more than the pool, which are not used: byre pool grow takes them, "
			"truncate -s %llu on the file gives them back",
			(ull)more, (ull)c->device_size);
}

static int check_everything(struct check *c, struct fs_error *err)
{
	int r = check_supers(c, err);

	if (r == 0)
		note_size(c);
	if (r == 0)
		r = add_fixed_ranges(c);
	if (r == 0)
		r = check_system_groups(c);
	if (r == 0)
		r = check_group_tree(c);
	if (r == 0)
		r = check_root_tree(c);
	if (r == 0)
		r = check_volumes(c);
	if (r == 0)
		r = check_log(c);
	if (r == 0)
		r = check_group_contents(c);
	if (r == 0)
		check_ranges(c);
	if (c->wrote && r == 0)
		r = device_flush(c->q);
	return r;
}

static int run(struct device *dev, const struct fs_check_options *opt, uint64_t *ret_findings,
	       bool *ret_reopen, struct fs_error *err)
{
	struct check *c = mem_zalloc(sizeof(*c));
	int r;

	if (err)
		err->msg[0] = '\0';
	if (!c)
		return fs_fail(err, -ENOMEM, "out of memory");
	c->dev = dev;
	c->opt = opt;
	r = check_init(c);
	if (r == 0)
		r = check_everything(c, err);
	if (r && err && !err->msg[0])
		(void)fs_fail(err, r, "the check could not go on: %s", strerror(-r));
	if (r == 0) {
		*ret_findings = c->findings;
		*ret_reopen = c->rebuild && !c->incomplete && !c->contradicts;
	}
	check_fini(c);
	mem_free(c);
	return r;
}

int check_device(struct device *dev, const struct fs_check_options *opt, uint64_t *ret_findings,
		 struct fs_error *err)
{
	bool reopen;

	return run(dev, opt, ret_findings, &reopen, err);
}

/* ---- a pool by its path ---------------------------------------------------- */

int check_open_device(const char *path, bool writable, struct device **ret_dev, struct fs_error *err)
{
	int holder = 0, r = device_open_uring(path, writable, ret_dev, &holder);

	if (r == -ENOSYS || r == -EPERM)
		r = device_open_threads(path, writable, ret_dev, &holder);
	return r ? claim_fail_open(path, r, holder, err) : 0;
}

/*
 * A group at a time is held (block_group.h, invariant 8): a commit that has the lock may wait for those who
 * hold older ones.
 */
static void load_groups(struct fs *fs, struct device_queue *q)
{
	for (uint32_t i = 1; i < atomic_load(&fs->groups->count); i++) {
		unsigned epoch = epoch_enter(&fs->epoch);
		struct block_group *g = atomic_load(&fs->groups->at_step[i]);

		if (g && g->type != GROUP_SYSTEM)
			(void)block_group_load(fs, q, g);
		epoch_leave(&fs->epoch, epoch);
		if (atomic_load(&fs->groups->loaded_bytes) > fs->groups->loaded_max) {
			lock_take(&fs->commit_lock);
			block_group_unload(fs);
			lock_drop(&fs->commit_lock);
		}
	}
}

/* Opens the pool, which drops the caches that cannot be used, and waits until they are rebuilt. */
static int rebuild_caches(const char *path, struct fs_error *err)
{
	struct fs_options opt = {0};
	struct device_queue *q;
	struct fs *fs;
	int r = fs_open(path, &opt, &fs, err), closed;

	if (r)
		return r;
	r = fs->dev->ops->queue_new(fs->dev, &q);
	if (r == 0) {
		load_groups(fs, q);
		device_queue_free(q);
	}
	for (unsigned ms = 0; r == 0 && atomic_load(&fs->groups->rebuilding); ms += REBUILD_POLL_MS) {
		(void)fs_pause(fs, REBUILD_POLL_MS * 1000);
		if (fs_is_read_only(fs) || ms > REBUILD_WAIT_MS)
			r = -EIO;
	}
	if (r == 0)
		r = fs_commit(fs);
	closed = fs_close(fs);
	r = r ? r : closed;
	return r ? fs_fail(err, r, "pool %s: its free-space caches cannot be rebuilt: %s", path, strerror(-r))
		 : 0;
}

int fs_check(const char *path, const struct fs_check_options *opt, uint64_t *ret_findings,
	     struct fs_error *err)
{
	struct fs_error inner;
	struct device *dev;
	bool reopen = false;
	int r = check_open_device(path, opt->repair, &dev, err);

	if (r)
		return r;
	r = run(dev, opt, ret_findings, &reopen, &inner);
	device_close(dev);
	if (r)
		return fs_fail(err, r, "pool %s: %s", path, inner.msg);
	return opt->repair && reopen ? rebuild_caches(path, err) : r;
}
