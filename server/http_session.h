/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/http_session.h: one HTTP request and its answer as a state machine over bytes, without a socket.
 * Enough of HTTP/1.0 and 1.1 for monitoring: GET and HEAD, one request a connection (every answer says
 * Connection: close).
 *
 * 1. Input is kept only until the head is complete, at most HTTP_HEAD_MAX bytes; a body is never read.
 * 2. There is one answer, whatever comes in: nothing after the head changes it.
 */
#ifndef SERVER_HTTP_SESSION_H
#define SERVER_HTTP_SESSION_H

#include <event2/buffer.h>
#include <stdbool.h>
#include <stddef.h>

#include "server/limits.h"

struct http_answer {
	int status;
	const char *type;
	struct evbuffer *body; /* the handler fills it in; empty where HEAD was asked for */
};

/* Answers for `path` (without a query); the status stays 404 if there is nothing there. */
typedef void http_handler(void *arg, const char *path, struct http_answer *answer);

struct http_session {
	http_handler *handler;
	void *arg;
	struct evbuffer *out; /* the answer; NULL until there is one */
	size_t in_len;
	char in[HTTP_HEAD_MAX];
};

void http_session_init(struct http_session *s, http_handler *handler, void *arg);
void http_session_fini(struct http_session *s);

/* Where input may be put; 0 bytes once there is an answer. */
size_t http_session_space(struct http_session *s, void **ret_space);
/* `len` bytes were put there. -ENOMEM: there will be no answer. */
int http_session_received(struct http_session *s, size_t len);

#endif
