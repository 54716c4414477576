/* SPDX-License-Identifier: BSD-3-Clause */
/* client/libbyre_calls.c: libbyre's calls: arguments into messages, messages into results. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "client/libbyre_int.h"
#include "proto/figure_table.h"

static const Byre__Empty no_arguments = BYRE__EMPTY__INIT;

/* A reply in which something is missing that every daemon sends. */
static int incomplete(const char *what, struct byre_error *err)
{
	return libbyre_fail(err, -EPROTO, "%s: the daemon's answer is incomplete: is it an older version?",
			    what);
}

static void copy_uuid(uint8_t *to, const ProtobufCBinaryData *from)
{
	memset(to, 0, BYRE_UUID_LEN);
	if (from->len == BYRE_UUID_LEN)
		memcpy(to, from->data, BYRE_UUID_LEN);
}

static void pool_from_message(const Byre__PoolInfo *from, struct byre_pool_info *to)
{
	*to = (struct byre_pool_info){0};
	POOL_FIGURES(FIGURE_COPY, FIGURE_SKIP);
	libbyre_kind(from->commit, &to->commit_figures);
	libbyre_kind(from->log_group, &to->log_figures);
	copy_uuid(to->uuid, &from->uuid);
	libbyre_word(to->device_kind, sizeof(to->device_kind), from->device_kind);
	libbyre_scrub_from_message(from->scrub, &to->scrub);
}

static void volume_from_message(const Byre__Volume *from, struct byre_volume_info *to)
{
	*to = (struct byre_volume_info){0};
	VOLUME_FIGURES(FIGURE_COPY);
#define COPY_FLAG(flag, name) to->flags |= from->name ? BYRE_VOLUME_##flag : 0;
	VOLUME_FLAGS(COPY_FLAG);
#undef COPY_FLAG
	libbyre_word(to->name, sizeof(to->name), from->name);
	libbyre_one_line(to->comment, sizeof(to->comment), from->comment);
	copy_uuid(to->uuid, &from->uuid);
}

static void stats_from_message(const Byre__StatsReply *from, struct byre_stats *to)
{
	*to = (struct byre_stats){0};
	STATS_FIGURES(FIGURE_COPY);
	libbyre_figures(from->nbd, &to->nbd);
}

/* ---- the daemon and its pool ---------------------------------------------- */

int byre_pool_info_sized(struct byre *b, struct byre_pool_info *ret_info, size_t size, struct byre_error *err)
{
	struct byre_pool_info info;
	ProtobufCMessage *reply;
	const Byre__PoolInfo *pool;
	int r;

	r = libbyre_call(b, BYRE__METHOD__METHOD_POOL_INFO, "pool info", &no_arguments.base,
			 &byre__pool_info_reply__descriptor, &reply, err);
	if (r)
		return r;

	pool = ((const Byre__PoolInfoReply *)reply)->pool;
	if (pool) {
		pool_from_message(pool, &info);
		libbyre_copy_out(ret_info, size, &info, sizeof(info));
	} else {
		r = incomplete("pool info", err);
	}
	libbyre_free(reply);
	return r;
}

int byre_pool_grow(struct byre *b, uint64_t new_size, struct byre_error *err)
{
	Byre__PoolGrowRequest rq = BYRE__POOL_GROW_REQUEST__INIT;

	rq.size = new_size;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_POOL_GROW, "pool grow", &rq.base, err);
}

int byre_pool_trim(struct byre *b, struct byre_error *err)
{
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_POOL_TRIM, "pool trim", &no_arguments.base, err);
}

int byre_stats_sized(struct byre *b, struct byre_stats *ret_stats, size_t size, struct byre_error *err)
{
	struct byre_stats stats;
	ProtobufCMessage *reply;
	int r;

	r = libbyre_call(b, BYRE__METHOD__METHOD_STATS, "stats", &no_arguments.base,
			 &byre__stats_reply__descriptor, &reply, err);
	if (r)
		return r;

	stats_from_message((const Byre__StatsReply *)reply, &stats);
	libbyre_copy_out(ret_stats, size, &stats, sizeof(stats));
	libbyre_free(reply);
	return 0;
}

