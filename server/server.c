/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/server.c: starting and stopping.
 *
 * 1. The thread that calls server_run runs loop 0, on which everything but NBD's data lives: accepting, RPC,
 *    HTTP, signals, the state below.
 * 2. Stopping: sockets are closed to newcomers, then every worker and the RPC server drain. `undrained`
 *    counts those that have not; at 0 the loops end, and only then the engine's contexts and the pool are
 *    closed.
 * 3. Clients are waited for until the stop's deadline, or a second signal; then they are cut off. What the
 *    engine has under way still ends, but after a second signal for SERVER_FORCE_MS only: then, and when one
 *    comes while the pool is being closed, the process ends as by kill -9, which costs nothing that was
 *    flushed.
 */
#include "server/server.h"

#include <errno.h>
#include <malloc.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/fs.h"
#include "server/budget.h"
#include "server/conn_limits.h"
#include "server/handover.h"
#include "server/http.h"
#include "server/listener.h"
#include "server/loop.h"
#include "server/nbd_conn.h"
#include "server/pool_watch.h"
#include "server/rpc.h"
#include "server/watchdog.h"

struct server;

/* One loop, its NBD connections, and the tasks that stop it. */
struct unit {
	struct server *srv;
	struct loop loop;
	struct task drained_task, stop_task;
	bool started;
};

struct server {
	const struct server_options *opt;
	struct config config; /* in force */
	struct log *log;
	struct budget budget;
	struct fs *fs;
	struct unit *units;
	struct nbd_worker *workers;
	unsigned count, inited; /* units; of them, initialized */
	struct client_list clients;
	struct conn_limits limits;
	struct handover handover;
	struct pool_watch watch;
	struct watchdog *watchdog;
	struct listener_group listeners;
	struct rpc_server *rpc;
	unsigned rpc_listening;
	struct http_server *http;
	struct event *signals[3];
	struct event *deadline; /* of the stop */
	bool stopping, cut, forced;
	unsigned undrained;
};

static void say(struct server *srv, const char *what, const struct addr *addr, int error)
{
	char text[ADDR_TEXT_MAX];

	addr_format(addr, text);
	if (error)
		log_line(
			srv->log, LOG_LEVEL_ERROR, "%s: cannot listen on %s: %s%s", what, text,
			strerror(-error),
			error == -EPERM && addr->kind == ADDR_UNIX
				? ": to give a socket to a group, the daemon's user must be a member of it (adduser byre GROUP)"
				: "");
	else
		log_line(srv->log, LOG_LEVEL_INFO, "%s listens on %s", what, text);
	if (!error && !addr_is_local(addr))
		log_line(
			srv->log, LOG_LEVEL_WARNING,
			"%s on %s: no encryption, no passwords: whoever reaches this address can %s; use it only on a network that "
			"you trust",
			what, text,
			strcmp(what, "HTTP") ? "read and change every volume" : "read the figures");
}

/* ---- stopping ------------------------------------------------------------- */

static void stop_unit(struct task *task)
{
	loop_stop(&container_of(task, struct unit, stop_task)->loop);
}

static void one_drained(struct server *srv)
{
	ASSERT(srv->undrained > 0);
	if (--srv->undrained)
		return;
	for (unsigned i = 0; i < srv->count; i++)
		loop_post(&srv->units[i].loop, &srv->units[i].stop_task);
}

static void rpc_drained(void *arg)
{
	one_drained(arg);
}

static void unit_drained(struct task *task)
{
	one_drained(container_of(task, struct unit, drained_task)->srv);
}

/* On the worker's own thread. */
static void worker_drained(void *arg)
{
	struct unit *unit = arg;

	loop_post(&unit->srv->units[0].loop, &unit->drained_task);
}

static void unlink_rpc(struct server *srv)
{
	for (unsigned i = 0; i < srv->rpc_listening; i++)
		handover_unlink(&srv->handover, &srv->config.rpc.addrs[i]);
	srv->rpc_listening = 0;
}

static void wait_for(struct server *srv, uint64_t ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	event_add(srv->deadline, &tv);
}

static void cut_clients(struct server *srv)
{
	if (srv->cut)
		return;
	srv->cut = true;
	rpc_server_cut(srv->rpc);
	for (unsigned i = 0; i < srv->count; i++)
		nbd_worker_cut(&srv->workers[i]);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct server *srv = arg;

	if (srv->forced) {
		log_line(srv->log, LOG_LEVEL_WARNING, "%s",
			 "what is under way does not end: stopping without it; everything flushed is safe");
		_exit(1);
	}
	log_line(srv->log, LOG_LEVEL_WARNING, "clients took longer than %u s to finish: cutting them off",
		 srv->config.stop_timeout_s);
	cut_clients(srv);
}

