/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"

#define SLAB_REQUESTS 64

struct nbd_request_slab {
	struct nbd_request_slab *next;
	struct nbd_request requests[SLAB_REQUESTS];
};

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	/* One writer: no need for a locked instruction. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* ---- requests ------------------------------------------------------------- */

static bool grow_slabs(struct nbd_env *env)
{
	struct nbd_request_slab *slab = mem_alloc(sizeof(*slab));

	if (!slab)
		return false;
	slab->next = env->slabs;
	env->slabs = slab;
	for (int i = 0; i < SLAB_REQUESTS; i++) {
		slab->requests[i].next = env->spare;
		env->spare = &slab->requests[i];
	}
	return true;
}

void nbd_request_slabs_free(struct nbd_env *env)
{
	struct nbd_request_slab *slab = env->slabs, *next;

	for (; slab; slab = next) {
		next = slab->next;
		mem_free(slab);
	}
	env->slabs = NULL;
	env->spare = NULL;
}

bool nbd_request_has_place(const struct nbd_session *s)
{
	return s->under_way < NBD_REQUESTS_MAX && s->under_way + s->env->requests < s->env->requests_max;
}

struct nbd_request *nbd_request_new(struct nbd_session *s, const struct nbd_header *h)
{
	struct nbd_request *req = s->env->spare;

	if (!req) {
		if (!grow_slabs(s->env))
			return NULL;
		req = s->env->spare;
	}
	s->env->spare = req->next;
	memset(req, 0, offsetof(struct nbd_request, start_us));
	req->session = s;
	req->start_us = s->figures ? figures_now_us() : 0;
	req->cookie = h->cookie;
	req->command = h->type;
	req->flags = h->flags;
	req->off = h->off;
	req->range = h->len;
	req->io.vol = s->export.vol;
	req->io.off = h->off;
	req->io.len = h->len;
	s->under_way++;
	s->env->requests++;
	return req;
}

void nbd_request_charge(struct nbd_request *req, uint32_t len)
{
	req->len = len;
	req->session->bytes += len;
	req->session->env->bytes += len;
}

static void release_data(struct nbd_request *req)
{
	struct nbd_session *s = req->session;
	struct buf_pool *pool = &s->env->pool;

	if (req->rx)
		rx_buf_put(pool, req->rx);
	if (req->dropped)
		buf_pool_unmap(req->buf, req->buf_len);
	else if (req->buf)
		buf_pool_put(pool, req->buf, req->buf_len);
	budget_give(&s->account, req->taken);
	if (req->reserve) {
		s->reserve_used = false;
		budget_leave(&s->account);
	}
	req->rx = NULL;
	req->buf = NULL;
	req->body_len = 0;
	req->taken = req->dropped = 0;
	req->reserve = false;
}

void nbd_request_sent(struct nbd_request *req, size_t sent)
{
	uint32_t to;

	if (!req->buf || req->buf_len <= NBD_GRANT_STEP || sent <= req->head_len ||
	    !budget_is_short(req->session->env->budget))
		return;
	to = round_down_u64(sent - req->head_len, NBD_GRANT_STEP);
	if (to <= req->dropped)
		return;
	buf_pool_drop(req->buf, req->dropped, to);
	if (req->taken) {
		budget_give(&req->session->account, to - req->dropped);
		req->taken -= to - req->dropped;
	}
	req->dropped = to;
}

void nbd_request_release(struct nbd_request *req)
{
	struct nbd_session *s = req->session;

	release_data(req);
	s->bytes -= req->len;
	s->env->bytes -= req->len;
	ASSERT(s->under_way > 0);
	s->under_way--;
	s->env->requests--;
	req->next = s->env->spare;
	s->env->spare = req;
	if (s->env->nr_waiters)
		budget_member_wake(&s->env->member);
}

bool nbd_request_own_buffer(struct nbd_request *req, uint32_t len)
{
	req->buf = buf_pool_get(&req->session->env->pool, len);
	req->buf_len = len;
	return req->buf;
}

struct nbd_request *nbd_request_next(const struct nbd_request *req)
{
	return req->next;
}

