/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/rpc_method.c: what requests do: one function a method, dispatched by the table at the end.
 * Functions of methods that wait run on a worker and see nothing of the server but its pool.
 *
 * Everything in a request comes from outside: names and sizes are checked before the engine sees them.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/util.h"
#include "server/clients.h"
#include "server/rpc_int.h"

/* Volumes on one page of a list: bounded so that the reply always fits a frame. */
#define LIST_PAGE_MAX 320u
/* a name, a comment, a uuid and ten scalars of at most 11 bytes, with their tags */
#define VOLUME_PACKED_MAX 700u
static_assert(FS_NAME_MAX + FS_COMMENT_MAX + FS_UUID_LEN + 10 * 11 <= VOLUME_PACKED_MAX,
	      "a volume fits what is reckoned for it");
static_assert(LIST_PAGE_MAX * VOLUME_PACKED_MAX + 16 <= RPC_MESSAGE_MAX, "a page of volumes fits a message");

/* ---- checking what came in ------------------------------------------------ */

/* A name from outside, fit to be shown on one line: cut, and without what a terminal would obey. */
static const char *printable(const char *name, char *buf, size_t len)
{
	size_t i;

	for (i = 0; name[i] && i + 1 < len; i++)
		buf[i] = name[i] > 0x20 && name[i] < 0x7f ? name[i] : '?';
	buf[i] = '\0';
	return buf;
}

static int check_name(struct rpc_call *call, const char *name)
{
	char buf[80];

	if (fs_name_is_valid(name))
		return 0;
	return rpc_call_fail(call, -EINVAL,
			     "%s: '%s' is not a valid name: use 1 to %d letters, digits, '.', '_' or '-', "
			     "and begin with neither '.' nor '-'",
			     call->method->name, printable(name, buf, sizeof(buf)), FS_NAME_MAX);
}

static int check_volume_size(struct rpc_call *call, const char *name, uint64_t size)
{
	if (size && size <= FS_VOLUME_SIZE_MAX && size % FS_BLOCK_SIZE == 0)
		return 0;
	return rpc_call_fail(call, -EINVAL,
			     "%s %s: a size of %" PRIu64
			     " bytes is not possible: use a multiple of %u from %u to %" PRIu64,
			     call->method->name, name, size, FS_BLOCK_SIZE, FS_BLOCK_SIZE,
			     FS_VOLUME_SIZE_MAX);
}

/* ---- the daemon ----------------------------------------------------------- */

static int run_hello(struct rpc_call *call)
{
	Byre__HelloReply reply = BYRE__HELLO_REPLY__INIT;
	struct fs_info info;

	fs_get_info(call->server->opt.fs, &info);
	reply.server = (char *)"byred " BYRE_VERSION;
	reply.requests_max = RPC_REQUESTS_MAX;
	reply.message_max = RPC_MESSAGE_MAX;
	reply.bulk_max = RPC_BULK_MAX;
	reply.initial_credit = RPC_INITIAL_CREDIT;
	reply.pool_uuid = rpc_bytes(info.uuid, sizeof(info.uuid));
	return rpc_call_reply(call, &reply.base);
}

static uint64_t ms_since(uint64_t start_ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000 - start_ms;
}

/* On the loop: it reads the server's counters. */
static int run_stats(struct rpc_call *call)
{
	const struct rpc_server *s = call->server;
	Byre__StatsReply reply = BYRE__STATS_REPLY__INIT;
	struct figures figures;
	struct rpc_figures nbd;
	struct rpc_pool pool;
	struct fs_info info;

	fs_get_info(s->opt.fs, &info);
	rpc_pool_message(&info, &pool);
	reply.pool = &pool.msg;
	if (s->opt.clients) {
		client_total(s->opt.clients, &figures, &reply.nbd_connections, &reply.nbd_connections_total);
		rpc_figures_message(&figures, &nbd);
		reply.nbd = &nbd.msg;
	}
	reply.uptime_ms = ms_since(s->stats.start_ms);
	reply.rpc_connections = s->nr_conns;
	reply.rpc_connections_total = s->stats.connections_total;
	reply.rpc_requests = s->stats.requests;
	reply.rpc_errors = s->stats.errors;
	reply.rpc_bad_frames = s->stats.bad_frames;
	return rpc_call_reply(call, &reply.base);
}