static void force_stop(struct server *srv)
{
	if (srv->forced)
		return;
	srv->forced = true;
	log_line(srv->log, LOG_LEVEL_INFO, "asked again: cutting clients off");
	cut_clients(srv);
	wait_for(srv, SERVER_FORCE_MS);
}

/* While the pool is being closed. Flushed data is on the disk by then, whatever else is not. */
static void on_last_signal(int sig)
{
	static const char line[] =
		"byred: asked again while the pool was being closed: leaving; everything flushed is safe\n";

	(void)!write(STDERR_FILENO, line, sizeof(line) - 1);
	_exit(1);
}

static void begin_stop(struct server *srv, const char *why)
{
	if (srv->stopping)
		return;
	srv->stopping = true;
	wait_for(srv, srv->config.stop_timeout_s * UINT64_C(1000));
	log_line(srv->log, LOG_LEVEL_INFO, "%s: finishing what is under way", why);
	sd_notify(0, "STOPPING=1");
	pool_watch_stop(&srv->watch);
	listener_group_fini(&srv->listeners);
	http_server_free(srv->http);
	srv->http = NULL;
	unlink_rpc(srv);
	srv->undrained = srv->count + 1;
	rpc_server_stop(srv->rpc, rpc_drained, srv);
	for (unsigned i = 0; i < srv->count; i++)
		nbd_worker_drain(&srv->workers[i], worker_drained, &srv->units[i]);
}

static void on_rpc_shutdown(void *arg)
{
	begin_stop(arg, "asked to shut down");
}

/* ---- signals -------------------------------------------------------------- */

static void apply_reload(struct server *srv, struct config *new_config)
{
	char fixed[256];

	if (new_config->log_level != srv->config.log_level)
		log_line(srv->log, LOG_LEVEL_INFO, "reload: the log level changes");
	srv->config.log_level = new_config->log_level;
	log_set_level(srv->log, new_config->log_level);
	config_diff(&srv->config, new_config, fixed, sizeof(fixed));
	if (*fixed)
		log_line(srv->log, LOG_LEVEL_WARNING, "reload: a restart is needed to change: %s", fixed);
	else
		log_line(srv->log, LOG_LEVEL_INFO, "reload: done");
}

static void reload(struct server *srv)
{
	struct config new_config;
	struct config_error err;

	sd_notify(0, "RELOADING=1");
	if (srv->opt->reload(srv->opt->arg, &new_config, &err) < 0)
		log_line(srv->log, LOG_LEVEL_ERROR, "reload: %s; nothing was changed", err.msg);
	else
		apply_reload(srv, &new_config);
	sd_notify(0, "READY=1");
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct server *srv = arg;

	if (sig == SIGHUP)
		reload(srv);
	else if (srv->stopping)
		force_stop(srv);
	else
		begin_stop(srv, sig == SIGTERM ? "SIGTERM" : "SIGINT");
}

static int watch_signals(struct server *srv)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

	/*
	 * libevent takes these over now, and gives them back when its events are freed: while the pool is
	 * being closed.
	 */
	signal(SIGTERM, on_last_signal);
	signal(SIGINT, on_last_signal);
	srv->deadline = evtimer_new(srv->units[0].loop.base, on_deadline, srv);
	if (!srv->deadline)
		return -ENOMEM;
	static_assert(ARRAY_SIZE(numbers) == ARRAY_SIZE(srv->signals), "one event each");
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		srv->signals[i] = evsignal_new(srv->units[0].loop.base, numbers[i], on_signal, srv);
		if (!srv->signals[i] || event_add(srv->signals[i], NULL) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* ---- starting ------------------------------------------------------------- */

static unsigned core_count(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);

	return n < 1 ? 1 : min_u64(n, SERVER_THREADS_MAX);
}

