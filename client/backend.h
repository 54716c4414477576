/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/backend.h: where a command does its work: a daemon (libbyre), or a pool file that no daemon has
 * open (the engine, inside this process). Both speak libbyre's types.
 */
#ifndef CLIENT_BACKEND_H
#define CLIENT_BACKEND_H

#include "client/byre.h"
#include "client/cli.h"
#include "fs/fs.h"

struct backend;
typedef int (*backend_volume_fn)(void *arg, const struct byre_volume_info *info);

/* As libbyre's calls. */
struct backend_ops {
	int (*pool_info)(struct backend *b, struct byre_pool_info *ret_info, struct byre_error *err);
	int (*pool_grow)(struct backend *b, uint64_t size, struct byre_error *err);
	int (*volume_create)(struct backend *b, const char *name, uint64_t size, uint32_t flags,
			     struct byre_error *err);
	int (*volume_list)(struct backend *b, backend_volume_fn fn, void *arg, struct byre_error *err);
	int (*volume_info)(struct backend *b, const char *name, struct byre_volume_info *ret_info,
			   struct byre_error *err);
	int (*volume_resize)(struct backend *b, const char *name, uint64_t size, uint32_t flags,
			     struct byre_error *err);
	int (*volume_set)(struct backend *b, const char *name, uint32_t flags, const char *comment,
			  struct byre_error *err);
	int (*volume_rename)(struct backend *b, const char *from, const char *to, struct byre_error *err);
	int (*volume_delete)(struct backend *b, const char *name, struct byre_error *err);
	int (*close)(struct backend *b, struct byre_error *err);
};

struct backend {
	const struct backend_ops *ops;
	struct byre *daemon;
	struct fs *fs;
	const char *path;
	bool idle; /* a pool file that was opened only to be read */
};

/* The daemon that --connect or the default names. */
int backend_open_daemon(struct backend *b, const struct cli *cli, struct byre_error *err);
/* A pool file. */
int backend_open_file(struct backend *b, const char *path, bool read_only, struct byre_error *err);
/* Whichever --pool and --connect ask for. */
int backend_open(struct backend *b, const struct cli *cli, bool read_only, struct byre_error *err);

/*
 * The engine's error as libbyre's; returns `code`. `what` and `path` begin the line when the engine has not
 * worded it.
 */
int backend_fs_error(int code, const struct fs_error *from, const char *what, const char *path,
		     struct byre_error *err);

#endif
