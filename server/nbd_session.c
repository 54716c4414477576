/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_session.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "server/nbd_handshake.h"

/* moves[from] has a bit for each state that may follow. */
static const unsigned moves[] = {
	[NBD_HANDSHAKE] = 1u << NBD_TRANSMIT | 1u << NBD_CLOSING | 1u << NBD_BROKEN,
	[NBD_TRANSMIT] = 1u << NBD_CLOSING | 1u << NBD_BROKEN,
	[NBD_CLOSING] = 1u << NBD_BROKEN,
	[NBD_BROKEN] = 0,
};

void nbd_session_move(struct nbd_session *s, enum nbd_session_state to)
{
	ASSERT(moves[s->state] & 1u << to);
	s->state = to;
}

void nbd_env_init(struct nbd_env *env)
{
	buf_pool_init(&env->pool);
	memset(&env->stats, 0, sizeof(env->stats));
	env->bytes = 0;
	env->zero_first = NULL;
	env->zero_tail = &env->zero_first;
	env->zeroing = 0;
	env->zero_running = false;
	env->spare = NULL;
	env->slabs = NULL;
	env->batch_len = 0;
}

void nbd_env_fini(struct nbd_env *env)
{
	ASSERT(!env->bytes && !env->batch_len);
	buf_pool_fini(&env->pool);
	nbd_request_slabs_free(env);
}

struct nbd_session *nbd_session_new(struct nbd_env *env, void *owner)
{
	struct nbd_session *s = mem_zalloc(sizeof(*s));

	if (!s)
		return NULL;
	s->env = env;
	s->owner = owner;
	s->state = NBD_HANDSHAKE;
	s->out_tail = &s->out;
	s->zeros_tail = &s->zeros;
	s->hs = nbd_handshake_new(env->fs);
	if (!s->hs) {
		mem_free(s);
		return NULL;
	}
	return s;
}

void nbd_session_free(struct nbd_session *s)
{
	if (!s)
		return;
	ASSERT(nbd_session_is_over(s));
	nbd_handshake_free(s->hs);
	nbd_export_close(&s->export);
	mem_free(s);
}

static void drop_stalled(struct nbd_session *s)
{
	if (s->stalled)
		rx_buf_put(&s->env->pool, s->stalled);
	s->stalled = NULL;
}

/* Requests whose data is not complete are dropped: the client never gets to know what became of them. */
static void drop_input(struct nbd_session *s)
{
	if (s->filling)
		nbd_request_release(s->filling);
	if (s->refused)
		nbd_request_release(s->refused);
	s->filling = s->refused = NULL;
	s->discard = s->partial_len = 0;
	drop_stalled(s);
}

static void drop_output(struct nbd_session *s)
{
	struct nbd_request *req = s->out, *next;

	for (; req; req = next) {
		next = nbd_request_next(req);
		nbd_request_release(req);
	}
	s->out = NULL;
	s->out_tail = &s->out;
	s->out_sent = 0;
	nbd_handshake_free(s->hs);
	s->hs = NULL;
}

static void set_why(struct nbd_session *s, const char *why)
{
	if (!s->why)
		s->why = why;
}

void nbd_session_drain(struct nbd_session *s, const char *why)
{
	if (s->state == NBD_CLOSING || s->state == NBD_BROKEN)
		return;
	set_why(s, why);
	nbd_session_move(s, NBD_CLOSING);
	drop_input(s);
	s->env->dirty(s);
}

void nbd_session_stop(struct nbd_session *s, const char *why)
{
	nbd_session_drain(s, why);
	nbd_zero_cancel(s);
}

void nbd_session_break(struct nbd_session *s, const char *why)
{
	if (s->state == NBD_BROKEN)
		return;
	set_why(s, why);
	nbd_session_move(s, NBD_BROKEN);
	nbd_zero_cancel(s);
	drop_input(s);
	drop_output(s);
	s->env->dirty(s);
}

bool nbd_session_is_over(const struct nbd_session *s)
{
	const void *data;

	if (s->state != NBD_CLOSING && s->state != NBD_BROKEN)
		return false;
	return !s->under_way && (!s->hs || !nbd_handshake_output(s->hs, &data));
}

bool nbd_session_is_inside_request(const struct nbd_session *s)
{
	return s->state == NBD_TRANSMIT && (s->filling || s->refused || s->partial_len);
}

/* ---- input ---------------------------------------------------------------- */

static int rx_shared(struct nbd_session *s, struct iovec *iov)
{
	struct rx_buf *rx = buf_pool_rx(&s->env->pool);

	if (!rx) {
		nbd_session_break(s, NBD_WHY_MEMORY);
		return 0;
	}
	memcpy(rx->data + rx->used, s->partial, s->partial_len);
	iov->iov_base = rx->data + rx->used + s->partial_len;
	iov->iov_len = NBD_RX_BYTES - rx->used - s->partial_len;
	return 1;
}

int nbd_session_rx(struct nbd_session *s, struct iovec iov[2])
{
	int n = 0;

	if (s->state == NBD_HANDSHAKE) {
		iov->iov_len = nbd_handshake_space(s->hs, &iov->iov_base);
		return iov->iov_len ? 1 : 0;
	}
	if (s->state != NBD_TRANSMIT || s->stalled)
		return 0;
	if (s->filling)
		iov[n++] = nbd_request_space(s->filling, s->filled);
	return rx_shared(s, iov + n) ? n + 1 : 0;
}

