/* SPDX-License-Identifier: BSD-3-Clause */
/* server/server.h: the daemon as a whole: opens the pool, serves it until it is told to stop, closes it. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "base/log.h"
#include "server/config.h"

struct server_options {
	struct config config; /* complete, default addresses included */
	struct log *log;
	/*
	 * SIGHUP: reads the configuration anew. 0, or negative with a line in `err`. On the first loop's
	 * thread.
	 */
	int (*reload)(void *arg, struct config *ret_config, struct config_error *err);
	void *arg;
};

/*
 * Runs until SIGTERM, SIGINT or an RPC client's shutdown. Returns the exit code: 0, or 1 (and has logged
 * why).
 */
int server_run(const struct server_options *opt);

#endif
