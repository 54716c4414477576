/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_handshake.h: the fixed newstyle handshake as a state machine over bytes, without a socket.
 *
 *      FLAGS ──► OPTION ◄──► SKIP        (SKIP: the rest of an option that is too long)
 *                  │ GO, EXPORT_NAME ──► DONE
 *      any ───────► CLOSE                (ABORT, or a breach of the protocol)
 *
 * 1. One option is served at a time: the next one waits until the output is gone. So a client that sends
 *    without reading makes the server hold at most one answer.
 * 2. Bytes after the option that ends the handshake stay in `in` for the transmission phase.
 */
#ifndef SERVER_NBD_HANDSHAKE_H
#define SERVER_NBD_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/nbd-protocol.h"
#include "server/budget.h"
#include "server/limits.h"
#include "server/nbd_export.h"

enum nbd_handshake_state { NBD_HS_FLAGS, NBD_HS_OPTION, NBD_HS_SKIP, NBD_HS_DONE, NBD_HS_CLOSE };

struct nbd_handshake {
	struct nbd_exports exports;
	struct budget_account *account; /* NULL: nobody's */
	uint64_t charged;		/* for output */
	size_t in_paid;			/* bytes of `in` that may be used */
	enum nbd_handshake_state state;
	bool no_zeroes;
	/* What was agreed on. */
	bool structured; /* replies in chunks, */
	bool extended;	 /* with extended headers; then `structured` is set too */
	bool allocation; /* the context base:allocation, for the export `allocation_name` */
	uint32_t allocation_len;
	struct nbd_export export; /* in DONE; whoever takes it sets export.vol to NULL here */

	uint32_t skip;
	size_t in_len;
	uint8_t *out;
	size_t out_len, out_sent, out_size;
	/* what the client was told when it asked for a volume; empty: nothing of that kind */
	char refusal[NBD_REFUSAL_MAX];
	int error; /* reason for CLOSE: 0, -EPROTO, -ENOMEM, -ENOENT */
	char allocation_name[NBD_STRING_MAX];
	uint8_t in[sizeof(struct nbd_option) + NBD_OPTION_MAX];
};

/*
 * Its first output is the greeting. NULL: no memory. Output above NBD_HANDSHAKE_OUT_FREE is charged to
 * `account` (NULL: to nobody); output that it cannot pay for ends the connection.
 */
struct nbd_handshake *nbd_handshake_new(const struct nbd_exports *exports, struct budget_account *account);
void nbd_handshake_free(struct nbd_handshake *hs); /* accepts NULL */

/* Where input may be put; 0 bytes while there is output to send, and after the end. An option larger than
 * NBD_HANDSHAKE_IN_FREE is charged like output. */
size_t nbd_handshake_space(struct nbd_handshake *hs, void **ret_space);
/* `len` bytes were put there. May change the state. */
void nbd_handshake_received(struct nbd_handshake *hs, size_t len);
/* What is to be sent. */
size_t nbd_handshake_output(const struct nbd_handshake *hs, const void **ret_data);
/* `len` bytes of it were sent; when all were, goes on with input that waited. */
void nbd_handshake_sent(struct nbd_handshake *hs, size_t len);

#endif