static void raise_file_limit(void)
{
	struct rlimit lim;

	if (!getrlimit(RLIMIT_NOFILE, &lim) && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

/*
 * Large blocks go back to the kernel when they are freed; else what is free in the process would count as
 * used.
 */
static void tune_malloc(void)
{
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
	mallopt(M_ARENA_MAX, 4);
}

/* What is left for the data of requests, after what is set aside (limits.h). */
static uint64_t budget_bytes(const struct config *c)
{
	uint64_t m = c->memory_bytes;

	return m - NBD_IO_MAX - m / SERVER_MEMORY_CONNECTIONS - m / SERVER_MEMORY_REQUESTS -
	       m / SERVER_MEMORY_RX - m / SERVER_MEMORY_SPARE;
}

static void on_fs_log(void *arg, enum fs_log_level level, const char *msg)
{
	log_line(arg, (enum log_level)level, "%s", msg);
}

static int open_pool(struct server *srv)
{
	struct fs_options opt = {
		.cache_bytes = srv->config.cache_bytes,
		.commit_interval_ms = srv->config.commit_interval_ms,
		.scrub_goes_on = true,
		.scrub_interval_s = srv->config.scrub_interval_days * 86400ull,
		.scrub_rate = srv->config.scrub_rate,
		.discard = srv->config.discard,
		.write_log = *srv->config.write_log ? srv->config.write_log : NULL,
		.read_only = srv->config.read_only,
		.log = on_fs_log,
		.log_arg = srv->log,
	};
	struct fs_error err = {""};
	int r = fs_open(srv->config.pool, &opt, &srv->fs, &err);
	struct stat st;

	if (!r && !stat(srv->config.pool, &st) && S_ISREG(st.st_mode) && st.st_mode & 07)
		log_line(srv->log, LOG_LEVEL_WARNING,
			 "pool %s: its file can be opened by every user (mode %04o): chmod 600 it",
			 srv->config.pool, st.st_mode & 07777);
	if (r < 0)
		log_line(srv->log, LOG_LEVEL_ERROR, "%s", *err.msg ? err.msg : strerror(-r));
	return r;
}

static int init_units(struct server *srv)
{
	struct nbd_worker_options opt = {.fs = srv->fs,
					 .default_export = srv->config.default_export,
					 .budget = &srv->budget,
					 .memory = srv->config.memory_bytes,
					 .stall_ms = srv->config.stall_timeout_s * 1000};
	int r;

	srv->count = srv->config.threads ? srv->config.threads : core_count();
	opt.workers = srv->count;
	srv->units = mem_zalloc(srv->count * sizeof(*srv->units));
	srv->workers = mem_zalloc(srv->count * sizeof(*srv->workers));
	if (!srv->units || !srv->workers)
		return -ENOMEM;
	for (; srv->inited < srv->count; srv->inited++) {
		struct unit *unit = &srv->units[srv->inited];

		unit->srv = srv;
		unit->drained_task.fn = unit_drained;
		unit->stop_task.fn = stop_unit;
		r = loop_init(&unit->loop, srv->fs, srv->inited, srv->inited == 0);
		if (r < 0)
			return r;
		r = nbd_worker_init(&srv->workers[srv->inited], &unit->loop, &opt);
		if (r < 0) {
			loop_fini(&unit->loop);
			return r;
		}
		srv->workers[srv->inited].clients = &srv->clients;
		nbd_log_init(&srv->workers[srv->inited].log, srv->log);
	}
	return 0;
}

static int listen_nbd(struct server *srv)
{
	int r = listener_group_init(&srv->listeners, srv->units[0].loop.base, srv->workers, srv->count,
				    srv->limits.nbd, srv->log);

	srv->listeners.handover = &srv->handover;
	for (unsigned i = 0; i < srv->config.nbd.count && !r; i++) {
		r = listener_group_add(&srv->listeners, &srv->config.nbd.addrs[i]);
		say(srv, "NBD", &srv->config.nbd.addrs[i], r);
	}
	return r;
}

static int listen_rpc_on(struct server *srv, const struct addr *addr)
{
	int fd, r = handover_listen(&srv->handover, addr, &fd);

	if (r < 0)
		return r;
	srv->rpc_listening++;
	return rpc_server_listen(srv->rpc, fd);
}

static int listen_rpc(struct server *srv)
{
	struct rpc_server_options opt = {.fs = srv->fs,
					 .log = srv->log,
					 .clients = &srv->clients,
					 .budget = &srv->budget,
					 .max = srv->limits.rpc,
					 .stall_ms = srv->config.stall_timeout_s * 1000,
					 .shutdown = on_rpc_shutdown,
					 .arg = srv};
	int r = rpc_server_new(srv->units[0].loop.base, &opt, &srv->rpc);

	for (unsigned i = 0; i < srv->config.rpc.count && !r; i++) {
		r = listen_rpc_on(srv, &srv->config.rpc.addrs[i]);
		say(srv, "RPC", &srv->config.rpc.addrs[i], r);
	}
	return r;
}

static int listen_http(struct server *srv)
{
	const struct http_server_options opt = {.fs = srv->fs,
						.budget = &srv->budget,
						.workers = srv->workers,
						.worker_count = srv->count,
						.max = srv->limits.http,
						.access = &srv->config.sockets};
	int r;

	if (!srv->config.http.count)
		return 0;
	r = http_server_new(srv->units[0].loop.base, &srv->config.http.addrs[0], &opt, &srv->http);
	say(srv, "HTTP", &srv->config.http.addrs[0], r);
	return r;
}

static int start_threads(struct server *srv)
{
	for (unsigned i = 1; i < srv->count; i++) {
		int r = loop_start(&srv->units[i].loop);

		if (r < 0)
			return r;
		srv->units[i].started = true;
	}
	return 0;
}

static int start_watches(struct server *srv)
{
	struct loop *loops[SERVER_THREADS_MAX];
	int r;

	for (unsigned i = 0; i < srv->count; i++)
		loops[i] = &srv->units[i].loop;
	srv->watch.fs = srv->fs;
	srv->watch.log = srv->log;
	srv->watch.config = &srv->config;
	r = pool_watch_start(&srv->watch, loops[0]->base);
	return r ? r : watchdog_new(loops, srv->count, srv->log, &srv->watchdog);
}

static void limit_connections(struct server *srv)
{
	const struct config *c = &srv->config;
	struct rlimit lim = {0};

	conn_limits_init(&srv->limits, c->nbd.count + c->rpc.count + c->http.count + 1);
	if (!srv->limits.missing || getrlimit(RLIMIT_NOFILE, &lim))
		return;
	log_line(
		srv->log, LOG_LEVEL_WARNING,
		"only %llu descriptors may be open, %u more are needed for a few connections of each kind: some will be refused, or "
		"cut off for others; raise the limit (ulimit -n, in a unit LimitNOFILE=) to %llu or more, and restart",
		(unsigned long long)lim.rlim_cur, srv->limits.missing,
		(unsigned long long)lim.rlim_cur + srv->limits.missing);
}

static int start(struct server *srv)
{
	int r = init_units(srv);

	if (!r)
		r = watch_signals(srv);
	if (!r)
		r = start_watches(srv);
	if (r < 0) {
		log_line(srv->log, LOG_LEVEL_ERROR, "cannot set up the event loops: %s", strerror(-r));
		return r;
	}
	limit_connections(srv);
	r = listen_nbd(srv);
	if (!r)
		r = listen_rpc(srv);
	if (!r)
		r = listen_http(srv);
	handover_end_of_start(&srv->handover);
	if (r < 0)
		return r;
	r = start_threads(srv);
	if (r < 0)
		log_line(srv->log, LOG_LEVEL_ERROR, "cannot start a thread: %s", strerror(-r));
	return r;
}

/*
 * Ends the threads that run, when starting failed half-way; does nothing after a proper stop but wait for
 * them.
 */
static void join_threads(struct server *srv, bool failed)
{
	for (unsigned i = 1; i < srv->inited; i++) {
		if (!srv->units[i].started)
			continue;
		if (failed)
			loop_post(&srv->units[i].loop, &srv->units[i].stop_task);
		loop_join(&srv->units[i].loop);
	}
}

static void finish(struct server *srv)
{
	http_server_free(srv->http);
	rpc_server_free(srv->rpc);
	unlink_rpc(srv);
	listener_group_fini(&srv->listeners);
	for (size_t i = 0; i < ARRAY_SIZE(srv->signals); i++)
		if (srv->signals[i])
			event_free(srv->signals[i]);
	if (srv->deadline)
		event_free(srv->deadline);
	pool_watch_stop(&srv->watch);
	watchdog_free(srv->watchdog);
	for (unsigned i = 0; i < srv->inited; i++) {
		nbd_worker_fini(&srv->workers[i]);
		loop_fini(&srv->units[i].loop);
	}
	mem_free(srv->workers);
	mem_free(srv->units);
	budget_fini(&srv->budget);
	client_list_fini(&srv->clients);
}

static int close_pool(struct server *srv)
{
	int r = fs_close(srv->fs);

	if (r < 0)
		log_line(srv->log, LOG_LEVEL_ERROR, "%s: the last commit failed: %s", srv->config.pool,
			 strerror(-r));
	else
		log_line(srv->log, LOG_LEVEL_INFO, "%s is closed", srv->config.pool);
	return r;
}

/*
 * SIGHUP is held back until somebody listens to it: while the pool opens it would end the process. Threads
 * that start meanwhile never take it.
 */
static void hold_reloads(bool hold)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

int server_run(const struct server_options *opt)
{
	struct server srv = {.opt = opt, .config = opt->config, .log = opt->log};
	int r, closed;

	signal(SIGPIPE, SIG_IGN);
	hold_reloads(true);
	handover_init(&srv.handover, &srv.config.sockets, srv.log);
	raise_file_limit();
	tune_malloc();
	budget_init(&srv.budget, budget_bytes(&srv.config),
		    srv.config.memory_bytes / SERVER_MEMORY_CONNECTIONS);
	if (evthread_use_pthreads() < 0 || open_pool(&srv) < 0)
		return 1;
	client_list_init(&srv.clients);
	r = start(&srv);
	if (!r) {
		log_bare(srv.log, "ready");
		sd_notify(0, "READY=1");
		hold_reloads(false);
		loop_run(&srv.units[0].loop);
	}
	join_threads(&srv, r < 0);
	finish(&srv);
	closed = close_pool(&srv);
	return r < 0 || closed < 0 ? 1 : 0;
}
