/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_session.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "server/nbd_handshake.h"
#include "server/nbd_request.h"

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
	ASSERT(env->budget && env->requests_max >= 2);
	buf_pool_init(&env->pool, env->budget, &env->member, env->rx_max, env->spare_max);
	env->requests = env->nr_waiters = 0;
	TAILQ_INIT(&env->waiters);
	memset(&env->stats, 0, sizeof(env->stats));
	env->bytes = 0;
	env->piece_first = NULL;
	env->piece_tail = &env->piece_first;
	env->pieces = 0;
	env->piece_running = false;
	share_init(&env->piece_share, NBD_PIECE_SHARE, figures_now_us());
	env->spare = NULL;
	env->slabs = NULL;
	env->batch_len = 0;
}

void nbd_env_fini(struct nbd_env *env)
{
	ASSERT(!env->bytes && !env->batch_len && !env->requests && !env->nr_waiters);
	buf_pool_fini(&env->pool);
	nbd_request_slabs_free(env);
}

static void wait_no_more(struct nbd_session *s)
{
	if (!s->waiting)
		return;
	s->waiting = false;
	TAILQ_REMOVE(&s->env->waiters, s, wait_entry);
	s->env->nr_waiters--;
}

void nbd_env_wake(struct nbd_env *env, unsigned max)
{
	struct nbd_session *s = TAILQ_FIRST(&env->waiters), *next;
	unsigned n = 0;

	for (; s; s = next) {
		next = TAILQ_NEXT(s, wait_entry);
		if (n >= max && atomic_load(&s->account.reserve) != BUDGET_GRANTED)
			continue;
		n++;
		wait_no_more(s);
		env->dirty(s);
	}
	if (env->nr_waiters)
		budget_member_wait(&env->member);
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
	s->long_tail = &s->long_requests;
	budget_account_init(&s->account, env->budget, &env->member);
	s->hs = nbd_handshake_new(&(struct nbd_exports){env->fs, env->default_export}, &s->account);
	if (!s->hs) {
		mem_free(s);
		return NULL;
	}
	budget_enter(env->budget, NBD_HANDSHAKE_COST);
	return s;
}

static void free_handshake(struct nbd_session *s)
{
	if (!s->hs)
		return;
	nbd_handshake_free(s->hs);
	s->hs = NULL;
	budget_exit(s->env->budget, NBD_HANDSHAKE_COST - NBD_SESSION_COST);
}

void nbd_session_free(struct nbd_session *s)
{
	if (!s)
		return;
	ASSERT(nbd_session_is_over(s));
	free_handshake(s);
	nbd_export_close(&s->export);
	wait_no_more(s);
	budget_exit(s->env->budget, NBD_SESSION_COST);
	budget_account_fini(&s->account);
	mem_free(s);
}

static void drop_stalled(struct nbd_session *s)
{
	if (!s->stalled)
		return;
	mem_free(s->stalled);
	s->stalled = NULL;
	budget_give(&s->account, s->stalled_end);
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
	wait_no_more(s);
	if (!s->reserve_used)
		budget_leave(&s->account);
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
	free_handshake(s);
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
	nbd_piece_cancel(s);
}

void nbd_session_break(struct nbd_session *s, const char *why)
{
	if (s->state == NBD_BROKEN)
		return;
	set_why(s, why);
	nbd_session_move(s, NBD_BROKEN);
	nbd_piece_cancel(s);
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
	iov->iov_len = min_u64(NBD_RX_BYTES - rx->used - s->partial_len,
			       max_u64(budget_room(&s->account), NBD_RX_FAIR_MIN));
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
	if (s->filling) {
		if (!nbd_transmit_grow(s))
			return 0;
		iov[n++] = nbd_request_space(s->filling, s->filled);
		if (s->filling->granted < s->filling->io.len)
			return n;
	}
	return rx_shared(s, iov + n) ? n + 1 : 0;
}

/* Input that waits is copied: a connection that waits for long must not hold a receive buffer. */
static void stall(struct nbd_session *s, const struct nbd_input *in)
{
	uint32_t len = in->end - in->pos;

	s->stalled = mem_alloc(len);
	if (!s->stalled) {
		nbd_session_break(s, NBD_WHY_MEMORY);
		return;
	}
	memcpy(s->stalled, in->data + in->pos, len);
	s->stalled_pos = 0;
	s->stalled_end = len;
	budget_force(&s->account, len);
}

/* Keeps what is left: a partial header in the session, input without room as stalled. */
static void keep_rest(struct nbd_session *s, const struct nbd_input *in)
{
	uint32_t left = in->end - in->pos;

	s->partial_len = 0;
	if (s->state != NBD_TRANSMIT)
		return;
	if (!nbd_transmit_is_whole(s, in)) {
		ASSERT(left < sizeof(s->partial));
		s->partial_len = left;
		memcpy(s->partial, in->data + in->pos, left);
	} else if (!s->stalled) {
		stall(s, in);
	}
}

static void transmit_shared(struct nbd_session *s, size_t len)
{
	struct rx_buf *rx = s->env->pool.rx;
	struct nbd_input in = {.rx = rx};

	if (!len)
		return;
	in.data = rx->data;
	in.pos = rx->used;
	in.end = in.pos + s->partial_len + len;
	ASSERT(in.end <= NBD_RX_BYTES);
	rx->used = in.end;
	nbd_transmit_input(s, &in);
	keep_rest(s, &in);
}

static size_t fill(struct nbd_session *s, size_t len)
{
	struct iovec space = nbd_request_space(s->filling, s->filled);
	size_t n = min_u64(space.iov_len, len);

	s->filled += n;
	if (s->filled == s->filling->io.len)
		nbd_transmit_filled(s);
	return n;
}

/*
 * The client may have sent requests on the heels of its last option: they go through the receive buffer like
 * others.
 */
static void begin_transmission(struct nbd_session *s)
{
	struct rx_buf *rx;

	nbd_session_move(s, NBD_TRANSMIT);
	s->export = s->hs->export;
	s->hs->export.vol = NULL;
	s->structured = s->hs->structured;
	s->extended = s->hs->extended;
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
	memcpy(s->refusal, s->hs->refusal, sizeof(s->refusal));
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
	struct nbd_input in = {.data = s->stalled, .pos = s->stalled_pos, .end = s->stalled_end};

	if (!s->stalled || s->under_way > NBD_REQUESTS_RESUME || s->bytes > NBD_CONN_BYTES_MAX / 2)
		return false;
	nbd_transmit_input(s, &in);
	nbd_transmit_submit(s->env);
	if (!s->stalled) /* the session has ended meanwhile */
		return true;
	if (in.pos == s->stalled_pos)
		return false;
	s->stalled_pos = in.pos;
	keep_rest(s, &in);
	if (!nbd_transmit_is_whole(s, &in))
		drop_stalled(s);
	return true;
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
		free_handshake(s);
	}
	return n;
}

void nbd_session_sent(struct nbd_session *s, size_t len)
{
	if (s->hs)
		len -= handshake_sent(s, len);
	s->out_sent += len;
	if (s->out)
		nbd_request_sent(s->out, min_u64(s->out_sent, nbd_request_reply_bytes(s->out)));
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
