/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/cache/cache_spare.c: the memory of the cache's chunks, and a thread that has some of it ready. See
 * cache_int.h.
 *
 * Invariants
 * 1. The thread maps and populates without the pool's lock; only count and the array change under it.
 * 2. Spares are an offer: without them (none ready, no thread, no memory) a chunk is mapped by who needs it.
 */
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/cache/cache_int.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define SPARE_NICE 5

/* ---- memory ---------------------------------------------------------------- */

static void *chunk_map(void)
{
	char *p =
		mmap(NULL, 2 * CACHE_CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *mem;

	if (p == MAP_FAILED)
		return NULL;
	mem = (char *)round_up_u64((uintptr_t)p, CACHE_CHUNK_BYTES);
	if (mem > p)
		munmap(p, (size_t)(mem - p));
	munmap(mem + CACHE_CHUNK_BYTES, (size_t)(p + CACHE_CHUNK_BYTES - mem));
	(void)madvise(mem, CACHE_CHUNK_BYTES, MADV_HUGEPAGE);
	return mem;
}

struct cache_chunk *cache_chunk_new(void)
{
	struct cache_chunk *chunk = mem_zalloc(sizeof(*chunk));

	if (!chunk)
		return NULL;
	chunk->mem = chunk_map();
	if (chunk->mem)
		return chunk;
	mem_free(chunk);
	return NULL;
}

void cache_chunk_free(struct cache_chunk *chunk)
{
	munmap(chunk->mem, CACHE_CHUNK_BYTES);
	mem_free(chunk);
}

/* ---- spares ---------------------------------------------------------------- */

/* How many there may be within the limit. */
static size_t spares_max(const struct cache *c)
{
	size_t room = c->max_chunks > c->nchunks ? c->max_chunks - c->nchunks : 0;

	return min_u64(room, c->spare.wanted);
}

struct cache_chunk *cache_spare_take_locked(struct cache *c)
{
	struct cache_spare *sp = &c->spare;

	if (!sp->runs)
		return NULL;
	sp->wanted = CACHE_SPARES;
	pthread_cond_signal(&sp->cond);
	return sp->count ? sp->chunk[--sp->count] : NULL;
}

void cache_spare_trim_locked(struct cache *c)
{
	struct cache_spare *sp = &c->spare;

	while (sp->count > spares_max(c))
		cache_chunk_free(sp->chunk[--sp->count]);
}

static struct cache_chunk *make(void)
{
	struct cache_chunk *chunk = cache_chunk_new();

	if (chunk) /* where the kernel does not know it, the first use brings the pages */
		(void)madvise(chunk->mem, CACHE_CHUNK_BYTES, MADV_POPULATE_WRITE);
	return chunk;
}

static void *spare_thread(void *arg)
{
	struct cache *c = arg;
	struct cache_spare *sp = &c->spare;

	/*
	 * Behind the loops; but not so far that what they wait for (the lock, the kernel's of the address
	 * space) is kept long.
	 */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), SPARE_NICE);
	lock_take(&c->lock);
	while (!sp->stop) {
		struct cache_chunk *chunk;

		if (sp->count >= spares_max(c)) {
			lock_wait(&c->lock, &sp->cond);
			continue;
		}
		lock_drop(&c->lock);
		chunk = make();
		lock_take(&c->lock);
		if (chunk)
			sp->chunk[sp->count++] = chunk;
		else
			sp->wanted = 0;	    /* memory is out: the next that needs a chunk asks again */
		cache_spare_trim_locked(c); /* the limit, or those in use, may have changed meanwhile */
	}
	lock_drop(&c->lock);
	return NULL;
}

int cache_start_thread(struct cache *c)
{
	struct cache_spare *sp = &c->spare;
	int r;

	lock_cond_init(&sp->cond);
	r = -pthread_create(&sp->thread, NULL, spare_thread, c);
	if (r) {
		pthread_cond_destroy(&sp->cond);
		return r;
	}
	lock_take(&c->lock);
	sp->runs = true;
	lock_drop(&c->lock);
	return 0;
}

void cache_spare_fini(struct cache *c)
{
	struct cache_spare *sp = &c->spare;

	if (sp->runs) {
		lock_take(&c->lock);
		sp->stop = true;
		pthread_cond_signal(&sp->cond);
		lock_drop(&c->lock);
		pthread_join(sp->thread, NULL);
		pthread_cond_destroy(&sp->cond);
	}
	while (sp->count)
		cache_chunk_free(sp->chunk[--sp->count]);
}
