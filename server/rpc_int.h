/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/rpc_int.h: what rpc.c (the server and its calls), rpc_conn.c (one connection) and rpc_method.c (what
 * requests do) share.
 *
 * Invariants
 * 1. Only the loop's thread touches servers and connections. A worker touches one call, from fs_work() until
 *    it (or the engine's thread that ends an operation) has put it on the server's `done` list; of the server
 *    it touches `done`, under done_lock, and opt.fs.
 * 2. A call outlives its connection: `conn` is NULL once nobody waits for the answer.
 * 3. Everything that a client can make grow has a maximum below, and is charged to the budget when it is
 *    there: input and the message half read, requests, answers that the client has not taken.
 * 4. A call waits, and has not begun, while its client leaves more than RPC_OUTPUT_MAX of answers untaken,
 *    memory is out, or RPC_RUNNING_MAX others run. The connection is read on meanwhile: a CANCEL may be among
 *    what comes. A call that waits goes with its connection.
 * 5. All connections together take their share of the loop's time (server/share.h): when it is used up they
 *    are read no more for a moment, and then the one that has done nothing for longest first.
 * 6. When all places are taken a newcomer gets that of the connection that has done nothing for longest,
 *    unless all of them have calls under way.
 */
#ifndef SERVER_RPC_INT_H
#define SERVER_RPC_INT_H

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/lock.h"
#include "fs/fs.h"
#include "proto/byre.pb-c.h"
#include "proto/rpc_frame.h"
#include "server/budget.h"
#include "server/rpc.h"
#include "server/share.h"
#include "server/stall.h"

#define RPC_REQUESTS_MAX 64u /* under way on one connection */
#define RPC_PEER_MAX 128     /* as CLIENT_PEER_MAX */
#define RPC_LISTENERS_MAX 16u
#define RPC_RUNNING_MAX 32u	  /* on their way to workers, of all connections */
#define RPC_INPUT_MAX (64u << 10) /* read ahead of the parser */
#define RPC_FRAMES_MAX 64u	  /* parsed in one go, before others have their turn */
/* Answers that the client has not taken: above it, no request is begun, */
#define RPC_OUTPUT_MAX (1u << 20)
/* and above this nothing is read: the client asks on and on, and is told EBUSY. */
#define RPC_OUTPUT_HARD (RPC_OUTPUT_MAX + RPC_RUNNING_MAX * RPC_MESSAGE_MAX)
/* what a connection may hold when there is no memory, and still be read */
#define RPC_HELD_FREE (64u << 10)
#define RPC_CALL_COST 1024u /* of a request, beside its message */
/* calls that wait are tried again so often, besides when something ends */
#define RPC_RETRY_MS 250
#define RPC_LINGER_MS 2000	    /* how long a refused client has to read why */
#define RPC_LINGER_BYTES (4u << 20) /* and what is thrown away meanwhile */
/* and one whose answer is complete when the server has stopped waiting */
#define RPC_LAST_MS 1000

struct rpc_call;
struct rpc_conn;
STAILQ_HEAD(rpc_call_list, rpc_call);

#define RPC_LATER 1

struct rpc_method {
	uint16_t id;
	const char *name;
	const ProtobufCMessageDescriptor *request;
	bool waits; /* runs on a worker */
	/*
	 * Does the request; 0 or a negative errno value, with call->err filled in where there is more to say.
	 * Success without rpc_call_reply answers with the empty message. RPC_LATER: rpc_call_finish ends the
	 * call, or has ended it already; only for methods that wait.
	 */
	int (*run)(struct rpc_call *call);
	/* or NULL: runs on the loop once the answer of a success is queued */
	void (*after)(struct rpc_server *s);
};

/* ---- rpc_scrub.c ---- */

int rpc_run_scrub_start(struct rpc_call *call);
int rpc_run_scrub_stop(struct rpc_call *call);
int rpc_run_scrub_status(struct rpc_call *call);

/* NULL: there is no such method. */
const struct rpc_method *rpc_method_find(uint16_t id);

struct rpc_call {
	struct fs_work work;
	struct rpc_server *server;
	struct rpc_conn *conn;
	LIST_ENTRY(rpc_call) conn_entry; /* while conn is set */
	/* on the server's `done` list, or among its connection's that wait */
	STAILQ_ENTRY(rpc_call) done_entry;
	bool waiting;
	uint64_t cost; /* charged for the request */
	const struct rpc_method *method;
	uint64_t id;
	ProtobufCMessage *request;
	uint8_t *reply; /* packed */
	uint32_t reply_len;
	int error;
	struct fs_error err;
	uint64_t volume_id; /* DELETE: of the volume */
	/* of methods on volumes: those under way together share a write of the flush log */
	struct fs_volume_op op;
};

/* Packs the answer. -ENOMEM; -EOVERFLOW when it fits no frame. At most once for each call. */
int rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *reply);
/* Ends a call whose method said RPC_LATER: from any thread, once. */
void rpc_call_finish(struct rpc_call *call, int error);
/* Notes why the call fails, unless something was noted before; returns `error`. */
int rpc_call_fail(struct rpc_call *call, int error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- rpc_client.c: methods about NBD clients and what they do ---- */

int rpc_run_client_list(struct rpc_call *call);
int rpc_run_client_drop(struct rpc_call *call);
int rpc_run_volume_figures(struct rpc_call *call);

/* ---- rpc_figures.c: messages, which borrow from what they are made of ---- */

/* A message with those inside it. */
struct rpc_pool {
	Byre__PoolInfo msg;
	Byre__Scrub scrub;
	Byre__KindFigures commit, log_group;
};

struct figures;
struct rpc_figures {
	Byre__Figures msg;
	Byre__KindFigures kinds[5];
};

ProtobufCBinaryData rpc_bytes(const uint8_t *data, size_t len);
void rpc_pool_message(const struct fs_info *from, struct rpc_pool *ret);
void rpc_volume_message(const struct fs_volume_info *from, Byre__Volume *to);
void rpc_scrub_message(const struct fs_scrub_status *from, Byre__Scrub *to);
void rpc_figures_message(const struct figures *from, struct rpc_figures *ret);

/* ---- rpc_log.c ---- */

/* The request has been carried out, or was refused. */
void rpc_log_call(const struct rpc_call *call);

struct rpc_stats {
	uint64_t start_ms; /* CLOCK_MONOTONIC */
	uint64_t connections_total, requests, errors, bad_frames;
};

struct rpc_server {
	struct event_base *base;
	struct rpc_server_options opt;
	struct evconnlistener *listeners[RPC_LISTENERS_MAX];
	unsigned nr_listeners;
	struct event *accept_ev;   /* timer: accept again */
	struct event *done_ev;	   /* done_fd is readable */
	struct event *stall_ev;	   /* timer: who stalls? */
	struct event *retry_ev;	   /* timer: can a waiting call begin? */
	struct event *sweep_ev;	   /* made active by hand: looks whether the stop is complete */
	struct event *shutdown_ev; /* made active by hand: tells the daemon */

	TAILQ_HEAD(, rpc_conn) conns; /* the one that has done nothing for longest first */
	unsigned nr_conns;
	unsigned nr_running; /* calls that workers have, or wait for one */
	unsigned nr_calls;   /* under way, of all connections and of those that are gone */
	bool stopping, cut;
	bool swept; /* nothing was left at the last look */
	void (*drained)(void *arg);
	void *drained_arg;
	struct rpc_stats stats;
	struct share share; /* of the loop's time */

	int done_fd;	       /* eventfd */
	struct lock done_lock; /* protects done */
	struct rpc_call_list done;
};

/*
 * A request has come: begins it, or lets it wait; the answer goes to `conn`. Takes `request`. -ENOMEM:
 * nothing was begun or taken.
 */
int rpc_call_new(struct rpc_conn *conn, const struct rpc_method *method, uint64_t id, uint64_t cost,
		 ProtobufCMessage *request);
/* Begins what waits on this connection, as far as it may. May free the connection. */
void rpc_calls_begin(struct rpc_conn *conn);
/* A call that waits will not be carried out. The caller answers, or does not. */
void rpc_call_drop(struct rpc_call *call);
/* Something waits: it is tried again when a call ends, and after RPC_RETRY_MS. */
void rpc_server_retry_later(struct rpc_server *s);
/* Connections are held up until there is time for them. */
void rpc_server_retry_soon(struct rpc_server *s);
/* The loop looks soon whether a stop is complete. */
void rpc_server_sweep(struct rpc_server *s);
ProtobufCAllocator *rpc_allocator(void);

/*
 * OPEN:      requests are read. When the client has ended its side, those that are there already still are.
 * FINISHING: nothing is read; ends when the calls are answered and the answers are out.
 * REFUSED:   a last frame says why.
 * In REFUSED, and after FINISHING on TCP, what comes in is thrown away until the client goes or lingers too
 * long: closing with input unread would reset the connection and might take the last answers with it.
 */
enum rpc_conn_state { RPC_CONN_OPEN, RPC_CONN_FINISHING, RPC_CONN_REFUSED, RPC_CONN_STATES };

struct rpc_conn {
	struct rpc_server *server;
	TAILQ_ENTRY(rpc_conn) entry;
	struct budget_account account;
	uint64_t call_bytes;	      /* cost of its calls */
	struct rpc_call_list waiting; /* in order */
	bool held_up;		      /* not read: there is no memory, or no time */
	struct bufferevent *bev;
	struct rpc_parser parser;
	uint64_t received, queued; /* bytes, taken by the parser and given to bev */
	struct stall stall;
	char peer[RPC_PEER_MAX]; /* for the log */
	enum rpc_conn_state state;
	LIST_HEAD(, rpc_call) calls;
	unsigned nr_calls;
	bool tcp, eof; /* eof: the client sends no more */
	uint32_t lingered_bytes;
};

/* Takes the descriptor, on failure too. */
int rpc_conn_new(struct rpc_server *s, int fd);
/* Calls under way go on and lose their connection, those that wait are dropped. */
void rpc_conn_free(struct rpc_conn *conn);
/* Reads no more; frees itself once all is answered, which may be now. */
void rpc_conn_finish(struct rpc_conn *conn);
/* Whether a call of this connection may begin, as far as the client and memory are concerned. */
bool rpc_conn_may_begin(const struct rpc_conn *conn);
/* It was not read for want of memory: look again. */
void rpc_conn_retry(struct rpc_conn *conn);
/* Ends it if it stalls. */
void rpc_conn_sweep(struct rpc_conn *conn, uint64_t now_ms, unsigned stall_ms);
/* Drops its calls that wait. */
void rpc_conn_drop_waiting(struct rpc_conn *conn);
/* A call is complete: detaches it and queues its answer. May free the connection. */
void rpc_conn_answer(struct rpc_conn *conn, struct rpc_call *call);

#endif
