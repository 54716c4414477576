/* SPDX-License-Identifier: BSD-3-Clause */
/* client/libbyre_int.h: what libbyre's files share: one connection, and one blocking exchange on it. */
#ifndef CLIENT_LIBBYRE_INT_H
#define CLIENT_LIBBYRE_INT_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "client/byre.h"
#include "proto/byre.pb-c.h"
#include "proto/rpc_frame.h"

struct byre {
	int fd; /* -1 after the connection failed */
	uint64_t last_id;
	struct rpc_parser parser;
	unsigned timeout_ms;  /* of each call; 0: none */
	uint64_t deadline_ms; /* of the call under way, CLOCK_MONOTONIC; 0: none */
	char address[ADDR_TEXT_MAX];
};

/* Fills in err unless it is NULL; returns `code`. */
int libbyre_fail(struct byre_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Hands out a struct as far as the caller knows it, zeros behind what this library knows. */
void libbyre_copy_out(void *to, size_t to_size, const void *from, size_t from_size);

/* Copies words of a stranger, cut at len, with a space for whatever a terminal might obey. */
void libbyre_one_line(char *to, size_t len, const char *from);

/* The same for what is ASCII, like names: anything else becomes a question mark. */
void libbyre_word(char *to, size_t len, const char *from);

/*
 * Sends a request and waits for its answer, unpacked as `type` (libbyre_free). `what` begins the lines of
 * errors that the daemon has not worded itself.
 */
int libbyre_call(struct byre *b, uint16_t method, const char *what, const ProtobufCMessage *request,
		 const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_reply,
		 struct byre_error *err);
/* As libbyre_call for answers without contents. */
int libbyre_call_empty(struct byre *b, uint16_t method, const char *what, const ProtobufCMessage *request,
		       struct byre_error *err);
/* Accepts NULL. */
void libbyre_free(ProtobufCMessage *msg);

/* Figures of a message; what it has not: zeros. */
void libbyre_figures(const Byre__Figures *from, struct byre_figures *to);
/* Of one kind; `from` may be NULL: *to stays as it is. */
void libbyre_kind(const Byre__KindFigures *from, struct byre_kind_figures *to);

/* libbyre_scrub.c; `from` may be NULL. */
void libbyre_scrub_from_message(const Byre__Scrub *from, struct byre_scrub *to);

#endif
