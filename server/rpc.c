/* SPDX-License-Identifier: BSD-3-Clause */
/* server/rpc.c: the RPC server: sockets, calls on their way to the engine and back, and the end of it all. */
#include "server/rpc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/core/lock_rank.h"
#include "proto/rpc_status.h"
#include "server/conn_limits.h"
#include "server/figures.h"
#include "server/limits.h"
#include "server/rpc_int.h"

static void *pb_alloc(void *data, size_t size)
{
	return mem_alloc(size);
}

static void pb_free(void *data, void *ptr)
{
	mem_free(ptr);
}

ProtobufCAllocator *rpc_allocator(void)
{
	/* protobuf-c asks for a pointer to non-const, and only reads it. */
	static const ProtobufCAllocator allocator = {.alloc = pb_alloc, .free = pb_free};

	return (ProtobufCAllocator *)&allocator;
}

/* ---- calls ---------------------------------------------------------------- */

int rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *reply)
{
	size_t len = protobuf_c_message_get_packed_size(reply);

	ASSERT(!call->reply);
	if (len > RPC_MESSAGE_MAX)
		return rpc_call_fail(call, -EOVERFLOW, "%s: the answer is too long", call->method->name);

	call->reply = mem_alloc(len + 1); /* an empty message is a reply too */
	if (!call->reply)
		return -ENOMEM;
	protobuf_c_message_pack(reply, call->reply);
	call->reply_len = (uint32_t)len;
	return 0;
}

int rpc_call_fail(struct rpc_call *call, int error, const char *fmt, ...)
{
	va_list ap;

	if (call->err.msg[0])
		return error;
	va_start(ap, fmt);
	vsnprintf(call->err.msg, sizeof(call->err.msg), fmt, ap);
	va_end(ap);
	return error;
}

static void call_free(struct rpc_call *call)
{
	protobuf_c_message_free_unpacked(call->request, rpc_allocator());
	mem_free(call->reply);
	mem_free(call);
}

static void call_end(struct rpc_call *call, int error)
{
	call->error = error;
	if (error)
		rpc_call_fail(call, error, "%s: %s", call->method->name, strerror(-error));
}

/* On the loop, after run: the answer leaves, if anybody still waits for it. */
static void call_complete(struct rpc_call *call)
{
	struct rpc_server *s = call->server;
	void (*after)(struct rpc_server *) = call->error ? NULL : call->method->after;

	s->nr_calls--;
	if (call->method->waits)
		s->nr_running--;
	s->stats.requests++;
	s->stats.errors += call->error != 0;
	rpc_log_call(call);

	if (call->conn)
		rpc_conn_answer(call->conn, call);
	call_free(call);
	if (after)
		after(s);
	if (s->stopping)
		rpc_server_sweep(s);
}

void rpc_call_finish(struct rpc_call *call, int error)
{
	struct rpc_server *s = call->server;
	const uint64_t one = 1;
	ssize_t n;

	call_end(call, error);

	/*
	 * The wake-up is written with the lock held: the loop takes the call only after that, so that
	 * the server cannot be gone under this thread. An eventfd that is full is readable anyway.
	 */
	lock_take(&s->done_lock);
	STAILQ_INSERT_TAIL(&s->done, call, done_entry);
	n = write(s->done_fd, &one, sizeof(one));
	ASSERT(n == sizeof(one) || errno == EAGAIN);
	lock_drop(&s->done_lock);
}

static void call_work(struct fs_work *work)
{
	struct rpc_call *call = container_of(work, struct rpc_call, work);
	int r = call->method->run(call);

	if (r != RPC_LATER) /* else the call may be gone */
		rpc_call_finish(call, r);
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	struct rpc_server *s = arg;
	struct rpc_call_list done = STAILQ_HEAD_INITIALIZER(done);
	struct rpc_call *call;
	uint64_t count;
	ssize_t n;

	n = read(fd, &count, sizeof(count));
	ASSERT(n == sizeof(count) || errno == EAGAIN || errno == EINTR);

	lock_take(&s->done_lock);
	STAILQ_CONCAT(&done, &s->done);
	lock_drop(&s->done_lock);

	share_begin(&s->share, figures_now_us()); /* what is done is answered, whatever it takes */
	while ((call = STAILQ_FIRST(&done))) {
		STAILQ_REMOVE_HEAD(&done, done_entry);
		call_complete(call);
	}
	share_end(&s->share, figures_now_us(), 0);
	if (evtimer_pending(s->retry_ev, NULL)) /* something waits */
		event_active(s->retry_ev, 0, 0);
}

