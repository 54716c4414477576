/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_space.c: see device_space.h. Depths are logarithmic with overwhelming probability,
 * whatever the ranges are.
 */
#include "fs/device/device_space.h"

#include <errno.h>

#include "base/mem.h"
#include "base/util.h"

struct device_range {
	struct device_range *left, *right;
	uint64_t off, len;
	uint64_t longest;  /* of this one and all below */
	uint32_t priority; /* not less than those below */
};

/* ---- the tree --------------------------------------------------------------- */

static uint64_t longest(const struct device_range *r)
{
	return r ? r->longest : 0;
}

static void update(struct device_range *r)
{
	r->longest = max_u64(r->len, max_u64(longest(r->left), longest(r->right)));
}

/* What begins before `off`, and the rest. */
static void split(struct device_range *r, uint64_t off, struct device_range **ret_left,
		  struct device_range **ret_right)
{
	if (!r) {
		*ret_left = *ret_right = NULL;
		return;
	}
	if (r->off < off) {
		split(r->right, off, &r->right, ret_right);
		*ret_left = r;
	} else {
		split(r->left, off, ret_left, &r->left);
		*ret_right = r;
	}
	update(r);
}

static struct device_range *merge(struct device_range *left, struct device_range *right)
{
	if (!left || !right)
		return left ? left : right;
	if (left->priority >= right->priority) {
		left->right = merge(left->right, right);
		update(left);
		return left;
	}
	right->left = merge(left, right->left);
	update(right);
	return right;
}

static struct device_range *insert(struct device_range *r, struct device_range *n)
{
	if (!r || n->priority > r->priority) {
		split(r, n->off, &n->left, &n->right);
		update(n);
		return n;
	}
	if (n->off < r->off)
		r->left = insert(r->left, n);
	else
		r->right = insert(r->right, n);
	update(r);
	return r;
}

static struct device_range *unlink_at(struct device_range *r, uint64_t off, struct device_range **ret_range)
{
	if (r->off == off) {
		*ret_range = r;
		return merge(r->left, r->right);
	}
	if (off < r->off)
		r->left = unlink_at(r->left, off, ret_range);
	else
		r->right = unlink_at(r->right, off, ret_range);
	update(r);
	return r;
}

/* The range at `from` becomes [off, off + len), between the same neighbours. */
static void reshape(struct device_range *r, uint64_t from, uint64_t off, uint64_t len)
{
	if (r->off == from) {
		r->off = off;
		r->len = len;
	} else {
		reshape(from < r->off ? r->left : r->right, from, off, len);
	}
	update(r);
}

/* The last range that begins before or at `off`; the first one behind it. */
static struct device_range *find_before(const struct device_space *ds, uint64_t off)
{
	struct device_range *best = NULL;

	for (struct device_range *r = ds->root; r; r = r->off <= off ? r->right : r->left)
		if (r->off <= off)
			best = r;
	return best;
}

static struct device_range *find_after(const struct device_space *ds, uint64_t off)
{
	struct device_range *best = NULL;

	for (struct device_range *r = ds->root; r; r = r->off > off ? r->left : r->right)
		if (r->off > off)
			best = r;
	return best;
}

/* ---- nodes ------------------------------------------------------------------ */

static void put_spare(struct device_space *ds, struct device_range *r)
{
	r->left = ds->spare;
	ds->spare = r;
}

static struct device_range *get_spare(struct device_space *ds)
{
	struct device_range *r = ds->spare;

	if (r)
		ds->spare = r->left;
	return r;
}

static void link_range(struct device_space *ds, struct device_range *r, uint64_t off, uint64_t len)
{
	ds->rng = ds->rng * 6364136223846793005u + 1442695040888963407u;
	*r = (struct device_range){.off = off, .len = len, .priority = (uint32_t)(ds->rng >> 32)};
	ds->root = insert(ds->root, r);
	ds->ranges++;
}

static void drop_range(struct device_space *ds, uint64_t off)
{
	struct device_range *r = NULL;

	ds->root = unlink_at(ds->root, off, &r);
	ds->ranges--;
	put_spare(ds, r);
}

static void free_tree(struct device_range *r)
{
	if (!r)
		return;
	free_tree(r->left);
	free_tree(r->right);
	mem_free(r);
}

void device_space_fini(struct device_space *ds)
{
	struct device_range *r;

	free_tree(ds->root);
	while ((r = get_spare(ds)))
		mem_free(r);
	*ds = (struct device_space){0};
}

/* ---- giving and taking ------------------------------------------------------ */

int device_space_add(struct device_space *ds, uint64_t off, uint64_t len)
{
	struct device_range *before = find_before(ds, off), *after = find_after(ds, off), *r;

	if (len == 0)
		return 0;
	ASSERT((!before || before->off + before->len <= off) && (!after || off + len <= after->off));
	if (before && before->off + before->len == off) {
		uint64_t joined = before->len + len;

		if (after && after->off == off + len) {
			joined += after->len;
			drop_range(ds, after->off);
		}
		reshape(ds->root, before->off, before->off, joined);
	} else if (after && after->off == off + len) {
		reshape(ds->root, after->off, off, len + after->len);
	} else {
		r = get_spare(ds);
		if (!r)
			r = mem_alloc(sizeof(*r));
		if (!r)
			return -ENOMEM;
		link_range(ds, r, off, len);
	}
	ds->bytes += len;
	mem_free(get_spare(ds)); /* the one that came with the take */
	return 0;
}

int device_space_take(struct device_space *ds, uint64_t off, uint64_t len)
{
	struct device_range *from = find_before(ds, off), *r;
	uint64_t start, end;

	if (!from || len == 0 || off - from->off >= from->len || len > from->len - (off - from->off))
		return -EUCLEAN;
	r = mem_alloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	put_spare(ds, r);
	start = from->off;
	end = start + from->len;
	if (off > start) {
		reshape(ds->root, start, start, off - start);
		if (off + len < end)
			link_range(ds, get_spare(ds), off + len, end - off - len);
	} else if (off + len < end) {
		reshape(ds->root, start, off + len, end - off - len);
	} else {
		drop_range(ds, start);
	}
	ds->bytes -= len;
	return 0;
}

/* ---- looking ---------------------------------------------------------------- */

bool device_space_find(const struct device_space *ds, uint64_t len, uint64_t *ret_off)
{
	const struct device_range *r = ds->root;

	if (longest(r) < len)
		return false;
	for (;;) {
		if (longest(r->left) >= len) {
			r = r->left;
		} else if (r->len >= len) {
			*ret_off = r->off;
			return true;
		} else {
			r = r->right;
		}
	}
}

bool device_space_next(const struct device_space *ds, uint64_t from, uint64_t *ret_off, uint64_t *ret_len)
{
	const struct device_range *r = find_before(ds, from);

	if (!r || from - r->off >= r->len)
		r = find_after(ds, from);
	if (!r)
		return false;
	*ret_off = r->off;
	*ret_len = r->len;
	return true;
}

uint64_t device_space_longest(const struct device_space *ds)
{
	return longest(ds->root);
}
