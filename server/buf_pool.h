/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/buf_pool.h: the buffers of one event loop: data buffers by size class, and receive buffers.
 *
 * 1. A pool is used by its loop's thread only.
 * 2. In steady state nothing is allocated: what comes back is kept, up to the limits.
 * 3. A receive buffer is shared: the pool holds one reference to the current one, and each request whose data lies in
 *    it holds one. Bytes below `used` belong to requests and are not written again before the last of them is gone.
 */
#ifndef SERVER_BUF_POOL_H
#define SERVER_BUF_POOL_H

#include <stddef.h>
#include <stdint.h>

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
	size_t spare_bytes;
	struct rx_buf *rx; /* the current one, or NULL */
	struct rx_buf *rx_spare;
	unsigned rx_spare_count;
};

void buf_pool_init(struct buf_pool *pool);
void buf_pool_fini(struct buf_pool *pool); /* every buffer must be back */

/* A buffer of at least `len` bytes (1 to NBD_IO_MAX), aligned to 4096. NULL: out of memory. */
void *buf_pool_get(struct buf_pool *pool, size_t len);
/* `len` is what it was got with. */
void buf_pool_put(struct buf_pool *pool, void *buf, size_t len);

/* The current receive buffer, with NBD_RX_SPACE_MIN bytes or more after `used`. No reference is taken. NULL: no memory. */
struct rx_buf *buf_pool_rx(struct buf_pool *pool);
static inline struct rx_buf *rx_buf_get(struct rx_buf *rx)
{
	rx->refs++;
	return rx;
}
void rx_buf_put(struct buf_pool *pool, struct rx_buf *rx);

#endif
