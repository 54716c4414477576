/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/client/rpc_fixture.h: an RPC server on a thread of its own over the fake engine, listening on a unix
 * socket in a temporary folder. For one .c file of a test, after cmocka.h.
 */
#ifndef TESTS_CLIENT_RPC_FIXTURE_H
#define TESTS_CLIENT_RPC_FIXTURE_H

#include <event2/event.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/budget.h"
#include "server/rpc.h"
#include "tests/client/fake_fs.h"

#define FX_CONNECTIONS 256
#define FX_MEMORY (64u << 20)

struct fixture {
	struct fs *fs;
	struct budget budget;
	struct event_base *base;
	struct rpc_server *server;
	struct event *stop_ev;
	int stop_pipe[2];
	pthread_t thread;
	bool joined;
	atomic_int shutdowns;
	char dir[64];
	char path[96];
	char address[112];
};

static void fx_drained(void *arg)
{
	struct fixture *fx = arg;

	rpc_server_free(fx->server);
	fx->server = NULL;
	event_base_loopbreak(fx->base);
}

static void fx_on_stop(evutil_socket_t fd, short what, void *arg)
{
	struct fixture *fx = arg;
	char what_for;

	assert_int_equal(read(fd, &what_for, 1), 1);
	if (what_for == 'c')
		rpc_server_cut(fx->server);
	else
		rpc_server_stop(fx->server, fx_drained, fx);
}

/* What a daemon does when a client asks it to stop. */
static void fx_on_shutdown(void *arg)
{
	struct fixture *fx = arg;

	atomic_fetch_add(&fx->shutdowns, 1);
	rpc_server_stop(fx->server, fx_drained, fx);
}

static void *fx_loop(void *arg)
{
	struct fixture *fx = arg;

	event_base_dispatch(fx->base);
	return NULL;
}

static int fx_bind(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static int fx_setup_stall(void **state, unsigned stall_ms)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	struct rpc_server_options opt = {.budget = &fx->budget,
					 .max = FX_CONNECTIONS,
					 .stall_ms = stall_ms,
					 .shutdown = fx_on_shutdown,
					 .arg = fx};

	signal(SIGPIPE, SIG_IGN);
	budget_init(&fx->budget, FX_MEMORY, 0);
	fx->fs = opt.fs = fake_new();
	snprintf(fx->dir, sizeof(fx->dir), "/tmp/byre-rpc-XXXXXX");
	assert_non_null(mkdtemp(fx->dir));
	snprintf(fx->path, sizeof(fx->path), "%s/s", fx->dir);
	snprintf(fx->address, sizeof(fx->address), "unix:%s", fx->path);

	fx->base = event_base_new();
	assert_int_equal(rpc_server_new(fx->base, &opt, &fx->server), 0);
	assert_int_equal(rpc_server_listen(fx->server, fx_bind(fx->path)), 0);
	assert_int_equal(pipe(fx->stop_pipe), 0);
	fx->stop_ev = event_new(fx->base, fx->stop_pipe[0], EV_READ | EV_PERSIST, fx_on_stop, fx);
	event_add(fx->stop_ev, NULL);
	pthread_create(&fx->thread, NULL, fx_loop, fx);
	*state = fx;
	return 0;
}

static int fx_setup(void **state)
{
	return fx_setup_stall(state, 60000);
}

static void fx_ask_stop(struct fixture *fx)
{
	assert_int_equal(write(fx->stop_pipe[1], "x", 1), 1);
}

/* After a stop: clients are not waited for any more. */
static inline void fx_cut(struct fixture *fx)
{
	assert_int_equal(write(fx->stop_pipe[1], "c", 1), 1);
}

static void fx_join(struct fixture *fx)
{
	pthread_join(fx->thread, NULL);
	fx->joined = true;
}

static int fx_teardown(void **state)
{
	struct fixture *fx = *state;

	fake_hold_commits(fx->fs, false);
	if (!fx->joined) {
		fx_ask_stop(fx);
		fx_join(fx);
	}
	event_free(fx->stop_ev);
	event_base_free(fx->base);
	close(fx->stop_pipe[0]);
	close(fx->stop_pipe[1]);
	unlink(fx->path);
	rmdir(fx->dir);
	budget_fini(&fx->budget); /* which asserts that all is back */
	fake_free(fx->fs);
	free(fx);
	return 0;
}

#endif
