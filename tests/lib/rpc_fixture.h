/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/rpc_fixture.h: an RPC server on a thread of its own over the fake engine, listening on a unix
 * socket in a temporary folder.
 */
#ifndef TESTS_LIB_RPC_FIXTURE_H
#define TESTS_LIB_RPC_FIXTURE_H

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "server/budget.h"
#include "server/rpc.h"
#include "tests/lib/fake/rpc_fs.h"

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

int fx_bind(const char *path);

int fx_setup_stall(void **state, unsigned stall_ms);

int fx_setup(void **state);

void fx_ask_stop(struct fixture *fx);

/* After a stop: clients are not waited for any more. */
void fx_cut(struct fixture *fx);

void fx_join(struct fixture *fx);

int fx_teardown(void **state);

#endif
