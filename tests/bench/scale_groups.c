/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/bench/scale_groups.c: what the number of block groups costs: pools of 1 GiB to 1 PiB, sparse, nine
 * tenths of each made into groups. A line for each size: how long opening takes, what stays in memory, making
 * a group, finding the group of an address, taking and giving back space, and the commit of one written
 * block.
 *
 *   scale_groups [FOLDER]     /dev/shm by default: tmpfs has files of 1 PiB
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "fs/space/block_group.h"
#include "fs/core/clock.h"
#include "fs/fs.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"

#define GIB (1ull << 30)
#define FINDS 1000000u
#define TAKES 100000u
#define COMMITS 500u

static _Noreturn void die(const char *what, int error, const char *msg)
{
	fprintf(stderr, "scale_groups: %s: %s %s\n", what, strerror(-error), msg);
	exit(1);
}

static struct fs *open_pool(const char *path, bool read_only)
{
	struct fs_options opt = {.cache_bytes = 64u << 20,
				 .commit_interval_ms = 3600000,
				 .workers = 2,
				 .read_only = read_only};
	struct fs_error err = {""};
	struct fs *fs;
	int r = fs_open(path, &opt, &fs, &err);

	if (r)
		die(path, r, err.msg);
	return fs;
}

static double resident_mib(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%llu %llu", &size, &resident) != 2)
		die("/proc/self/statm", -EIO, "");
	fclose(f);
	return (double)resident * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

/* Microseconds for each. */
static double make_groups(struct fs *fs, struct space_promise *promise)
{
	uint64_t missing = 0, start;
	struct fs_info info;
	int r;

	fs_get_info(fs, &info);
	start = fs_clock_system.now_us();
	r = space_set_promise(fs, promise, info.free_bytes / 10 * 9, false, &missing);
	if (r)
		die("groups cannot be made", r, "");
	return (double)(fs_clock_system.now_us() - start) / atomic_load(&fs->groups->number[0]);
}

static double find_groups(struct fs *fs)
{
	uint64_t start = fs_clock_system.now_us(), count = atomic_load(&fs->groups->count), rng = 1,
		 found = 0;

	for (unsigned i = 0; i < FINDS; i++) {
		rng = rng * 6364136223846793005u + 1442695040888963407u;
		found += block_group_find(fs, (rng >> 32) % count * fs->group_step) != NULL;
	}
	if (found == 0)
		die("no group was found", -EIO, "");
	return (double)(fs_clock_system.now_us() - start) * 1000 / FINDS;
}

static double take_and_give(struct fs *fs)
{
	uint64_t start = fs_clock_system.now_us(), addr;

	for (unsigned i = 0; i < TAKES; i++) {
		bool unloaded;
		uint32_t n = block_group_take_data(fs, 1, &addr, &unloaded);

		if (n == 0)
			die("no space was taken", -ENOSPC, "");
		block_group_give(fs, addr, (uint64_t)n * FS_BLOCK_SIZE);
	}
	return (double)(fs_clock_system.now_us() - start) * 1000 / TAKES;
}

static double commit_blocks(struct fs *fs)
{
	static uint8_t block[FS_BLOCK_SIZE];
	struct fs_error err = {""};
	struct fs_volume *vol;
	uint64_t us = 0;
	int r = fs_volume_create(fs, "v", GIB, 0, &err);

	if (r == 0)
		r = fs_volume_get(fs, "v", &vol);
	if (r)
		die("volume", r, err.msg);
	for (unsigned i = 0; r == 0 && i < COMMITS; i++) {
		struct fs_io io = {.op = FS_WRITE,
				   .vol = vol,
				   .off = i * 7919ull % 1000 * FS_BLOCK_SIZE,
				   .len = sizeof(block),
				   .buf = block};
		uint64_t start;

		r = fs_io_wait(fs, &io);
		start = fs_clock_system.now_us();
		r = r ? r : fs_commit(fs);
		us += fs_clock_system.now_us() - start;
	}
	if (r)
		die("commit", r, "");
	fs_volume_put(vol);
	return (double)us / COMMITS;
}

static void measure(const char *folder, uint64_t size)
{
	struct fs_create_options co = {.size_bytes = size, .sparse = true, .force = true};
	double make_us, find_ns, take_ns, commit_us, open_ms, before;
	struct space_promise promise = {0};
	struct fs_error err = {""};
	uint64_t start, groups;
	char path[4096];
	struct fs *fs;
	int r;

	snprintf(path, sizeof(path), "%s/byre-scale-%d", folder, (int)getpid());
	r = fs_create(path, &co, &err);
	if (r)
		die(path, r, err.msg);
	fs = open_pool(path, false);
	make_us = make_groups(fs, &promise);
	groups = atomic_load(&fs->groups->number[0]);
	find_ns = find_groups(fs);
	take_ns = take_and_give(fs);
	(void)fs_commit(fs); /* all the new groups */
	commit_us = commit_blocks(fs);
	pool_abandon(fs);
	(void)malloc_trim(0);
	before = resident_mib();
	start = fs_clock_system.now_us();
	fs = open_pool(path, true);
	open_ms = (double)(fs_clock_system.now_us() - start) / 1000;
	printf("%8llu GiB %8llu groups: open %7.1f ms, %6.1f MiB more, make %5.2f us, find %5.1f ns, take and give %6.1f ns, commit %6.0f us\n",
	       (unsigned long long)(size / GIB), (unsigned long long)groups, open_ms, resident_mib() - before,
	       make_us, find_ns, take_ns, commit_us);
	fflush(stdout);
	(void)fs_close(fs);
	(void)unlink(path);
}

int main(int argc, char **argv)
{
	const char *folder = argc > 1 ? argv[1] : "/dev/shm";
	int status = 0;

	for (uint64_t size = GIB; status == 0 && size <= GIB << 20; size *= 4) {
		pid_t pid = fork(); /* each with a memory of its own */

		if (pid == 0) {
			measure(folder, size);
			return 0;
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			die("fork", -errno, "");
	}
	return status != 0;
}
