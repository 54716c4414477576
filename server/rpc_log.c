/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/rpc_log.c: a line in the log for each request that changes something, with who asked and what came
 * of it.
 */
#include <stdio.h>

#include "base/log.h"
#include "base/size.h"
#include "base/util.h"
#include "server/rpc_int.h"

#define WHAT_MAX (2 * FS_NAME_MAX + 80)

/*
 * What a request is about: the volume (NULL: none) and the rest of a line, into `what`. False: it changes
 * nothing.
 */
static bool describe(const struct rpc_call *call, const char **ret_volume, char what[WHAT_MAX])
{
	const ProtobufCMessage *rq = call->request;
	char size[SIZE_FORMAT_MAX];

	*ret_volume = NULL;
	what[0] = '\0';
	switch (call->method->id) {
	case BYRE__METHOD__METHOD_VOLUME_CREATE:
		*ret_volume = ((const Byre__VolumeCreateRequest *)rq)->name;
		snprintf(what, WHAT_MAX, ", %s%s",
			 size_format(((const Byre__VolumeCreateRequest *)rq)->size, size, sizeof(size)),
			 ((const Byre__VolumeCreateRequest *)rq)->reserved ? ", reserved" : "");
		return true;
	case BYRE__METHOD__METHOD_VOLUME_RESIZE:
		*ret_volume = ((const Byre__VolumeResizeRequest *)rq)->name;
		snprintf(what, WHAT_MAX, ", %s",
			 size_format(((const Byre__VolumeResizeRequest *)rq)->size, size, sizeof(size)));
		return true;
	case BYRE__METHOD__METHOD_VOLUME_RENAME:
		*ret_volume = ((const Byre__VolumeRenameRequest *)rq)->from;
		snprintf(what, WHAT_MAX, ", to %.255s", ((const Byre__VolumeRenameRequest *)rq)->to);
		return true;
	case BYRE__METHOD__METHOD_VOLUME_SET:
		*ret_volume = ((const Byre__VolumeSetRequest *)rq)->name;
		return true;
	case BYRE__METHOD__METHOD_VOLUME_DELETE:
		*ret_volume = ((const Byre__VolumeDeleteRequest *)rq)->name;
		return true;
	case BYRE__METHOD__METHOD_POOL_GROW:
		if (((const Byre__PoolGrowRequest *)rq)->size)
			snprintf(what, WHAT_MAX, ", %s",
				 size_format(((const Byre__PoolGrowRequest *)rq)->size, size, sizeof(size)));
		return true;
	case BYRE__METHOD__METHOD_POOL_TRIM: return true;
	case BYRE__METHOD__METHOD_CLIENT_DROP:
		snprintf(what, WHAT_MAX, " %llu",
			 (unsigned long long)((const Byre__ClientDropRequest *)rq)->id);
		return true;
	default: return false;
	}
}

void rpc_log_call(const struct rpc_call *call)
{
	struct log *log = call->server->opt.log;
	const char *volume, *peer = call->conn ? call->conn->peer : "a client that is gone";
	char what[WHAT_MAX], event[32];
	struct log_field fields[] = {
		{"BYRE_EVENT", event}, {"BYRE_VOLUME", NULL}, {"BYRE_PEER", peer}, {"BYRE_ERROR", NULL}};
	size_t i;

	if (!log || !describe(call, &volume, what))
		return;
	for (i = 0; call->method->name[i] && i + 1 < sizeof(event); i++)
		event[i] = call->method->name[i] == ' ' ? '-' : call->method->name[i];
	event[i] = '\0';
	fields[1].value = volume;
	fields[3].value = call->error ? call->err.msg : NULL;
	if (call->error)
		log_event(log, LOG_LEVEL_NOTICE, fields, ARRAY_SIZE(fields), "refused: %s (asked by %s)",
			  call->err.msg, peer);
	else
		log_event(log, LOG_LEVEL_INFO, fields, ARRAY_SIZE(fields), "done: %s%s%.255s%s (asked by %s)",
			  call->method->name, volume ? " " : "", volume ? volume : "", what, peer);
}
