/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/buf_pool.h"

#include <assert.h>
#include <malloc.h>
#include <string.h>
#include <sys/mman.h>

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

size_t buf_pool_bytes(size_t len)
{
	return class_bytes(class_of(len));
}

static bool is_large(unsigned class)
{
	return class_bytes(class) >= BUF_POOL_LARGE;
}

void buf_pool_init(struct buf_pool *pool, struct budget *budget, struct budget_member *member,
		   unsigned rx_max, size_t spare_max)
{
	memset(pool, 0, sizeof(*pool));
	pool->rx_max = rx_max;
	pool->spare_max = spare_max;
	budget_account_init(&pool->account, budget, member);
}

/* Without huge pages: what is not written to takes no memory. */
static void *map_large(size_t bytes)
{
	void *buf = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buf == MAP_FAILED)
		return NULL;
	madvise(buf, bytes, MADV_NOHUGEPAGE);
	return buf;
}

void buf_pool_drop(void *buf, size_t from, size_t to)
{
	madvise((uint8_t *)buf + from, to - from, MADV_DONTNEED);
}

void buf_pool_unmap(void *buf, size_t len)
{
	munmap(buf, buf_pool_bytes(len));
}

static void *take_spare(struct buf_pool *pool, unsigned class)
{
	void *buf = pool->spare[class];

	if (!buf)
		return NULL;
	pool->spare[class] = *(void **)buf;
	if (is_large(class))
		budget_give(&pool->account, class_bytes(class));
	else
		pool->spare_bytes -= class_bytes(class);
	return buf;
}

bool buf_pool_yield(struct buf_pool *pool)
{
	bool any = pool->account.held > 0;

	for (unsigned c = BUF_CLASSES; c-- > 0 && is_large(c);) {
		void *buf;

		while ((buf = take_spare(pool, c)))
			munmap(buf, class_bytes(c));
	}
	return any;
}

void buf_pool_fini(struct buf_pool *pool)
{
	buf_pool_yield(pool);
	for (unsigned c = 0; c < BUF_CLASSES; c++) {
		void *buf;

		while ((buf = take_spare(pool, c)))
			mem_free(buf);
	}
	if (pool->rx)
		rx_buf_put(pool, pool->rx);
	while (pool->rx_spare) {
		struct rx_buf *rx = pool->rx_spare;

		pool->rx_spare = rx->next;
		mem_free(rx);
	}
	pool->rx = NULL;
	pool->rx_count = 0;
}

/* Buffers that malloc has got back lie between others that are in use: it keeps them unless it is asked. */
static void free_small(struct buf_pool *pool, void *buf, size_t bytes)
{
	mem_free(buf);
	pool->freed += bytes;
	if (pool->freed < BUF_POOL_TRIM)
		return;
	pool->freed = 0;
	malloc_trim(0);
}

bool buf_pool_has_spare(const struct buf_pool *pool, size_t len)
{
	return pool->spare[class_of(len)];
}

void *buf_pool_get(struct buf_pool *pool, size_t len)
{
	unsigned class = class_of(len);
	void *buf = take_spare(pool, class);

	if (buf)
		return buf;
	return is_large(class) ? map_large(class_bytes(class))
			       : mem_alloc_aligned(FS_BLOCK_SIZE, class_bytes(class));
}

/*
 * What it is charged with is given back after this, so it is counted twice for a moment: rather too much than
 * too little.
 */
static bool may_keep(struct buf_pool *pool, unsigned class)
{
	if (is_large(class))
		return !budget_is_short(pool->account.budget) &&
		       budget_take(&pool->account, class_bytes(class));
	if (pool->spare_bytes + class_bytes(class) > pool->spare_max)
		return false;
	pool->spare_bytes += class_bytes(class);
	return true;
}

void buf_pool_put(struct buf_pool *pool, void *buf, size_t len)
{
	unsigned class = class_of(len);

	if (may_keep(pool, class)) {
		*(void **)buf = pool->spare[class];
		pool->spare[class] = buf;
	} else if (is_large(class)) {
		munmap(buf, class_bytes(class));
	} else {
		free_small(pool, buf, class_bytes(class));
	}
}

static struct rx_buf *rx_buf_new(struct buf_pool *pool)
{
	struct rx_buf *rx = pool->rx_spare;

	if (rx) {
		pool->rx_spare = rx->next;
	} else {
		rx = mem_alloc(sizeof(*rx));
		if (!rx)
			return NULL;
		pool->rx_count++;
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
	if (pool->rx_count > pool->rx_max) {
		mem_free(rx);
		pool->rx_count--;
		return;
	}
	rx->next = pool->rx_spare;
	pool->rx_spare = rx;
}
