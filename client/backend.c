/* SPDX-License-Identifier: BSD-3-Clause */
/* client/backend.c: the two places where commands do their work. */
#include "client/backend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

static struct byre_scrub scrub_from_fs(const struct fs_scrub_status *st)
{
	return (struct byre_scrub){
		.state = (enum byre_scrub_state)st->state,
		.started_ns = st->started_ns,
		.ended_ns = st->ended_ns,
		.rate = st->rate,
		.bytes_done = st->bytes_done,
		.bytes_total = st->bytes_total,
		.found = st->found,
		.mended = st->mended,
		.damaged_bytes = st->damaged_bytes,
	};
}

/* Long and flat: one line a field. */
static void pool_from_fs(const struct fs_info *i, struct byre_pool_info *ret_info)
{
	*ret_info = (struct byre_pool_info){
		.size = i->size,
		.data_bytes = i->data_bytes,
		.metadata_bytes = i->metadata_bytes,
		.reserved_bytes = i->reserved_bytes,
		.pinned_bytes = i->pinned_bytes,
		.free_bytes = i->free_bytes,
		.generation = i->generation,
		.groups_data = i->groups_data,
		.groups_metadata = i->groups_metadata,
		.groups_system = i->groups_system,
		.unallocated_bytes = i->unallocated_bytes,
		.global_reserve_bytes = i->global_reserve_bytes,
		.volume_reserved_bytes = i->volume_reserved_bytes,
		.cache_loaded = i->cache_loaded,
		.cache_written = i->cache_written,
		.cache_rebuilt = i->cache_rebuilt,
		.cache_last_bytes = i->cache_last_bytes,
		.cache_last_us = i->cache_last_us,
		.cache_bytes = i->cache_bytes,
		.cache_us = i->cache_us,
		.commit_bytes = i->commit_bytes,
		.commit_us = i->commit_us,
		.last_commit_ms = i->last_commit_ms,
		.commits = i->commits,
		.flushes = i->flushes,
		.log_groups = i->log_groups,
		.log_bytes = i->log_bytes,
		.device_flushes = i->device_flushes,
		.reclaim_commits = i->reclaim_commits,
		.reclaim_groups = i->reclaim_groups,
		.enospc = i->enospc,
		.node_cache_hits = i->node_cache_hits,
		.node_cache_misses = i->node_cache_misses,
		.data_cache_hits = i->data_cache_hits,
		.data_cache_misses = i->data_cache_misses,
		.volumes = i->volumes,
		.snapshots = i->snapshots,
		.objects = i->objects,
		.log_lost_flushes = i->log_lost_flushes,
		.log_lost_ns = i->log_lost_ns,
		.errors_corrected = i->errors_corrected,
		.errors_checksum = i->errors_checksum,
		.errors_io = i->errors_io,
		.lost_bytes = i->lost_bytes,
		.sparse = i->sparse,
		.host_full = i->host_full,
		.host_free_bytes = i->host_free_bytes,
		.discard = i->discard,
		.discarded_bytes = i->discarded_bytes,
		.trim_left_bytes = i->trim_left,
		.trim_total_bytes = i->trim_total,
		.scrub = scrub_from_fs(&i->scrub),
		.read_only = i->read_only,
		.direct_io = i->direct_io,
	};
	memcpy(ret_info->uuid, i->uuid, sizeof(ret_info->uuid));
	snprintf(ret_info->device_kind, sizeof(ret_info->device_kind), "%s",
		 i->device_kind ? i->device_kind : "");
}

static void volume_from_fs(const struct fs_volume_info *i, struct byre_volume_info *ret_info)
{
	*ret_info = (struct byre_volume_info){
		.id = i->id,
		.size = i->size,
		.used_bytes = i->used_bytes,
		.lost_bytes = i->lost_bytes,
		.flags = (i->flags & FS_VOLUME_RESERVED ? BYRE_VOLUME_RESERVED : 0) |
			 (i->flags & FS_VOLUME_WRITEBACK ? BYRE_VOLUME_WRITEBACK : 0) |
			 (i->flags & FS_VOLUME_READ_ONLY ? BYRE_VOLUME_READ_ONLY : 0),
		.ctime_ns = i->ctime_ns,
	};
	snprintf(ret_info->name, sizeof(ret_info->name), "%s", i->name);
	snprintf(ret_info->comment, sizeof(ret_info->comment), "%s", i->comment);
	memcpy(ret_info->uuid, i->uuid, sizeof(ret_info->uuid));
}

static int add_size(void *arg, const struct fs_volume_info *info)
{
	uint64_t *sum = arg;

	*sum = info->size > UINT64_MAX - *sum ? UINT64_MAX : *sum + info->size;
	return 0;
}

static int file_pool_info(struct backend *b, struct byre_pool_info *ret_info, struct byre_error *err)
{
	struct fs_info info;

	fs_get_info(b->fs, &info);
	info.read_only &= !b->idle; /* it is not the pool that cannot be written */
	pool_from_fs(&info, ret_info);
	(void)fs_volume_list(b->fs, add_size, &ret_info->provisioned_bytes);
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