/* ---- calls that wait -------------------------------------------------------- */

static bool may_begin(const struct rpc_call *call)
{
	return rpc_conn_may_begin(call->conn) &&
	       (!call->method->waits || call->server->nr_running < RPC_RUNNING_MAX);
}

static void begin(struct rpc_call *call)
{
	struct rpc_server *s = call->server;

	if (call->method->waits) {
		s->nr_running++;
		fs_work(s->opt.fs, &call->work);
	} else {
		call_end(call, call->method->run(call));
		call_complete(call);
	}
}

void rpc_server_retry_later(struct rpc_server *s)
{
	const struct timeval period = {.tv_usec = RPC_RETRY_MS * 1000};

	if (!evtimer_pending(s->retry_ev, NULL))
		evtimer_add(s->retry_ev, &period);
}

void rpc_server_retry_soon(struct rpc_server *s)
{
	const struct timeval wait = {.tv_usec = SHARE_WAIT_MS * 1000};

	evtimer_add(s->retry_ev, &wait);
}

int rpc_call_new(struct rpc_conn *conn, const struct rpc_method *method, uint64_t id, uint64_t cost,
		 ProtobufCMessage *request)
{
	struct rpc_server *s = conn->server;
	struct rpc_call *call = mem_zalloc(sizeof(*call));

	if (!call)
		return -ENOMEM;

	call->work.fn = call_work;
	call->server = s;
	call->method = method;
	call->id = id;
	call->cost = cost;
	call->request = request;
	call->conn = conn;
	LIST_INSERT_HEAD(&conn->calls, call, conn_entry);
	conn->nr_calls++;
	conn->call_bytes += cost;
	s->nr_calls++;

	if (may_begin(call)) {
		begin(call);
	} else {
		call->waiting = true;
		STAILQ_INSERT_TAIL(&conn->waiting, call, done_entry);
		rpc_server_retry_later(s);
	}
	return 0;
}

/* A call that ends at once may end its connection. */
void rpc_calls_begin(struct rpc_conn *conn)
{
	struct rpc_server *s = conn->server;
	struct rpc_call *call;

	while ((call = STAILQ_FIRST(&conn->waiting)) && may_begin(call)) {
		bool last = conn->nr_calls == 1;

		STAILQ_REMOVE_HEAD(&conn->waiting, done_entry);
		call->waiting = false;
		begin(call);
		if (last)
			return;
	}
	if (call)
		rpc_server_retry_later(s);
}

void rpc_call_drop(struct rpc_call *call)
{
	struct rpc_server *s = call->server;
	struct rpc_conn *conn = call->conn;

	ASSERT(call->waiting);
	STAILQ_REMOVE(&conn->waiting, call, rpc_call, done_entry);
	LIST_REMOVE(call, conn_entry);
	conn->nr_calls--;
	conn->call_bytes -= call->cost;
	s->nr_calls--;
	call_free(call);
	if (s->stopping)
		rpc_server_sweep(s);
}

/* Something has ended, or some time has passed. */
static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct rpc_server *s = arg;
	struct rpc_conn *conn, *next;

	for (conn = TAILQ_FIRST(&s->conns); conn; conn = next) {
		next = TAILQ_NEXT(conn, entry);
		if (conn->held_up)
			rpc_conn_retry(conn);
		else if (!STAILQ_EMPTY(&conn->waiting))
			rpc_calls_begin(conn);
	}
}

/* ---- sockets -------------------------------------------------------------- */

