/* SPDX-License-Identifier: BSD-3-Clause */
/* client/backend.c: the two places where commands do their work. */
#include "client/backend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/figure_table.h"

/* ---- a daemon ------------------------------------------------------------- */

static int daemon_pool_info(struct backend *b, struct byre_pool_info *ret_info, struct byre_error *err)
{
	return byre_pool_info(b->daemon, ret_info, err);
}

static int daemon_pool_grow(struct backend *b, uint64_t size, struct byre_error *err)
{
	return byre_pool_grow(b->daemon, size, err);
}

static int daemon_volume_create(struct backend *b, const char *name, uint64_t size, uint32_t flags,
				struct byre_error *err)
{
	return byre_volume_create(b->daemon, name, size, flags, err);
}

static int daemon_volume_list(struct backend *b, backend_volume_fn fn, void *arg, struct byre_error *err)
{
	return byre_volume_list(b->daemon, fn, arg, err);
}

static int daemon_volume_info(struct backend *b, const char *name, struct byre_volume_info *ret_info,
			      struct byre_error *err)
{
	return byre_volume_info(b->daemon, name, ret_info, err);
}

static int daemon_volume_resize(struct backend *b, const char *name, uint64_t size, uint32_t flags,
				struct byre_error *err)
{
	return byre_volume_resize(b->daemon, name, size, flags, err);
}

static int daemon_volume_set(struct backend *b, const char *name, uint32_t flags, const char *comment,
			     struct byre_error *err)
{
	return byre_volume_set(b->daemon, name, flags, comment, err);
}

static int daemon_volume_rename(struct backend *b, const char *from, const char *to, struct byre_error *err)
{
	return byre_volume_rename(b->daemon, from, to, err);
}

static int daemon_volume_delete(struct backend *b, const char *name, struct byre_error *err)
{
	return byre_volume_delete(b->daemon, name, err);
}

static int daemon_close(struct backend *b, struct byre_error *err)
{
	byre_close(b->daemon);
	return 0;
}

static const struct backend_ops daemon_ops = {
	.pool_info = daemon_pool_info,
	.pool_grow = daemon_pool_grow,
	.volume_create = daemon_volume_create,
	.volume_list = daemon_volume_list,
	.volume_info = daemon_volume_info,
	.volume_resize = daemon_volume_resize,
	.volume_set = daemon_volume_set,
	.volume_rename = daemon_volume_rename,
	.volume_delete = daemon_volume_delete,
	.close = daemon_close,
};

int backend_open_daemon(struct backend *b, const struct cli *cli, struct byre_error *err)
{
	*b = (struct backend){.ops = &daemon_ops};
	return cli_connect(cli, &b->daemon, err);
}

/* ---- a pool file ---------------------------------------------------------- */

int backend_fs_error(int code, const struct fs_error *from, const char *what, const char *path,
		     struct byre_error *err)
{
	err->code = code;
	if (from && from->msg[0])
		snprintf(err->text, sizeof(err->text), "%s", from->msg);
	else
		snprintf(err->text, sizeof(err->text), "%s %s: %s", what, path, strerror(-code));
	return code;
}

/* The engine's answer `r` as libbyre's. */
static int file_result(struct backend *b, int r, const struct fs_error *from, const char *what,
		       struct byre_error *err)
{
	return r ? backend_fs_error(r, from, what, b->path, err) : 0;
}

static void scrub_from_fs(const struct fs_scrub_status *from, struct byre_scrub *to)
{
	to->state = (enum byre_scrub_state)from->state;
	SCRUB_FIGURES(FIGURE_COPY);
}

/* Without the times of commits and of the flush log, which a pool that is only looked at has not. */
static void pool_from_fs(const struct fs_info *from, struct byre_pool_info *to)
{
	*to = (struct byre_pool_info){0};
	POOL_FIGURES(FIGURE_COPY, FIGURE_SKIP);
	memcpy(to->uuid, from->uuid, sizeof(to->uuid));
	snprintf(to->device_kind, sizeof(to->device_kind), "%s", from->device_kind ? from->device_kind : "");
	scrub_from_fs(&from->scrub, &to->scrub);
}

static void volume_from_fs(const struct fs_volume_info *from, struct byre_volume_info *to)
{
	*to = (struct byre_volume_info){0};
	VOLUME_FIGURES(FIGURE_COPY);
#define COPY_FLAG(flag, name) to->flags |= from->flags & FS_VOLUME_##flag ? BYRE_VOLUME_##flag : 0;
	VOLUME_FLAGS(COPY_FLAG);
#undef COPY_FLAG
	snprintf(to->name, sizeof(to->name), "%s", from->name);
	snprintf(to->comment, sizeof(to->comment), "%s", from->comment);
	memcpy(to->uuid, from->uuid, sizeof(to->uuid));
}

static int file_pool_info(struct backend *b, struct byre_pool_info *ret_info, struct byre_error *err)
{
	struct fs_info info;

	fs_get_info(b->fs, &info);
	info.read_only &= !b->idle; /* it is not the pool that cannot be written */
	pool_from_fs(&info, ret_info);
	return 0;
}

