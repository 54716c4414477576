/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_worker.c: all connections of a loop: which of them stall, give way or are dropped, and their
 * end.
 */
#include <limits.h>

#include "base/util.h"
#include "server/nbd_conn_int.h"

static void on_post(struct nbd_env *env, struct task *task)
{
	loop_post(container_of(env, struct nbd_worker, env)->loop, task);
}

void nbd_worker_check_drained(struct nbd_worker *w)
{
	void (*drained)(void *arg);

	/* The thread that asks for a drain sets `drained` first: not to be looked at before. */
	if (!w->draining || w->conns || !w->drained)
		return;
	drained = w->drained;
	w->drained = NULL;
	drained(w->drained_arg);
}

void nbd_worker_retry_later(struct nbd_worker *w)
{
	const struct timeval period = {.tv_usec = NBD_RETRY_MS * 1000};

	w->retrying = true;
	event_add(w->retry, &period);
}

static void after_io(struct loop *loop)
{
	nbd_conn_flush_dirty(loop->owner);
}

/* ---- clients that stall ---------------------------------------------------- */

/*
 * The handshake has a timeout of its own. A client that cannot send because there is no memory for it owes
 * nothing.
 */
static bool owes(const struct nbd_conn *conn)
{
	const struct nbd_session *s = conn->session;

	return s && s->state != NBD_HANDSHAKE && s->state != NBD_BROKEN &&
	       (conn->writing || (conn->reading && nbd_session_is_inside_request(s)));
}

static void sweep(struct nbd_worker *w)
{
	unsigned stall_ms = stall_time(w->env.budget, w->stall_ms);
	uint64_t now = stall_now_ms();

	for (struct nbd_conn *conn = w->conns; conn; conn = conn->next)
		if (stall_look(&conn->stall, owes(conn), conn->moved, now, stall_ms))
			nbd_session_break(conn->session, NBD_WHY_SLOW);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	sweep(arg);
	nbd_conn_flush_dirty(arg);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_worker *w = arg;

	w->retrying = false;
	nbd_env_wake(&w->env, UINT_MAX);
	nbd_conn_flush_dirty(w);
}

static void on_pieces(evutil_socket_t fd, short what, void *arg)
{
	struct nbd_worker *w = arg;

	nbd_env_run_pieces(&w->env);
	nbd_conn_flush_dirty(w);
}

static void run_pieces_later(struct nbd_env *env)
{
	const struct timeval wait = {.tv_usec = SHARE_WAIT_MS * 1000};
	struct nbd_worker *w = container_of(env, struct nbd_worker, env);

	if (!evtimer_pending(w->pieces, NULL))
		event_add(w->pieces, &wait);
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
	struct timeval period = stall_period(w->stall_ms);

	w->sweep = event_new(w->loop->base, -1, EV_PERSIST, on_sweep, w);
	w->retry = evtimer_new(w->loop->base, on_retry, w);
	w->pieces = evtimer_new(w->loop->base, on_pieces, w);
	if (!w->sweep || !w->retry || !w->pieces || event_add(w->sweep, &period) < 0)
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

/*
 * On the loop's thread. A client that was in its handshake when the place was asked for may have opened a
 * volume since.
 */
static void give_places(struct task *task)
{
	struct nbd_worker *w = container_of(task, struct nbd_worker, give_task);
	unsigned n = atomic_exchange(&w->to_give, 0);
	struct nbd_conn *conn;

	for (; n && (conn = TAILQ_FIRST(&w->handshakes)); n--) {
		nbd_conn_leave_handshake(conn);
		conn->gives = true;
		nbd_session_break(conn->session, NBD_WHY_PLACE);
	}
	atomic_fetch_sub(&w->giving, n);
}

bool nbd_worker_make_place(struct nbd_worker *w)
{
	if (atomic_load(&w->nr_handshakes) <= atomic_load(&w->to_give))
		return false;
	atomic_fetch_add(&w->giving, 1);
	if (!atomic_fetch_add(&w->to_give, 1))
		loop_post(w->loop, &w->give_task);
	return true;
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
			nbd_conn_free(conn);
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
		.env =
			{
				.fs = opt->fs,
				.default_export = opt->default_export,
				.ctx = loop->ctx,
				.dirty = nbd_conn_dirty,
				.post = on_post,
				.budget = opt->budget,
				.member = {.wake = wake},
				.run_pieces_later = run_pieces_later,
				.requests_max = max_u64(memory / SERVER_MEMORY_REQUESTS / NBD_REQUEST_COST,
							2 * NBD_REQUESTS_MAX),
				.rx_max = max_u64(memory / SERVER_MEMORY_RX / NBD_RX_BYTES, 2),
				.spare_max = memory / SERVER_MEMORY_SPARE,
			},
		.handshake_timeout = {.tv_sec = NBD_HANDSHAKE_TIMEOUT_S},
		.linger_timeout = {.tv_sec = NBD_LINGER_TIMEOUT_S},
	};
	w->dirty_tail = &w->dirty;
	w->drop_task.fn = run_drops;
	w->give_task.fn = give_places;
	TAILQ_INIT(&w->handshakes);
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
	if (w->pieces)
		event_free(w->pieces);
	nbd_env_fini(&w->env);
}
