/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto/rpc_fields.h: how many fields a protobuf message has, without unpacking it. protobuf-c takes memory
 * for each field that it does not know; a message of 256 KiB may have 128 Ki of them.
 */
#ifndef PROTO_RPC_FIELDS_H
#define PROTO_RPC_FIELDS_H

#include <stddef.h>
#include <stdint.h>

/* No request has nearly as many. */
#define RPC_FIELDS_MAX 256u

/*
 * Fields at the top of the message, counted no further than max + 1. -EINVAL: it is malformed within what was
 * counted.
 */
int rpc_fields_count(const uint8_t *message, size_t len, unsigned max);

#endif
