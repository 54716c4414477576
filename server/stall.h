/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/stall.h: who owes the server something (to take a reply, to send the rest of a request) and moves
 * fewer than STALL_RATE_MIN bytes a second, for the stall time, loses its connection. Who owes nothing may
 * stay for ever. For NBD and RPC.
 *
 * The time is looked at in sweeps over all connections of a loop: STALL_SWEEPS of them in a stall time.
 */
#ifndef SERVER_STALL_H
#define SERVER_STALL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/time.h>

struct budget;

/* Of one connection; zero at first. */
struct stall {
	uint64_t since_ms; /* it owes something since then; 0: it does not */
	uint64_t moved;	   /* bytes, then */
};

/* CLOCK_MONOTONIC, never 0. */
uint64_t stall_now_ms(void);
/* `moved`: bytes since the connection began, both ways. True: it stalls. */
bool stall_look(struct stall *stall, bool owes, uint64_t moved, uint64_t now_ms, unsigned stall_ms);
/* The stall time as it is now: whoever holds memory that others wait for has less. */
unsigned stall_time(const struct budget *budget, unsigned stall_ms);
/* How often to look. */
struct timeval stall_period(unsigned stall_ms);

#endif
