/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/io/ctx.h: contexts: an event loop's device queue, its run of free space, and what other threads hand to
 * it.
 */
#ifndef FS_IO_CTX_H
#define FS_IO_CTX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/device/executor.h"

struct fs;
struct pending;

struct io;
struct write_run;

struct fs_ctx {
	struct fs *fs;
	struct fs_ctx *next; /* of all contexts: fs->ctx_lock */
	struct executor ex;
	int epoll_fd;

	/* fs->ctx_lock: the run of free space, which only this context gives out and others may take back. */
	uint64_t run_addr;
	uint32_t run_blocks;

	/* The thread's own. */
	struct io *free_ios;
	unsigned nr_free_ios;
	struct write_run *open_write; /* the device write being put together */
	uint64_t under_way;	      /* requests */
	_Atomic uint64_t requests;    /* since the context was made; other threads read it */
	struct pending *spare;
};

/*
 * Up to want blocks in a row from the context's run, refilled from the groups. 0: there are none now;
 * *ret_unloaded says whether a group's free space has to be read first.
 */
uint32_t ctx_take_blocks(struct fs_ctx *ctx, uint32_t want, uint64_t *ret_addr, bool *ret_unloaded);

/* Gives every context's run back to the groups. */
void ctx_return_runs(struct fs *fs);

#endif
