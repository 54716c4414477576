/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/rpc_conn.c: one RPC connection: frames in, answers out.
 *
 * Invariants
 * 1. Frames are read only while the connection is OPEN, and either there is memory or it holds next to
 *    nothing: what waits for one client is at most RPC_OUTPUT_HARD, RPC_REQUESTS_MAX calls, and one frame
 *    half read.
 * 2. A frame that breaks the protocol is answered once, with id 0, and nothing follows it.
 */
#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/util.h"
#include "proto/rpc_fields.h"
#include "proto/rpc_status.h"
#include "server/clients.h"
#include "server/figures.h"
#include "server/rpc_int.h"

static void set_state(struct rpc_conn *conn, enum rpc_conn_state to)
{
	static const bool allowed[RPC_CONN_STATES][RPC_CONN_STATES] = {
		[RPC_CONN_OPEN] = {[RPC_CONN_FINISHING] = true, [RPC_CONN_REFUSED] = true},
		[RPC_CONN_FINISHING] = {[RPC_CONN_REFUSED] = true},
	};

	ASSERT(allowed[conn->state][to]);
	conn->state = to;
}

static size_t output_len(const struct rpc_conn *conn)
{
	return evbuffer_get_length(bufferevent_get_output(conn->bev));
}

/* Charges what the connection holds now. */
static void update_charge(struct rpc_conn *conn)
{
	struct budget_account *acct = &conn->account;
	uint64_t holds = evbuffer_get_length(bufferevent_get_input(conn->bev)) +
			 rpc_parser_holds(&conn->parser) + output_len(conn) + conn->call_bytes;

	if (holds > acct->held)
		budget_force(acct, holds - acct->held);
	else
		budget_give(acct, acct->held - holds);
}

bool rpc_conn_may_begin(const struct rpc_conn *conn)
{
	return conn->state != RPC_CONN_REFUSED && output_len(conn) <= RPC_OUTPUT_MAX &&
	       budget_room(&conn->account) > 0;
}

static bool may_read(const struct rpc_conn *conn)
{
	return output_len(conn) <= RPC_OUTPUT_HARD &&
	       (conn->account.held <= RPC_HELD_FREE || budget_room(&conn->account) > 0);
}

void rpc_conn_drop_waiting(struct rpc_conn *conn)
{
	struct rpc_call *call;

	while ((call = STAILQ_FIRST(&conn->waiting)))
		rpc_call_drop(call);
}

static void detach_calls(struct rpc_conn *conn)
{
	struct rpc_call *call;

	rpc_conn_drop_waiting(conn);
	while ((call = LIST_FIRST(&conn->calls))) {
		LIST_REMOVE(call, conn_entry);
		call->conn = NULL;
	}
	conn->nr_calls = 0;
	conn->call_bytes = 0;
}

void rpc_conn_free(struct rpc_conn *conn)
{
	struct rpc_server *s = conn->server;
	int fd = bufferevent_getfd(conn->bev);

	detach_calls(conn);
	TAILQ_REMOVE(&s->conns, conn, entry);
	s->nr_conns--;
	/* Closed here and not by libevent, which does so later: a newcomer may need the descriptor now. */
	bufferevent_disable(conn->bev, EV_READ | EV_WRITE);
	bufferevent_free(conn->bev);
	close(fd);
	budget_give(&conn->account, conn->account.held);
	budget_account_fini(&conn->account);
	rpc_parser_fini(&conn->parser);
	mem_free(conn);
	if (s->stopping)
		rpc_server_sweep(s);
}

/* Ends a connection that has nothing left to do. Nothing may touch it after this. */
static void settle(struct rpc_conn *conn)
{
	const struct timeval last = {.tv_sec = RPC_LAST_MS / 1000, .tv_usec = RPC_LAST_MS % 1000 * 1000};

	if (conn->state != RPC_CONN_FINISHING || conn->nr_calls || output_len(conn))
		return;
	if (!conn->tcp || conn->eof || shutdown(bufferevent_getfd(conn->bev), SHUT_WR) < 0) {
		rpc_conn_free(conn);
		return;
	}
	set_state(conn, RPC_CONN_REFUSED);
	bufferevent_set_timeouts(conn->bev, &last, &last);
	bufferevent_enable(conn->bev, EV_READ);
}