static int run_commit(struct rpc_call *call)
{
	Byre__CommitReply reply = BYRE__COMMIT_REPLY__INIT;
	struct fs_info info;
	int r;

	r = fs_commit(call->server->opt.fs);
	if (r)
		return r;
	fs_get_info(call->server->opt.fs, &info);
	reply.generation = info.generation;
	return rpc_call_reply(call, &reply.base);
}

static int run_shutdown(struct rpc_call *call)
{
	if (!call->server->opt.shutdown)
		return rpc_call_fail(call, -EOPNOTSUPP,
				     "shutdown: this server cannot be stopped by a request");
	return 0;
}

static void after_shutdown(struct rpc_server *s)
{
	event_active(s->shutdown_ev, 0, 0);
}

/* ---- the pool ------------------------------------------------------------- */

static int run_pool_info(struct rpc_call *call)
{
	Byre__PoolInfoReply reply = BYRE__POOL_INFO_REPLY__INIT;
	struct rpc_pool pool;
	struct fs_info info;

	fs_get_info(call->server->opt.fs, &info);
	rpc_pool_message(&info, &pool);
	reply.pool = &pool.msg;
	return rpc_call_reply(call, &reply.base);
}

static int run_pool_grow(struct rpc_call *call)
{
	const Byre__PoolGrowRequest *rq = (const Byre__PoolGrowRequest *)call->request;

	if (rq->size % FS_BLOCK_SIZE)
		return rpc_call_fail(call, -EINVAL,
				     "pool grow: a size of %" PRIu64
				     " bytes is not possible: use a multiple of %u",
				     rq->size, FS_BLOCK_SIZE);
	return fs_grow(call->server->opt.fs, rq->size, &call->err);
}

static int run_pool_trim(struct rpc_call *call)
{
	return fs_trim(call->server->opt.fs, &call->err);
}

/* ---- volumes -------------------------------------------------------------- */

static void tell_renamed(struct rpc_call *call)
{
	struct fs_volume_info info;

	if (!fs_volume_find_info(call->server->opt.fs, call->op.to, &info))
		client_volume_renamed(call->server->opt.clients, info.id, call->op.to);
}

static void volume_op_done(struct fs_volume_op *op, int error)
{
	struct rpc_call *call = container_of(op, struct rpc_call, op);

	if (error)
		call->err = op->err;
	else if (op->kind == FS_VOLUME_DELETE && call->server->opt.clients)
		client_volume_deleted(call->server->opt.clients, call->volume_id);
	else if (op->kind == FS_VOLUME_RENAME && call->server->opt.clients)
		tell_renamed(call);
	rpc_call_finish(call, error);
}

/* call->op says what. It is answered when it is durable; this worker does others meanwhile. */
static int start_volume_op(struct rpc_call *call)
{
	call->op.done = volume_op_done;
	fs_volume_op_start(call->server->opt.fs, &call->op);
	return RPC_LATER;
}

static int run_volume_create(struct rpc_call *call)
{
	const Byre__VolumeCreateRequest *rq = (const Byre__VolumeCreateRequest *)call->request;
	uint32_t flags = (rq->reserved ? FS_VOLUME_RESERVED : 0) | (rq->writeback ? FS_VOLUME_WRITEBACK : 0);
	int r;

	r = check_name(call, rq->name);
	if (!r)
		r = check_volume_size(call, rq->name, rq->size);
	if (r)
		return r;
	call->op = (struct fs_volume_op){
		.kind = FS_VOLUME_CREATE, .name = rq->name, .size = rq->size, .flags = flags};
	return start_volume_op(call);
}

/* One page of the list while it is collected. */
struct page {
	uint32_t limit;
	uint32_t count;
	bool more;
	struct fs_volume_info *infos;
};

static int page_add(void *arg, const struct fs_volume_info *info)
{
	struct page *page = arg;

	if (page->count == page->limit) {
		page->more = true;
		return 1;
	}
	page->infos[page->count++] = *info;
	return 0;
}