/* One frame without a connection around it; what the socket does not take at once is lost. */
static void turn_away(int fd)
{
	Byre__Error error = BYRE__ERROR__INIT;
	uint8_t buf[RPC_HEADER_LEN + 128];
	struct rpc_header header;
	struct rpc_frame frame = {.kind = RPC_REPLY, .status = rpc_status_from_errno(-EAGAIN)};

	error.text = (char *)"too many connections: try again later";
	frame.message_len = (uint32_t)byre__error__get_packed_size(&error);
	ASSERT(frame.message_len <= sizeof(buf) - RPC_HEADER_LEN);
	rpc_frame_encode(&frame, &header);
	memcpy(buf, &header, sizeof(header));
	byre__error__pack(&error, buf + sizeof(header));

	(void)!send(fd, buf, sizeof(header) + frame.message_len, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

/* See invariant 6. False: all are busy. */
static bool make_place(struct rpc_server *s)
{
	struct rpc_conn *conn;

	TAILQ_FOREACH (conn, &s->conns, entry) {
		if (conn->nr_calls)
			continue;
		rpc_conn_free(conn);
		return true;
	}
	return false;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	struct rpc_server *s = arg;

	if (s->nr_conns >= s->opt.max && !make_place(s))
		turn_away(fd);
	else if (rpc_conn_new(s, fd) == 0)
		s->stats.connections_total++;
}

/*
 * Out of descriptors: as when all places are taken, and accept is tried again at once, since the newcomer
 * still waits. Without anybody who gives way, and without a pause, a process that is out of descriptors would
 * spin here.
 */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
	struct rpc_server *s = arg;
	const struct timeval pause = {.tv_usec = SERVER_ACCEPT_PAUSE_MS * 1000};
	enum accept_failure why = accept_failure(evconnlistener_get_fd(l), errno);

	if (why == ACCEPT_NOBODY || (why == ACCEPT_NO_ROOM && make_place(s)))
		return;
	for (unsigned i = 0; i < s->nr_listeners; i++)
		evconnlistener_disable(s->listeners[i]);
	evtimer_add(s->accept_ev, &pause);
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
	struct rpc_server *s = arg;

	for (unsigned i = 0; i < s->nr_listeners; i++)
		evconnlistener_enable(s->listeners[i]);
}

int rpc_server_listen(struct rpc_server *s, int listen_fd)
{
	const unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC;
	struct evconnlistener *l = NULL;

	ASSERT(!s->stopping);
	if (s->nr_listeners < RPC_LISTENERS_MAX && evutil_make_socket_nonblocking(listen_fd) == 0)
		l = evconnlistener_new(s->base, on_accept, s, flags, -1, listen_fd);
	if (!l) {
		int error = s->nr_listeners < RPC_LISTENERS_MAX ? -errno : -EMFILE;

		close(listen_fd);
		return error ? error : -ENOMEM;
	}

	evconnlistener_set_error_cb(l, on_accept_error);
	s->listeners[s->nr_listeners++] = l;
	return 0;
}

/* ---- the end -------------------------------------------------------------- */

void rpc_server_sweep(struct rpc_server *s)
{
	event_active(s->sweep_ev, 0, 0);
}

static void close_listeners(struct rpc_server *s)
{
	for (unsigned i = 0; i < s->nr_listeners; i++)
		evconnlistener_free(s->listeners[i]);
	s->nr_listeners = 0;
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct rpc_server *s = arg;
	struct rpc_conn *conn, *next;
	void (*drained)(void *) = s->drained;

	for (conn = TAILQ_FIRST(&s->conns); conn; conn = next) {
		next = TAILQ_NEXT(conn, entry);
		if (conn->state == RPC_CONN_OPEN)
			rpc_conn_finish(conn);
	}
	if (s->nr_conns || s->nr_calls || !drained)
		return;

	/*
	 * libevent closes a freed bufferevent's socket by a callback of its own: let those that are queued
	 * run.
	 */
	if (!s->swept) {
		s->swept = true;
		rpc_server_sweep(s);
		return;
	}

	/* Last: `drained` may free the server. */
	s->drained = NULL;
	drained(s->drained_arg);
}

void rpc_server_stop(struct rpc_server *s, void (*drained)(void *arg), void *arg)
{
	ASSERT(!s->stopping);
	s->stopping = true;
	s->drained = drained;
	s->drained_arg = arg;

	evtimer_del(s->accept_ev);
	close_listeners(s);
	rpc_server_sweep(s);
}

void rpc_server_cut(struct rpc_server *s)
{
	struct rpc_conn *conn, *next;

	ASSERT(s->stopping && !s->cut);
	s->cut = true;
	for (conn = TAILQ_FIRST(&s->conns); conn; conn = next) {
		next = TAILQ_NEXT(conn, entry);
		rpc_conn_drop_waiting(conn);
		if (!conn->nr_calls)
			rpc_conn_free(conn);
	}
	rpc_server_sweep(s);
}

static void on_stall(evutil_socket_t fd, short what, void *arg)
{
	struct rpc_server *s = arg;
	unsigned stall_ms = stall_time(s->opt.budget, s->opt.stall_ms);
	uint64_t now = stall_now_ms();
	struct rpc_conn *conn, *next;

	for (conn = TAILQ_FIRST(&s->conns); conn; conn = next) {
		next = TAILQ_NEXT(conn, entry);
		rpc_conn_sweep(conn, now, stall_ms);
	}
}

static void on_shutdown(evutil_socket_t fd, short what, void *arg)
{
	struct rpc_server *s = arg;

	s->opt.shutdown(s->opt.arg);
}

static void free_event(struct event *ev)
{
	if (ev)
		event_free(ev);
}

void rpc_server_free(struct rpc_server *s)
{
	if (!s)
		return;

	ASSERT(s->nr_calls == 0);
	close_listeners(s);
	while (!TAILQ_EMPTY(&s->conns))
		rpc_conn_free(TAILQ_FIRST(&s->conns));
	free_event(s->accept_ev);
	free_event(s->done_ev);
	free_event(s->sweep_ev);
	free_event(s->retry_ev);
	free_event(s->stall_ev);
	free_event(s->shutdown_ev);
	if (s->done_fd >= 0)
		close(s->done_fd);
	lock_fini(&s->done_lock);
	mem_free(s);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int server_init(struct rpc_server *s)
{
	struct timeval period = stall_period(s->opt.stall_ms);

	s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->done_fd < 0)
		return -errno;

	s->done_ev = event_new(s->base, s->done_fd, EV_READ | EV_PERSIST, on_done, s);
	s->accept_ev = evtimer_new(s->base, on_accept_again, s);
	s->stall_ev = event_new(s->base, -1, EV_PERSIST, on_stall, s);
	s->retry_ev = evtimer_new(s->base, on_retry, s);
	s->sweep_ev = evtimer_new(s->base, on_sweep, s);
	s->shutdown_ev = evtimer_new(s->base, on_shutdown, s);
	if (!s->done_ev || !s->accept_ev || !s->sweep_ev || !s->retry_ev || !s->stall_ev || !s->shutdown_ev)
		return -ENOMEM;
	return event_add(s->done_ev, NULL) || event_add(s->stall_ev, &period) ? -ENOMEM : 0;
}

int rpc_server_new(struct event_base *base, const struct rpc_server_options *opt, struct rpc_server **ret)
{
	struct rpc_server *s = mem_zalloc(sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;

	s->base = base;
	s->opt = *opt;
	s->done_fd = -1;
	s->stats.start_ms = now_ms();
	share_init(&s->share, RPC_SHARE, figures_now_us());
	TAILQ_INIT(&s->conns);
	STAILQ_INIT(&s->done);
	lock_init(&s->done_lock, LOCK_RPC_DONE);

	r = server_init(s);
	if (r) {
		rpc_server_free(s);
		return r;
	}
	*ret = s;
	return 0;
}
