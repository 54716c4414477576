/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_session.h: one NBD client as a state machine over bytes, without a socket. The connection
 * (nbd_conn.c) moves bytes between it and a socket; tests and fuzzers feed it by hand.
 *
 *      HANDSHAKE ──► TRANSMIT ──► CLOSING ──► BROKEN
 *          └────────────┴────────────┴──────────┘      (any may skip ahead, none goes back)
 *
 * CLOSING: no more input; what is under way finishes, its replies are sent. BROKEN: nothing goes in or out.
 *
 * 1. Everything but the work of BLOCK_STATUS runs on the loop's thread.
 * 2. A request is in exactly one place: with the engine (or a worker), filling (its data still comes in),
 *    refused (its data is being thrown away), waiting for its turn in pieces (nbd_piece.c), or in the output
 *    list. `under_way` counts them all.
 * 3. A session goes away only when `under_way` is 0: the engine never calls back into a dead one.
 * 4. Data of a READ or WRITE counts in `bytes` of its session and its environment from the start of the
 *    request to the last byte of the reply. The memory for it (`taken`) is charged to the session's account
 *    for as long as it is held.
 * 5. A request starts when it finds room: a place among the session's and the loop's requests, and memory.
 *    Requests of a loop are granted as memory is (budget.h, invariant 2). Without room the session stops
 *    reading; if others have the room, it is among the environment's `waiters` until it is tried again.
 * 6. A write larger than NBD_GRANT_STEP gets its memory step by step, as data comes in. The reserve has what
 *    it still lacks, so writes that each hold a part of the memory cannot hold each other up.
 * 7. Between nbd_session_rx and nbd_session_received of one session no other session of the environment may
 *    be given input: they share the receive buffer.
 */
#ifndef SERVER_NBD_SESSION_H
#define SERVER_NBD_SESSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "fs/fs.h"
#include "proto/nbd-protocol.h"
#include "server/budget.h"
#include "server/buf_pool.h"
#include "server/limits.h"
#include "server/figures.h"
#include "server/nbd_export.h"
#include "server/share.h"
#include "server/task.h"

#define NBD_WHY_CLIENT "the client ended it"
#define NBD_WHY_MEMORY "out of memory"
#define NBD_WHY_SLOW "it took its replies, or sent the rest of a request, too slowly"
#define NBD_WHY_STOP "the server stops"
#define NBD_WHY_PLACE \
	"it gave way to another client, as its handshake was not done when all places were taken"

/*
 * The longest request without its data: an extended header, and the filter of a BLOCK_STATUS, which is read
 * as a part of it.
 */
#define NBD_REQUEST_BYTES_MAX (sizeof(struct nbd_extended_request_header) + sizeof(struct nbd_status_filter))

struct nbd_request;
struct nbd_request_slab;
struct nbd_session;
struct nbd_handshake;

/* Written by the loop's thread, read by any. */
struct nbd_stats {
	_Atomic uint64_t connections, connections_total;
	_Atomic uint64_t reads, writes, flushes, others, errors;
	_Atomic uint64_t read_bytes, written_bytes;
};

/* What the sessions of one loop share. The caller fills in the first part. */
struct nbd_env {
	struct fs *fs;
	const char *default_export; /* NULL or "": none */
	struct fs_ctx *ctx;
	/*
	 * A session may have output, or room for input, or be over: call nbd_session_resume and look. Must
	 * not call the session from inside.
	 */
	void (*dirty)(struct nbd_session *s);
	/* Runs a task on the loop's thread; called from any thread. */
	void (*post)(struct nbd_env *env, struct task *task);
	struct budget *budget;
	struct budget_member member; /* with `wake`, which leads to nbd_env_wake; of the budget */
	/*
	 * Calls nbd_env_run_pieces after SHARE_WAIT_MS; may be called again before. NULL: pieces take as much
	 * time as they like.
	 */
	void (*run_pieces_later)(struct nbd_env *env);
	unsigned requests_max; /* of all sessions */
	unsigned rx_max;
	size_t spare_max;

	unsigned requests;
	TAILQ_HEAD(, nbd_session) waiters; /* invariant 5 */
	unsigned nr_waiters;
	struct buf_pool pool;
	struct nbd_stats stats;
	uint64_t bytes;				       /* invariant 4 */
	struct nbd_session *piece_first, **piece_tail; /* see nbd_piece.c */
	unsigned pieces;
	struct share piece_share;
	bool piece_running;
	struct nbd_request *spare;
	struct nbd_request_slab *slabs;
	struct fs_io *batch[NBD_REQUESTS_MAX];
	size_t batch_len;
};

void nbd_env_init(struct nbd_env *env);
void nbd_env_fini(struct nbd_env *env); /* no session may be left */
/*
 * Something has become free, or may have: marks up to `max` waiters dirty, and those that have the reserve,
 * so that they are tried again. `budget` has the rest wake this loop again.
 */
void nbd_env_wake(struct nbd_env *env, unsigned max);

/* There may be time again for requests that go in pieces. */
void nbd_env_run_pieces(struct nbd_env *env);

enum nbd_session_state { NBD_HANDSHAKE, NBD_TRANSMIT, NBD_CLOSING, NBD_BROKEN };

