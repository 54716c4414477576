/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_request.h: one request of the transmission phase, its memory and its reply. Private to
 * nbd_request.c, nbd_transmit.c, nbd_piece.c and nbd_session.c; the invariants are in nbd_session.h.
 */
#ifndef SERVER_NBD_REQUEST_H
#define SERVER_NBD_REQUEST_H

#include <assert.h>

#include "server/nbd_session.h"

#define NBD_ALLOCATION_ID 1 /* of the metadata context base:allocation */

/* The longest head of a reply: an error with its text. */
#define NBD_HEAD_MAX (sizeof(struct nbd_extended_chunk) + sizeof(struct nbd_chunk_error) + NBD_ERROR_TEXT_MAX)

struct nbd_request {
	struct fs_io io;
	struct nbd_session *session;
	struct nbd_request *next; /* spare, or the session's output list */
	be64 cookie;
	uint32_t len;	   /* data that counts in session->bytes */
	uint16_t command;  /* enum nbd_command */
	uint16_t flags;	   /* the client's */
	int error;	   /* of a refused one */
	struct rx_buf *rx; /* WRITE: the receive buffer that io.buf points into, or */
	void *buf;	   /* a buffer of its own */
	uint32_t buf_len;
	uint64_t taken;		       /* memory charged to the session for it */
	uint32_t granted;	       /* WRITE with a buffer of its own: bytes of it that are paid for */
	uint32_t dropped;	       /* bytes at the beginning of buf that were given back */
	bool reserve;		       /* has the reserve */
	uint32_t body_len;	       /* bytes of buf that follow the head of the reply */
	uint32_t extents, extents_max; /* BLOCK_STATUS */
	uint32_t walked;	       /* and pieces that were looked at for them */
	uint64_t piece_off, piece_end; /* in pieces: what is left to do */
	const char *why;	       /* of an error, when the code alone does not say enough */
	uint16_t head_len;

	/* Fields from here on are not cleared for a new request. */
	uint64_t start_us;
	uint64_t off, range; /* the client's; io.off and io.len move with pieces */
	uint8_t head[NBD_HEAD_MAX];
	struct fs_work work; /* BLOCK_STATUS */
	struct task task;
};

static_assert(sizeof(struct nbd_request) <= 600, "NBD_REQUEST_COST has room for it and the engine's 1,176");

/* A request as it came, in the processor's byte order. */
struct nbd_header {
	uint16_t flags, type;
	uint32_t bytes; /* on the wire; with the filter of a BLOCK_STATUS */
	uint64_t off;
	uint64_t len;	  /* of the range */
	uint64_t payload; /* bytes that follow */
	be64 cookie;
	const char *wrong; /* it breaks the rules of its headers; NULL: it does not */
	bool ends;	   /* and so that what follows cannot be told apart */
};

/* Whether the session may have one more request. */
bool nbd_request_has_place(const struct nbd_session *s);
/* NULL: no memory. Counts in s->under_way from here to nbd_request_release. */
struct nbd_request *nbd_request_new(struct nbd_session *s, const struct nbd_header *h);
/* Counts `len` bytes of data for the request, until its release. */
void nbd_request_charge(struct nbd_request *req, uint32_t len);
/* Gives it a buffer of its own. False: no memory. */
bool nbd_request_own_buffer(struct nbd_request *req, uint32_t len);
/*
 * The request is done, with 0 or a negative errno: its reply (with body_len bytes of its buffer) joins the
 * session's output, unless there is nobody to read it.
 */
void nbd_request_finish(struct nbd_request *req, int error);

/* Carries out, piece by piece, a request that is checked and has its io filled in (nbd_piece.c). */
void nbd_piece_start(struct nbd_request *req);

#endif
