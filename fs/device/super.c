/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/device/super.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

#define READ_TRIES 3

static const uint64_t offsets[SUPER_COPIES] = SUPER_OFFSETS;

/* An error that passes must not make the pool one commit older. */
static int read_copy(struct device_queue *q, uint64_t device_bytes, unsigned copy, struct super_block *sb)
{
	int r = -EIO;

	if (offsets[copy] + SUPER_SIZE > device_bytes)
		return r;
	for (unsigned i = 0; r && i < READ_TRIES; i++)
		r = device_sync(q, DEVICE_READ, offsets[copy], sb, SUPER_SIZE);
	return r;
}

/*
 * Without its end nothing of a pool can be trusted to be complete, so it is not opened; but it can be made
 * whole again.
 */
static int fail_short(const struct device *dev, uint64_t whole, struct fs_error *err)
{
	if (dev->block_device)
		return fs_fail(
			err, -EUCLEAN,
			"the pool has %llu bytes, the device only %llu: use the one that it was made on, or "
			"copy it to one of that size",
			(unsigned long long)whole, (unsigned long long)dev->size);
	return fs_fail(
		err, -EUCLEAN,
		"the pool has %llu bytes and its file fewer: it was truncated; truncate -s %llu on the file "
		"gives it its size back (what is gone reads as zeros), then run byre pool check on it",
		(unsigned long long)whole, (unsigned long long)whole);
}

int super_read(struct device_queue *q, uint64_t device_bytes, struct super_block *ret_sb, unsigned *ret_bad,
	       unsigned *ret_old, struct fs_error *err)
{
	struct super_block *sb = mem_alloc_aligned(DEVICE_ALIGN, SUPER_SIZE);
	const char *why = "cannot be read";
	uint64_t whole = 0; /* the size of a pool whose file is shorter */
	bool found = false, ours = false;
	unsigned newest = 0;
	int r = 0;

	if (!sb)
		return fs_fail(err, -ENOMEM, "out of memory");
	*ret_bad = 0;
	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		r = read_copy(q, device_bytes, i, sb);
		if (r == 0) {
			ours |= le64_to_cpu(sb->magic) == SUPER_MAGIC;
			r = super_validate(sb, offsets[i], device_bytes, &why);
			if (r && super_validate(sb, offsets[i], 0, &why) == 0)
				whole = max_u64(whole, le64_to_cpu(sb->device_size));
		}
		if (r)
			(*ret_bad)++;
		else if (!found || le64_to_cpu(sb->generation) > le64_to_cpu(ret_sb->generation)) {
			*ret_sb = *sb;
			found = true;
			newest = 1;
		} else if (le64_to_cpu(sb->generation) == le64_to_cpu(ret_sb->generation)) {
			newest++;
		}
	}
	*ret_old = SUPER_COPIES - *ret_bad - newest;
	mem_free(sb);
	if (!found && whole)
		return fail_short(q->dev, whole, err);
	if (!found)
		return ours ? fs_fail(err, -EUCLEAN,
				      "no superblock is valid (the last one %s): restore the file from a copy",
				      why)
			    : fs_fail(err, -EINVAL, "not a Byre pool: no superblock found");
	if (le64_to_cpu(ret_sb->incompat) & ~FEATURE_INCOMPAT_KNOWN)
		return fs_fail(
			err, -ENOTSUP,
			"the pool uses features that this version does not know (0x%llx): use a newer one",
			(unsigned long long)(le64_to_cpu(ret_sb->incompat) & ~FEATURE_INCOMPAT_KNOWN));
	return 0;
}

int super_write_copy(struct device_queue *q, const struct super_block *sb, unsigned copy)
{
	/* Not allocated: at this point of a commit nothing can be taken back. */
	struct super_block out __attribute__((aligned(DEVICE_ALIGN))) = *sb;

	out.offset = cpu_to_le64(offsets[copy]);
	out.crc = cpu_to_le32(super_checksum(&out));
	return device_sync(q, DEVICE_WRITE, offsets[copy], &out, SUPER_SIZE);
}

int super_write_all(struct device_queue *q, const struct super_block *sb)
{
	int r = super_write_copy(q, sb, 0);

	if (r == 0)
		r = device_flush(q);
	/*
	 * The commit is durable. It counts when the others are so too: with one copy lost, nobody may find
	 * the one before.
	 */
	for (unsigned i = 1; r == 0 && i < SUPER_COPIES; i++)
		r = super_write_copy(q, sb, i);
	return r ? r : device_flush(q);
}
