/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/pool/pool_format.c: making pools: the first superblock; and the file under it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/report.h"
#include "fs/device/claim.h"
#include "fs/device/device.h"
#include "fs/device/super.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/pool/pool.h"
#include "fs/space/block_group.h"

#define SYSTEM_STRIPE_MAX (3ull << 20) /* two of them fit into the system area */
#define PREALLOCATE_STEP (1ull << 30)
#define WHAT_BYTES 256

uint64_t pool_log_size(uint64_t pool_bytes)
{
	uint64_t small = min_u64(pool_bytes / 128, 32ull << 20),
		 large = min_u64(pool_bytes / 1024, 256ull << 20);

	return round_down_u64(max_u64(max_u64(small, large), 256ull << 10), 256ull << 10);
}

/*
 * Twice as many groups as stripes of the usual length fit: there are smaller ones, too. More are made when it
 * turns out so.
 */
uint64_t pool_groups_for(uint64_t size, uint64_t step)
{
	return size / min_u64(group_size_for(size), step) * 2 + 256;
}

static uint64_t system_size_for(uint64_t size, uint64_t step)
{
	uint64_t bytes = round_up_u64(block_group_system_for(pool_groups_for(size, step)), 1u << 20);

	return min_u64(bytes, SYSTEM_STRIPE_MAX);
}

/* One group, or where the step is shorter, several that are neighbours. */
static void fill_system(struct super_block *sb, uint64_t bytes, uint64_t step)
{
	uint64_t len = min_u64(bytes, step);

	for (unsigned i = 0; (i + 1) * len <= bytes && i < SUPER_SYSTEM_GROUPS; i++) {
		struct super_system_group *g = &sb->system[i];

		g->start = cpu_to_le64((i + 1) * step);
		g->length = cpu_to_le64(len);
		for (unsigned k = 0; k < GROUP_STRIPES_MAX; k++)
			g->stripe[k].offset = cpu_to_le64(SYSTEM_AREA_START + k * bytes + i * len);
	}
}

static int fill_super(struct device *dev, bool sparse, uint64_t step, const struct fs_clock *clock,
		      struct super_block *sb)
{
	memset(sb, 0, sizeof(*sb));
	sb->version = cpu_to_le32(SUPER_VERSION);
	sb->magic = cpu_to_le64(SUPER_MAGIC);
	sb->generation = cpu_to_le64(1);
	if (clock->random(sb->uuid, sizeof(sb->uuid)))
		return -EIO;
	sb->flags = cpu_to_le64(sparse ? SUPER_FLAG_SPARSE : 0);
	sb->device_size = cpu_to_le64(dev->size);
	sb->group_step = cpu_to_le64(step);
	sb->block_size = cpu_to_le32(FS_BLOCK_SIZE);
	sb->node_size = cpu_to_le32(NODE_SIZE);
	sb->ctime_ns = cpu_to_le64(clock->wall_ns());
	sb->next_id = cpu_to_le64(TREE_ID_FIRST_FREE);
	sb->log_size = cpu_to_le64(pool_log_size(dev->size));
	sb->log_offset = cpu_to_le64(DEVICE_DATA_START);
	sb->log_seq = cpu_to_le64(1);
	fill_system(sb, system_size_for(dev->size, step), step);
	return 0;
}

int pool_format(struct device *dev, bool sparse, struct fs_error *err)
{
	return pool_format_step(dev, sparse, GROUP_STEP, &fs_clock_system, err);
}

int pool_format_step(struct device *dev, bool sparse, uint64_t step, const struct fs_clock *clock,
		     struct fs_error *err)
{
	struct super_block sb;
	struct device_queue *q;
	int r;

