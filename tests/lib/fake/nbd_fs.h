/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/fake/nbd_fs.h: the part of fs/fs.h that the NBD server uses, in memory, for its tests and
 * fuzzers. A program that includes this, or tests/lib/nbd_rig.h, is linked with it in place of the engine.
 *
 * Requests finish inside fs_submit, or, with `defer`, in the reverse order inside fs_ctx_run. Each is checked
 * against the contract of fs_submit. Work runs inside fs_work, or, with `defer`, when fake_fs_run_works is
 * called.
 */
#ifndef TESTS_LIB_FAKE_NBD_FS_H
#define TESTS_LIB_FAKE_NBD_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/fs.h"

#define FAKE_VOLUMES_MAX 8
#define FAKE_DATA_MAX (UINT64_C(1) << 30)

struct fs_volume {
	struct fs *fs;
	char name[FS_NAME_MAX + 1];
	uint8_t *data; /* NULL: larger than FAKE_DATA_MAX, and always a hole */
	uint64_t size;
	uint32_t flags;
	char comment[FS_COMMENT_MAX + 1];
	int refs;
};

struct fs {
	struct fs_volume volumes[FAKE_VOLUMES_MAX];
	int count;
	bool defer, read_only;
	int fail; /* every request but FLUSH ends with this (negative errno); 0: none */
	struct fs_work *works;
	unsigned submits, requests, under_way, flushes;
	size_t largest_batch;
	uint32_t last_flags;
	uint64_t last_off, last_len;
};

struct fs_ctx {
	struct fs *fs;
	struct fs_io *pending; /* the last one first */
	int fd;
};

struct fs_volume *fake_fs_add(struct fs *fs, const char *name, uint64_t size, uint32_t flags);

/* Every reference must have been given back. */
void fake_fs_fini(struct fs *fs);

/* Returns how many there were. */
int fake_fs_run_works(struct fs *fs);

/* Blocks of nothing but zeros are the holes. */
bool fake_fs_is_hole(const struct fs_volume *vol, uint64_t off, uint64_t len);

#endif
