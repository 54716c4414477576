/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto/rpc_frame.h: the frames of Byre's RPC protocol, and a parser that is fed with bytes.
 * No sockets, no threads. docs/rpc.md describes the conversation; this file is about one frame.
 *
 * Invariants
 * 1. A frame is a header of RPC_HEADER_LEN bytes, then message_len bytes of protobuf, then bulk_len bytes
 *    of data. Neither length is above its maximum, so a frame is never larger than RPC_FRAME_MAX.
 * 2. The parser checks a header completely before it allocates for it or reads on.
 * 3. A parser that has failed stays failed: there is no way to find the next frame.
 */
#ifndef PROTO_RPC_FRAME_H
#define PROTO_RPC_FRAME_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/le.h"

#define RPC_MAGIC 0x31525942u /* "BYR1" */
#define RPC_VERSION 1
#define RPC_HEADER_LEN 32u
#define RPC_MESSAGE_MAX (256u << 10)
#define RPC_BULK_MAX (1u << 20)
#define RPC_FRAME_MAX (RPC_HEADER_LEN + RPC_MESSAGE_MAX + RPC_BULK_MAX)

/* Bulk bytes that each side may send on a request before it was granted any. */
#define RPC_INITIAL_CREDIT (256u << 10)
/* No sender ever holds more credit on one request than this. */
#define RPC_CREDIT_MAX (1u << 30)

enum rpc_kind {
	RPC_REQUEST = 1, /* client: starts a request */
	RPC_REPLY = 2,	 /* server: its answer; with id 0, the end of the connection */
	RPC_DATA = 3,	 /* either: more bulk of a request or reply that had RPC_MORE */
	RPC_CREDIT = 4,	 /* either: grants credit, carries nothing else */
	RPC_CANCEL = 5,	 /* client: the answer is no longer wanted */
};

enum rpc_flags {
	RPC_MORE = 1, /* more bulk of this id follows in this direction; without it, this frame is the last */
};
#define RPC_FLAGS_KNOWN RPC_MORE

/* The header as it is on the wire. */
struct rpc_header {
	le32 magic;
	uint8_t version;
	uint8_t kind;
	le16 flags;
	le64 id;
	le16 method;
	le16 status;
	le32 message_len;
	le32 bulk_len;
	le32 credit;
};
static_assert(sizeof(struct rpc_header) == RPC_HEADER_LEN, "the wire has no padding");
static_assert(offsetof(struct rpc_header, id) == 8, "");
static_assert(offsetof(struct rpc_header, credit) == 28, "");

/* A frame in memory. The two parts belong to whoever filled in the struct. */
struct rpc_frame {
	enum rpc_kind kind;
	uint16_t flags;
	uint64_t id;
	uint16_t method; /* REQUEST only */
	uint16_t status; /* REPLY and DATA: 0, or a wire status (proto/rpc_status.h) */
	uint32_t credit; /* bulk bytes of this id that the sender is ready to take on top */
	uint32_t message_len;
	uint32_t bulk_len;
	const uint8_t *message;
	const uint8_t *bulk;
};

/* Fills in the header for `frame`. The frame must be valid (rpc_frame_check), which is asserted. */
void rpc_frame_encode(const struct rpc_frame *frame, struct rpc_header *ret_header);

/*
 * Checks a frame's fields (not its contents). 0; -EPROTO: they break a rule; -EMSGSIZE: a length is above its
 * maximum. *ret_why (ret_why may be NULL) becomes a constant phrase for people; it is untouched when all is
 * well.
 */
int rpc_frame_check(const struct rpc_frame *frame, const char **ret_why);

/*
 * Decodes and checks a header; message and bulk become NULL. As rpc_frame_check, and -EPROTONOSUPPORT:
 * another version.
 */
int rpc_frame_decode(const struct rpc_header *header, struct rpc_frame *ret_frame, const char **ret_why);

struct rpc_parser {
	struct rpc_header header;
	struct rpc_frame frame;
	uint8_t *body; /* the message and behind it the bulk; NULL while the header is read */
	size_t have;   /* bytes of the header, then of the body */
	int error;
	const char *why; /* set with error */
};

void rpc_parser_init(struct rpc_parser *p);
/* Also fit for a parser in the middle of a frame. */
void rpc_parser_fini(struct rpc_parser *p);

/*
 * Takes bytes from data until they are used up or a frame is complete. Returns 1 with the frame complete, 0
 * when it needs more bytes (then all len bytes were taken), else -EPROTO, -EPROTONOSUPPORT, -EMSGSIZE or
 * -ENOMEM, now and ever after. *ret_used, the number of bytes taken, is set unless it fails. The frame's
 * parts live until the next call on this parser; those of a buffer that rpc_parser_take handed over, until
 * that is freed.
 */
int rpc_parser_feed(struct rpc_parser *p, const void *data, size_t len, size_t *ret_used,
		    struct rpc_frame *ret_frame);

/*
 * For tests. After a complete frame: hands over the buffer that its parts point into (mem_free; NULL if both
 * parts are empty).
 */
uint8_t *rpc_parser_take(struct rpc_parser *p);

/* It has a part of a frame, and wants the rest. */
bool rpc_parser_is_inside(const struct rpc_parser *p);

/* Memory that the parser holds for the frame that it is in. */
size_t rpc_parser_holds(const struct rpc_parser *p);

/* Bytes that the parser still wants before it can return: at least 1. For blocking readers. */
size_t rpc_parser_wants(const struct rpc_parser *p);

#endif
