/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/http.h: HTTP for monitoring: GET /metrics (Prometheus) and GET /healthz (200, or 503 when the pool
 * is read-only). On the first loop's thread.
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <event2/event.h>

#include "base/addr.h"
#include "server/nbd_conn.h"

struct fs;
struct http_server;

struct http_server_options {
	struct fs *fs;
	struct budget *budget;
	const struct nbd_worker *workers; /* outlive the server */
	unsigned worker_count;
	unsigned max;			  /* connections, at least 1 */
	const struct addr_access *access; /* of a unix socket; NULL: as the umask has it */
};

/* Listens. Errors as addr_listen, and -ENOMEM. `opt` is copied. */
int http_server_new(struct event_base *base, const struct addr *addr, const struct http_server_options *opt,
		    struct http_server **ret_http);
/* Closes everything at once. Accepts NULL. */
void http_server_free(struct http_server *http);

#endif
