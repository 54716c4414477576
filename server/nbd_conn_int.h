/* SPDX-License-Identifier: BSD-3-Clause */
/* server/nbd_conn_int.h: what nbd_conn.c (one connection) and nbd_worker.c (those of a loop) share. */
#ifndef SERVER_NBD_CONN_INT_H
#define SERVER_NBD_CONN_INT_H

#include <event2/event_struct.h>

#include "server/nbd_conn.h"
#include "server/stall.h"

struct nbd_conn {
	struct nbd_worker *worker;
	struct nbd_session *session;
	struct nbd_conn *next, **pprev; /* in worker->conns */
	struct nbd_conn *dirty_next;
	bool is_dirty;
	TAILQ_ENTRY(nbd_conn) handshake_entry;
	bool in_handshake;	      /* among worker->handshakes */
	bool gives;		      /* its place: counts in worker->giving */
	bool reading, writing, timed; /* the events are added */
	bool tcp, eof;		      /* eof: the client sends no more */
	int fd;
	uint64_t moved; /* bytes, both ways */
	struct stall stall;
	int unsent; /* lingering: what the kernel has not got rid of */
	struct event read_event, write_event, timer;
	struct task adopt_task;
	struct client client; /* listed when the worker has a list, while there is a session */
	bool listed;
	atomic_bool dropped; /* asked for: see drop */
};

/* It may have something to send, or be over: nbd_conn_flush_dirty will look. */
void nbd_conn_dirty(struct nbd_session *s);
void nbd_conn_flush_dirty(struct nbd_worker *w);
/* At once. Its session must be over, or gone. */
void nbd_conn_free(struct nbd_conn *conn);

/* Its handshake is over. May be called again. */
void nbd_conn_leave_handshake(struct nbd_conn *conn);

/* Somebody waits for room: tries them again within NBD_RETRY_MS. */
void nbd_worker_retry_later(struct nbd_worker *w);
/* Calls `drained` if it is time. */
void nbd_worker_check_drained(struct nbd_worker *w);

#endif
