/* SPDX-License-Identifier: BSD-3-Clause */
/* server/metrics.h: the daemon's figures in Prometheus' text format. Names are stable. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <event2/buffer.h>

#include "fs/fs.h"
#include "server/clients.h"
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

/* At most this many volumes and clients have series of their own: the first by id. */
#define METRICS_VOLUMES_MAX 1000u
#define METRICS_CLIENTS_MAX 256u

/*
 * Latencies of all requests; what volumes have and what was done to them; what clients that are connected
 * have done. Kinds of requests that did not occur are left out. O(METRICS_VOLUMES_MAX + clients). -ENOMEM.
 */
int metrics_write_clients(struct evbuffer *out, struct fs *fs, struct client_list *clients);

#endif
