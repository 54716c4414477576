/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/http.h: HTTP for monitoring: GET /metrics (Prometheus) and GET /healthz (200, or 503 when the pool can only be
 * read). On the first loop's thread.
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <event2/event.h>

#include "base/addr.h"
#include "fs/fs.h"
#include "server/nbd_conn.h"

struct http_server;

/* Listens. Errors as addr_listen, and -ENOMEM. `workers` must outlive the server. */
int http_server_new(struct event_base *base, const struct addr *addr, struct fs *fs,
		    const struct nbd_worker *workers, unsigned worker_count, struct http_server **ret_http);
/* Closes everything at once. Accepts NULL. */
void http_server_free(struct http_server *http);

#endif
