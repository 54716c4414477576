/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_handshake.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"

#define ALLOCATION "base:allocation"
#define ALLOCATION_ID 1
#define OUT_SIZE_MIN 512

/* A cursor over an option's payload; a read past its end fails and stays failed. */
struct cursor {
	const uint8_t *pos, *end;
	bool bad;
};

static const void *cursor_take(struct cursor *c, size_t len)
{
	const uint8_t *pos = c->pos;

	if (c->bad || (size_t)(c->end - c->pos) < len) {
		c->bad = true;
		return NULL;
	}
	c->pos += len;
	return pos;
}

static uint32_t cursor_u32(struct cursor *c)
{
	const be32 *v = cursor_take(c, sizeof(*v));

	return v ? be32_to_cpu(*v) : 0;
}

static uint16_t cursor_u16(struct cursor *c)
{
	const be16 *v = cursor_take(c, sizeof(*v));

	return v ? be16_to_cpu(*v) : 0;
}

static const char *cursor_string(struct cursor *c, uint32_t *ret_len)
{
	uint32_t len = cursor_u32(c);
	const char *s;

	if (len > NBD_STRING_MAX)
		c->bad = true;
	s = cursor_take(c, len);
	if (s)
		*ret_len = len;
	return s;
}

static bool cursor_is_done(const struct cursor *c)
{
	return !c->bad && c->pos == c->end;
}

static void close_with(struct nbd_handshake *hs, int error)
{
	hs->state = NBD_HS_CLOSE;
	hs->error = error;
}

static bool pay_for_output(struct nbd_handshake *hs, size_t size)
{
	uint64_t more = size > NBD_HANDSHAKE_OUT_FREE ? size - hs->charged : 0;

	if (!hs->account || !more)
		return true;
	if (!budget_take(hs->account, more))
		return false;
	hs->charged += more;
	return true;
}

/* An option that does not fit what is paid for needs all the rest. It stays paid until the end. */
static void pay_for_input(struct nbd_handshake *hs)
{
	uint64_t more = sizeof(hs->in) - hs->in_paid;

	if (hs->in_len < hs->in_paid || !more || hs->state == NBD_HS_DONE || hs->state == NBD_HS_CLOSE)
		return;
	if (hs->account && !budget_take(hs->account, more)) {
		close_with(hs, -ENOMEM);
		return;
	}
	hs->in_paid = sizeof(hs->in);
}

static void free_output(struct nbd_handshake *hs)
{
	mem_free(hs->out);
	hs->out = NULL;
	hs->out_len = hs->out_sent = hs->out_size = 0;
	if (hs->account)
		budget_give(hs->account, hs->charged);
	hs->charged = 0;
}

static void put(struct nbd_handshake *hs, const void *data, size_t len)
{
	if (hs->state == NBD_HS_CLOSE && hs->error)
		return;
	if (hs->out_size - hs->out_len < len) {
		size_t size = max_u64(hs->out_size * 2, round_up_u64(hs->out_len + len, OUT_SIZE_MIN));
		uint8_t *out = pay_for_output(hs, size) ? mem_realloc(hs->out, size) : NULL;

		if (!out) {
			close_with(hs, -ENOMEM);
			return;
		}
		hs->out = out;
		hs->out_size = size;
	}
	memcpy(hs->out + hs->out_len, data, len);
	hs->out_len += len;
}

static void reply_head(struct nbd_handshake *hs, uint32_t option, uint32_t type, uint32_t len)
{
	struct nbd_option_reply rep = {
		.magic = cpu_to_be64(NBD_REPLY_MAGIC),
		.option = cpu_to_be32(option),
		.type = cpu_to_be32(type),
		.len = cpu_to_be32(len),
	};

	put(hs, &rep, sizeof(rep));
}

/* An error with a line for people, or an acknowledgement (text NULL). */
static void reply(struct nbd_handshake *hs, uint32_t option, uint32_t type, const char *text)
{
	uint32_t len = text ? strlen(text) : 0;

	reply_head(hs, option, type, len);
	if (len)
		put(hs, text, len);
}