	if (dev->size < FS_POOL_SIZE_MIN)
		return fs_fail(err, -EINVAL, "%llu bytes are too few: a pool has at least 16 MiB",
			       (unsigned long long)dev->size);
	r = fill_super(dev, sparse, step, clock, &sb);
	if (r == 0)
		r = dev->ops->queue_new(dev, &q);
	if (r)
		return fs_fail(err, r, "%s", strerror(-r));
	/* What must be writable before anything else is known of the pool: see backing.h. */
	if (sparse)
		r = dev->ops->allocate(dev, 0, DEVICE_DATA_START, false);
	if (sparse && r == 0)
		r = dev->ops->allocate(dev, le64_to_cpu(sb.log_offset), le64_to_cpu(sb.log_size), false);
	if (r == 0)
		r = device_flush(q);
	if (r == 0)
		r = super_write_all(q, &sb);
	if (r == 0)
		r = device_flush(q);
	dev->ops->queue_free(q);
	return r ? fs_fail(err, r, "the superblocks cannot be written: %s", strerror(-r)) : 0;
}

/* ---- files ----------------------------------------------------------------- */

/*
 * Whether there is anything but zeros at the start, where file systems, partition tables and pools have their
 * marks.
 */
static int holds_something(int fd, bool *ret_holds)
{
	static const size_t len = 128u << 10;
	uint8_t *buf = mem_alloc(len);
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	n = pread(fd, buf, len, 0);
	*ret_holds = false;
	for (ssize_t i = 0; i < n; i++)
		*ret_holds |= buf[i] != 0;
	mem_free(buf);
	return n < 0 ? -errno : 0;
}

/* As it is to be named when it is refused. True when something is there. */
static int held_there(int fd, const struct fs_create_options *opt, char *ret_what, size_t size,
		      bool *ret_holds)
{
	int r = holds_something(fd, ret_holds), known = 0;

	snprintf(ret_what, size, "something");
	if (r == 0 && opt->describe)
		known = opt->describe(opt->signature_arg, fd, ret_what, size);
	*ret_holds |= known > 0;
	return r ? r : known < 0 && !*ret_holds ? known : 0;
}

static int preallocate(int fd, uint64_t size, const struct fs_create_options *opt)
{
	for (uint64_t at = 0; at < size; at += PREALLOCATE_STEP) {
		if (fallocate(fd, 0, (off_t)at, (off_t)min_u64(PREALLOCATE_STEP, size - at)) < 0)
			return -errno;
		if (opt->progress)
			opt->progress(opt->progress_arg, min_u64(at + PREALLOCATE_STEP, size), size);
	}
	return 0;
}

static int prepare_file(int fd, const char *path, bool existed, const struct fs_create_options *opt,
			struct fs_error *err)
{
	uint64_t size = round_up_u64(opt->size_bytes, FS_BLOCK_SIZE);
	char what[WHAT_BYTES];
	struct stat st;
	bool holds;
	int r;

	if (fstat(fd, &st) < 0)
		return fs_fail(err, -errno, "pool %s: %s", path, strerror(errno));
	if (existed && st.st_size > 0 && !opt->force) {
		r = held_there(fd, opt, what, sizeof(what), &holds);
		return fs_fail(
			err, -EEXIST,
			"pool %s: the file exists and %s%s: choose another name, or --force to overwrite it",
			path, r == 0 && holds ? "holds " : "is not empty", r == 0 && holds ? what : "");
	}
	if (size < FS_POOL_SIZE_MIN)
		return fs_fail(err, -EINVAL, "pool %s: %llu bytes are too few: a pool has at least 16 MiB",
			       path, (unsigned long long)size);
	/* A file of this size keeps its blocks: what is written already need not be allocated again. */
	if (st.st_size != (off_t)size && (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)size) < 0))
		return fs_fail(err, -errno, "pool %s: cannot be set to %llu bytes: %s", path,
			       (unsigned long long)size, strerror(errno));
	r = opt->sparse ? 0 : preallocate(fd, size, opt);
	if (r)
		return fs_fail(err, r,
			       "pool %s: %llu bytes cannot be preallocated: %s: make it smaller, or --sparse",
			       path, (unsigned long long)size, strerror(-r));
	return 0;
}

