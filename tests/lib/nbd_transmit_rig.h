/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/lib/nbd_transmit_rig.h: a session in its transmission phase, and what is asked of it. */
#ifndef TESTS_LIB_NBD_TRANSMIT_RIG_H
#define TESTS_LIB_NBD_TRANSMIT_RIG_H

#include "tests/lib/nbd_rig.h"

#define VOLUME_SIZE (256u << 10)
#define BIG (NBD_IO_MAX)

void handshake(struct rig *rig, const char *name, bool structured);

/* With extended headers. */
void handshake_extended(struct rig *rig, const char *name);

int setup(void **state);

int setup_simple(void **state);

int setup_structured(void **state);

int teardown(void **state);

const void *take(struct rig *rig, size_t len);

void feed(struct rig *rig, struct bytes *b);

/* The next reply; returns its data (`len` bytes, none after an error). */
const uint8_t *expect_simple(struct rig *rig, uint64_t cookie, uint32_t error, size_t len);

const uint8_t *expect_chunk(struct rig *rig, uint64_t cookie, uint16_t type, uint32_t *ret_len);

/* The next reply of an extended session, which must be one chunk. */
const uint8_t *expect_extended(struct rig *rig, uint64_t cookie, uint16_t type, uint64_t off,
			       uint64_t *ret_len);

/* It is an error; returns its text, which is good until the next call. */
const char *expect_extended_error(struct rig *rig, uint64_t cookie, uint32_t error, uint64_t off);

void expect_end(struct rig *rig);

/* One request without data and the error that it must give. */
void request(struct rig *rig, uint16_t type, uint16_t flags, uint64_t off, uint32_t len, uint32_t error);

#endif
