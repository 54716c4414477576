/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_conn.h: NBD connections of one loop: sockets on one side, sessions (nbd_session.h) on the other.
 *
 * 1. A worker and its connections are used by their loop's thread only; nbd_worker_accept and the statistics excepted.
 * 2. Connections that may have something to send are on the worker's dirty list, which is emptied at the end of each
 *    pass: replies that became ready together leave in one system call.
 */
#ifndef SERVER_NBD_CONN_H
#define SERVER_NBD_CONN_H

#include <stdbool.h>

#include "server/loop.h"
#include "server/nbd_session.h"

struct nbd_conn;

struct nbd_worker {
	struct loop *loop;
	struct nbd_env env;
	struct timeval handshake_timeout,
		linger_timeout; /* see limits.h; tests make them shorter before the loop runs */
	struct nbd_conn *conns; /* all */
	struct nbd_conn *dirty, **dirty_tail;
	bool draining;
	void (*drained)(void *arg); /* on the loop's thread, once, when the last connection is gone after a drain */
	void *drained_arg;
	struct task drain_task;
};

/* Takes over loop->after_io and loop->owner. The loop must not run yet. */
void nbd_worker_init(struct nbd_worker *w, struct loop *loop, struct fs *fs);
void nbd_worker_fini(struct nbd_worker *w);

/* Hands an accepted, non-blocking socket over (the descriptor moves). From any thread. -ENOMEM: it is closed. */
int nbd_worker_accept(struct nbd_worker *w, int fd);
/* Ends all connections: what is under way finishes and is answered first. From any thread, once. */
void nbd_worker_drain(struct nbd_worker *w, void (*drained)(void *arg), void *arg);

#endif
