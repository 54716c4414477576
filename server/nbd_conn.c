/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_conn_int.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"

void nbd_conn_dirty(struct nbd_session *s)
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

/*
 * A client that is being let go, and takes nothing for a while, is cut off. Each bit of progress starts the
 * time anew.
 */
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

void nbd_conn_leave_handshake(struct nbd_conn *conn)
{
	if (!conn->in_handshake)
		return;
	conn->in_handshake = false;
	TAILQ_REMOVE(&conn->worker->handshakes, conn, handshake_entry);
	atomic_fetch_sub(&conn->worker->nr_handshakes, 1);
}

/*
 * Of who got no volume: others only asked what there is, or gave way, which the listener tells of all of
 * them.
 */
static bool is_worth_a_line(const char *why)
{
	return strcmp(why, NBD_WHY_CLIENT) != 0 && strcmp(why, NBD_WHY_PLACE) != 0;
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
	} else if (s->refusal[0] || is_worth_a_line(s->why)) {
		nbd_log_refused(&w->log, &conn->client, s->refusal, s->why);
	}
	client_leave(w->clients, &conn->client);
	conn->listed = false;
}

void nbd_conn_free(struct nbd_conn *conn)
{
	struct nbd_worker *w = conn->worker;

	event_del(&conn->read_event);
	event_del(&conn->write_event);
	event_del(&conn->timer);
	close(conn->fd);
	nbd_conn_leave_handshake(conn);
	unlist(conn);
	nbd_session_free(conn->session); /* accepts NULL: it lingered */
	*conn->pprev = conn->next;
	if (conn->next)
		conn->next->pprev = conn->pprev;
	atomic_fetch_sub_explicit(&w->env.stats.connections, 1, memory_order_relaxed);
	if (conn->gives)
		atomic_fetch_sub(&w->giving, 1);
	mem_free(conn);
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
		nbd_conn_free(conn);
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
		nbd_conn_free(conn);
}

static void end(struct nbd_conn *conn)
{
	if (conn->tcp && !conn->eof && conn->session->state == NBD_CLOSING)
		linger(conn);
	else
		nbd_conn_free(conn);
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
		nbd_conn_leave_handshake(conn);
		if (conn->worker->clients && s->export.vol)
			list_volume(conn);
	}
	want_read(conn, wants_input(s));
	want_write(conn, !sent && s->state != NBD_BROKEN);
	if (nbd_session_is_over(s) && !conn->is_dirty)
		end(conn);
}

void nbd_conn_flush_dirty(struct nbd_worker *w)
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
		nbd_worker_retry_later(w);
	nbd_worker_check_drained(w);
}

/* Input of a connection that lingers. */
static void throw_away(struct nbd_conn *conn)
{
	struct nbd_worker *w = conn->worker;
	char buf[4096];
	ssize_t n = read(conn->fd, buf, sizeof(buf));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		nbd_conn_free(conn);
		nbd_worker_check_drained(w);
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
	nbd_conn_dirty(conn->session);
	nbd_conn_flush_dirty(w);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_conn *conn = arg;
	struct nbd_worker *w = conn->worker;

	if (what & EV_TIMEOUT)
		nbd_session_break(conn->session, NBD_WHY_SLOW);
	nbd_conn_dirty(conn->session);
	nbd_conn_flush_dirty(w);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_conn *conn = arg;
	struct nbd_worker *w = conn->worker;

	if (conn->session)
		nbd_session_break(conn->session, "its handshake took too long");
	else
		linger_timeout(conn);
	nbd_conn_flush_dirty(w);
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
		atomic_fetch_sub(&w->nr_handshakes, 1);
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
	TAILQ_INSERT_TAIL(&w->handshakes, conn, handshake_entry);
	conn->in_handshake = true;
	list_conn(conn);
	if (w->draining)
		nbd_session_break(conn->session, NBD_WHY_STOP);
	nbd_conn_dirty(conn->session); /* the greeting */
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
	struct nbd_conn *conn = mem_zalloc(sizeof(*conn));

	if (!conn) {
		close(fd);
		return -ENOMEM;
	}
	set_options(fd);
	conn->worker = w;
	conn->fd = fd;
	conn->tcp = is_tcp(fd);
	conn->adopt_task.fn = adopt;
	atomic_fetch_add(&w->nr_handshakes, 1);
	atomic_fetch_add_explicit(&w->env.stats.connections, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&w->env.stats.connections_total, 1, memory_order_relaxed);
	loop_post(w->loop, &conn->adopt_task);
	return 0;
}
