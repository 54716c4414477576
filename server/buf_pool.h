/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/buf_pool.h: the buffers of one event loop: data buffers by size class, and receive buffers.
 *
 * 1. A pool is used by its loop's thread only.
 * 2. In steady state nothing is allocated: what comes back is kept in store. Small buffers are kept up to
 *    spare_max. Buffers of BUF_POOL_LARGE and more come from the kernel and go back to it; spare ones are
 *    charged to an account of the pool, which gets no more than a connection would, and are given up when
 *    memory is short (buf_pool_yield).
 * 3. A receive buffer is shared: the pool holds one reference to the current one, and each request whose data
 *    lies in it holds one. Bytes below `used` belong to requests and are not written again before the last of
 *    them is gone.
 * 4. There are at most rx_max + 1 receive buffers: from then on requests must not keep any
 *    (buf_pool_rx_is_short).
 */
#ifndef SERVER_BUF_POOL_H
#define SERVER_BUF_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/budget.h"
#include "server/limits.h"

#define BUF_CLASS_MIN_SHIFT 12 /* the smallest class is 4 KiB, each next one is twice as large */
#define BUF_CLASSES 14	       /* up to 32 MiB */

struct rx_buf {
	struct rx_buf *next; /* while spare */
	uint32_t refs;
	uint32_t used; /* see invariant 3 */
	uint8_t data[NBD_RX_BYTES];
};

struct buf_pool {
	void *spare[BUF_CLASSES];
	size_t spare_bytes, spare_max;
	size_t freed; /* since malloc was last trimmed */
	struct budget_account account;
	struct rx_buf *rx; /* the current one, or NULL */
	struct rx_buf *rx_spare;
	unsigned rx_count, rx_max; /* all, spare ones included */
};

void buf_pool_init(struct buf_pool *pool, struct budget *budget, struct budget_member *member,
		   unsigned rx_max, size_t spare_max);
void buf_pool_fini(struct buf_pool *pool); /* every buffer must be back */

/* The memory that a buffer for `len` bytes takes. */
size_t buf_pool_bytes(size_t len);
/* A buffer of at least `len` bytes (1 to NBD_IO_MAX), aligned to 4096. NULL: out of memory. */
void *buf_pool_get(struct buf_pool *pool, size_t len);
/* `len` is what buf_pool_get was called with. */
void buf_pool_put(struct buf_pool *pool, void *buf, size_t len);
/* There is a spare buffer for `len` bytes: it has all of its memory already. */
bool buf_pool_has_spare(const struct buf_pool *pool, size_t len);
/* Gives spare large buffers back to the kernel. True if there were any. */
bool buf_pool_yield(struct buf_pool *pool);
/*
 * The bytes [from, to) of a buffer of BUF_POOL_LARGE or more are no longer needed; multiples of 4096. Such a
 * buffer does not become a spare (buf_pool_unmap instead of buf_pool_put).
 */
void buf_pool_drop(void *buf, size_t from, size_t to);
void buf_pool_unmap(void *buf, size_t len);

/*
 * The current receive buffer, with NBD_RX_SPACE_MIN bytes or more after `used`. No reference is taken. NULL:
 * no memory.
 */
struct rx_buf *buf_pool_rx(struct buf_pool *pool);
static inline bool buf_pool_rx_is_short(const struct buf_pool *pool)
{
	return pool->rx_count > pool->rx_max;
}
static inline struct rx_buf *rx_buf_get(struct rx_buf *rx)
{
	rx->refs++;
	return rx;
}
void rx_buf_put(struct buf_pool *pool, struct rx_buf *rx);

#endif