static int page_reply(struct rpc_call *call, const struct page *page)
{
	Byre__VolumeListReply reply = BYRE__VOLUME_LIST_REPLY__INIT;
	Byre__Volume *msgs = mem_alloc((page->count + 1) * sizeof(*msgs));
	Byre__Volume **ptrs = mem_alloc((page->count + 1) * sizeof(*ptrs));
	int r = -ENOMEM;

	if (msgs && ptrs) {
		for (uint32_t i = 0; i < page->count; i++) {
			rpc_volume_message(&page->infos[i], &msgs[i]);
			ptrs[i] = &msgs[i];
		}
		reply.n_volumes = page->count;
		reply.volumes = ptrs;
		reply.more = page->more;
		r = rpc_call_reply(call, &reply.base);
	}
	mem_free(ptrs);
	mem_free(msgs);
	return r;
}

static int run_volume_list(struct rpc_call *call)
{
	const Byre__VolumeListRequest *rq = (const Byre__VolumeListRequest *)call->request;
	struct page page = {0};
	int r;

	page.limit = rq->limit && rq->limit < LIST_PAGE_MAX ? rq->limit : LIST_PAGE_MAX;
	page.infos = mem_alloc(page.limit * sizeof(*page.infos));
	if (!page.infos)
		return -ENOMEM;

	r = fs_volume_list_from(call->server->opt.fs, rq->after, page_add, &page);
	if (r >= 0)
		r = page_reply(call, &page);
	mem_free(page.infos);
	return r;
}

static int run_volume_info(struct rpc_call *call)
{
	const Byre__VolumeInfoRequest *rq = (const Byre__VolumeInfoRequest *)call->request;
	Byre__VolumeInfoReply reply = BYRE__VOLUME_INFO_REPLY__INIT;
	struct fs_volume_info info;
	Byre__Volume msg;
	int r;

	r = check_name(call, rq->name);
	if (r)
		return r;
	/* a handle would stand in a delete's way */
	r = fs_volume_find_info(call->server->opt.fs, rq->name, &info);
	if (r == -ENOENT)
		return rpc_call_fail(
			call, r, "volume info %s: there is no such volume: see 'byre volume list'", rq->name);
	if (r)
		return r;

	rpc_volume_message(&info, &msg);
	reply.volume = &msg;
	return rpc_call_reply(call, &reply.base);
}

static int run_volume_resize(struct rpc_call *call)
{
	const Byre__VolumeResizeRequest *rq = (const Byre__VolumeResizeRequest *)call->request;
	int r;

	r = check_name(call, rq->name);
	if (!r)
		r = check_volume_size(call, rq->name, rq->size);
	if (r)
		return r;
	call->op = (struct fs_volume_op){.kind = FS_VOLUME_RESIZE,
					 .name = rq->name,
					 .size = rq->size,
					 .ask = true,
					 .may_shrink = rq->shrink};
	return start_volume_op(call);
}

static int run_volume_set(struct rpc_call *call)
{
	const Byre__VolumeSetRequest *rq = (const Byre__VolumeSetRequest *)call->request;
	const struct fs_volume_change change = {
		.set = (rq->reserved ? FS_VOLUME_RESERVED : 0) | (rq->read_only ? FS_VOLUME_READ_ONLY : 0),
		.clear = (rq->thin ? FS_VOLUME_RESERVED : 0) | (rq->writable ? FS_VOLUME_READ_ONLY : 0),
		.comment = rq->set_comment ? rq->comment : NULL,
	};
	int r;

	r = check_name(call, rq->name);
	if (r)
		return r;
	call->op = (struct fs_volume_op){.kind = FS_VOLUME_SET, .name = rq->name, .change = change};
	return start_volume_op(call);
}

static int run_volume_rename(struct rpc_call *call)
{
	const Byre__VolumeRenameRequest *rq = (const Byre__VolumeRenameRequest *)call->request;
	int r;

	r = check_name(call, rq->from);
	if (!r)
		r = check_name(call, rq->to);
	if (r)
		return r;
	call->op = (struct fs_volume_op){.kind = FS_VOLUME_RENAME, .name = rq->from, .to = rq->to};
	return start_volume_op(call);
}

