/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/listener.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "server/conn_limits.h"

static uint64_t connections(const struct listener_group *g)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < g->worker_count; i++)
		n += atomic_load_explicit(&g->workers[i].env.stats.connections, memory_order_relaxed);
	return n;
}

static bool is_giving(const struct listener_group *g)
{
	for (unsigned i = 0; i < g->worker_count; i++)
		if (nbd_worker_is_giving(&g->workers[i]))
			return true;
	return false;
}

/* Somebody who is in the handshake gives way, if there is anybody. */
static bool make_place(struct listener_group *g)
{
	for (unsigned i = 0; i < g->worker_count; i++) {
		struct nbd_worker *w = &g->workers[g->next_place];

		g->next_place = (g->next_place + 1) % g->worker_count;
		if (nbd_worker_make_place(w))
			return true;
	}
	return false;
}

static void set_enabled(struct listener_group *g, bool enabled)
{
	for (unsigned i = 0; i < g->count; i++) {
		if (enabled)
			evconnlistener_enable(g->listeners[i].listener);
		else
			evconnlistener_disable(g->listeners[i].listener);
	}
}

static void pause_accepting(struct listener_group *g, unsigned ms)
{
	struct timeval pause = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	set_enabled(g, false);
	event_add(g->retry, &pause);
}

static void say_full(struct listener_group *g, bool places)
{
	if (g->full_logged)
		return;
	g->full_logged = true;
	if (places)
		log_line(
			g->log, LOG_LEVEL_WARNING,
			"NBD: %u connections are open, newcomers get the places of those that have opened no volume yet, or none "
			"(at most %u; fewer where ulimit -n is low)",
			g->max, NBD_CONNECTIONS_MAX);
	else
		log_line(
			g->log, LOG_LEVEL_WARNING,
			"NBD: no memory for another connection, newcomers get the places of those that have opened no volume yet, "
			"or none; see --memory");
}

static void say_short(struct listener_group *g)
{
	if (!g->short_logged)
		log_line(g->log, LOG_LEVEL_WARNING, "NBD: out of memory, refusing a connection");
	g->short_logged = true;
}

/* See invariant 1. False: there is no place for it. */
static bool has_place(struct listener_group *g)
{
	uint64_t n = connections(g);
	bool places = n >= g->max;

	if (!places && budget_admits(g->workers[0].env.budget, NBD_HANDSHAKE_COST)) {
		g->full_logged = false;
		return true;
	}
	say_full(g, places);
	if (n > g->max || !make_place(g))
		return false;
	pause_accepting(g, SERVER_PLACE_MS);
	return true;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	struct listener_group *g = arg;

	if (!has_place(g)) {
		close(fd);
		return;
	}
	g->error_logged = false;
	if (nbd_worker_accept(&g->workers[g->next_worker], fd) == 0)
		g->short_logged = false;
	else
		say_short(g);
	g->next_worker = (g->next_worker + 1) % g->worker_count;
}

/* Out of descriptors or memory. The listening socket stays readable: without a pause the loop would spin. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
	struct listener_group *g = arg;
	int error = errno;
	enum accept_failure why = accept_failure(evconnlistener_get_fd(l), error);

	if (why == ACCEPT_NOBODY)
		return;
	if (why == ACCEPT_NO_ROOM && make_place(g)) {
		pause_accepting(g, SERVER_PLACE_MS);
		return;
	}
	if (!g->error_logged)
		log_line(g->log, LOG_LEVEL_WARNING, "NBD: cannot accept a connection: %s; trying again",
			 strerror(error));
	g->error_logged = true;
	pause_accepting(g, SERVER_ACCEPT_PAUSE_MS);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct listener_group *g = arg;

	if (is_giving(g))
		pause_accepting(g, SERVER_PLACE_MS);
	else
		set_enabled(g, true);
}

int listener_group_init(struct listener_group *g, struct event_base *base, struct nbd_worker *workers,
			unsigned worker_count, unsigned max, struct log *log)
{
	*g = (struct listener_group){
		.base = base, .log = log, .workers = workers, .worker_count = worker_count, .max = max};
	g->retry = evtimer_new(base, on_retry, g);
	return g->retry ? 0 : -ENOMEM;
}

void listener_group_fini(struct listener_group *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		if (g->handover)
			handover_unlink(g->handover, &g->listeners[i].addr);
		else
			addr_unlink(&g->listeners[i].addr);
		evconnlistener_free(g->listeners[i].listener);
	}
	g->count = 0;
	if (g->retry)
		event_free(g->retry);
	g->retry = NULL;
}

int listener_group_add(struct listener_group *g, const struct addr *addr)
{
	struct evconnlistener *l;
	int fd, r;

	if (g->count == SERVER_LISTENERS_MAX)
		return -E2BIG;
	r = g->handover ? handover_listen(g->handover, addr, &fd) : addr_listen(addr, &fd);
	if (r < 0)
		return r;
	l = evconnlistener_new(g->base, on_accept, g, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (!l) {
		close(fd);
		addr_unlink(addr);
		return -ENOMEM;
	}
	evconnlistener_set_error_cb(l, on_accept_error);
	g->listeners[g->count].addr = *addr;
	g->listeners[g->count].listener = l;
	g->count++;
	return 0;
}