struct nbd_session {
	struct nbd_env *env;
	void *owner; /* the caller's */
	enum nbd_session_state state;
	struct nbd_handshake *hs; /* until its last output is sent */
	struct nbd_export export;
	struct figures_live *figures;  /* where requests are also counted, besides env->stats; may be NULL */
	bool structured, allocation;   /* agreed on in the handshake, as */
	bool extended;		       /* this, which implies `structured` */
	char refusal[NBD_REFUSAL_MAX]; /* why it got no volume, if the handshake said so */
	const char *why;	       /* it is over, or nearly; NULL: it is not */

	unsigned under_way; /* invariant 2 */
	uint64_t bytes;	    /* invariant 4 */
	struct budget_account account;
	bool reserve_used; /* by one of its requests */
	bool waiting;	   /* invariant 5 */
	TAILQ_ENTRY(nbd_session) wait_entry;

	/* input */
	struct nbd_request *filling;
	uint32_t filled;
	struct nbd_request *refused;
	uint32_t discard; /* bytes of its payload still to come */
	uint8_t partial[NBD_REQUEST_BYTES_MAX];
	uint8_t partial_len;
	uint8_t *stalled; /* input that waits for room: [stalled_pos, stalled_end) of it */
	uint32_t stalled_pos, stalled_end;

	/* requests that go in pieces */
	struct nbd_request *long_requests, **long_tail;
	struct nbd_session *piece_next;
	bool piece_queued, piece_busy, piece_stop;

	/* output */
	struct nbd_request *out, **out_tail;
	size_t out_sent; /* bytes of the first one */
};

/* NULL: no memory. */
struct nbd_session *nbd_session_new(struct nbd_env *env, void *owner);
/* Asserts nbd_session_is_over. Accepts NULL. */
void nbd_session_free(struct nbd_session *s);

/* Where input may be put now, one or two places; 0: none is wanted. */
int nbd_session_rx(struct nbd_session *s, struct iovec iov[2]);
/* `len` bytes were put there (filling the places in order). Submits the requests among them as one batch. */
void nbd_session_received(struct nbd_session *s, size_t len);

/* What is to be sent, at most `max` pieces; 0: nothing. */
int nbd_session_tx(struct nbd_session *s, struct iovec *iov, int max);
void nbd_session_sent(struct nbd_session *s, size_t len);

/* Goes on with input that waited for room. True if some of it was taken: there may be output again. */
bool nbd_session_resume(struct nbd_session *s);

/*
 * No more input (the client ended its side): finish what is under way, then be over. `why` is kept, not
 * copied.
 */
void nbd_session_drain(struct nbd_session *s, const char *why);
/* The same for a server that stops: what goes in pieces and is not done yet is answered with ESHUTDOWN. */
void nbd_session_stop(struct nbd_session *s, const char *why);
/* The connection is gone, both ways. */
void nbd_session_break(struct nbd_session *s, const char *why);

bool nbd_session_is_over(const struct nbd_session *s);
/* The client has sent a part of a request, and the server waits for the rest. */
bool nbd_session_is_inside_request(const struct nbd_session *s);

/* ---- between nbd_session.c, nbd_transmit.c and nbd_request.c ------------------------------ */

void nbd_session_move(struct nbd_session *s, enum nbd_session_state to);

/* Input: [pos, end) of data. */
struct nbd_input {
	const uint8_t *data;
	uint32_t pos, end;
	struct rx_buf *rx; /* in which it lies, or NULL: it goes away after the call */
};

/* Whether a whole request begins `in`, apart from its data. */
bool nbd_transmit_is_whole(const struct nbd_session *s, const struct nbd_input *in);
/* Serves input and moves `pos`; what is left is not nbd_transmit_is_whole, or had no room. */
void nbd_transmit_input(struct nbd_session *s, struct nbd_input *in);
/* Takes memory for the next bytes of s->filling, if it has none left. False: the session waits. */
bool nbd_transmit_grow(struct nbd_session *s);
/*
 * Takes memory, or the reserve (*ret_reserve; then nothing is charged). False: the session waits for it.
 */
bool nbd_session_take(struct nbd_session *s, uint64_t bytes, bool *ret_reserve);
void nbd_session_wait(struct nbd_session *s);
/* The data of s->filling is complete. */
void nbd_transmit_filled(struct nbd_session *s);
/* Hands the batch to the engine. */
void nbd_transmit_submit(struct nbd_env *env);
/* Where the data of a filling request goes after its first `filled` bytes. */
struct iovec nbd_request_space(const struct nbd_request *req, uint32_t filled);
/* The pieces of one reply, after the first `skip` bytes. Returns how many (0 to 2). */
int nbd_request_iov(const struct nbd_request *req, size_t skip, struct iovec iov[2]);
size_t nbd_request_reply_bytes(const struct nbd_request *req);
/* `sent` bytes of the reply were sent: gives back what it can. */
void nbd_request_sent(struct nbd_request *req, size_t sent);
struct nbd_request *nbd_request_next(const struct nbd_request *req);
/* Takes the request from its session and gives its buffers back. */
void nbd_request_release(struct nbd_request *req);
void nbd_request_slabs_free(struct nbd_env *env);
/*
 * Requests in pieces that were not begun are answered with -ESHUTDOWN, those under way end with their piece.
 */
void nbd_piece_cancel(struct nbd_session *s);

#endif
