/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim_image.c: an image is an array of leaves with 512 pages each; leaves and pages are
 * shared by reference.
 */
#include "fs/device/device_sim_image.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define LEAF_PAGES 512u

struct sim_leaf {
	unsigned refs;
	unsigned used;
	struct sim_page *pages[LEAF_PAGES];
};

struct sim_image {
	uint64_t leaves_count;
	struct sim_leaf **leaves;
};

void *sim_alloc(uint64_t size)
{
	void *ptr = malloc(size);

	ASSERT(ptr);
	return ptr;
}

/* SplitMix64. */
uint64_t sim_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static bool ref_drop(unsigned *refs)
{
	return __atomic_sub_fetch(refs, 1, __ATOMIC_ACQ_REL) == 0;
}

static void ref_take(unsigned *refs)
{
	__atomic_add_fetch(refs, 1, __ATOMIC_RELAXED);
}

static bool is_shared(unsigned *refs)
{
	return __atomic_load_n(refs, __ATOMIC_ACQUIRE) > 1;
}

/* ---- pages ----------------------------------------------------------------------- */

struct sim_page *sim_page_new(void)
{
	struct sim_page *page = sim_alloc(sizeof(*page));

	page->refs = 1;
	page->bad = false;
	return page;
}

struct sim_page *sim_page_get(struct sim_page *page)
{
	if (page)
		ref_take(&page->refs);
	return page;
}

void sim_page_put(struct sim_page *page)
{
	if (page && ref_drop(&page->refs))
		free(page);
}

static struct sim_page *page_copy(const struct sim_page *from)
{
	struct sim_page *page = sim_page_new();

	if (from) {
		page->bad = from->bad;
		memcpy(page->data, from->data, SIM_PAGE);
	} else {
		memset(page->data, 0, SIM_PAGE);
	}
	return page;
}

/* ---- leaves ------------------------------------------------------------------------ */

static void leaf_put(struct sim_leaf *leaf)
{
	if (!leaf || !ref_drop(&leaf->refs))
		return;
	for (unsigned i = 0; i < LEAF_PAGES; i++)
		sim_page_put(leaf->pages[i]);
	free(leaf);
}

static struct sim_leaf *leaf_copy(const struct sim_leaf *from)
{
	struct sim_leaf *leaf = sim_alloc(sizeof(*leaf));

	memset(leaf, 0, sizeof(*leaf));
	leaf->refs = 1;
	if (!from)
		return leaf;
	leaf->used = from->used;
	for (unsigned i = 0; i < LEAF_PAGES; i++)
		leaf->pages[i] = sim_page_get(from->pages[i]);
	return leaf;
}

/* The leaf of a page, allocated and unshared. */
static struct sim_leaf *leaf_change(struct sim_image *image, uint64_t pageno)
{
	struct sim_leaf **slot = &image->leaves[pageno / LEAF_PAGES];
	struct sim_leaf *old = *slot;

	if (old && !is_shared(&old->refs))
		return old;
	*slot = leaf_copy(old);
	leaf_put(old);
	return *slot;
}

/* ---- images ------------------------------------------------------------------------- */

void sim_image_grow(struct sim_image *image, uint64_t size)
{
	uint64_t count =
		round_up_u64(size, (uint64_t)LEAF_PAGES * SIM_PAGE) / ((uint64_t)LEAF_PAGES * SIM_PAGE);

	if (count <= image->leaves_count)
		return;
	image->leaves = realloc(image->leaves, count * sizeof(*image->leaves));
	ASSERT(image->leaves);
	memset(image->leaves + image->leaves_count, 0,
	       (count - image->leaves_count) * sizeof(*image->leaves));
	image->leaves_count = count;
}

struct sim_image *sim_image_new(uint64_t size)
{
	struct sim_image *image = sim_alloc(sizeof(*image));

	*image = (struct sim_image){0};
	sim_image_grow(image, size);
	return image;
}

struct sim_image *sim_image_clone(const struct sim_image *from)
{
	struct sim_image *image = sim_image_new(from->leaves_count * LEAF_PAGES * SIM_PAGE);

	ASSERT(image->leaves_count == from->leaves_count);
	for (uint64_t i = 0; i < from->leaves_count; i++) {
		image->leaves[i] = from->leaves[i];
		if (image->leaves[i])
			ref_take(&image->leaves[i]->refs);
	}
	return image;
}

void sim_image_free(struct sim_image *image)
{
	if (!image)
		return;
	for (uint64_t i = 0; i < image->leaves_count; i++)
		leaf_put(image->leaves[i]);
	free(image->leaves);
	free(image);
}

uint64_t sim_image_pages(const struct sim_image *image)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < image->leaves_count; i++)
		n += image->leaves[i] ? image->leaves[i]->used : 0;
	return n;
}

const struct sim_page *sim_image_peek(const struct sim_image *image, uint64_t pageno)
{
	const struct sim_leaf *leaf = image->leaves[pageno / LEAF_PAGES];

	return leaf ? leaf->pages[pageno % LEAF_PAGES] : NULL;
}

void sim_image_read(const struct sim_image *image, uint64_t pageno, void *to)
{
	const struct sim_page *page = sim_image_peek(image, pageno);

	if (page)
		memcpy(to, page->data, SIM_PAGE);
	else
		memset(to, 0, SIM_PAGE);
}

uint64_t sim_image_next(const struct sim_image *image, uint64_t pageno, uint64_t end)
{
	while (pageno < end) {
		const struct sim_leaf *leaf = image->leaves[pageno / LEAF_PAGES];

		if (!leaf || !leaf->used)
			pageno = round_down_u64(pageno, LEAF_PAGES) + LEAF_PAGES;
		else if (leaf->pages[pageno % LEAF_PAGES])
			return pageno;
		else
			pageno++;
	}
	return end;
}

void sim_image_set(struct sim_image *image, uint64_t pageno, struct sim_page *page)
{
	struct sim_leaf *leaf;
	struct sim_page **slot;

	if (!page && !sim_image_peek(image, pageno))
		return;
	leaf = leaf_change(image, pageno);
	slot = &leaf->pages[pageno % LEAF_PAGES];
	leaf->used += (page != NULL) - (*slot != NULL);
	sim_page_put(*slot);
	*slot = page;
}

struct sim_page *sim_image_change(struct sim_image *image, uint64_t pageno)
{
	struct sim_leaf *leaf = leaf_change(image, pageno);
	struct sim_page *page = leaf->pages[pageno % LEAF_PAGES];

	if (!page || is_shared(&page->refs)) {
		page = page_copy(page);
		sim_image_set(image, pageno, page);
	}
	return page;
}

void sim_image_set_sectors(struct sim_image *image, uint64_t pageno, struct sim_page *page, unsigned mask)
{
	struct sim_page *to;

	if (mask == SIM_ALL_SECTORS)
		sim_image_set(image, pageno, sim_page_get(page));
	if (mask == SIM_ALL_SECTORS || mask == 0)
		return;
	to = sim_image_change(image, pageno);
	for (unsigned i = 0; i < SIM_PAGE_SECTORS; i++) {
		if (!(mask & (1u << i)))
			continue;
		if (page)
			memcpy(to->data + i * 512, page->data + i * 512, 512);
		else
			memset(to->data + i * 512, 0, 512);
	}
}