/* Keeps what is left of [pos, end): a partial header is copied, input without room holds on to its buffer. */
static void keep_rest(struct nbd_session *s, struct rx_buf *rx, uint32_t pos, uint32_t end)
{
	s->partial_len = 0;
	if (s->state != NBD_TRANSMIT || pos == end)
		return;
	if (end - pos < sizeof(s->partial)) {
		s->partial_len = end - pos;
		memcpy(s->partial, rx->data + pos, s->partial_len);
		return;
	}
	s->stalled = rx_buf_get(rx);
	s->stalled_pos = pos;
	s->stalled_end = end;
}

static void transmit(struct nbd_session *s, struct rx_buf *rx, uint32_t pos, uint32_t end)
{
	uint32_t to = nbd_transmit_input(s, rx, pos, end);

	keep_rest(s, rx, to, end);
}

static void transmit_shared(struct nbd_session *s, size_t len)
{
	struct rx_buf *rx = s->env->pool.rx;
	uint32_t pos, end;

	if (!len)
		return;
	pos = rx->used;
	end = pos + s->partial_len + len;
	ASSERT(end <= NBD_RX_BYTES);
	rx->used = end;
	transmit(s, rx, pos, end);
}

static size_t fill(struct nbd_session *s, size_t len)
{
	struct iovec space = nbd_request_space(s->filling, s->filled);
	size_t n = min_u64(space.iov_len, len);

	s->filled += n;
	if (n == space.iov_len)
		nbd_transmit_filled(s);
	return n;
}

/* The client may have sent requests on the heels of its last option: they go through the receive buffer like others. */
static void begin_transmission(struct nbd_session *s)
{
	struct rx_buf *rx;

	nbd_session_move(s, NBD_TRANSMIT);
	s->export = s->hs->export;
	s->hs->export.vol = NULL;
	s->structured = s->hs->structured;
	s->allocation = s->hs->allocation;
	if (!s->hs->in_len)
		return;
	rx = buf_pool_rx(&s->env->pool);
	if (!rx) {
		nbd_session_break(s, NBD_WHY_MEMORY);
		return;
	}
	memcpy(rx->data + rx->used, s->hs->in, s->hs->in_len);
	transmit_shared(s, s->hs->in_len);
	nbd_transmit_submit(s->env);
}

static_assert(NBD_RX_SPACE_MIN >= sizeof(((struct nbd_handshake *)0)->in), "what follows the handshake fits");

static void handshake_step(struct nbd_session *s)
{
	if (s->hs->state == NBD_HS_DONE)
		begin_transmission(s);
	else if (s->hs->state == NBD_HS_CLOSE && s->hs->error)
		nbd_session_break(s, "it broke the protocol in the handshake");
	else if (s->hs->state == NBD_HS_CLOSE)
		nbd_session_drain(s, NBD_WHY_CLIENT);
	else
		s->env->dirty(s);
}

void nbd_session_received(struct nbd_session *s, size_t len)
{
	if (s->state == NBD_HANDSHAKE) {
		nbd_handshake_received(s->hs, len);
		handshake_step(s);
		return;
	}
	ASSERT(s->state == NBD_TRANSMIT && !s->stalled);
	if (s->filling)
		len -= fill(s, len);
	transmit_shared(s, len);
	nbd_transmit_submit(s->env);
	s->env->dirty(s);
}

bool nbd_session_resume(struct nbd_session *s)
{
	struct rx_buf *rx = s->stalled;
	uint32_t pos = s->stalled_pos;

	if (!rx || s->under_way > NBD_REQUESTS_RESUME || s->bytes > NBD_CONN_BYTES_MAX / 2)
		return false;
	s->stalled = NULL;
	transmit(s, rx, s->stalled_pos, s->stalled_end);
	nbd_transmit_submit(s->env);
	rx_buf_put(&s->env->pool, rx);
	return s->stalled != rx || s->stalled_pos != pos;
}

/* ---- output --------------------------------------------------------------- */

int nbd_session_tx(struct nbd_session *s, struct iovec *iov, int max)
{
	size_t skip = s->out_sent;
	int n = 0;

	if (s->hs) {
		const void *data;

		iov[n].iov_len = nbd_handshake_output(s->hs, &data);
		iov[n].iov_base = (void *)data;
		n += iov[n].iov_len > 0;
	}
	for (struct nbd_request *req = s->out; req && n + 2 <= max; req = nbd_request_next(req)) {
		n += nbd_request_iov(req, skip, iov + n);
		skip = 0;
	}
	return n;
}

static size_t handshake_sent(struct nbd_session *s, size_t len)
{
	const void *data;
	size_t n = min_u64(nbd_handshake_output(s->hs, &data), len);

	if (n)
		nbd_handshake_sent(s->hs, n);
	if (s->state == NBD_HANDSHAKE) {
		handshake_step(s);
	} else if (!nbd_handshake_output(s->hs, &data)) {
		nbd_handshake_free(s->hs);
		s->hs = NULL;
	}
	return n;
}

void nbd_session_sent(struct nbd_session *s, size_t len)
{
	if (s->hs)
		len -= handshake_sent(s, len);
	s->out_sent += len;
	while (s->out && s->out_sent >= nbd_request_reply_bytes(s->out)) {
		struct nbd_request *req = s->out;

		s->out_sent -= nbd_request_reply_bytes(req);
		s->out = nbd_request_next(req);
		if (!s->out)
			s->out_tail = &s->out;
		nbd_request_release(req);
	}
	ASSERT(s->out || !s->out_sent);
}
