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

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	struct listener_group *g = arg;

	if (connections(g) >= g->max) {
		if (!g->full_logged)
			log_line(g->log, LOG_LEVEL_WARNING,
				 "NBD: %u connections are open, refusing more (at most %u; fewer where ulimit -n is low)",
				 g->max, NBD_CONNECTIONS_MAX);
		g->full_logged = true;
		close(fd);
		return;
	}
	g->full_logged = g->error_logged = false;
	if (nbd_worker_accept(&g->workers[g->next_worker], fd) < 0 && !g->short_logged) {
		log_line(g->log, LOG_LEVEL_WARNING,
			 "NBD: no memory for another connection, refusing some; see --memory");
		g->short_logged = true;
	}
	g->next_worker = (g->next_worker + 1) % g->worker_count;
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

/* Out of descriptors or memory. The listening socket stays readable: without a pause the loop would spin. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
	struct listener_group *g = arg;
	struct timeval pause = {.tv_usec = SERVER_ACCEPT_PAUSE_MS * 1000};
	int error = errno;

	if (accept_failure(evconnlistener_get_fd(l), error) == ACCEPT_NOBODY)
		return;
	if (!g->error_logged)
		log_line(g->log, LOG_LEVEL_WARNING, "NBD: cannot accept a connection: %s; trying again", strerror(error));
	g->error_logged = true;
	set_enabled(g, false);
	event_add(g->retry, &pause);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	set_enabled(arg, true);
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
