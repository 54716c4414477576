/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_conn.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"

struct nbd_conn {
	struct nbd_worker *worker;
	struct nbd_session *session;
	struct nbd_conn *next, **pprev; /* in worker->conns */
	struct nbd_conn *dirty_next;
	bool is_dirty;
	bool reading, writing, timed; /* the events are added */
	bool tcp, eof;		      /* eof: the client sends no more */
	int fd;
	uint64_t moved;		 /* bytes, both ways */
	uint64_t owes_ms;	 /* since when the client owes something; 0: it does not */
	uint64_t owes_moved;	 /* `moved` then */
	int unsent;		 /* lingering: what the kernel has not got rid of */
	struct event read_event, write_event, timer;
	struct task adopt_task;
	struct client client; /* listed when the worker has a list, while there is a session */
	bool listed;
	atomic_bool dropped;  /* asked for: see drop */
};

static void on_dirty(struct nbd_session *s)
{
	struct nbd_conn *conn = s->owner;
	struct nbd_worker *w = conn->worker;

	if (conn->is_dirty)
		return;
	conn->is_dirty = true;
	conn->dirty_next = NULL;
	*w->dirty_tail = conn;
	w->dirty_tail = &conn->dirty_next;
}

static void on_post(struct nbd_env *env, struct task *task)
{
	loop_post(container_of(env, struct nbd_worker, env)->loop, task);
}

/* ---- sockets -------------------------------------------------------------- */

static void want_read(struct nbd_conn *conn, bool want)
{
	if (conn->reading == want)
		return;
	conn->reading = want;
	if (want)
		event_add(&conn->read_event, NULL);
	else
		event_del(&conn->read_event);
}

/* A client that is being let go, and takes nothing for a while, is cut off. Each bit of progress starts the time anew. */
static void want_write(struct nbd_conn *conn, bool want)
{
	bool closing = conn->session && conn->session->state == NBD_CLOSING;
	const struct timeval *timeout = closing ? &conn->worker->linger_timeout : NULL;

	if (conn->writing && (!want || timeout)) {
		event_del(&conn->write_event);
		conn->writing = false;
	}
	if (want && !conn->writing) {
		event_add(&conn->write_event, timeout);
		conn->writing = true;
	}
}

/* Sends what there is until the socket is full. False when it is. */
static bool send_replies(struct nbd_conn *conn)
{
	struct iovec iov[NBD_TX_IOV];
	struct msghdr msg = {.msg_iov = iov};
	ssize_t n;

	while ((n = nbd_session_tx(conn->session, iov, NBD_TX_IOV))) {
		msg.msg_iovlen = n;
		n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			conn->moved += n;
			nbd_session_sent(conn->session, n);
		} else if (errno == EAGAIN) {
			return false;
		} else if (errno != EINTR) {
			nbd_session_break(conn->session, strerror(errno));
		}
	}
	return true;
}

/* The list and the log learn that it is over; the session is still there, if there was one. */
static void unlist(struct nbd_conn *conn)
{
	const struct nbd_session *s = conn->session;
	struct nbd_worker *w = conn->worker;
	struct fs_volume_info info;

	if (!conn->listed)
		return;
	if (s->export.vol) {
		fs_volume_get_info(s->export.vol, &info);
		nbd_log_disconnect(&w->log, &conn->client, info.name, s->why, !strcmp(s->why, NBD_WHY_SLOW));
	} else if (s->refusal[0] || strcmp(s->why, NBD_WHY_CLIENT) != 0) { /* others only asked what there is */
		nbd_log_refused(&w->log, &conn->client, s->refusal, s->why);
	}
	client_leave(w->clients, &conn->client);
	conn->listed = false;
}

static void conn_free(struct nbd_conn *conn)
{
	struct nbd_worker *w = conn->worker;

	event_del(&conn->read_event);
	event_del(&conn->write_event);
	event_del(&conn->timer);
	close(conn->fd);
	unlist(conn);
	nbd_session_free(conn->session); /* accepts NULL: it lingered */
	*conn->pprev = conn->next;
	if (conn->next)
		conn->next->pprev = conn->pprev;
	mem_free(conn);
	atomic_fetch_sub_explicit(&w->env.stats.connections, 1, memory_order_relaxed);
}

/* Input is wanted when the session has room; asking has no effect, so it is asked for that alone. */
static bool wants_input(struct nbd_session *s)
{
	struct iovec iov[2];

	return nbd_session_rx(s, iov) > 0;
}