int byre_commit(struct byre *b, uint64_t *ret_generation, struct byre_error *err)
{
	ProtobufCMessage *reply;
	int r;

	r = libbyre_call(b, BYRE__METHOD__METHOD_COMMIT, "commit", &no_arguments.base,
			 &byre__commit_reply__descriptor, &reply, err);
	if (r)
		return r;
	if (ret_generation)
		*ret_generation = ((const Byre__CommitReply *)reply)->generation;
	libbyre_free(reply);
	return 0;
}

int byre_shutdown(struct byre *b, struct byre_error *err)
{
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_SHUTDOWN, "shutdown", &no_arguments.base, err);
}

/* ---- volumes -------------------------------------------------------------- */

static int check_name(const char *name, struct byre_error *err)
{
	char shown[80];

	if (byre_name_is_valid(name))
		return 0;
	libbyre_one_line(shown, sizeof(shown), name);
	return libbyre_fail(err, -EINVAL,
			    "'%s' is not a valid name: use 1 to %d letters, digits, '.', '_' or '-', "
			    "and begin with neither '.' nor '-'",
			    shown, BYRE_NAME_MAX);
}

int byre_volume_create(struct byre *b, const char *name, uint64_t size, uint32_t flags,
		       struct byre_error *err)
{
	Byre__VolumeCreateRequest rq = BYRE__VOLUME_CREATE_REQUEST__INIT;

	if (check_name(name, err))
		return -EINVAL;
	if (flags & ~(uint32_t)(BYRE_VOLUME_RESERVED | BYRE_VOLUME_WRITEBACK))
		return libbyre_fail(err, -EINVAL, "volume create %s: unknown flags %#x", name, flags);

	rq.name = (char *)name;
	rq.size = size;
	rq.reserved = (flags & BYRE_VOLUME_RESERVED) != 0;
	rq.writeback = (flags & BYRE_VOLUME_WRITEBACK) != 0;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_VOLUME_CREATE, "volume create", &rq.base, err);
}

int byre_volume_info_sized(struct byre *b, const char *name, struct byre_volume_info *ret_info, size_t size,
			   struct byre_error *err)
{
	struct byre_volume_info info;
	Byre__VolumeInfoRequest rq = BYRE__VOLUME_INFO_REQUEST__INIT;
	ProtobufCMessage *reply;
	const Byre__Volume *volume;
	int r;

	if (check_name(name, err))
		return -EINVAL;
	rq.name = (char *)name;
	r = libbyre_call(b, BYRE__METHOD__METHOD_VOLUME_INFO, "volume info", &rq.base,
			 &byre__volume_info_reply__descriptor, &reply, err);
	if (r)
		return r;

	volume = ((const Byre__VolumeInfoReply *)reply)->volume;
	if (volume) {
		volume_from_message(volume, &info);
		libbyre_copy_out(ret_info, size, &info, sizeof(info));
	} else {
		r = incomplete("volume info", err);
	}
	libbyre_free(reply);
	return r;
}

int byre_volume_resize(struct byre *b, const char *name, uint64_t size, uint32_t flags,
		       struct byre_error *err)
{
	Byre__VolumeResizeRequest rq = BYRE__VOLUME_RESIZE_REQUEST__INIT;

	if (check_name(name, err))
		return -EINVAL;
	if (flags & ~(uint32_t)BYRE_RESIZE_SHRINK)
		return libbyre_fail(err, -EINVAL, "volume resize %s: unknown flags %#x", name, flags);
	rq.shrink = (flags & BYRE_RESIZE_SHRINK) != 0;
	rq.name = (char *)name;
	rq.size = size;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_VOLUME_RESIZE, "volume resize", &rq.base, err);
}

