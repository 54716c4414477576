/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/listener.h: accepts NBD connections on the first loop and spreads them over the workers, in turn.
 * Used by the first loop's thread only.
 */
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include <event2/listener.h>

#include "base/addr.h"
#include "base/log.h"
#include "server/handover.h"
#include "server/nbd_conn.h"

struct listener_group {
	struct handover *handover; /* NULL: none */
	struct event_base *base;
	struct log *log;
	struct nbd_worker *workers;
	unsigned worker_count, next_worker, max; /* max: connections */
	bool full_logged; /* that connections are refused; until there is room again */
	bool short_logged, error_logged;
	struct {
		struct addr addr;
		struct evconnlistener *listener;
	} listeners[SERVER_LISTENERS_MAX];
	unsigned count;
	struct event *retry; /* accepting goes on after a failure */
};

int listener_group_init(struct listener_group *g, struct event_base *base, struct nbd_worker *workers,
			unsigned worker_count, unsigned max, struct log *log);
/* Stops accepting, closes the sockets and removes unix ones. May be called again. */
void listener_group_fini(struct listener_group *g);
/* Listens on one more address. Errors as addr_listen; -E2BIG: there are SERVER_LISTENERS_MAX. */
int listener_group_add(struct listener_group *g, const struct addr *addr);

#endif