/* Option haggling is over: the list learns which volume it is. */
static void list_volume(struct nbd_conn *conn)
{
	const struct nbd_export *export = &conn->session->export;
	struct fs_volume_info info;

	fs_volume_get_info(export->vol, &info);
	client_open(conn->worker->clients, &conn->client, &info, export->read_only);
	nbd_log_connect(&conn->worker->log, &conn->client, info.name);
}

static void start_last_timer(struct nbd_conn *conn)
{
	const struct timeval last = {.tv_sec = NBD_LAST_MS / 1000, .tv_usec = NBD_LAST_MS % 1000 * 1000};

	if (ioctl(conn->fd, SIOCOUTQ, &conn->unsent) < 0)
		conn->unsent = 0;
	event_add(&conn->timer, &last);
}

/* See invariant 3. */
static void linger(struct nbd_conn *conn)
{
	unlist(conn);
	nbd_session_free(conn->session);
	conn->session = NULL;
	want_write(conn, false);
	if (shutdown(conn->fd, SHUT_WR) < 0) {
		conn_free(conn);
		return;
	}
	want_read(conn, true);
	start_last_timer(conn);
}

/* Its time is up: does the client take anything still? */
static void linger_timeout(struct nbd_conn *conn)
{
	int before = conn->unsent;

	start_last_timer(conn);
	if (!conn->unsent || conn->unsent == before)
		conn_free(conn);
}

static void end(struct nbd_conn *conn)
{
	if (conn->tcp && !conn->eof && conn->session->state == NBD_CLOSING)
		linger(conn);
	else
		conn_free(conn);
}

/* Sends replies, goes on with stalled input, and sees what the connection waits for next. May free it. */
static void progress(struct nbd_conn *conn)
{
	struct nbd_session *s = conn->session;
	bool sent;

	do {
		sent = send_replies(conn);
	} while (nbd_session_resume(s));
	if (conn->timed && s->state != NBD_HANDSHAKE) {
		event_del(&conn->timer);
		conn->timed = false;
		if (conn->worker->clients && s->export.vol)
			list_volume(conn);
	}
	want_read(conn, wants_input(s));
	want_write(conn, !sent && s->state != NBD_BROKEN);
	if (nbd_session_is_over(s) && !conn->is_dirty)
		end(conn);
}

static void check_drained(struct nbd_worker *w)
{
	void (*drained)(void *arg);

	/* The thread that asks for a drain sets `drained` first: not to be looked at before. */
	if (!w->draining || w->conns || !w->drained)
		return;
	drained = w->drained;
	w->drained = NULL;
	drained(w->drained_arg);
}

static void start_retry(struct nbd_worker *w)
{
	const struct timeval period = {.tv_usec = NBD_RETRY_MS * 1000};

	w->retrying = true;
	event_add(w->retry, &period);
}

static void flush_dirty(struct nbd_worker *w)
{
	struct nbd_conn *conn;

	while ((conn = w->dirty)) {
		w->dirty = conn->dirty_next;
		if (!w->dirty)
			w->dirty_tail = &w->dirty;
		conn->is_dirty = false;
		if (conn->session)
			progress(conn);
	}
	if (w->env.nr_waiters && !w->retrying)
		start_retry(w);
	check_drained(w);
}

static void after_io(struct loop *loop)
{
	flush_dirty(loop->owner);
}

/* Input of a connection that lingers. */
static void throw_away(struct nbd_conn *conn)
{
	struct nbd_worker *w = conn->worker;
	char buf[4096];
	ssize_t n = read(conn->fd, buf, sizeof(buf));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		conn_free(conn);
		check_drained(w);
	}
}

static void receive(struct nbd_conn *conn)
{
	struct iovec iov[2];
	int places = nbd_session_rx(conn->session, iov);
	ssize_t n;

	if (!places)
		return;
	n = readv(conn->fd, iov, places);
	if (n > 0) {
		conn->moved += n;
		nbd_session_received(conn->session, n);
	} else if (n == 0) {
		conn->eof = true;
		nbd_session_drain(conn->session, NBD_WHY_CLIENT);
	} else if (errno != EAGAIN && errno != EINTR) {
		nbd_session_break(conn->session, strerror(errno));
	}
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_conn *conn = arg;
	struct nbd_worker *w = conn->worker;

	if (!conn->session) {
		throw_away(conn);
		return;
	}
	receive(conn);
	on_dirty(conn->session);
	flush_dirty(w);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_conn *conn = arg;
	struct nbd_worker *w = conn->worker;

	if (what & EV_TIMEOUT)
		nbd_session_break(conn->session, NBD_WHY_SLOW);
	on_dirty(conn->session);
	flush_dirty(w);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_conn *conn = arg;
	struct nbd_worker *w = conn->worker;

	if (conn->session)
		nbd_session_break(conn->session, "its handshake took too long");
	else
		linger_timeout(conn);
	flush_dirty(w);
}