int byre_volume_set(struct byre *b, const char *name, uint32_t flags, const char *comment,
		    struct byre_error *err)
{
	Byre__VolumeSetRequest rq = BYRE__VOLUME_SET_REQUEST__INIT;

	if (check_name(name, err))
		return -EINVAL;
	if (flags & ~(uint32_t)(BYRE_SET_RESERVED | BYRE_SET_THIN | BYRE_SET_READ_ONLY | BYRE_SET_WRITABLE))
		return libbyre_fail(err, -EINVAL, "volume set %s: unknown flags %#x", name, flags);
	rq.name = (char *)name;
	rq.reserved = (flags & BYRE_SET_RESERVED) != 0;
	rq.thin = (flags & BYRE_SET_THIN) != 0;
	rq.read_only = (flags & BYRE_SET_READ_ONLY) != 0;
	rq.writable = (flags & BYRE_SET_WRITABLE) != 0;
	rq.set_comment = comment != NULL;
	rq.comment = (char *)(comment ? comment : "");
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_VOLUME_SET, "volume set", &rq.base, err);
}

int byre_volume_rename(struct byre *b, const char *from, const char *to, struct byre_error *err)
{
	Byre__VolumeRenameRequest rq = BYRE__VOLUME_RENAME_REQUEST__INIT;

	if (check_name(from, err) || check_name(to, err))
		return -EINVAL;
	rq.from = (char *)from;
	rq.to = (char *)to;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_VOLUME_RENAME, "volume rename", &rq.base, err);
}

int byre_volume_delete(struct byre *b, const char *name, struct byre_error *err)
{
	Byre__VolumeDeleteRequest rq = BYRE__VOLUME_DELETE_REQUEST__INIT;

	if (check_name(name, err))
		return -EINVAL;
	rq.name = (char *)name;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_VOLUME_DELETE, "volume delete", &rq.base, err);
}

/* A walk through the pages of a list. */
struct walk {
	byre_volume_fn fn;
	void *arg;
	size_t size; /* of the struct that fn knows */
	struct byre_volume_info *info;
	char after[BYRE_NAME_MAX + 1]; /* the last name of the page */
	bool more;
};

static int walk_page(struct walk *w, const Byre__VolumeListReply *page)
{
	struct byre_volume_info info;
	int r;

	for (size_t i = 0; i < page->n_volumes; i++) {
		volume_from_message(page->volumes[i], &info);
		libbyre_copy_out(w->info, w->size, &info, sizeof(info));
		r = w->fn(w->arg, w->info);
		if (r)
			return r;
	}

	/* A page that brings nothing new would be asked for for ever. */
	w->more = page->more && page->n_volumes && strcmp(info.name, w->after) > 0;
	if (w->more)
		snprintf(w->after, sizeof(w->after), "%s", info.name);
	return 0;
}

static int walk_pages(struct byre *b, struct walk *w, struct byre_error *err)
{
	Byre__VolumeListRequest rq = BYRE__VOLUME_LIST_REQUEST__INIT;
	ProtobufCMessage *reply;
	int r = 0;

	rq.after = w->after;
	while (!r && w->more) {
		r = libbyre_call(b, BYRE__METHOD__METHOD_VOLUME_LIST, "volume list", &rq.base,
				 &byre__volume_list_reply__descriptor, &reply, err);
		if (r)
			return r;
		r = walk_page(w, (const Byre__VolumeListReply *)reply);
		libbyre_free(reply);
	}
	return r;
}

int byre_volume_list_sized(struct byre *b, byre_volume_fn fn, size_t size, void *arg, struct byre_error *err)
{
	struct walk w = {.fn = fn, .arg = arg, .size = size, .more = true, .info = mem_alloc(size)};
	int r;

	if (!w.info)
		return libbyre_fail(err, -ENOMEM, "volume list: out of memory");
	r = walk_pages(b, &w, err);
	mem_free(w.info);
	return r;
}
