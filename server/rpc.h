/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/rpc.h: the RPC server, as the daemon sees it. docs/rpc.md describes the protocol.
 *
 * Threads: everything here runs on the one thread that runs `base`. Engine calls that wait run on the
 * engine's workers (fs_work) and come back to that thread by themselves.
 * The process must ignore SIGPIPE.
 */
#ifndef SERVER_RPC_H
#define SERVER_RPC_H

#include <event2/event.h>

struct budget;
struct client_list;
struct fs;
struct log;
struct rpc_server;

struct rpc_server_options {
	struct fs *fs;		     /* outlives the server */
	struct log *log;	     /* likewise; NULL: nothing is logged */
	struct client_list *clients; /* likewise; NULL: this server has no NBD clients */
	struct budget *budget;	     /* likewise; of all connections */
	unsigned max;		     /* connections */
	unsigned stall_ms;	     /* server/stall.h */
	/*
	 * A client asked the daemon to stop, and has its answer. Runs on the loop; may call rpc_server_stop.
	 */
	void (*shutdown)(void *arg);
	void *arg;
};

/* A server without sockets yet. `opt` is copied. -ENOMEM, or what eventfd failed with. */
int rpc_server_new(struct event_base *base, const struct rpc_server_options *opt, struct rpc_server **ret);

/*
 * Accepts connections on a bound stream socket (unix or TCP); may be called several times. Takes the
 * descriptor, on failure too.
 */
int rpc_server_listen(struct rpc_server *s, int listen_fd);

/*
 * Stops accepting and reading, lets the requests under way finish and their answers leave, closes every
 * connection and then calls `drained` from the loop, once and never inside this call. Called once.
 */
void rpc_server_stop(struct rpc_server *s, void (*drained)(void *arg), void *arg);
/*
 * After that: stops waiting for clients that do not take their answers. Requests under way still finish, and
 * their clients have RPC_LAST_MS to take the answer. Called once.
 */
void rpc_server_cut(struct rpc_server *s);

/*
 * After `drained` (it may be called inside it), or when no request is under way, which is asserted. Accepts
 * NULL.
 */
void rpc_server_free(struct rpc_server *s);

#endif
