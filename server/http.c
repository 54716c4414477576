/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/http.c: HTTP's sockets, and what there is to ask for.
 *
 * 1. There are at most `max` connections. A newcomer takes the place of the oldest: clients for monitoring
 *    send their request at once and are answered at once, so the oldest is one that does neither.
 * 2. All together take their share of the loop's time (server/share.h): when it is used up nothing is
 *    accepted or read for a moment.
 * 3. A connection has HTTP_TIMEOUT_S for everything. Its answer is charged to the budget until it is gone;
 *    one that finds no room is 503.
 */
#include "server/http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event_struct.h>
#include <event2/listener.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "server/conn_limits.h"
#include "server/figures.h"
#include "server/http_session.h"
#include "server/metrics.h"
#include "server/share.h"

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct http_conn {
	struct http_server *server;
	TAILQ_ENTRY(http_conn) entry;
	int fd;
	bool held_up; /* for lack of time */
	bool last;    /* the answer is out: what still comes is thrown away until the client closes */
	struct event ev, timer;
	struct budget_account account;
	struct http_session session;
};

struct http_server {
	struct event_base *base;
	struct http_server_options opt;
	struct addr addr;
	struct evconnlistener *listener;
	struct event *retry;	       /* accepting goes on after a failure */
	TAILQ_HEAD(, http_conn) conns; /* the oldest first */
	unsigned count;
	struct share share;
};

/* ---- what there is ---------------------------------------------------------- */

static void get_metrics(struct http_server *h, struct http_answer *a)
{
	struct client_list *clients = h->opt.workers[0].clients; /* all workers' */
	struct metrics_nbd nbd = {0};
	struct fs_info info;
	int r;

	fs_get_info(h->opt.fs, &info);
	for (unsigned i = 0; i < h->opt.worker_count; i++)
		metrics_add(&nbd, &h->opt.workers[i].env.stats);
	r = metrics_write(a->body, &info, &nbd);
	if (!r && clients)
		r = metrics_write_clients(a->body, h->opt.fs, clients);
	a->status = r ? 500 : 200;
	a->type = METRICS_TYPE;
}

static void get_health(struct http_server *h, struct http_answer *a)
{
	struct fs_info info;

	fs_get_info(h->opt.fs, &info);
	evbuffer_add_printf(a->body, info.read_only ? "read-only\n" : "ok\n");
	a->status = info.read_only ? 503 : 200;
}

static const struct {
	const char *path;
	void (*get)(struct http_server *h, struct http_answer *a);
} paths[] = {
	{"/metrics", get_metrics},
	{"/healthz", get_health},
};

static void handle(void *arg, const char *path, struct http_answer *a)
{
	struct http_conn *conn = arg;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (strcmp(path, paths[i].path))
			continue;
		paths[i].get(conn->server, a);
		if (budget_take(&conn->account, evbuffer_get_length(a->body)))
			return;
		evbuffer_drain(a->body, evbuffer_get_length(a->body));
		a->status = 503;
	}
}

/* ---- connections -------------------------------------------------------------- */

static void conn_free(struct http_conn *conn)
{
	struct http_server *h = conn->server;

	event_del(&conn->ev);
	event_del(&conn->timer);
	close(conn->fd);
	http_session_fini(&conn->session);
	budget_give(&conn->account, conn->account.held);
	budget_account_fini(&conn->account);
	TAILQ_REMOVE(&h->conns, conn, entry);
	h->count--;
	mem_free(conn);
}

static void watch(struct http_conn *conn, short what);

/* Closing with input unread would reset the connection, and might take the answer with it. */
static void say_last(struct http_conn *conn)
{
	const struct timeval last = {.tv_sec = HTTP_LAST_MS / 1000, .tv_usec = HTTP_LAST_MS % 1000 * 1000};

	conn->last = true;
	if (shutdown(conn->fd, SHUT_WR) < 0) {
		conn_free(conn);
		return;
	}
	event_add(&conn->timer, &last);
	watch(conn, EV_READ);
}

static void send_answer(struct http_conn *conn)
{
	struct evbuffer *out = conn->session.out;

	while (evbuffer_get_length(out)) {
		int n = evbuffer_write(out, conn->fd);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0 && errno != EINTR) {
			conn_free(conn);
			return;
		}
	}
	say_last(conn);
}

