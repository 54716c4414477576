/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_log.h: logs a line when an NBD client has opened a volume, when it leaves, and when it leaves
 * without having opened one. From one loop's thread.
 *
 * A flood of connections must not become a flood of lines: NBD_LOG_BURST at once and NBD_LOG_RATE a second
 * are written, and a later line, at most every 10 seconds, says how many were left out.
 */
#ifndef SERVER_NBD_LOG_H
#define SERVER_NBD_LOG_H

#include "base/log.h"
#include "server/clients.h"

#define NBD_LOG_BURST 100u
#define NBD_LOG_RATE 10u
#define NBD_LOG_TELL_S UINT64_C(10)

struct nbd_log {
	struct log *log;   /* NULL: nothing is written */
	uint64_t since_us; /* the tokens are of then */
	uint64_t told_us;  /* when the log last said that lines were left out */
	unsigned tokens, left_out;
};

void nbd_log_init(struct nbd_log *l, struct log *log);
void nbd_log_connect(struct nbd_log *l, const struct client *client, const char *volume);
/* `why` it ends. A client that stalled is a warning. */
void nbd_log_disconnect(struct nbd_log *l, const struct client *client, const char *volume, const char *why,
			bool stalled);
/* It never had a volume; `refusal`: what it was last told when it asked for one, or "". */
void nbd_log_refused(struct nbd_log *l, const struct client *client, const char *refusal, const char *why);

#endif