static void reply_invalid(struct nbd_handshake *hs, uint32_t option)
{
	reply(hs, option, NBD_REP_ERR_INVALID, "the option's payload is malformed");
}

static void greet(struct nbd_handshake *hs)
{
	struct nbd_greeting greeting = {
		.magic = cpu_to_be64(NBD_MAGIC),
		.option_magic = cpu_to_be64(NBD_OPTION_MAGIC),
		.flags = cpu_to_be16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
	};

	put(hs, &greeting, sizeof(greeting));
}

/* A context counts only for the export that it was asked for. */
static bool has_context(const struct nbd_handshake *hs, const char *name, uint32_t len)
{
	return hs->allocation && hs->allocation_len == len && !memcmp(hs->allocation_name, name, len);
}

/* For the flags that an export has when it is opened now. */
static unsigned dialect(const struct nbd_handshake *hs, bool context)
{
	return (hs->structured ? NBD_CHUNKED : 0) | (hs->extended ? NBD_EXTENDED : 0) |
	       (context ? NBD_CONTEXT : 0);
}

static void enter(struct nbd_handshake *hs, const char *name, uint32_t len)
{
	if (hs->state == NBD_HS_CLOSE)
		return;
	hs->allocation = has_context(hs, name, len);
	hs->state = NBD_HS_DONE;
}

/* ---- options: one function each ------------------------------------------- */

static void opt_export_name(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	uint32_t len = c->end - c->pos;
	const char *name = cursor_take(c, len);
	struct nbd_export_reply rep = {0};
	struct fs_error err = {"extended headers go with NBD_OPT_GO, not with NBD_OPT_EXPORT_NAME"};
	int r = -EPROTO;

	if (!hs->extended)
		r = nbd_export_open(&hs->exports, name, len, &hs->export, &err);
	if (r < 0) { /* this option has no way to say why */
		snprintf(hs->refusal, sizeof(hs->refusal), "%.*s", NBD_REFUSAL_MAX - 1, err.msg);
		close_with(hs, r);
		return;
	}
	rep.size = cpu_to_be64(fs_volume_size(hs->export.vol));
	rep.flags = cpu_to_be16(nbd_export_flags(&hs->export, dialect(hs, has_context(hs, name, len))));
	put(hs, &rep, hs->no_zeroes ? offsetof(struct nbd_export_reply, zeroes) : sizeof(rep));
	enter(hs, name, len);
}

static void opt_abort(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	reply(hs, option, NBD_REP_ACK, NULL);
	close_with(hs, 0);
}

/* What follows the name is for people. */
static int list_one(void *arg, const char *name, const char *description)
{
	struct nbd_handshake *hs = arg;
	be32 len = cpu_to_be32(strlen(name));
	uint32_t bytes = sizeof(len) + strlen(name) + strlen(description);

	if (hs->out_len + sizeof(struct nbd_option_reply) + bytes > NBD_LIST_BYTES_MAX)
		return -E2BIG;
	reply_head(hs, NBD_OPT_LIST, NBD_REP_SERVER, bytes);
	put(hs, &len, sizeof(len));
	put(hs, name, strlen(name));
	put(hs, description, strlen(description));
	return 0;
}

static void opt_list(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	int r;

	if (c->pos != c->end) {
		reply_invalid(hs, option);
		return;
	}
	r = nbd_export_list(hs->exports.fs, list_one, hs);
	if (r == -E2BIG)
		reply(hs, option, NBD_REP_ERR_TOO_BIG, "there are too many volumes to list");
	else if (r < 0)
		reply(hs, option, NBD_REP_ERR_PLATFORM, "the volumes could not be listed");
	else
		reply(hs, option, NBD_REP_ACK, NULL);
}