size_t nbd_request_reply_bytes(const struct nbd_request *req)
{
	return (size_t)req->head_len + req->body_len;
}

struct iovec nbd_request_space(const struct nbd_request *req, uint32_t filled)
{
	return (struct iovec){(uint8_t *)req->buf + filled, req->granted - filled};
}

int nbd_request_iov(const struct nbd_request *req, size_t skip, struct iovec iov[2])
{
	int n = 0;

	if (skip < req->head_len)
		iov[n++] = (struct iovec){(void *)(req->head + skip), req->head_len - skip};
	skip = skip > req->head_len ? skip - req->head_len : 0;
	if (skip < req->body_len)
		iov[n++] = (struct iovec){(uint8_t *)req->buf + skip, req->body_len - skip};
	return n;
}

/* ---- replies -------------------------------------------------------------- */

static void simple_head(struct nbd_request *req, int error)
{
	struct nbd_simple_reply rep = {
		.magic = cpu_to_be32(NBD_SIMPLE_REPLY_MAGIC),
		.error = cpu_to_be32(nbd_error(error)),
		.cookie = req->cookie,
	};

	memcpy(req->head, &rep, sizeof(rep));
	req->head_len = sizeof(rep);
}

static void put(struct nbd_request *req, const void *data, size_t len)
{
	memcpy(req->head + req->head_len, data, len);
	req->head_len += len;
}

/* The header of a reply's one chunk, with `len` bytes to follow. */
static void put_chunk(struct nbd_request *req, uint16_t type, uint32_t len)
{
	req->head_len = 0;
	if (req->session->extended)
		put(req,
		    &(struct nbd_extended_chunk){
			    .magic = cpu_to_be32(NBD_EXTENDED_REPLY_MAGIC),
			    .flags = cpu_to_be16(NBD_CHUNK_DONE),
			    .type = cpu_to_be16(type),
			    .cookie = req->cookie,
			    .off = cpu_to_be64(req->off),
			    .len = cpu_to_be64(len),
		    },
		    sizeof(struct nbd_extended_chunk));
	else
		put(req,
		    &(struct nbd_chunk){
			    .magic = cpu_to_be32(NBD_STRUCTURED_REPLY_MAGIC),
			    .flags = cpu_to_be16(NBD_CHUNK_DONE),
			    .type = cpu_to_be16(type),
			    .cookie = req->cookie,
			    .len = cpu_to_be32(len),
		    },
		    sizeof(struct nbd_chunk));
}

static const char *command_name(uint16_t command)
{
	static const char *const names[] = {
		[NBD_CMD_READ] = "READ",
		[NBD_CMD_WRITE] = "WRITE",
		[NBD_CMD_FLUSH] = "FLUSH",
		[NBD_CMD_TRIM] = "TRIM",
		[NBD_CMD_CACHE] = "CACHE",
		[NBD_CMD_WRITE_ZEROES] = "WRITE_ZEROES",
		[NBD_CMD_BLOCK_STATUS] = "BLOCK_STATUS",
	};

	return command < ARRAY_SIZE(names) && names[command] ? names[command] : "unknown command";
}

static const char *error_reason(int error)
{
	switch (-error) {
	case EIO: return "the data is damaged, or the pool's device failed";
	case ENOSPC: return "no space is left in the pool";
	case EROFS: return "the volume or the pool is read-only";
	case ENOMEM: return "the server is short of memory";
	case ENOENT: return "the volume was deleted";
	case ESHUTDOWN: return "the server stops";
	default: return strerror(-error);
	}
}

/* One line for people. A long name is cut: the reason is worth more. */
static size_t error_text(const struct nbd_request *req, int error, char text[NBD_ERROR_TEXT_MAX])
{
	struct fs_volume_info vi;
	int n;

	fs_volume_get_info(req->io.vol, &vi);
	n = snprintf(text, NBD_ERROR_TEXT_MAX, "%s of %" PRIu64 " bytes at %" PRIu64 " of '%.60s': %s",
		     command_name(req->command), req->range, req->off, vi.name,
		     req->why ? req->why : error_reason(error));
	return min_u64(n, NBD_ERROR_TEXT_MAX - 1);
}

