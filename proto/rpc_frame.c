/* SPDX-License-Identifier: BSD-3-Clause */
/* proto/rpc_frame.c: encoding, checking and parsing of RPC frames. */
#include "proto/rpc_frame.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"

static int refuse(int error, const char *why, const char **ret_why)
{
	if (ret_why)
		*ret_why = why;
	return error;
}

/* What a kind of frame may carry. */
static const struct {
	bool known, message, bulk, method, status, id_zero;
} kind_rules[] = {
	[RPC_REQUEST] = {.known = true, .message = true, .bulk = true, .method = true},
	[RPC_REPLY] = {.known = true, .message = true, .bulk = true, .status = true, .id_zero = true},
	[RPC_DATA] = {.known = true, .message = true, .bulk = true, .status = true},
	[RPC_CREDIT] = {.known = true},
	[RPC_CANCEL] = {.known = true},
};

int rpc_frame_check(const struct rpc_frame *f, const char **ret_why)
{
	size_t kind = f->kind;

	if (kind >= ARRAY_SIZE(kind_rules) || !kind_rules[kind].known)
		return refuse(-EPROTO, "unknown kind of frame", ret_why);
	if (f->flags & ~RPC_FLAGS_KNOWN)
		return refuse(-EPROTO, "unknown flags", ret_why);
	if (f->message_len > RPC_MESSAGE_MAX)
		return refuse(-EMSGSIZE, "the message is too long", ret_why);
	if (f->bulk_len > RPC_BULK_MAX)
		return refuse(-EMSGSIZE, "the bulk data is too long for one frame", ret_why);
	if (!f->id && !kind_rules[kind].id_zero)
		return refuse(-EPROTO, "the request id is 0", ret_why);
	if ((f->message_len && !kind_rules[kind].message) || (f->bulk_len && !kind_rules[kind].bulk))
		return refuse(-EPROTO, "this kind of frame carries no data", ret_why);
	if ((f->flags & RPC_MORE) && !kind_rules[kind].bulk)
		return refuse(-EPROTO, "this kind of frame has no successors", ret_why);
	if (!f->method != !kind_rules[kind].method)
		return refuse(-EPROTO, "the method belongs in requests, and only there", ret_why);
	if (f->status && !kind_rules[kind].status)
		return refuse(-EPROTO, "this kind of frame has no status", ret_why);
	if (f->status && (f->bulk_len || (f->flags & RPC_MORE)))
		return refuse(-EPROTO, "a failure must be the last frame and carry no bulk data", ret_why);
	if (f->credit > RPC_CREDIT_MAX)
		return refuse(-EPROTO, "too much credit", ret_why);
	if (kind == RPC_CREDIT && !f->credit)
		return refuse(-EPROTO, "a grant of no credit", ret_why);
	return 0;
}

void rpc_frame_encode(const struct rpc_frame *f, struct rpc_header *ret_header)
{
	ASSERT(rpc_frame_check(f, NULL) == 0);

	*ret_header = (struct rpc_header){
		.magic = cpu_to_le32(RPC_MAGIC),
		.version = RPC_VERSION,
		.kind = (uint8_t)f->kind,
		.flags = cpu_to_le16(f->flags),
		.id = cpu_to_le64(f->id),
		.method = cpu_to_le16(f->method),
		.status = cpu_to_le16(f->status),
		.message_len = cpu_to_le32(f->message_len),
		.bulk_len = cpu_to_le32(f->bulk_len),
		.credit = cpu_to_le32(f->credit),
	};
}

int rpc_frame_decode(const struct rpc_header *h, struct rpc_frame *ret_frame, const char **ret_why)
{
	struct rpc_frame f = {
		.kind = h->kind,
		.flags = le16_to_cpu(h->flags),
		.id = le64_to_cpu(h->id),
		.method = le16_to_cpu(h->method),
		.status = le16_to_cpu(h->status),
		.message_len = le32_to_cpu(h->message_len),
		.bulk_len = le32_to_cpu(h->bulk_len),
		.credit = le32_to_cpu(h->credit),
	};
	int r;

	if (le32_to_cpu(h->magic) != RPC_MAGIC)
		return refuse(-EPROTO, "not Byre's RPC protocol (wrong magic)", ret_why);
	if (h->version != RPC_VERSION)
		return refuse(-EPROTONOSUPPORT, "only version 1 of the protocol is known here", ret_why);

	r = rpc_frame_check(&f, ret_why);
	if (!r)
		*ret_frame = f;
	return r;
}

void rpc_parser_init(struct rpc_parser *p)
{
	*p = (struct rpc_parser){0};
}

void rpc_parser_fini(struct rpc_parser *p)
{
	mem_free(p->body);
	rpc_parser_init(p);
}

static size_t body_len(const struct rpc_parser *p)
{
	return (size_t)p->frame.message_len + p->frame.bulk_len;
}

static bool in_header(const struct rpc_parser *p)
{
	return !p->body;
}

static size_t missing(const struct rpc_parser *p)
{
	return (in_header(p) ? RPC_HEADER_LEN : body_len(p)) - p->have;
}

size_t rpc_parser_wants(const struct rpc_parser *p)
{
	size_t n = missing(p);

	return n ? n : RPC_HEADER_LEN;
}

bool rpc_parser_is_inside(const struct rpc_parser *p)
{
	return p->have && missing(p);
}

size_t rpc_parser_holds(const struct rpc_parser *p)
{
	return p->body ? p->have : 0;
}

static int fail(struct rpc_parser *p, int error, const char *why)
{
	p->error = error;
	p->why = why;
	return error;
}

static int header_done(struct rpc_parser *p)
{
	const char *why = NULL;
	int r = rpc_frame_decode(&p->header, &p->frame, &why);

	if (r)
		return fail(p, r, why);

	p->have = 0;
	if (!body_len(p))
		return 0;
	p->body = mem_alloc(body_len(p));
	if (!p->body)
		return fail(p, -ENOMEM, "out of memory");
	return 0;
}

/* Moves bytes to where the parser wants them; returns how many. */
static size_t take_bytes(struct rpc_parser *p, const uint8_t *data, size_t len)
{
	uint8_t *to = in_header(p) ? (uint8_t *)&p->header : p->body;
	size_t n = min_u64(len, missing(p));

	if (n)
		memcpy(to + p->have, data, n);
	p->have += n;
	return n;
}

/* Gives up the last frame's buffer when its owner did not take it. */
static void start_frame(struct rpc_parser *p)
{
	if (p->body && p->have == body_len(p)) {
		mem_free(p->body);
		p->body = NULL;
		p->have = 0;
	}
}

int rpc_parser_feed(struct rpc_parser *p, const void *data, size_t len, size_t *ret_used,
		    struct rpc_frame *ret_frame)
{
	size_t used;
	int r;

	if (p->error)
		return p->error;
	start_frame(p);

	used = 0;
	if (in_header(p)) {
		used = take_bytes(p, data, len);
		if (missing(p)) {
			*ret_used = used;
			return 0;
		}
		r = header_done(p);
		if (r)
			return r;
	}

	if (p->body)
		used += take_bytes(p, (const uint8_t *)data + used, len - used);
	*ret_used = used;
	if (p->body && missing(p))
		return 0;

	*ret_frame = p->frame;
	ret_frame->message = p->body;
	ret_frame->bulk = p->body ? p->body + p->frame.message_len : NULL;
	return 1;
}

uint8_t *rpc_parser_take(struct rpc_parser *p)
{
	uint8_t *body = p->body;

	if (body) {
		ASSERT(p->have == body_len(p));
		p->body = NULL;
		p->have = 0;
	}
	return body;
}
