/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_host.c: what the file system under a pool's file has left, and what the file takes of it.
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_int.h"

/* Files of tmpfs stand in memory, which may end long before the limit of the mount does. */
static uint64_t memory_left(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib, available = 0, swap = 0;
	char line[128];

	if (!f)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			available = kib;
		else if (sscanf(line, "SwapFree: %llu kB", &kib) == 1)
			swap = kib;
	}
	fclose(f);
	return (available + swap) * 1024;
}

int device_file_host(struct device_file *file, struct device_host *ret_host)
{
	struct statvfs vfs;
	struct statfs sfs;
	struct stat st;

	if (file->dev.block_device)
		return -ENOTSUP;
	if (fstat(file->fd, &st) || fstatvfs(file->fd, &vfs) || fstatfs(file->fd, &sfs))
		return -errno;
	ret_host->used_bytes = (uint64_t)st.st_blocks * 512;
	/* ext4 keeps a twentieth for root, who may take it. */
	ret_host->free_bytes = (uint64_t)(geteuid() == 0 ? vfs.f_bfree : vfs.f_bavail) * vfs.f_frsize;
	if (sfs.f_type == TMPFS_MAGIC || sfs.f_type == RAMFS_MAGIC)
		ret_host->free_bytes = min_u64(
			sfs.f_type == RAMFS_MAGIC || vfs.f_blocks == 0 ? UINT64_MAX : ret_host->free_bytes,
			memory_left());
	return 0;
}
