/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/mem.h"

#include <stdlib.h>

/* Per thread, so that a test of one engine thread does not disturb the others. */
static __thread uint64_t fail_countdown;

static int fails_now(void)
{
	return __builtin_expect(fail_countdown != 0, 0) && --fail_countdown == 0;
}

void *mem_alloc(size_t size)
{
	return fails_now() ? NULL : malloc(size);
}
void *mem_zalloc(size_t size)
{
	return fails_now() ? NULL : calloc(1, size);
}
void *mem_realloc(void *ptr, size_t size)
{
	return fails_now() ? NULL : realloc(ptr, size);
}

void *mem_alloc_aligned(size_t align, size_t size)
{
	void *ptr;

	if (fails_now() || posix_memalign(&ptr, align, size))
		return NULL;
	return ptr;
}

void mem_free(void *ptr)
{
	free(ptr);
}
void mem_fail_at(uint64_t n)
{
	fail_countdown = n;
}
int mem_fail_pending(void)
{
	return fail_countdown != 0;
}
