/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/rpc_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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

int fx_bind(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

int fx_setup_stall(void **state, unsigned stall_ms)
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

int fx_setup(void **state)
{
	return fx_setup_stall(state, 60000);
}

void fx_ask_stop(struct fixture *fx)
{
	assert_int_equal(write(fx->stop_pipe[1], "x", 1), 1);
}

void fx_cut(struct fixture *fx)
{
	assert_int_equal(write(fx->stop_pipe[1], "c", 1), 1);
}

void fx_join(struct fixture *fx)
{
	pthread_join(fx->thread, NULL);
	fx->joined = true;
}

int fx_teardown(void **state)
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