static void reply_info(struct nbd_handshake *hs, uint32_t option, const struct nbd_export *export,
		       bool context)
{
	struct nbd_info_export info = {
		.type = cpu_to_be16(NBD_INFO_EXPORT),
		.size = cpu_to_be64(fs_volume_size(export->vol)),
		.flags = cpu_to_be16(nbd_export_flags(export, dialect(hs, context))),
	};
	struct nbd_info_block_size sizes = {
		.type = cpu_to_be16(NBD_INFO_BLOCK_SIZE),
		.minimum = cpu_to_be32(1),
		.preferred = cpu_to_be32(NBD_BLOCK_PREFERRED),
		.maximum = cpu_to_be32(NBD_IO_MAX),
	};

	reply_head(hs, option, NBD_REP_INFO, sizeof(info));
	put(hs, &info, sizeof(info));
	reply_head(hs, option, NBD_REP_INFO, sizeof(sizes));
	put(hs, &sizes, sizeof(sizes));
}

static void reply_text(struct nbd_handshake *hs, uint32_t option, enum nbd_info_type type, const char *text)
{
	be16 wire = cpu_to_be16(type);

	reply_head(hs, option, NBD_REP_INFO, sizeof(wire) + strlen(text));
	put(hs, &wire, sizeof(wire));
	put(hs, text, strlen(text));
}

/* What is told only to those who ask for it: `n` requests, each once however often it is asked for. */
static void reply_asked(struct nbd_handshake *hs, uint32_t option, const struct nbd_export *export,
			const be16 *asked, uint16_t n)
{
	bool name = false, description = false;
	struct fs_volume_info vi;

	for (uint16_t i = 0; i < n; i++) {
		name |= be16_to_cpu(asked[i]) == NBD_INFO_NAME;
		description |= be16_to_cpu(asked[i]) == NBD_INFO_DESCRIPTION;
	}
	if (!name && !description)
		return;
	fs_volume_get_info(export->vol, &vi);
	if (name)
		reply_text(hs, option, NBD_INFO_NAME, vi.name);
	if (description && vi.comment[0])
		reply_text(hs, option, NBD_INFO_DESCRIPTION, vi.comment);
}

/* INFO and GO differ in their end only. */
static void opt_info_go(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	uint32_t len = 0;
	const char *name = cursor_string(c, &len);
	uint16_t requests = cursor_u16(c);
	const be16 *asked = cursor_take(c, requests * sizeof(be16));
	struct nbd_export export;
	struct fs_error err;

	if (!cursor_is_done(c)) {
		reply_invalid(hs, option);
		return;
	}
	if (nbd_export_open(&hs->exports, name, len, &export, &err) < 0) {
		if (option == NBD_OPT_GO)
			snprintf(hs->refusal, sizeof(hs->refusal), "%.*s", NBD_REFUSAL_MAX - 1, err.msg);
		reply(hs, option, NBD_REP_ERR_UNKNOWN, err.msg);
		return;
	}
	reply_info(hs, option, &export, option == NBD_OPT_INFO || has_context(hs, name, len));
	reply_asked(hs, option, &export, asked, requests);
	reply(hs, option, NBD_REP_ACK, NULL);
	if (option == NBD_OPT_INFO || hs->state == NBD_HS_CLOSE) {
		nbd_export_close(&export);
		return;
	}
	hs->export = export;
	enter(hs, name, len);
}

