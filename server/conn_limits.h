/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/conn_limits.h: how many connections of each kind there may be, so that descriptors never run out: the engine and
 * the other kinds go on working whoever takes all connections of one kind.
 */
#ifndef SERVER_CONN_LIMITS_H
#define SERVER_CONN_LIMITS_H

struct conn_limits {
	unsigned nbd, rpc, http;
};

/* From the process's limit of descriptors and those that are open now. Each is at least 1. */
void conn_limits_init(struct conn_limits *limits);
/* The same for `left` descriptors. */
void conn_limits_share(struct conn_limits *limits, unsigned left);

#endif
