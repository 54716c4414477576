/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/conn_limits.h: how many connections of each kind there may be, so that descriptors never run out:
 * even if somebody takes all connections of one kind, the engine and the other kinds go on working.
 *
 * If they run out all the same (the limit is low, or the machine has none left), a newcomer gets the place of
 * the connection of its kind that has been idle for longest; if there is none, it waits.
 */
#ifndef SERVER_CONN_LIMITS_H
#define SERVER_CONN_LIMITS_H

struct conn_limits {
	unsigned nbd, rpc, http;
	unsigned missing; /* descriptors, for one connection of each kind and a newcomer; 0: none */
};

/*
 * From the process's limit of descriptors, those that are open now, and those that are still to be opened for
 * other things than connections. Each is at least 1.
 */
void conn_limits_init(struct conn_limits *limits, unsigned to_come);
/* The same for `left` descriptors. */
void conn_limits_share(struct conn_limits *limits, unsigned left);

/* After accept failed: why, and what can be done about it. */
enum accept_failure {
	ACCEPT_NOBODY,	/* nobody waits: out of descriptors, accept fails before it looks */
	ACCEPT_NO_ROOM, /* for lack of something that the end of a connection gives back */
	ACCEPT_OTHER,
};

enum accept_failure accept_failure(int listen_fd, int error);

#endif
