/* SPDX-License-Identifier: BSD-3-Clause */
/* server/rpc_scrub.c: the requests about scrubs. */
#include <assert.h>
#include <errno.h>

#include "base/mem.h"
#include "base/util.h"
#include "server/rpc_int.h"

/* Ranges in one answer: bounded so that it always fits a frame. */
#define DAMAGE_MAX 512u
#define DAMAGE_PACKED_MAX 320u /* a name and four scalars of at most 11 bytes, with their tags */
static_assert(FS_NAME_MAX + 5 * 11 <= DAMAGE_PACKED_MAX, "a range fits what is reckoned for it");
static_assert(DAMAGE_MAX * DAMAGE_PACKED_MAX + 200 <= RPC_MESSAGE_MAX, "the ranges fit a message");

int rpc_run_scrub_start(struct rpc_call *call)
{
	const Byre__ScrubStartRequest *rq = (const Byre__ScrubStartRequest *)call->request;

	return fs_scrub_start(call->server->opt.fs, rq->rate, rq->restart, &call->err);
}

int rpc_run_scrub_stop(struct rpc_call *call)
{
	return fs_scrub_stop(call->server->opt.fs, &call->err);
}

static int status_reply(struct rpc_call *call, const struct fs_scrub_damage *damage, size_t n)
{
	Byre__ScrubStatusReply reply = BYRE__SCRUB_STATUS_REPLY__INIT;
	size_t shown = min_u64(n, DAMAGE_MAX);
	Byre__ScrubDamage *msgs = mem_alloc((shown + 1) * sizeof(*msgs));
	Byre__ScrubDamage **ptrs = mem_alloc((shown + 1) * sizeof(*ptrs));
	struct fs_scrub_status st;
	Byre__Scrub scrub;
	int r = -ENOMEM;

	for (size_t i = 0; msgs && ptrs && i < shown; i++) {
		byre__scrub_damage__init(&msgs[i]);
		msgs[i].volume = (char *)damage[i].volume;
		msgs[i].volume_id = damage[i].volume_id;
		msgs[i].offset = damage[i].off;
		msgs[i].length = damage[i].len;
		msgs[i].lost = damage[i].kind == FS_SCRUB_LOST;
		ptrs[i] = &msgs[i];
	}
	if (msgs && ptrs) {
		fs_scrub_get_status(call->server->opt.fs, &st);
		rpc_scrub_message(&st, &scrub);
		reply.scrub = &scrub;
		reply.n_damage = shown;
		reply.damage = ptrs;
		reply.more = n > shown;
		r = rpc_call_reply(call, &reply.base);
	}
	mem_free(ptrs);
	mem_free(msgs);
	return r;
}

int rpc_run_scrub_status(struct rpc_call *call)
{
	struct fs_scrub_damage *damage = mem_alloc(DAMAGE_MAX * sizeof(*damage));
	int r;

	if (!damage)
		return -ENOMEM;
	r = status_reply(call, damage, fs_scrub_get_damage(call->server->opt.fs, damage, DAMAGE_MAX));
	mem_free(damage);
	return r;
}
