/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/signature.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Where file(1) and others find a pool: docs/format.md. */
#define POOL_MAGIC_OFFSET 65544
#define POOL_MAGIC "BYREPOOL"

static blkid_probe probe_new(int fd)
{
	blkid_probe pr = blkid_new_probe();

	if (!pr)
		return NULL;
	if (blkid_probe_set_device(pr, fd, 0, 0) || blkid_probe_enable_superblocks(pr, 1) ||
	    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
							  BLKID_SUBLKS_LABEL | BLKID_SUBLKS_MAGIC |
							  BLKID_SUBLKS_BADCSUM) ||
	    blkid_probe_enable_partitions(pr, 1) ||
	    blkid_probe_set_partitions_flags(pr, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT)) {
		blkid_free_probe(pr);
		return NULL;
	}
	return pr;
}

static const char *value(blkid_probe pr, const char *name)
{
	const char *data = NULL;

	return blkid_probe_lookup_value(pr, name, &data, NULL) ? NULL : data;
}

static const char *article(const char *word)
{
	return strchr("aeiounxAEIOUNX", word[0]) ? "an" : "a";
}

/* Of what the probe has just found. */
static void describe_found(blkid_probe pr, char *ret_what, size_t size)
{
	const char *type = value(pr, "TYPE"), *table = value(pr, "PTTYPE"), *usage = value(pr, "USAGE"),
		   *label = value(pr, "LABEL");
	const char *kind = "signature";

	if (!type && table) {
		snprintf(ret_what, size, "a partition table (%s)", table);
		return;
	}
	if (usage && strcmp(usage, "filesystem") == 0)
		kind = "file system";
	else if (usage && strcmp(usage, "raid") == 0)
		kind = "part of a volume group or RAID";
	else if (usage && strcmp(usage, "crypto") == 0)
		kind = "encrypted volume";
	else if (type && strcmp(type, "swap") == 0)
		kind = "area";
	if (!type)
		type = "unknown";
	if (usage && strcmp(usage, "raid") == 0)
		snprintf(ret_what, size, "%s (%s)", kind, type);
	else
		snprintf(ret_what, size, "%s %s %s%s%s%s", article(type), type, kind, label ? " \"" : "",
			 label ? label : "", label ? "\"" : "");
}

static int is_pool(int fd)
{
	char magic[sizeof(POOL_MAGIC) - 1];

	return pread(fd, magic, sizeof(magic), POOL_MAGIC_OFFSET) == (ssize_t)sizeof(magic) &&
	       memcmp(magic, POOL_MAGIC, sizeof(magic)) == 0;
}

int signature_describe(void *arg, int fd, char *ret_what, size_t size)
{
	blkid_probe pr = probe_new(fd);
	int r;

	if (!pr)
		return -EIO;
	r = blkid_do_probe(pr);
	if (r == 0)
		describe_found(pr, ret_what, size);
	blkid_free_probe(pr);
	if (r == 0)
		return 1;
	if (is_pool(fd)) {
		snprintf(ret_what, size, "a Byre pool");
		return 1;
	}
	return r < 0 ? -EIO : 0;
}

int signature_wipe(void *arg, int fd)
{
	blkid_probe pr = probe_new(fd);
	int r = pr ? 0 : -EIO;

	while (r == 0 && (r = blkid_do_probe(pr)) == 0)
		r = blkid_do_wipe(pr, 0) ? -EIO : 0;
	blkid_free_probe(pr);
	if (r < 0)
		return -EIO;
	return fsync(fd) ? -errno : 0;
}