/* A failure to queue is out of memory; the client then sees the connection end. */
static void send_frame(struct rpc_conn *conn, struct rpc_frame *frame)
{
	struct evbuffer *out = bufferevent_get_output(conn->bev);
	struct rpc_header header;

	rpc_frame_encode(frame, &header);
	if (evbuffer_expand(out, sizeof(header) + frame->message_len)) {
		shutdown(bufferevent_getfd(conn->bev), SHUT_RDWR);
		return;
	}
	conn->queued += sizeof(header) + frame->message_len;
	share_charge(&conn->server->share, sizeof(header) + frame->message_len);
	evbuffer_add(out, &header, sizeof(header));
	if (frame->message_len)
		evbuffer_add(out, frame->message, frame->message_len);
}

static void send_error(struct rpc_conn *conn, uint64_t id, int error, const char *text)
{
	Byre__Error msg = BYRE__ERROR__INIT;
	uint8_t buf[sizeof(struct fs_error) + 16];
	struct rpc_frame frame = {.kind = RPC_REPLY, .id = id, .status = rpc_status_from_errno(error)};

	msg.text = (char *)text;
	frame.message_len = (uint32_t)byre__error__get_packed_size(&msg);
	ASSERT(frame.message_len <= sizeof(buf));
	byre__error__pack(&msg, buf);
	frame.message = buf;
	send_frame(conn, &frame);
}

static void refuse(struct rpc_conn *conn, int error, const char *why)
{
	const struct timeval linger = {.tv_sec = RPC_LINGER_MS / 1000,
				       .tv_usec = RPC_LINGER_MS % 1000 * 1000};
	char text[256];

	conn->server->stats.bad_frames++;
	detach_calls(conn);
	set_state(conn, RPC_CONN_REFUSED);
	snprintf(text, sizeof(text), "bad frame: %s; the connection is closed", why);
	send_error(conn, 0, error, text);
	/* Closing with input unread would reset the connection and might take the message with it. */
	bufferevent_set_timeouts(conn->bev, &linger, &linger);
}

void rpc_conn_answer(struct rpc_conn *conn, struct rpc_call *call)
{
	const struct timeval last = {.tv_sec = RPC_LAST_MS / 1000, .tv_usec = RPC_LAST_MS % 1000 * 1000};
	struct rpc_frame frame = {
		.kind = RPC_REPLY,
		.id = call->id,
		.message = call->reply,
		.message_len = call->reply_len,
	};

	LIST_REMOVE(call, conn_entry);
	call->conn = NULL;
	conn->nr_calls--;
	conn->call_bytes -= call->cost;

	if (call->error)
		send_error(conn, call->id, call->error, call->err.msg);
	else
		send_frame(conn, &frame);
	update_charge(conn);
	if (conn->server->cut && !conn->nr_calls)
		bufferevent_set_timeouts(conn->bev, &last, &last);
	/* Frees only a FINISHING connection, and none of those is inside the parser's loop. */
	settle(conn);
}

/* ---- frames in ------------------------------------------------------------ */

static bool id_is_used(const struct rpc_conn *conn, uint64_t id)
{
	const struct rpc_call *call;

	LIST_FOREACH (call, &conn->calls, conn_entry) {
		if (call->id == id)
			return true;
	}
	return false;
}

static void on_request(struct rpc_conn *conn, const struct rpc_frame *f)
{
	const struct rpc_method *method = rpc_method_find(f->method);
	ProtobufCMessage *request;
	char text[96];

	if (id_is_used(conn, f->id)) {
		refuse(conn, -EPROTO, "the request id is in use");
		return;
	}
	if (conn->nr_calls >= RPC_REQUESTS_MAX) {
		send_error(conn, f->id, -EBUSY,
			   "too many requests under way on this connection: wait for an answer");
		return;
	}
	if (!method) {
		snprintf(text, sizeof(text), "method %u is not known to this server", f->method);
		send_error(conn, f->id, -ENOSYS, text);
		return;
	}
	if (f->bulk_len || (f->flags & RPC_MORE)) {
		snprintf(text, sizeof(text), "%s: takes no bulk data", method->name);
		send_error(conn, f->id, -EINVAL, text);
		return;
	}

	if (rpc_fields_count(f->message, f->message_len, RPC_FIELDS_MAX) > (int)RPC_FIELDS_MAX) {
		snprintf(text, sizeof(text), "%s: the message has more than %u fields", method->name,
			 RPC_FIELDS_MAX);
		send_error(conn, f->id, -EINVAL, text);
		return;
	}
	request = protobuf_c_message_unpack(method->request, rpc_allocator(), f->message_len, f->message);
	if (!request) {
		snprintf(text, sizeof(text), "%s: the message cannot be decoded", method->name);
		send_error(conn, f->id, -EINVAL, text);
		return;
	}
	if (rpc_call_new(conn, method, f->id, RPC_CALL_COST + 2 * (uint64_t)f->message_len, request)) {
		protobuf_c_message_free_unpacked(request, rpc_allocator());
		send_error(conn, f->id, -ENOMEM, "the server is out of memory");
	}
}

