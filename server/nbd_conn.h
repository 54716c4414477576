/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_conn.h: NBD connections of one loop: sockets on one side, sessions (nbd_session.h) on the other.
 *
 * 1. Only their loop's thread uses a worker and its connections, except for nbd_worker_accept and the
 *    statistics.
 * 2. Connections that may have something to send are on the worker's dirty list, which is emptied at the end
 *    of each pass: replies that became ready together leave in one system call.
 * 3. A TCP connection whose session ended in order lingers: it sends no more, but reads and discards input
 *    until the client closes too, or takes nothing for NBD_LAST_MS. If it were closed with input unread, TCP
 *    would reset it, and replies on their way would be lost. Its session, and with it the volume, is released
 *    before.
 * 4. Clients in their handshake give way: when all places are taken, a newcomer gets the place of the one
 *    that has been in the handshake for longest. A client that has a volume open never gives way, however
 *    idle: to a guest that would be a failing disk.
 * 5. A client that owes the server something (to take a reply, to send the rest of a request) and moves fewer
 *    than STALL_RATE_MIN bytes a second for the stall time loses its connection. A client that owes nothing
 *    may stay for ever.
 */
#ifndef SERVER_NBD_CONN_H
#define SERVER_NBD_CONN_H

#include <stdbool.h>

#include "server/clients.h"
#include "server/nbd_log.h"
#include "server/loop.h"
#include "server/nbd_session.h"

struct nbd_conn;

struct nbd_worker {
	struct loop *loop;
	struct nbd_env env;
	struct nbd_log log; /* of connections that are listed; set it before the loop runs */
	/* where connections are listed; NULL: nowhere. Set it before the loop runs. */
	struct client_list *clients;
	struct timeval handshake_timeout,
		linger_timeout; /* see limits.h; tests make them shorter before the loop runs */
	unsigned stall_ms;	/* invariant 5 */
	struct event *sweep;	/* timer: who stalls? */
	struct event *retry;	/* timer: is there room for those that wait? */
	bool retrying;
	struct event *pieces; /* timer: is there time for requests in pieces? */
	struct task wake_task;
	_Atomic bool woken;		   /* wake_task is posted */
	struct nbd_conn *conns;		   /* all */
	TAILQ_HEAD(, nbd_conn) handshakes; /* those in their handshake, the oldest first */
	_Atomic unsigned nr_handshakes;	   /* and those that are yet to be adopted */
	_Atomic unsigned giving;	   /* places that were asked for, and are not free yet */
	struct task give_task;
	_Atomic unsigned to_give; /* of `giving`: for which nobody was chosen yet */
	struct nbd_conn *dirty, **dirty_tail;
	bool draining;
	/* on the loop's thread, once, when the last connection is gone after a drain */
	void (*drained)(void *arg);
	void *drained_arg;
	struct task drain_task, cut_task, drop_task;
	atomic_bool drop_posted;
};

struct nbd_worker_options {
	struct fs *fs;
	const char *default_export; /* as in struct nbd_env; kept, not copied */
	struct budget *budget;
	unsigned workers; /* that share the budget */
	uint64_t memory;  /* the whole budget, with what is set aside for them (limits.h) */
	unsigned stall_ms;
};

/* Takes over loop->after_io and loop->owner. No loop may run yet. -ENOMEM: nothing needs to be undone. */
int nbd_worker_init(struct nbd_worker *w, struct loop *loop, const struct nbd_worker_options *opt);
void nbd_worker_fini(struct nbd_worker *w);

/*
 * Hands an accepted, non-blocking socket over (the descriptor moves). From any thread. -ENOMEM: it is closed.
 */
int nbd_worker_accept(struct nbd_worker *w, int fd);
/*
 * Soon ends the connection that has been in its handshake for longest; nbd_worker_is_giving is true until it
 * is gone. False: there is none. From one thread, that of nbd_worker_accept.
 */
bool nbd_worker_make_place(struct nbd_worker *w);
static inline bool nbd_worker_is_giving(const struct nbd_worker *w)
{
	return atomic_load(&w->giving) > 0;
}
/* Ends all connections: what is under way finishes and is answered first. From any thread, once. */
void nbd_worker_drain(struct nbd_worker *w, void (*drained)(void *arg), void *arg);
/*
 * After a drain: stops waiting for clients. What the engine has under way still ends before `drained`. Once.
 */
void nbd_worker_cut(struct nbd_worker *w);

#endif
