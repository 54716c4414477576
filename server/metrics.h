/* SPDX-License-Identifier: BSD-3-Clause */
/* server/metrics.h: the daemon's figures in Prometheus' text format. Names are stable. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <event2/buffer.h>

#include "fs/fs.h"
#include "server/nbd_session.h"

/* The sum of all workers' figures. */
struct metrics_nbd {
	uint64_t connections, connections_total;
	uint64_t reads, writes, flushes, others, errors;
	uint64_t read_bytes, written_bytes;
};

void metrics_add(struct metrics_nbd *sum, const struct nbd_stats *stats);
/* -ENOMEM. */
int metrics_write(struct evbuffer *out, const struct fs_info *info, const struct metrics_nbd *nbd);

#endif
