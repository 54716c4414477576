/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/fake/rpc_fs.h: an engine of names and numbers for tests of the RPC server and of libbyre. It has
 * real worker threads; fs_commit can be held up, and any call be made to fail. A test that includes this, or
 * tests/lib/rpc_fixture.h, is linked with it in place of the engine.
 */
#ifndef TESTS_LIB_FAKE_RPC_FS_H
#define TESTS_LIB_FAKE_RPC_FS_H

#include <pthread.h>

#include "fs/fs.h"

#define FAKE_WORKERS 4
#define FAKE_VOLUMES_MAX 2000

struct fs {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_t workers[FAKE_WORKERS];
	struct fs_work *head, **tail;
	bool stop;
	bool hold_commits;
	unsigned commits_waiting;
	unsigned changes; /* calls that would have changed something */
	int fail;	  /* what the next such call fails with; 0: nothing */
	uint64_t size, generation;
	const struct fs_info *info; /* what fs_get_info says; NULL: made up */
	unsigned nr_volumes;
	struct fs_volume_info volumes[FAKE_VOLUMES_MAX]; /* in order */
};

struct fs *fake_new(void);

void fake_free(struct fs *fs);

void fake_hold_commits(struct fs *fs, bool hold);

/* Waits until n commits are held up. */
void fake_await_commits(struct fs *fs, unsigned n);

unsigned fake_changes(struct fs *fs);

void fake_fail_next(struct fs *fs, int error);

#endif
