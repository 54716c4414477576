/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/share.h: how much of a loop's time something may take that is not NBD's data: RPC, HTTP. The first
 * loop has them beside its NBD connections; however many ask for however much, these keep the rest.
 *
 * 1. Over any time T the user takes at most T / part + SHARE_BURST_US, and what one piece of work takes
 *    beyond it.
 * 2. Who is out of time waits SHARE_WAIT_MS and looks again: the user sees to that, with a timer.
 */
#ifndef SERVER_SHARE_H
#define SERVER_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHARE_BURST_US 20000
#define SHARE_WAIT_MS 4
#define SHARE_BYTES_PER_US 500u /* that are moved between a socket and a buffer, outside what is measured */

struct share {
	unsigned part;
	uint64_t now_us, begin_us;
	int64_t left_us;
};

/* Times are figures_now_us(). */
void share_init(struct share *s, unsigned part, uint64_t now_us);
/* Whether it may work now. If so, it does until share_end. */
bool share_begin(struct share *s, uint64_t now_us);
/* The work is done; `bytes` were moved for it by others. */
void share_end(struct share *s, uint64_t now_us, size_t bytes);
/* Bytes that others are to move for it. */
static inline void share_charge(struct share *s, size_t bytes)
{
	s->left_us -= (int64_t)(bytes / SHARE_BYTES_PER_US);
}

#endif
