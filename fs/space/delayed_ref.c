/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/space/delayed_ref.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/core/fault.h"

int delayed_ref_add(struct delayed_refs *refs, uint64_t addr, uint64_t len_bytes, int delta)
{
	ASSERT(addr && len_bytes && addr % 4096 == 0 && len_bytes % 4096 == 0 &&
	       len_bytes >> 12 <= UINT32_MAX);
	if (refs->count == refs->cap) {
		size_t cap = refs->cap ? refs->cap * 2 : 256;
		struct delayed_ref *ref = mem_realloc(refs->ref, cap * sizeof(*ref));

		if (!ref)
			return -ENOMEM;
		refs->ref = ref;
		refs->cap = cap;
	}
	refs->ref[refs->count++] = (struct delayed_ref){addr, (uint32_t)(len_bytes >> 12), delta};
	return 0;
}

static int run_order(const void *pa, const void *pb)
{
	const struct delayed_ref *a = pa, *b = pb;

	if (a->delta != b->delta)
		return b->delta - a->delta;
	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static bool are_neighbours(const struct delayed_ref *a, const struct delayed_ref *b, uint64_t group_step)
{
	return a->delta == b->delta && a->addr + ((uint64_t)a->len << 12) == b->addr &&
	       (uint64_t)a->len + b->len <= UINT32_MAX &&
	       (a->addr / group_step == b->addr / group_step || FAULT(FAULT_REF_MERGE));
}

void delayed_refs_settle(struct delayed_refs *refs, uint64_t group_step)
{
	size_t out = 0;

	if (refs->count == 0)
		return;
	qsort(refs->ref, refs->count, sizeof(*refs->ref), run_order);
	for (size_t i = 0; i < refs->count; i++) {
		struct delayed_ref *last = out ? &refs->ref[out - 1] : NULL, cur = refs->ref[i];

		if (last && are_neighbours(last, &cur, group_step))
			last->len += cur.len;
		else
			refs->ref[out++] = cur;
	}
	refs->count = out;
}

void delayed_refs_fini(struct delayed_refs *refs)
{
	mem_free(refs->ref);
	memset(refs, 0, sizeof(*refs));
}
