/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/device/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/le.h"
#include "base/mem.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/claim_format.h"
#include "fs/fs.h"

#define READ_TRIES 3u

/* ---- this process ---------------------------------------------------------- */

/* The kernel's boot id, in binary; zeros where there is none. */
static void read_boot_id(uint8_t boot[16])
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	unsigned n = 0;

	memset(boot, 0, 16);
	for (int c; f && n < 32 && (c = fgetc(f)) != EOF;) {
		unsigned digit = c >= '0' && c <= '9'	? (unsigned)c - '0'
				 : c >= 'a' && c <= 'f' ? (unsigned)c - 'a' + 10
							: 16;

		if (digit == 16)
			continue;
		boot[n / 2] |= (uint8_t)(digit << (n % 2 ? 0 : 4));
		n++;
	}
	if (f)
		fclose(f);
}

/* When a process began: two of the same number differ in it. 0: there is none, or it cannot be seen. */
static uint64_t process_start(int pid)
{
	unsigned long long start = 0;
	char path[64], line[1024], *at;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	at = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL; /* a name may hold anything */
	fclose(f);
	for (unsigned field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, "%llu", &start) == 1 ? start : 0;
}

/* ---- the block ------------------------------------------------------------- */

static bool is_of(const struct claim_block *c, const uint8_t uuid[16])
{
	return memcmp(c->pool, uuid, sizeof(c->pool)) == 0;
}

static int read_claim(struct device_queue *q, struct claim_block *c)
{
	int r = -EIO;

	for (unsigned i = 0; r && i < READ_TRIES; i++)
		r = device_sync(q, DEVICE_READ, CLAIM_OFFSET, c, sizeof(*c));
	return r;
}

static int write_claim(struct fs *fs, bool held)
{
	struct claim_block c
		__attribute__((aligned(DEVICE_ALIGN))) = {.magic = cpu_to_le32(CLAIM_MAGIC), .held = held};

	memcpy(c.pool, fs->uuid, sizeof(c.pool));
	memcpy(c.session, fs->session, sizeof(c.session));
	read_boot_id(c.boot);
	c.since_ns = cpu_to_le64(fs_wall_ns(fs));
	c.start = cpu_to_le64(process_start(getpid()));
	c.pid = cpu_to_le32((uint32_t)getpid());
	if (gethostname(c.host, sizeof(c.host) - 1))
		c.host[0] = 0;
	c.crc = cpu_to_le32(claim_checksum(&c));
	return device_sync(fs->commit_q, DEVICE_WRITE, CLAIM_OFFSET, &c, sizeof(c));
}

/* "process 12 of host a since 2026-01-02 03:04:05 UTC" */
static void describe(const struct claim_block *c, char *ret_who, size_t size)
{
	time_t since = (time_t)(le64_to_cpu(c->since_ns) / 1000000000);
	char when[32] = "?";
	struct tm tm;

	if (gmtime_r(&since, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	snprintf(ret_who, size, "process %u on host %.*s since %s", le32_to_cpu(c->pid),
		 (int)CLAIM_HOST_MAX - 1, c->host, when);
}

/* A process of this kernel that lives, and is not this one. */
static bool is_alive_here(const struct claim_block *c)
{
	int pid = (int)le32_to_cpu(c->pid);
	uint8_t boot[16];

	read_boot_id(boot);
	return c->held && pid > 0 && pid != getpid() && memcmp(boot, c->boot, sizeof(boot)) == 0 &&
	       le64_to_cpu(c->start) && process_start(pid) == le64_to_cpu(c->start);
}

/* ---- the pool's life ------------------------------------------------------- */

int claim_take(struct fs *fs, struct fs_error *err)
{
	struct claim_block c __attribute__((aligned(DEVICE_ALIGN)));
	char who[256];
	int r = read_claim(fs->commit_q, &c);

	/* of a copy, or of this one by another name */
	if (r == 0 && !claim_fault(&c) && is_of(&c, fs->uuid) && is_alive_here(&c)) {
		describe(&c, who, sizeof(who));
		fs_log(fs, FS_LOG_WARNING,
		       "the pool is claimed by %s, which still runs: unless this is a copy of its pool, that one stops writing now",
		       who);
	}
	if (fs_random(fs, fs->session, sizeof(fs->session)))
		return fs_fail(err, -EIO, "no random numbers");
	r = write_claim(fs, true);
	if (r)
		fs_set_read_only(fs, r, "the pool cannot be claimed");
	return 0;
}

int claim_check(struct fs *fs, struct device_queue *q)
{
	struct claim_block c __attribute__((aligned(DEVICE_ALIGN)));
	char who[256] = "something that is no pool's daemon", msg[512];

	fs->claim_checked_us = fs_now_us(fs);
	if (read_claim(q, &c)) /* nothing is known; the superblock's write will tell */
		return 0;
	if (!claim_fault(&c) && is_of(&c, fs->uuid) && memcmp(c.session, fs->session, sizeof(c.session)) == 0)
		return 0;
	if (!claim_fault(&c))
		describe(&c, who, sizeof(who));
	snprintf(msg, sizeof(msg), "the pool was taken by %s: two must not write to it", who);
	fs_set_read_only(fs, -EBUSY, msg);
	return -EBUSY;
}

bool claim_was_given_up(struct fs *fs, struct device_queue *q)
{
	struct claim_block c __attribute__((aligned(DEVICE_ALIGN)));

	return read_claim(q, &c) == 0 && !claim_fault(&c) && is_of(&c, fs->uuid) && !c.held;
}

void claim_give_up(struct fs *fs)
{
	(void)write_claim(fs, false);
}

/* Who holds the pool: "process 12" and the like. */
static void describe_holder(const char *path, int pid, char *ret_who, size_t size)
{
	struct claim_block *c = mem_alloc_aligned(DEVICE_ALIGN, sizeof(*c));
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	snprintf(ret_who, size, pid > 0 ? "process %d" : "another process", pid);
	if (pid <= 0 && c && fd >= 0 && pread(fd, c, sizeof(*c), CLAIM_OFFSET) == (ssize_t)sizeof(*c) &&
	    !claim_fault(c) && c->held)
		describe(c, ret_who, size);
	if (fd >= 0)
		close(fd);
	mem_free(c);
}

int claim_fail_open(const char *path, int r, int holder, struct fs_error *err)
{
	char who[256];

	switch (r) {
	case -EBUSY:
		describe_holder(path, holder, who, sizeof(who));
		return fs_fail(err, r, "pool %s: held by %s: stop that first, or talk to it", path, who);
	case -EROFS:
		return fs_fail(
			err, r,
			"pool %s: it, or its file system, is read-only: make it writable (a systemd service needs "
			"ReadWritePaths=), or open it with --read-only",
			path);
	case -ENOENT:
		return fs_fail(err, r, "pool %s: there is no such file: 'byre pool create' makes a pool",
			       path);
	case -EACCES:
		return fs_fail(err, r,
			       "pool %s: permission denied: user %u must be able to read and write it", path,
			       (unsigned)geteuid());
	case -EPERM: /* of the control group, too */
		return fs_fail(
			err, r,
			"pool %s: not permitted: a systemd service needs DeviceAllow=%s (systemctl edit)",
			path, path);
	default: return fs_fail(err, r, "pool %s: cannot be opened: %s", path, strerror(-r));
	}
}
