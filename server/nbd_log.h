/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_log.h: a line in the log when an NBD client has opened a volume, when it goes, and when it gets
 * none. From one loop's thread.
 *
 * A flood of connections must not become a flood of lines: NBD_LOG_BURST at once and NBD_LOG_RATE a second
 * are written, and what was left out is told with one that comes later, every 10 seconds at the most.
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
	uint64_t told_us;  /* when it was said last that lines were left out */
	unsigned tokens, left_out;
};

void nbd_log_init(struct nbd_log *l, struct log *log);
void nbd_log_connect(struct nbd_log *l, const struct client *client, const char *volume);
/* `why` it ends. A client that stalled is a warning. */
void nbd_log_disconnect(struct nbd_log *l, const struct client *client, const char *volume, const char *why,
			bool stalled);
/* It has never had a volume; `refusal`: what it was told last when it asked for one, or "". */
void nbd_log_refused(struct nbd_log *l, const struct client *client, const char *refusal, const char *why);

#endif