static int file_pool_grow(struct backend *b, uint64_t size, struct byre_error *err)
{
	struct fs_error fe = {""};

	return file_result(b, fs_grow(b->fs, size, &fe), &fe, "pool grow", err);
}

static int file_volume_create(struct backend *b, const char *name, uint64_t size, uint32_t flags,
			      struct byre_error *err)
{
	uint32_t fs_flags = (flags & BYRE_VOLUME_RESERVED ? FS_VOLUME_RESERVED : 0) |
			    (flags & BYRE_VOLUME_WRITEBACK ? FS_VOLUME_WRITEBACK : 0);
	struct fs_error fe = {""};

	return file_result(b, fs_volume_create(b->fs, name, size, fs_flags, &fe), &fe, "volume create in",
			   err);
}

struct list_arg {
	backend_volume_fn fn;
	void *arg;
};

static int list_one(void *arg, const struct fs_volume_info *from)
{
	const struct list_arg *list = arg;
	struct byre_volume_info info;

	volume_from_fs(from, &info);
	return list->fn(list->arg, &info);
}

static int file_volume_list(struct backend *b, backend_volume_fn fn, void *arg, struct byre_error *err)
{
	struct list_arg list = {fn, arg};

	return file_result(b, fs_volume_list(b->fs, list_one, &list), NULL, "volume list of", err);
}

static int file_volume_info(struct backend *b, const char *name, struct byre_volume_info *ret_info,
			    struct byre_error *err)
{
	struct fs_volume_info info;
	struct fs_volume *vol;
	struct fs_error fe;
	int r;

	r = fs_volume_get(b->fs, name, &vol);
	if (r) {
		snprintf(fe.msg, sizeof(fe.msg), "volume info %s: %s: see 'byre volume list'", name,
			 r == -ENOENT ? "there is no such volume" : strerror(-r));
		return file_result(b, r, &fe, "volume info of", err);
	}
	fs_volume_get_info(vol, &info);
	fs_volume_put(vol);
	volume_from_fs(&info, ret_info);
	return 0;
}

static int file_volume_resize(struct backend *b, const char *name, uint64_t size, uint32_t flags,
			      struct byre_error *err)
{
	bool may_shrink = (flags & BYRE_RESIZE_SHRINK) != 0;
	struct fs_error fe = {""};

	return file_result(b, fs_volume_set_size(b->fs, name, size, may_shrink, &fe), &fe, "volume resize in",
			   err);
}

static int file_volume_set(struct backend *b, const char *name, uint32_t flags, const char *comment,
			   struct byre_error *err)
{
	const struct fs_volume_change change = {
		.set = (flags & BYRE_SET_RESERVED ? FS_VOLUME_RESERVED : 0) |
		       (flags & BYRE_SET_READ_ONLY ? FS_VOLUME_READ_ONLY : 0),
		.clear = (flags & BYRE_SET_THIN ? FS_VOLUME_RESERVED : 0) |
			 (flags & BYRE_SET_WRITABLE ? FS_VOLUME_READ_ONLY : 0),
		.comment = comment,
	};
	struct fs_error fe = {""};

	return file_result(b, fs_volume_set(b->fs, name, &change, &fe), &fe, "volume set in", err);
}

static int file_volume_rename(struct backend *b, const char *from, const char *to, struct byre_error *err)
{
	struct fs_error fe = {""};

	return file_result(b, fs_volume_rename(b->fs, from, to, &fe), &fe, "volume rename in", err);
}

static int file_volume_delete(struct backend *b, const char *name, struct byre_error *err)
{
	struct fs_error fe = {""};

	return file_result(b, fs_volume_delete(b->fs, name, &fe), &fe, "volume delete in", err);
}

static int file_close(struct backend *b, struct byre_error *err)
{
	return file_result(b, fs_close(b->fs), NULL, "closing", err);
}

static const struct backend_ops file_ops = {
	.pool_info = file_pool_info,
	.pool_grow = file_pool_grow,
	.volume_create = file_volume_create,
	.volume_list = file_volume_list,
	.volume_info = file_volume_info,
	.volume_resize = file_volume_resize,
	.volume_set = file_volume_set,
	.volume_rename = file_volume_rename,
	.volume_delete = file_volume_delete,
	.close = file_close,
};

int backend_open_file(struct backend *b, const char *path, bool read_only, struct byre_error *err)
{
	const struct fs_options opt = {.read_only = read_only};
	struct fs_error fe = {""};
	int r;

	*b = (struct backend){.ops = &file_ops, .path = path, .idle = read_only};
	r = fs_open(path, &opt, &b->fs, &fe);
	return file_result(b, r, &fe, "cannot open pool", err);
}

int backend_open(struct backend *b, const struct cli *cli, bool read_only, struct byre_error *err)
{
	return cli->pool ? backend_open_file(b, cli->pool, read_only, err) : backend_open_daemon(b, cli, err);
}
