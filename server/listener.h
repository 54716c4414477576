/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/listener.h: accepts NBD connections on the first loop and spreads them over the workers, in turn.
 * Used by the first loop's thread only.
 *
 * 1. When all places are taken (`max`, or the budget's part for connections), and somebody is still in the
 *    handshake, that one gives way (nbd_conn.h, invariant 4): the newcomer is accepted, as the only one above
 *    `max`, and no others are until the place is free. If nobody is in the handshake, the newcomer is
 *    refused. So a client that connects and says nothing keeps nobody out for long.
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
	unsigned worker_count, next_worker, next_place, max; /* max: connections */
	bool full_logged;		 /* "connections are refused" was logged; until there is room again */
	bool short_logged, error_logged; /* until one is accepted again */
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