/* ---- clients that stall ---------------------------------------------------- */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The handshake has a timeout of its own. Who sends no more because there is no memory for it owes nothing. */
static bool owes(const struct nbd_conn *conn)
{
	const struct nbd_session *s = conn->session;

	return s && s->state != NBD_HANDSHAKE && s->state != NBD_BROKEN &&
	       (conn->writing || (conn->reading && nbd_session_is_inside_request(s)));
}

static bool stalls(struct nbd_conn *conn, uint64_t now, unsigned stall_ms)
{
	uint64_t took;

	if (!owes(conn)) {
		conn->owes_ms = 0;
		return false;
	}
	took = now - conn->owes_ms;
	if (conn->owes_ms && took < stall_ms)
		return false;
	if (conn->owes_ms && conn->moved - conn->owes_moved < NBD_RATE_MIN * took / 1000)
		return true;
	conn->owes_ms = now;
	conn->owes_moved = conn->moved;
	return false;
}

/* Whoever holds memory that others wait for has less time. */
static void sweep(struct nbd_worker *w)
{
	unsigned stall_ms = budget_is_short(w->env.budget) ? w->stall_ms / NBD_SHORT_FACTOR : w->stall_ms;
	uint64_t now = now_ms();

	for (struct nbd_conn *conn = w->conns; conn; conn = conn->next)
		if (stalls(conn, now, stall_ms))
			nbd_session_break(conn->session, NBD_WHY_SLOW);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	sweep(arg);
	flush_dirty(arg);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_worker *w = arg;

	w->retrying = false;
	nbd_env_wake(&w->env, UINT_MAX);
	flush_dirty(w);
}

static void on_wake(struct task *task)
{
	struct nbd_worker *w = container_of(task, struct nbd_worker, wake_task);

	atomic_store(&w->woken, false);
	if (budget_is_short(w->env.budget))
		buf_pool_yield(&w->env.pool);
	nbd_env_wake(&w->env, NBD_WAKE_MAX);
	/* The loop's after_io, which follows every batch of tasks, tries them. */
}

static void wake(struct budget_member *m)
{
	struct nbd_worker *w = container_of(m, struct nbd_worker, env.member);

	if (!atomic_exchange(&w->woken, true))
		loop_post(w->loop, &w->wake_task);
}

static int start_sweep(struct nbd_worker *w)
{
	uint64_t ms = max_u64(w->stall_ms / NBD_SWEEPS, NBD_SWEEP_MIN_MS);
	struct timeval period = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	w->sweep = event_new(w->loop->base, -1, EV_PERSIST, on_sweep, w);
	w->retry = evtimer_new(w->loop->base, on_retry, w);
	if (!w->sweep || !w->retry || event_add(w->sweep, &period) < 0)
		return -ENOMEM;
	return 0;
}

/* ---- the worker ----------------------------------------------------------- */

/* On the loop's thread: ends the connections that somebody asked to be dropped. */
static void run_drops(struct task *task)
{
	struct nbd_worker *w = container_of(task, struct nbd_worker, drop_task);

	atomic_store(&w->drop_posted, false);
	for (struct nbd_conn *conn = w->conns; conn; conn = conn->next)
		if (conn->session && atomic_load(&conn->dropped))
			nbd_session_break(conn->session, "dropped on request");
	/* The loop's after_io, which follows every batch of tasks, does the rest. */
}

static void drop(struct client *client)
{
	struct nbd_conn *conn = container_of(client, struct nbd_conn, client);
	struct nbd_worker *w = conn->worker;

	atomic_store(&conn->dropped, true);
	if (!atomic_exchange(&w->drop_posted, true))
		loop_post(w->loop, &w->drop_task);
}

static void list_conn(struct nbd_conn *conn)
{
	if (!conn->worker->clients)
		return;
	client_peer(conn->fd, conn->client.peer);
	conn->client.drop = drop;
	conn->session->figures = &conn->client.figures;
	client_join(conn->worker->clients, &conn->client);
	conn->listed = true;
}

