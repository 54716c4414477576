/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/nbd_rig.h: one NBD session on the fake engine, fed with bytes by hand, and its output in one
 * buffer. For tests and fuzzers.
 */
#ifndef TESTS_LIB_NBD_RIG_H
#define TESTS_LIB_NBD_RIG_H

#include <stddef.h>
#include <stdint.h>

#include "proto/nbd-protocol.h"
#include "server/budget.h"
#include "server/nbd_session.h"
#include "tests/lib/fake/nbd_fs.h"

struct rig {
	struct fs fs;
	struct fs_ctx *ctx;
	struct budget budget;
	struct nbd_env env;
	struct nbd_session *s;
	struct task *tasks;
	size_t send_max; /* bytes that the "socket" takes at a time; 0: none */
	uint8_t *out;
	size_t out_len, out_size, out_pos; /* out_pos: how far the test has read */
};

void rig_connect(struct rig *rig);

void rig_init_with(struct rig *rig, uint64_t memory);

void rig_init(struct rig *rig);

/* Moves output to rig->out as the socket allows, as a connection does at the end of each pass. */
void rig_pump(struct rig *rig);

/* Lets deferred requests and works finish, and pumps. */
void rig_settle(struct rig *rig);

/*
 * Gives input in pieces of at most `piece` bytes; stops early when the session wants no more. Returns the
 * bytes taken.
 */
size_t rig_feed(struct rig *rig, const void *data, size_t len, size_t piece);

/* The client hangs up; everything must come to its end. */
void rig_disconnect(struct rig *rig);

void rig_fini(struct rig *rig);

/* ---- messages ---------------------------------------------------------------- */

struct bytes {
	uint8_t data[1 << 16];
	size_t len;
};

void add(struct bytes *b, const void *data, size_t len);

void add_u16(struct bytes *b, uint16_t v);

void add_u32(struct bytes *b, uint32_t v);

void add_string(struct bytes *b, const char *s);

void add_option(struct bytes *b, uint32_t option, const void *data, uint32_t len);

void add_go(struct bytes *b, uint32_t option, const char *name);

void add_meta(struct bytes *b, uint32_t option, const char *name, const char *query);

void add_request(struct bytes *b, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t off, uint32_t len);

void add_extended(struct bytes *b, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t off,
		  uint64_t len);

void add_u64(struct bytes *b, uint64_t v);

void add_fill(struct bytes *b, uint8_t value, size_t len);

#endif