static void opt_structured_reply(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	if (c->pos != c->end) {
		reply_invalid(hs, option);
		return;
	}
	if (hs->extended) {
		reply(hs, option, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers were agreed on already");
		return;
	}
	hs->structured = true;
	reply(hs, option, NBD_REP_ACK, NULL);
}

static void opt_extended_headers(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	if (c->pos != c->end) {
		reply_invalid(hs, option);
		return;
	}
	hs->structured = hs->extended = true;
	reply(hs, option, NBD_REP_ACK, NULL);
}

static bool query_matches(uint32_t option, const char *query, uint32_t len)
{
	if (len == strlen(ALLOCATION) && !memcmp(query, ALLOCATION, len))
		return true;
	return option == NBD_OPT_LIST_META_CONTEXT && len == strlen("base:") && !memcmp(query, "base:", len);
}

/*
 * Reads the queries; 1 when base:allocation is meant by one of them (or, listing, by there being none), else
 * 0. -E2BIG: there are too many. A count that the option's length belies is malformed.
 */
static int take_queries(struct cursor *c, uint32_t option)
{
	uint32_t count = cursor_u32(c), len = 0;
	bool found = !count && option == NBD_OPT_LIST_META_CONTEXT;

	if (count > (size_t)(c->end - c->pos) / sizeof(be32))
		c->bad = true;
	if (count > NBD_QUERIES_MAX && !c->bad)
		return -E2BIG;
	for (uint32_t i = 0; i < count && !c->bad; i++) {
		const char *query = cursor_string(c, &len);

		if (query && query_matches(option, query, len))
			found = true;
	}
	return found;
}

static void reply_context(struct nbd_handshake *hs, uint32_t option)
{
	be32 id = cpu_to_be32(option == NBD_OPT_SET_META_CONTEXT ? ALLOCATION_ID : 0);

	reply_head(hs, option, NBD_REP_META_CONTEXT, sizeof(id) + strlen(ALLOCATION));
	put(hs, &id, sizeof(id));
	put(hs, ALLOCATION, strlen(ALLOCATION));
}

static void opt_meta_context(struct nbd_handshake *hs, uint32_t option, struct cursor *c)
{
	uint32_t len = 0;
	const char *name = cursor_string(c, &len);
	int found = take_queries(c, option);
	struct nbd_export export;
	struct fs_error err;

	if (option == NBD_OPT_SET_META_CONTEXT)
		hs->allocation = false;
	if (found == -E2BIG) {
		reply(hs, option, NBD_REP_ERR_TOO_BIG, "there are too many queries");
		return;
	}
	if (!cursor_is_done(c)) {
		reply_invalid(hs, option);
		return;
	}
	if (!hs->structured) {
		reply(hs, option, NBD_REP_ERR_INVALID,
		      "ask for structured replies or extended headers first: metadata comes in those");
		return;
	}
	if (nbd_export_open(&hs->exports, name, len, &export, &err) < 0) {
		reply(hs, option, NBD_REP_ERR_UNKNOWN, err.msg);
		return;
	}
	nbd_export_close(&export);
	if (found)
		reply_context(hs, option);
	if (found && option == NBD_OPT_SET_META_CONTEXT) {
		hs->allocation = true;
		hs->allocation_len = len;
		memcpy(hs->allocation_name, name, len);
	}
	reply(hs, option, NBD_REP_ACK, NULL);
}

static const struct {
	uint32_t option;
	void (*serve)(struct nbd_handshake *hs, uint32_t option, struct cursor *c);
} options[] = {
	{NBD_OPT_EXPORT_NAME, opt_export_name},
	{NBD_OPT_ABORT, opt_abort},
	{NBD_OPT_LIST, opt_list},
	{NBD_OPT_INFO, opt_info_go},
	{NBD_OPT_GO, opt_info_go},
	{NBD_OPT_STRUCTURED_REPLY, opt_structured_reply},
	{NBD_OPT_LIST_META_CONTEXT, opt_meta_context},
	{NBD_OPT_SET_META_CONTEXT, opt_meta_context},
	{NBD_OPT_EXTENDED_HEADERS, opt_extended_headers},
};

static void serve_option(struct nbd_handshake *hs, uint32_t option, const uint8_t *payload, uint32_t len)
{
	struct cursor c = {payload, payload + len, false};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		if (options[i].option == option) {
			options[i].serve(hs, option, &c);
			return;
		}
	}
	reply(hs, option, NBD_REP_ERR_UNSUP, "this server does not know the option");
}

/* ---- the machine ---------------------------------------------------------- */

static size_t take_flags(struct nbd_handshake *hs)
{
	uint32_t flags;

	if (hs->in_len < sizeof(be32))
		return 0;
	flags = be32_to_cpu(*(const be32 *)hs->in);
	if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
		close_with(hs, -EPROTO);
		return sizeof(be32);
	}
	hs->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	hs->state = NBD_HS_OPTION;
	return sizeof(be32);
}