/* On the loop's thread: the connection begins. */
static void adopt(struct task *task)
{
	struct nbd_conn *conn = container_of(task, struct nbd_conn, adopt_task);
	struct nbd_worker *w = conn->worker;
	struct event_base *base = w->loop->base;

	conn->session = nbd_session_new(&w->env, conn);
	if (!conn->session) {
		atomic_fetch_sub_explicit(&w->env.stats.connections, 1, memory_order_relaxed);
		close(conn->fd);
		mem_free(conn);
		return;
	}
	event_assign(&conn->read_event, base, conn->fd, EV_READ | EV_PERSIST, on_readable, conn);
	event_assign(&conn->write_event, base, conn->fd, EV_WRITE | EV_PERSIST, on_writable, conn);
	evtimer_assign(&conn->timer, base, on_timeout, conn);
	event_add(&conn->timer, &w->handshake_timeout);
	conn->timed = true;
	conn->next = w->conns;
	conn->pprev = &w->conns;
	if (conn->next)
		conn->next->pprev = &conn->next;
	w->conns = conn;
	list_conn(conn);
	if (w->draining)
		nbd_session_break(conn->session, NBD_WHY_STOP);
	on_dirty(conn->session); /* the greeting */
}

static bool is_tcp(int fd)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);

	return !getsockname(fd, (struct sockaddr *)&addr, &len) && addr.ss_family != AF_UNIX;
}

static void set_options(int fd)
{
	int one = 1;

	/* These fail on unix sockets, which need neither. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

int nbd_worker_accept(struct nbd_worker *w, int fd)
{
	struct nbd_conn *conn = NULL;
	bool room = budget_admits(w->env.budget, NBD_HANDSHAKE_COST);

	if (room)
		conn = mem_zalloc(sizeof(*conn));
	if (!conn) {
		close(fd);
		return room ? -ENOMEM : -ENOBUFS;
	}
	set_options(fd);
	conn->worker = w;
	conn->fd = fd;
	conn->tcp = is_tcp(fd);
	conn->adopt_task.fn = adopt;
	atomic_fetch_add_explicit(&w->env.stats.connections, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&w->env.stats.connections_total, 1, memory_order_relaxed);
	loop_post(w->loop, &conn->adopt_task);
	return 0;
}

static void begin_drain(struct task *task)
{
	struct nbd_worker *w = container_of(task, struct nbd_worker, drain_task);

	w->draining = true;
	for (struct nbd_conn *conn = w->conns; conn; conn = conn->next)
		if (conn->session)
			nbd_session_stop(conn->session, NBD_WHY_STOP);
	/* The loop's after_io, which follows every batch of tasks, does the rest. */
}

void nbd_worker_drain(struct nbd_worker *w, void (*drained)(void *arg), void *arg)
{
	w->drained = drained;
	w->drained_arg = arg;
	w->drain_task.fn = begin_drain;
	loop_post(w->loop, &w->drain_task);
}

static void cut(struct task *task)
{
	struct nbd_worker *w = container_of(task, struct nbd_worker, cut_task);
	struct nbd_conn *conn, *next;

	for (conn = w->conns; conn; conn = next) {
		next = conn->next;
		if (conn->session)
			nbd_session_break(conn->session, NBD_WHY_STOP);
		else
			conn_free(conn);
	}
}

void nbd_worker_cut(struct nbd_worker *w)
{
	w->cut_task.fn = cut;
	loop_post(w->loop, &w->cut_task);
}

int nbd_worker_init(struct nbd_worker *w, struct loop *loop, const struct nbd_worker_options *opt)
{
	uint64_t memory = opt->memory / opt->workers;

	*w = (struct nbd_worker){
		.loop = loop,
		.stall_ms = opt->stall_ms,
		.wake_task = {.fn = on_wake},
		.env = {
			.fs = opt->fs,
			.ctx = loop->ctx,
			.dirty = on_dirty,
			.post = on_post,
			.budget = opt->budget,
			.member = {.wake = wake},
			.requests_max = max_u64(memory / SERVER_MEMORY_REQUESTS / NBD_REQUEST_COST, 2 * NBD_REQUESTS_MAX),
			.rx_max = max_u64(memory / SERVER_MEMORY_RX / NBD_RX_BYTES, 2),
			.spare_max = memory / SERVER_MEMORY_SPARE,
		},
		.handshake_timeout = {.tv_sec = NBD_HANDSHAKE_TIMEOUT_S},
		.linger_timeout = {.tv_sec = NBD_LINGER_TIMEOUT_S},
	};
	w->dirty_tail = &w->dirty;
	w->drop_task.fn = run_drops;
	nbd_env_init(&w->env);
	budget_add_member(opt->budget, &w->env.member);
	loop->after_io = after_io;
	loop->owner = w;
	return start_sweep(w);
}

void nbd_worker_fini(struct nbd_worker *w)
{
	ASSERT(!w->conns);
	if (w->sweep)
		event_free(w->sweep);
	if (w->retry)
		event_free(w->retry);
	nbd_env_fini(&w->env);
}
