/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/rpc_figures.c: the engine's and the server's figures as messages, by the lists of
 * proto/figure_table.h.
 */
#include <assert.h>

#include "base/util.h"
#include "proto/figure_table.h"
#include "server/figures.h"
#include "server/rpc_int.h"

static_assert(ARRAY_SIZE(((struct rpc_figures *)0)->kinds) == FIGURES_KINDS, "a message each");

ProtobufCBinaryData rpc_bytes(const uint8_t *data, size_t len)
{
	return (ProtobufCBinaryData){.data = (uint8_t *)data, .len = len};
}

void rpc_scrub_message(const struct fs_scrub_status *from, Byre__Scrub *to)
{
	byre__scrub__init(to);
	to->state = (Byre__ScrubState)from->state;
	SCRUB_FIGURES(FIGURE_COPY);
}

static void latency_message(const struct fs_latency *from, Byre__KindFigures *to)
{
	byre__kind_figures__init(to);
	for (unsigned i = 0; i < FS_LATENCY_BUCKETS; i++)
		to->count += from->buckets[i];
	to->us = from->us;
	to->n_latency = FS_LATENCY_BUCKETS;
	to->latency = (uint64_t *)from->buckets;
}

void rpc_pool_message(const struct fs_info *from, struct rpc_pool *ret)
{
	Byre__PoolInfo *to = &ret->msg;

	byre__pool_info__init(to);
	POOL_FIGURES(FIGURE_COPY, FIGURE_SKIP);
	to->uuid = rpc_bytes(from->uuid, sizeof(from->uuid));
	to->device_kind = (char *)(from->device_kind ? from->device_kind : "");
	rpc_scrub_message(&from->scrub, &ret->scrub);
	latency_message(&from->commit_latency, &ret->commit);
	latency_message(&from->log_latency, &ret->log_group);
	to->scrub = &ret->scrub;
	to->commit = &ret->commit;
	to->log_group = &ret->log_group;
}

void rpc_volume_message(const struct fs_volume_info *from, Byre__Volume *to)
{
	byre__volume__init(to);
	VOLUME_FIGURES(FIGURE_COPY);
#define COPY_FLAG(flag, name) to->name = (from->flags & FS_VOLUME_##flag) != 0;
	VOLUME_FLAGS(COPY_FLAG);
#undef COPY_FLAG
	to->name = (char *)from->name;
	to->comment = (char *)from->comment;
	to->uuid = rpc_bytes(from->uuid, sizeof(from->uuid));
}

static void kind_message(const struct figures_kind_sum *from, Byre__KindFigures *to)
{
	byre__kind_figures__init(to);
	KIND_FIGURES(FIGURE_COPY);
	to->n_latency = FIGURES_BUCKETS;
	to->latency = (uint64_t *)from->buckets;
}

void rpc_figures_message(const struct figures *from, struct rpc_figures *ret)
{
	byre__figures__init(&ret->msg);
#define KIND(number, name)                                                          \
	kind_message(&from->kind[FIGURES_##number], &ret->kinds[FIGURES_##number]); \
	ret->msg.name = &ret->kinds[FIGURES_##number];
	REQUEST_KINDS(KIND);
#undef KIND
}