static size_t refuse_long_option(struct nbd_handshake *hs, uint32_t option, uint32_t len)
{
	if (len > NBD_OPTION_SKIP_MAX || option == NBD_OPT_EXPORT_NAME) {
		close_with(hs, -EPROTO);
	} else {
		reply(hs, option, NBD_REP_ERR_TOO_BIG, "the option is too long");
		hs->skip = len;
		if (hs->state != NBD_HS_CLOSE)
			hs->state = NBD_HS_SKIP;
	}
	return sizeof(struct nbd_option);
}

static size_t take_option(struct nbd_handshake *hs)
{
	const struct nbd_option *opt = (const struct nbd_option *)hs->in;
	uint32_t len;

	if (hs->in_len < sizeof(*opt))
		return 0;
	len = be32_to_cpu(opt->len);
	if (be64_to_cpu(opt->magic) != NBD_OPTION_MAGIC) {
		close_with(hs, -EPROTO);
		return sizeof(*opt);
	}
	if (len > NBD_OPTION_MAX)
		return refuse_long_option(hs, be32_to_cpu(opt->option), len);
	if (hs->in_len < sizeof(*opt) + len)
		return 0;
	serve_option(hs, be32_to_cpu(opt->option), hs->in + sizeof(*opt), len);
	return sizeof(*opt) + len;
}

static size_t take_skipped(struct nbd_handshake *hs)
{
	size_t len = min_u64(hs->skip, hs->in_len);

	hs->skip -= len;
	if (!hs->skip)
		hs->state = NBD_HS_OPTION;
	return len;
}

static size_t take_one(struct nbd_handshake *hs)
{
	switch (hs->state) {
	case NBD_HS_FLAGS: return take_flags(hs);
	case NBD_HS_OPTION: return take_option(hs);
	case NBD_HS_SKIP: return take_skipped(hs);
	default: return 0;
	}
}

static void run(struct nbd_handshake *hs)
{
	size_t taken;

	while (hs->out_sent == hs->out_len && (taken = take_one(hs))) {
		hs->in_len -= taken;
		memmove(hs->in, hs->in + taken, hs->in_len);
	}
}

struct nbd_handshake *nbd_handshake_new(const struct nbd_exports *exports, struct budget_account *account)
{
	struct nbd_handshake *hs = mem_alloc(sizeof(*hs));

	if (!hs)
		return NULL;
	memset(hs, 0, offsetof(struct nbd_handshake, allocation_name));
	hs->exports = *exports;
	hs->account = account;
	hs->in_paid = NBD_HANDSHAKE_IN_FREE;
	hs->state = NBD_HS_FLAGS;
	greet(hs);
	if (hs->state == NBD_HS_CLOSE) {
		nbd_handshake_free(hs);
		return NULL;
	}
	return hs;
}

void nbd_handshake_free(struct nbd_handshake *hs)
{
	if (!hs)
		return;
	nbd_export_close(&hs->export);
	free_output(hs);
	if (hs->account)
		budget_give(hs->account, hs->in_paid - NBD_HANDSHAKE_IN_FREE);
	mem_free(hs);
}

size_t nbd_handshake_space(struct nbd_handshake *hs, void **ret_space)
{
	if (hs->out_sent < hs->out_len || hs->state == NBD_HS_DONE || hs->state == NBD_HS_CLOSE)
		return 0;
	*ret_space = hs->in + hs->in_len;
	return hs->in_paid - hs->in_len;
}

void nbd_handshake_received(struct nbd_handshake *hs, size_t len)
{
	ASSERT(len <= hs->in_paid - hs->in_len);
	hs->in_len += len;
	run(hs);
	pay_for_input(hs);
}

size_t nbd_handshake_output(const struct nbd_handshake *hs, const void **ret_data)
{
	*ret_data = hs->out + hs->out_sent;
	return hs->out_len - hs->out_sent;
}

void nbd_handshake_sent(struct nbd_handshake *hs, size_t len)
{
	ASSERT(len <= hs->out_len - hs->out_sent);
	hs->out_sent += len;
	if (hs->out_sent < hs->out_len)
		return;
	hs->out_sent = hs->out_len = 0;
	if (hs->charged)
		free_output(hs);
	run(hs);
	pay_for_input(hs);
}
