/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * base/mem.h: allocation that tests can make fail at the n-th call. All of the engine's
 * allocations go through it; none of them aborts.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* NULL when memory is out. mem_zalloc zeroes. mem_free accepts NULL. */
void *mem_alloc(size_t size);
void *mem_zalloc(size_t size);
void *mem_realloc(void *ptr, size_t size);
/* Aligned to `align` (a power of two); freed with mem_free too. */
void *mem_alloc_aligned(size_t align, size_t size);
void mem_free(void *ptr);

/*
 * For tests. The calling thread's n-th allocation from now on (1 is the next) fails, once; 0 turns it off.
 * mem_fail_pending is true until it has fired.
 */
void mem_fail_at(uint64_t n);
int mem_fail_pending(void);

#endif