static void error_head(struct nbd_request *req, int error)
{
	char text[NBD_ERROR_TEXT_MAX];
	size_t len = error_text(req, error, text);
	struct nbd_chunk_error rep = {
		.error = cpu_to_be32(nbd_error(error)),
		.msg_len = cpu_to_be16(len),
	};

	put_chunk(req, NBD_CHUNK_ERROR, sizeof(rep) + len);
	put(req, &rep, sizeof(rep));
	put(req, text, len);
}

static void data_head(struct nbd_request *req)
{
	struct nbd_chunk_data rep = {.off = cpu_to_be64(req->off)};

	put_chunk(req, NBD_CHUNK_OFFSET_DATA, sizeof(rep) + req->body_len);
	put(req, &rep, sizeof(rep));
}

static void status_head(struct nbd_request *req)
{
	be32 context = cpu_to_be32(NBD_ALLOCATION_ID), count = cpu_to_be32(req->extents);

	if (req->session->extended) {
		put_chunk(req, NBD_CHUNK_BLOCK_STATUS_EXT, sizeof(context) + sizeof(count) + req->body_len);
		put(req, &context, sizeof(context));
		put(req, &count, sizeof(count));
	} else {
		put_chunk(req, NBD_CHUNK_BLOCK_STATUS, sizeof(context) + req->body_len);
		put(req, &context, sizeof(context));
	}
}

/*
 * Extended sessions know no simple replies. In structured ones they do where all went well and there is no
 * data.
 */
static void make_head(struct nbd_request *req, int error)
{
	const struct nbd_session *s = req->session;
	bool has_chunks = req->command == NBD_CMD_READ || req->command == NBD_CMD_BLOCK_STATUS;

	if (!s->structured || (!s->extended && !error && !has_chunks))
		simple_head(req, error);
	else if (error)
		error_head(req, error);
	else if (!req->body_len)
		put_chunk(req, NBD_CHUNK_NONE, 0);
	else if (req->command == NBD_CMD_READ)
		data_head(req);
	else
		status_head(req);
}

static enum figures_kind kind_of(uint16_t command)
{
	switch (command) {
	case NBD_CMD_READ: return FIGURES_READ;
	case NBD_CMD_WRITE: return FIGURES_WRITE;
	case NBD_CMD_FLUSH: return FIGURES_FLUSH;
	case NBD_CMD_TRIM:
	case NBD_CMD_WRITE_ZEROES: return FIGURES_FREE;
	default: return FIGURES_OTHER;
	}
}

static void count_figures(const struct nbd_request *req, int error)
{
	enum figures_kind kind = kind_of(req->command);
	uint64_t bytes = error || kind == FIGURES_FLUSH || kind == FIGURES_OTHER ? 0 : req->io.len;

	figures_add(req->session->figures, kind, bytes, figures_now_us() - req->start_us, error);
}

static void count_reply(struct nbd_stats *st, const struct nbd_request *req, int error)
{
	if (error)
		count(&st->errors, 1);
	switch (req->command) {
	case NBD_CMD_READ:
		count(&st->reads, 1);
		count(&st->read_bytes, req->body_len);
		break;
	case NBD_CMD_WRITE:
		count(&st->writes, 1);
		count(&st->written_bytes, error ? 0 : req->io.len);
		break;
	case NBD_CMD_FLUSH: count(&st->flushes, 1); break;
	default: count(&st->others, 1);
	}
}

void nbd_request_finish(struct nbd_request *req, int error)
{
	struct nbd_session *s = req->session;

	if (error || (req->command != NBD_CMD_READ && req->command != NBD_CMD_BLOCK_STATUS))
		release_data(req);
	count_reply(&s->env->stats, req, error);
	if (s->figures)
		count_figures(req, error);
	if (s->state == NBD_BROKEN) {
		nbd_request_release(req);
	} else {
		make_head(req, error);
		req->next = NULL;
		*s->out_tail = req;
		s->out_tail = &req->next;
	}
	s->env->dirty(s);
}
