/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto/rpc_status.h: errno values to wire statuses and back. The wire's numbers are those of
 * `enum Status` in byre.proto, whatever the machine's errno.h says.
 */
#ifndef PROTO_RPC_STATUS_H
#define PROTO_RPC_STATUS_H

#include <stdint.h>

/* `error` is 0 or a negative errno value; one that the wire has no number for becomes EIO. */
uint16_t rpc_status_from_errno(int error);

/* 0 or a negative errno value; a status that is not known here becomes -EIO. */
int rpc_status_to_errno(uint16_t status);

#endif