static int run_volume_delete(struct rpc_call *call)
{
	const Byre__VolumeDeleteRequest *rq = (const Byre__VolumeDeleteRequest *)call->request;
	struct fs_volume_info info = {0};
	int r;

	r = check_name(call, rq->name);
	if (r)
		return r;
	/* what is not there the operation tells */
	(void)fs_volume_find_info(call->server->opt.fs, rq->name, &info);
	call->volume_id = info.id;
	call->op = (struct fs_volume_op){.kind = FS_VOLUME_DELETE, .name = rq->name};
	return start_volume_op(call);
}

/* ---- the table ------------------------------------------------------------ */

static const struct rpc_method methods[] = {
	{BYRE__METHOD__METHOD_HELLO, "hello", &byre__hello_request__descriptor, false, run_hello, NULL},
	{BYRE__METHOD__METHOD_STATS, "stats", &byre__empty__descriptor, false, run_stats, NULL},
	{BYRE__METHOD__METHOD_COMMIT, "commit", &byre__empty__descriptor, true, run_commit, NULL},
	{BYRE__METHOD__METHOD_SHUTDOWN, "shutdown", &byre__empty__descriptor, false, run_shutdown,
	 after_shutdown},
	{BYRE__METHOD__METHOD_POOL_INFO, "pool info", &byre__empty__descriptor, true, run_pool_info, NULL},
	{BYRE__METHOD__METHOD_POOL_GROW, "pool grow", &byre__pool_grow_request__descriptor, true,
	 run_pool_grow, NULL},
	{BYRE__METHOD__METHOD_POOL_TRIM, "pool trim", &byre__empty__descriptor, true, run_pool_trim, NULL},
	{BYRE__METHOD__METHOD_VOLUME_CREATE, "volume create", &byre__volume_create_request__descriptor, true,
	 run_volume_create, NULL},
	{BYRE__METHOD__METHOD_VOLUME_LIST, "volume list", &byre__volume_list_request__descriptor, true,
	 run_volume_list, NULL},
	{BYRE__METHOD__METHOD_VOLUME_INFO, "volume info", &byre__volume_info_request__descriptor, true,
	 run_volume_info, NULL},
	{BYRE__METHOD__METHOD_VOLUME_RESIZE, "volume resize", &byre__volume_resize_request__descriptor, true,
	 run_volume_resize, NULL},
	{BYRE__METHOD__METHOD_VOLUME_RENAME, "volume rename", &byre__volume_rename_request__descriptor, true,
	 run_volume_rename, NULL},
	{BYRE__METHOD__METHOD_VOLUME_DELETE, "volume delete", &byre__volume_delete_request__descriptor, true,
	 run_volume_delete, NULL},
	{BYRE__METHOD__METHOD_VOLUME_SET, "volume set", &byre__volume_set_request__descriptor, true,
	 run_volume_set, NULL},
	{BYRE__METHOD__METHOD_VOLUME_FIGURES, "volume figures", &byre__volume_figures_request__descriptor,
	 false, rpc_run_volume_figures, NULL},
	{BYRE__METHOD__METHOD_CLIENT_LIST, "client list", &byre__client_list_request__descriptor, false,
	 rpc_run_client_list, NULL},
	{BYRE__METHOD__METHOD_CLIENT_DROP, "client drop", &byre__client_drop_request__descriptor, false,
	 rpc_run_client_drop, NULL},
	{BYRE__METHOD__METHOD_SCRUB_START, "scrub start", &byre__scrub_start_request__descriptor, true,
	 rpc_run_scrub_start, NULL},
	{BYRE__METHOD__METHOD_SCRUB_STATUS, "scrub status", &byre__empty__descriptor, false,
	 rpc_run_scrub_status, NULL},
	{BYRE__METHOD__METHOD_SCRUB_STOP, "scrub stop", &byre__empty__descriptor, true, rpc_run_scrub_stop,
	 NULL},
};

const struct rpc_method *rpc_method_find(uint16_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		if (methods[i].id == id)
			return &methods[i];
	}
	return NULL;
}
