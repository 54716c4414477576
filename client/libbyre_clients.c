/* SPDX-License-Identifier: BSD-3-Clause */
/* client/libbyre_clients.c: libbyre's calls about NBD clients and what they do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "client/libbyre_int.h"
#include "proto/figure_table.h"

uint64_t byre_latency_bound_us(unsigned i)
{
	static const uint32_t bounds[BYRE_LATENCIES - 1] = {
		50,    100,   200,    500,    1000,   2000,    5000,	 10000,
		20000, 50000, 100000, 200000, 500000, 1000000, 10000000,
	};

	return i < ARRAY_SIZE(bounds) ? bounds[i] : UINT64_MAX;
}

void libbyre_kind(const Byre__KindFigures *from, struct byre_kind_figures *to)
{
	if (!from)
		return;
	*to = (struct byre_kind_figures){0};
	KIND_FIGURES(FIGURE_COPY);
	for (size_t i = 0; i < from->n_latency && i < BYRE_LATENCIES; i++)
		to->latency[i] = from->latency[i];
}

void libbyre_figures(const Byre__Figures *from, struct byre_figures *to)
{
	memset(to, 0, sizeof(*to));
	if (!from)
		return;
#define KIND(number, name) libbyre_kind(from->name, &to->kind[BYRE_##number]);
	REQUEST_KINDS(KIND);
#undef KIND
}

/* ---- clients -------------------------------------------------------------- */

static void client_from_message(const Byre__Client *m, struct byre_client_info *ret_info)
{
	*ret_info =
		(struct byre_client_info){.id = m->id, .since_ns = m->since_ns, .read_only = m->read_only};
	libbyre_one_line(ret_info->peer, sizeof(ret_info->peer), m->peer);
	libbyre_word(ret_info->volume, sizeof(ret_info->volume), m->volume);
	libbyre_figures(m->figures, &ret_info->figures);
}

/* Hands one page to fn. *ret_after: the last id; 0: there is nothing behind it. */
static int client_page(const Byre__ClientListReply *page, byre_client_fn fn, void *arg, void *out,
		       size_t size, uint64_t *ret_after)
{
	struct byre_client_info info = {0};
	int r;

	for (size_t i = 0; i < page->n_clients; i++) {
		client_from_message(page->clients[i], &info);
		libbyre_copy_out(out, size, &info, sizeof(info));
		r = fn(arg, out);
		if (r)
			return r;
	}
	/* A page that brings nothing new would be asked for for ever. */
	*ret_after = page->more && info.id > *ret_after ? info.id : 0;
	return 0;
}

int byre_client_list_sized(struct byre *b, byre_client_fn fn, size_t size, void *arg, struct byre_error *err)
{
	Byre__ClientListRequest rq = BYRE__CLIENT_LIST_REQUEST__INIT;
	ProtobufCMessage *reply;
	void *out = mem_alloc(size);
	int r;

	if (!out)
		return libbyre_fail(err, -ENOMEM, "client list: out of memory");
	do {
		r = libbyre_call(b, BYRE__METHOD__METHOD_CLIENT_LIST, "client list", &rq.base,
				 &byre__client_list_reply__descriptor, &reply, err);
		if (r)
			break;
		r = client_page((const Byre__ClientListReply *)reply, fn, arg, out, size, &rq.after);
		libbyre_free(reply);
	} while (!r && rq.after);
	mem_free(out);
	return r;
}

int byre_client_drop(struct byre *b, uint64_t id, struct byre_error *err)
{
	Byre__ClientDropRequest rq = BYRE__CLIENT_DROP_REQUEST__INIT;

	rq.id = id;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_CLIENT_DROP, "client drop", &rq.base, err);
}

/* ---- volumes -------------------------------------------------------------- */

static void volume_from_message(const Byre__VolumeFigures *m, struct byre_volume_figures *ret_figures)
{
	*ret_figures = (struct byre_volume_figures){.id = m->id, .clients = m->clients, .opened = m->opened};
	libbyre_word(ret_figures->name, sizeof(ret_figures->name), m->name);
	libbyre_figures(m->figures, &ret_figures->figures);
}

static int volume_page(const Byre__VolumeFiguresReply *page, byre_volume_figures_fn fn, void *arg, void *out,
		       size_t size, uint64_t *ret_after)
{
	struct byre_volume_figures figures = {0};
	int r;

	for (size_t i = 0; i < page->n_volumes; i++) {
		volume_from_message(page->volumes[i], &figures);
		libbyre_copy_out(out, size, &figures, sizeof(figures));
		r = fn(arg, out);
		if (r)
			return r;
	}
	*ret_after = page->more && figures.id > *ret_after ? figures.id : 0;
	return 0;
}

int byre_volume_figures_list_sized(struct byre *b, byre_volume_figures_fn fn, size_t size, void *arg,
				   struct byre_error *err)
{
	Byre__VolumeFiguresRequest rq = BYRE__VOLUME_FIGURES_REQUEST__INIT;
	ProtobufCMessage *reply;
	void *out = mem_alloc(size);
	int r;

	if (!out)
		return libbyre_fail(err, -ENOMEM, "volume figures: out of memory");
	do {
		r = libbyre_call(b, BYRE__METHOD__METHOD_VOLUME_FIGURES, "volume figures", &rq.base,
				 &byre__volume_figures_reply__descriptor, &reply, err);
		if (r)
			break;
		r = volume_page((const Byre__VolumeFiguresReply *)reply, fn, arg, out, size, &rq.after);
		libbyre_free(reply);
	} while (!r && rq.after);
	mem_free(out);
	return r;
}
