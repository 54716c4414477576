/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/buf_pool.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"

static_assert((UINT64_C(1) << (BUF_CLASS_MIN_SHIFT + BUF_CLASSES - 1)) == NBD_IO_MAX,
	      "classes reach the largest request");
static_assert(NBD_RX_SPACE_MIN <= NBD_RX_BYTES / 2, "a buffer serves several receives");

static unsigned class_of(size_t len)
{
	size_t blocks = (len + (1u << BUF_CLASS_MIN_SHIFT) - 1) >> BUF_CLASS_MIN_SHIFT;

	ASSERT(len >= 1 && len <= NBD_IO_MAX);
	return blocks == 1 ? 0 : 64 - __builtin_clzll(blocks - 1);
}

static size_t class_bytes(unsigned class)
{
	return (size_t)1 << (BUF_CLASS_MIN_SHIFT + class);
}

void buf_pool_init(struct buf_pool *pool)
{
	memset(pool, 0, sizeof(*pool));
}

void buf_pool_fini(struct buf_pool *pool)
{
	for (unsigned c = 0; c < BUF_CLASSES; c++) {
		while (pool->spare[c]) {
			void *buf = pool->spare[c];

			pool->spare[c] = *(void **)buf;
			mem_free(buf);
		}
	}
	if (pool->rx)
		rx_buf_put(pool, pool->rx);
	while (pool->rx_spare) {
		struct rx_buf *rx = pool->rx_spare;

		pool->rx_spare = rx->next;
		mem_free(rx);
	}
	buf_pool_init(pool);
}

void *buf_pool_get(struct buf_pool *pool, size_t len)
{
	unsigned class = class_of(len);
	void *buf = pool->spare[class];

	if (!buf)
		return mem_alloc_aligned(FS_BLOCK_SIZE, class_bytes(class));
	pool->spare[class] = *(void **)buf;
	pool->spare_bytes -= class_bytes(class);
	return buf;
}

void buf_pool_put(struct buf_pool *pool, void *buf, size_t len)
{
	unsigned class = class_of(len);

	if (pool->spare_bytes + class_bytes(class) > BUF_POOL_KEEP_BYTES) {
		mem_free(buf);
		return;
	}
	*(void **)buf = pool->spare[class];
	pool->spare[class] = buf;
	pool->spare_bytes += class_bytes(class);
}

static struct rx_buf *rx_buf_new(struct buf_pool *pool)
{
	struct rx_buf *rx = pool->rx_spare;

	if (rx) {
		pool->rx_spare = rx->next;
		pool->rx_spare_count--;
	} else {
		rx = mem_alloc(sizeof(*rx));
		if (!rx)
			return NULL;
	}
	rx->refs = 1;
	rx->used = 0;
	return rx;
}

struct rx_buf *buf_pool_rx(struct buf_pool *pool)
{
	struct rx_buf *rx = pool->rx;

	if (rx && rx->refs == 1)
		rx->used = 0;
	if (rx && NBD_RX_BYTES - rx->used >= NBD_RX_SPACE_MIN)
		return rx;
	if (rx)
		rx_buf_put(pool, rx);
	pool->rx = rx_buf_new(pool);
	return pool->rx;
}

void rx_buf_put(struct buf_pool *pool, struct rx_buf *rx)
{
	ASSERT(rx->refs > 0);
	if (--rx->refs)
		return;
	if (pool->rx_spare_count >= BUF_POOL_RX_KEEP) {
		mem_free(rx);
		return;
	}
	rx->next = pool->rx_spare;
	pool->rx_spare = rx;
	pool->rx_spare_count++;
}