/* What has begun cannot be stopped; what waits need not begin. */
static void on_cancel(struct rpc_conn *conn, uint64_t id)
{
	struct rpc_call *call;

	STAILQ_FOREACH (call, &conn->waiting, done_entry) {
		if (call->id != id)
			continue;
		rpc_call_drop(call);
		send_error(conn, id, -ECANCELED, "cancelled before it began");
		return;
	}
}

static void on_frame(struct rpc_conn *conn, const struct rpc_frame *f)
{
	switch (f->kind) {
	case RPC_REQUEST: on_request(conn, f); return;
	case RPC_REPLY: refuse(conn, -EPROTO, "replies come from the server"); return;
	case RPC_CANCEL: on_cancel(conn, f->id); return;
	case RPC_DATA:
	/* no method takes or gives bulk data: sent before the client saw its answer */
	case RPC_CREDIT: return;
	}
}

/* False when there is nothing more to parse for now. */
static bool parse_some(struct rpc_conn *conn)
{
	struct evbuffer *in = bufferevent_get_input(conn->bev);
	struct evbuffer_iovec v;
	struct rpc_frame frame;
	size_t used;
	int r;

	if (conn->state != RPC_CONN_OPEN || output_len(conn) > RPC_OUTPUT_HARD)
		return false;
	if (evbuffer_peek(in, -1, NULL, &v, 1) < 1 || !v.iov_len)
		return false;

	r = rpc_parser_feed(&conn->parser, v.iov_base, v.iov_len, &used, &frame);
	if (r < 0) {
		refuse(conn, r, conn->parser.why);
		return false;
	}
	evbuffer_drain(in, used);
	conn->received += used;
	if (r > 0) {
		TAILQ_REMOVE(&conn->server->conns, conn, entry);
		TAILQ_INSERT_TAIL(&conn->server->conns, conn, entry);
		on_frame(conn, &frame);
	}
	return true;
}

static void throw_away_input(struct rpc_conn *conn)
{
	struct evbuffer *in = bufferevent_get_input(conn->bev);
	size_t len = evbuffer_get_length(in);

	evbuffer_drain(in, len);
	conn->received += len;
	conn->lingered_bytes += (uint32_t)len;
	if (conn->lingered_bytes > RPC_LINGER_BYTES)
		rpc_conn_free(conn);
}

/* Reads on, or not, as memory and the client allow. */
static void set_reading(struct rpc_conn *conn)
{
	update_charge(conn);
	if (conn->state != RPC_CONN_OPEN || conn->eof)
		return;
	if (may_read(conn)) {
		conn->held_up = false;
		bufferevent_enable(conn->bev, EV_READ);
	} else {
		conn->held_up = true;
		bufferevent_disable(conn->bev, EV_READ);
		rpc_server_retry_later(conn->server);
	}
}

/* May free the connection. */
static void take_input(struct rpc_conn *conn)
{
	unsigned n = 0;

	while (n < RPC_FRAMES_MAX && parse_some(conn))
		n++;
	if (n == RPC_FRAMES_MAX) /* the rest after others have had their turn */
		bufferevent_trigger(conn->bev, EV_READ,
				    BEV_TRIG_DEFER_CALLBACKS | BEV_TRIG_IGNORE_WATERMARKS);
	if (conn->state == RPC_CONN_OPEN && conn->eof && n < RPC_FRAMES_MAX &&
	    output_len(conn) <= RPC_OUTPUT_HARD) {
		rpc_conn_finish(conn); /* all that came was taken */
		return;
	}
	set_reading(conn);
	if (conn->state == RPC_CONN_REFUSED)
		throw_away_input(conn);
}