static void receive(struct http_conn *conn)
{
	char waste[4096];
	void *space = waste;
	size_t len = conn->last ? sizeof(waste) : http_session_space(&conn->session, &space);
	ssize_t n = read(conn->fd, space, len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_free(conn);
		return;
	}
	if (conn->last)
		return;
	if (http_session_received(&conn->session, n) < 0) {
		conn_free(conn);
	} else if (conn->session.out) {
		watch(conn, EV_WRITE);
		send_answer(conn);
	}
}

static void pause_accepting(struct http_server *h, unsigned ms)
{
	const struct timeval pause = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	evconnlistener_disable(h->listener);
	event_add(h->retry, &pause);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct http_conn *conn = arg;
	struct http_server *h = conn->server;

	if (!share_begin(&h->share, figures_now_us())) {
		conn->held_up = true;
		event_del(&conn->ev);
		pause_accepting(h, SHARE_WAIT_MS);
		return;
	}
	if (what & EV_WRITE)
		send_answer(conn);
	else
		receive(conn);
	share_end(&h->share, figures_now_us(), 0);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	conn_free(arg);
}

static void watch(struct http_conn *conn, short what)
{
	event_del(&conn->ev);
	event_assign(&conn->ev, conn->server->base, conn->fd, what | EV_PERSIST, on_ready, conn);
	event_add(&conn->ev, NULL);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	const struct timeval timeout = {.tv_sec = HTTP_TIMEOUT_S};
	struct http_server *h = arg;
	struct http_conn *conn;

	if (h->count >= h->opt.max)
		conn_free(TAILQ_FIRST(&h->conns));
	conn = mem_alloc(sizeof(*conn));
	if (!conn) {
		close(fd);
		return;
	}
	conn->server = h;
	conn->fd = fd;
	conn->last = conn->held_up = false;
	budget_account_init(&conn->account, h->opt.budget, NULL);
	http_session_init(&conn->session, handle, conn);
	TAILQ_INSERT_TAIL(&h->conns, conn, entry);
	h->count++;
	evtimer_assign(&conn->timer, h->base, on_timeout, conn);
	event_add(&conn->timer, &timeout);
	event_assign(&conn->ev, h->base, fd, EV_READ | EV_PERSIST, on_ready, conn);
	event_add(&conn->ev, NULL);
}

/*
 * Out of descriptors: the oldest gives way, and accept is tried again at once. Where there is none, the
 * listening socket stays readable, and without a pause the loop would spin.
 */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
	struct http_server *h = arg;
	enum accept_failure why = accept_failure(evconnlistener_get_fd(l), errno);

	if (why == ACCEPT_NO_ROOM && h->count)
		conn_free(TAILQ_FIRST(&h->conns));
	else if (why != ACCEPT_NOBODY)
		pause_accepting(h, SERVER_ACCEPT_PAUSE_MS);
}
static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct http_server *h = arg;
	struct http_conn *conn;

	evconnlistener_enable(h->listener);
	TAILQ_FOREACH (conn, &h->conns, entry) {
		if (conn->held_up)
			event_add(&conn->ev, NULL);
		conn->held_up = false;
	}
}

/* ---- the server ---------------------------------------------------------------- */

static int listen_on(struct http_server *h)
{
	const unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC;
	int fd, r = addr_listen_as(&h->addr, h->opt.access, &fd);

	if (r < 0)
		return r;
	h->listener = evconnlistener_new(h->base, on_accept, h, flags, 0, fd);
	if (!h->listener) {
		close(fd);
		addr_unlink(&h->addr);
		return -ENOMEM;
	}
	evconnlistener_set_error_cb(h->listener, on_accept_error);
	return 0;
}

int http_server_new(struct event_base *base, const struct addr *addr, const struct http_server_options *opt,
		    struct http_server **ret_http)
{
	struct http_server *h = mem_zalloc(sizeof(*h));
	int r = -ENOMEM;

	if (!h)
		return r;
	ASSERT(opt->max >= 1);
	h->base = base;
	h->opt = *opt;
	share_init(&h->share, HTTP_SHARE, figures_now_us());
	h->addr = *addr;
	TAILQ_INIT(&h->conns);
	h->retry = evtimer_new(base, on_retry, h);
	if (h->retry)
		r = listen_on(h);
	if (r < 0) {
		if (h->retry)
			event_free(h->retry);
		mem_free(h);
		return r;
	}
	*ret_http = h;
	return 0;
}

void http_server_free(struct http_server *h)
{
	if (!h)
		return;
	addr_unlink(&h->addr);
	evconnlistener_free(h->listener);
	event_free(h->retry);
	while (!TAILQ_EMPTY(&h->conns))
		conn_free(TAILQ_FIRST(&h->conns));
	mem_free(h);
}
