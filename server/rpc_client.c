/* SPDX-License-Identifier: BSD-3-Clause */
/* server/rpc_client.c: the methods about NBD clients, and about what they do to volumes. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/mem.h"
#include "server/clients.h"
#include "server/rpc_int.h"

#define PAGE_MAX 128u
/* Numbers of at most 11 bytes with their tags, names with their lengths, heads of the messages inside. */
#define FIGURES_PACKED_MAX (FIGURES_KINDS * (4 * 11 + FIGURES_BUCKETS * 10 + 8))
#define ENTRY_PACKED_MAX (FIGURES_PACKED_MAX + FS_NAME_MAX + CLIENT_PEER_MAX + 6 * 12)
static_assert(PAGE_MAX * ENTRY_PACKED_MAX + 16 <= RPC_MESSAGE_MAX, "a page fits a message");
static int no_clients(struct rpc_call *call)
{
	return rpc_call_fail(call, -EOPNOTSUPP, "%s: this server has no NBD clients", call->method->name);
}

static uint32_t page_limit(uint32_t asked)
{
	return asked && asked < PAGE_MAX ? asked : PAGE_MAX;
}

/* ---- clients -------------------------------------------------------------- */

struct client_entry {
	struct rpc_figures figures;
	Byre__Client msg;
};

static Byre__Client *client_message(struct client_info *info, struct client_entry *e)
{
	byre__client__init(&e->msg);
	rpc_figures_message(&info->figures, &e->figures);
	e->msg.id = info->id;
	e->msg.peer = info->peer;
	e->msg.volume = info->volume;
	e->msg.read_only = info->read_only;
	e->msg.since_ns = info->since_ns;
	e->msg.figures = &e->figures.msg;
	return &e->msg;
}

struct client_page {
	struct client_info infos[PAGE_MAX];
	struct client_entry entries[PAGE_MAX];
	Byre__Client *ptrs[PAGE_MAX];
};

int rpc_run_client_list(struct rpc_call *call)
{
	const Byre__ClientListRequest *rq = (const Byre__ClientListRequest *)call->request;
	Byre__ClientListReply reply = BYRE__CLIENT_LIST_REPLY__INIT;
	struct client_page *page;
	bool more;
	int r;

	if (!call->server->opt.clients)
		return no_clients(call);
	page = mem_alloc(sizeof(*page));
	if (!page)
		return -ENOMEM;
	reply.n_clients =
		client_page(call->server->opt.clients, rq->after, page->infos, page_limit(rq->limit), &more);
	for (size_t i = 0; i < reply.n_clients; i++)
		page->ptrs[i] = client_message(&page->infos[i], &page->entries[i]);
	reply.clients = page->ptrs;
	reply.more = more;
	r = rpc_call_reply(call, &reply.base);
	mem_free(page);
	return r;
}

int rpc_run_client_drop(struct rpc_call *call)
{
	const Byre__ClientDropRequest *rq = (const Byre__ClientDropRequest *)call->request;

	if (!call->server->opt.clients)
		return no_clients(call);
	if (client_drop(call->server->opt.clients, rq->id) < 0)
		return rpc_call_fail(call, -ENOENT,
				     "client drop %" PRIu64
				     ": there is no such client (any more): see 'byre client list'",
				     rq->id);
	return 0;
}

/* ---- volumes -------------------------------------------------------------- */

struct volume_entry {
	struct rpc_figures figures;
	Byre__VolumeFigures msg;
};

struct volume_page {
	struct client_volume_info infos[PAGE_MAX];
	struct volume_entry entries[PAGE_MAX];
	Byre__VolumeFigures *ptrs[PAGE_MAX];
};

static Byre__VolumeFigures *volume_message(struct client_volume_info *info, struct volume_entry *e)
{
	byre__volume_figures__init(&e->msg);
	rpc_figures_message(&info->figures, &e->figures);
	e->msg.id = info->id;
	e->msg.name = info->name;
	e->msg.clients = info->clients;
	e->msg.opened = info->opened;
	e->msg.figures = &e->figures.msg;
	return &e->msg;
}

int rpc_run_volume_figures(struct rpc_call *call)
{
	const Byre__VolumeFiguresRequest *rq = (const Byre__VolumeFiguresRequest *)call->request;
	Byre__VolumeFiguresReply reply = BYRE__VOLUME_FIGURES_REPLY__INIT;
	struct volume_page *page;
	bool more;
	int r;

	if (!call->server->opt.clients)
		return no_clients(call);
	page = mem_alloc(sizeof(*page));
	if (!page)
		return -ENOMEM;
	reply.n_volumes = client_volume_page(call->server->opt.clients, rq->after, page->infos,
					     page_limit(rq->limit), &more);
	for (size_t i = 0; i < reply.n_volumes; i++)
		page->ptrs[i] = volume_message(&page->infos[i], &page->entries[i]);
	reply.volumes = page->ptrs;
	reply.more = more;
	r = rpc_call_reply(call, &reply.base);
	mem_free(page);
	return r;
}