static int prepare_device(int fd, const char *path, const struct fs_create_options *opt, struct fs_error *err)
{
	char what[WHAT_BYTES];
	bool holds;
	int r = held_there(fd, opt, what, sizeof(what), &holds);

	if (r)
		return fs_fail(err, r, "device %s: cannot be read: %s", path, strerror(-r));
	if (holds && !opt->force)
		return fs_fail(err, -EEXIST, "device %s: holds %s: --force to overwrite it", path, what);
	return 0;
}

/* Locked by a process that serves it: nobody overwrites that. */
static int open_to_format(const char *path, struct device **ret_dev, struct fs_error *err)
{
	int holder = 0, r = device_open_threads(path, true, ret_dev, &holder);

	return r ? claim_fail_open(path, r, holder, err) : 0;
}

/* The old signatures must not be found again: mount(8) would believe them. The device is locked. */
static int wipe(const char *path, const struct fs_create_options *opt)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = opt->wipe(opt->signature_arg, fd);
	close(fd);
	return r;
}

int pool_write_log_once(struct device *dev, uint64_t off, uint64_t size)
{
	uint64_t step = 1u << 20;
	void *zeros = mem_alloc_aligned(DEVICE_ALIGN, step);
	struct device_queue *q;
	int r = zeros ? dev->ops->queue_new(dev, &q) : -ENOMEM;

	if (r == 0) {
		memset(zeros, 0, step);
		for (uint64_t at = 0; r == 0 && at < size; at += step)
			r = device_sync(q, DEVICE_WRITE, off + at, zeros, min_u64(step, size - at));
		dev->ops->queue_free(q);
	}
	mem_free(zeros);
	return r;
}

/*
 * The file is there and is the caller's to overwrite; if it is made here and this fails, it is removed again.
 */
static int create_on(const char *path, bool existed, const struct fs_create_options *opt,
		     struct fs_error *err)
{
	struct device *dev = NULL;
	struct fs_error inner;
	struct stat st;
	int r = 0, fd;

	if (existed) { /* is it in use? The lock is dropped again: what follows changes its size */
		if (stat(path, &st) == 0 && st.st_size >= (off_t)DEVICE_ALIGN)
			r = open_to_format(path, &dev, err);
		device_close(dev);
		dev = NULL;
		if (r)
			return r;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return fs_fail(err, -errno, "pool %s: cannot be created: %s", path, strerror(errno));
	if (fstat(fd, &st) == 0 && S_ISBLK(st.st_mode))
		r = prepare_device(fd, path, opt, err);
	else
		r = prepare_file(fd, path, existed, opt, err);
	/*
	 * A file that was there may be open to everybody; somebody else's cannot be changed, and the daemon
	 * says so when it opens it.
	 */
	if (r == 0 && S_ISREG(st.st_mode) && st.st_mode & 077)
		(void)fchmod(fd, 0600);
	close(fd);
	if (r == 0)
		r = open_to_format(path, &dev, err);
	if (r)
		return r;
	if (existed && opt->wipe)
		r = wipe(path, opt);
	if (r) {
		device_close(dev);
		return fs_fail(err, r, "pool %s: what it holds cannot be wiped: %s", path, strerror(-r));
	}
	r = pool_write_log_once(dev, DEVICE_DATA_START, pool_log_size(dev->size));
	if (r)
		r = fs_fail(&inner, r, "the flush log cannot be written: %s", strerror(-r));
	else
		r = pool_format(dev, opt->sparse, &inner);
	device_close(dev);
	return r ? fs_fail(err, r, "pool %s: %s", path, inner.msg) : 0;
}

int fs_create(const char *path, const struct fs_create_options *opt, struct fs_error *err)
{
	bool existed = access(path, F_OK) == 0;
	int r = create_on(path, existed, opt, err);

	if (r && !existed)
		(void)unlink(path);
	return r;
}