static void on_readable(struct bufferevent *bev, void *arg)
{
	struct rpc_conn *conn = arg;
	struct rpc_server *s = conn->server;
	size_t len = evbuffer_get_length(bufferevent_get_input(bev));

	if (!share_begin(&s->share, figures_now_us()) && conn->state == RPC_CONN_OPEN) {
		conn->held_up = true;
		bufferevent_disable(bev, EV_READ);
		rpc_server_retry_soon(s);
		return;
	}
	take_input(conn);
	share_end(&s->share, figures_now_us(), len);
}

void rpc_conn_retry(struct rpc_conn *conn)
{
	if (conn->state == RPC_CONN_OPEN && may_read(conn))
		on_readable(conn->bev, conn);
}

/* ---- the rest of a connection's life -------------------------------------- */

/* All output has left. */
static void on_written(struct bufferevent *bev, void *arg)
{
	struct rpc_conn *conn = arg;

	switch (conn->state) {
	case RPC_CONN_OPEN:
		/* What was read before the client choked raises no event of its own. */
		bufferevent_trigger(bev, EV_READ, BEV_TRIG_DEFER_CALLBACKS | BEV_TRIG_IGNORE_WATERMARKS);
		update_charge(conn);
		rpc_calls_begin(conn);
		return;
	case RPC_CONN_REFUSED: shutdown(bufferevent_getfd(bev), SHUT_WR); return;
	default:
		update_charge(conn);
		if (!STAILQ_EMPTY(&conn->waiting))
			rpc_calls_begin(conn);
		else
			settle(conn);
	}
}

/*
 * An answer to take, the rest of a frame to send, or only to go. A client that is not read for lack of memory
 * owes nothing but the first.
 */
static bool owes(const struct rpc_conn *conn)
{
	return output_len(conn) || conn->state == RPC_CONN_REFUSED ||
	       (conn->state == RPC_CONN_OPEN && !conn->held_up && rpc_parser_is_inside(&conn->parser));
}

void rpc_conn_sweep(struct rpc_conn *conn, uint64_t now_ms, unsigned stall_ms)
{
	uint64_t moved = conn->received + conn->queued - output_len(conn);
	struct log *log = conn->server->opt.log;

	if (!stall_look(&conn->stall, owes(conn), moved, now_ms, stall_ms))
		return;
	if (log)
		log_line(log, LOG_LEVEL_WARNING,
			 "RPC: %s took its answers, or sent the rest of a request, too slowly: cut off",
			 conn->peer);
	rpc_conn_free(conn);
}

void rpc_conn_finish(struct rpc_conn *conn)
{
	set_state(conn, RPC_CONN_FINISHING);
	bufferevent_disable(conn->bev, EV_READ);
	settle(conn);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct rpc_conn *conn = arg;

	/* A client may close its sending side and still wait for answers, to what is not parsed yet, too. */
	if (what & BEV_EVENT_EOF)
		conn->eof = true;
	if ((what & BEV_EVENT_EOF) && conn->state == RPC_CONN_OPEN)
		on_readable(bev, conn);
	else
		rpc_conn_free(conn);
}

static bool is_tcp(int fd)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);

	return !getsockname(fd, (struct sockaddr *)&addr, &len) && addr.ss_family != AF_UNIX;
}

static void set_socket_options(int fd)
{
	const int on = 1;

	/* Best effort: a unix socket has neither. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

int rpc_conn_new(struct rpc_server *s, int fd)
{
	struct rpc_conn *conn = mem_zalloc(sizeof(*conn));

	if (conn)
		conn->bev = bufferevent_socket_new(s->base, fd, 0);
	if (!conn || !conn->bev) {
		mem_free(conn);
		close(fd);
		return -ENOMEM;
	}

	set_socket_options(fd);
	static_assert(RPC_PEER_MAX == CLIENT_PEER_MAX, "one size");
	client_peer(fd, conn->peer);
	conn->server = s;
	conn->state = RPC_CONN_OPEN;
	conn->tcp = is_tcp(fd);
	rpc_parser_init(&conn->parser);
	LIST_INIT(&conn->calls);
	STAILQ_INIT(&conn->waiting);
	budget_account_init(&conn->account, s->opt.budget, NULL);
	TAILQ_INSERT_TAIL(&s->conns, conn, entry);
	s->nr_conns++;

	bufferevent_setcb(conn->bev, on_readable, on_written, on_event, conn);
	bufferevent_setwatermark(conn->bev, EV_READ, 0, RPC_INPUT_MAX);
	bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
	return 0;
}
