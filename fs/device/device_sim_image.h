/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim_image.h: sparse copy-on-write images for the simulated device.
 *
 * 1. A page that has more than one reference is never changed.
 * 2. A page that is not there reads as zeros. Reference counts are atomic: images that share pages may be
 *    used by different threads; one image by one thread at a time.
 */
#ifndef FS_DEVICE_DEVICE_SIM_IMAGE_H
#define FS_DEVICE_DEVICE_SIM_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#define SIM_PAGE 4096u
#define SIM_PAGE_SECTORS (SIM_PAGE / 512)
#define SIM_ALL_SECTORS ((1u << SIM_PAGE_SECTORS) - 1)

struct sim_page {
	unsigned refs;
	bool bad; /* reads fail */
	uint8_t data[SIM_PAGE];
};

struct sim_image;

/* malloc that aborts. See fs/device/device_sim.h for why not base/mem.h. */
void *sim_alloc(uint64_t size);
uint64_t sim_random(uint64_t *state);

struct sim_page *sim_page_new(void); /* not zeroed, one reference */
struct sim_page *sim_page_get(struct sim_page *page);
void sim_page_put(struct sim_page *page); /* accepts NULL */

struct sim_image *sim_image_new(uint64_t size);
struct sim_image *sim_image_clone(const struct sim_image *image);
void sim_image_free(struct sim_image *image); /* accepts NULL */
void sim_image_grow(struct sim_image *image, uint64_t size);
uint64_t sim_image_pages(const struct sim_image *image);

/* The page, borrowed; NULL if there is none. */
const struct sim_page *sim_image_peek(const struct sim_image *image, uint64_t pageno);
/* Copies SIM_PAGE bytes out. */
void sim_image_read(const struct sim_image *image, uint64_t pageno, void *to);
/* The first page in [pageno, end) that is there; else end. */
uint64_t sim_image_next(const struct sim_image *image, uint64_t pageno, uint64_t end);
/* Puts a page into the image; takes the caller's reference. NULL makes a hole. */
void sim_image_set(struct sim_image *image, uint64_t pageno, struct sim_page *page);
/* As set, but only for the sectors in the mask; does not take the reference. */
void sim_image_set_sectors(struct sim_image *image, uint64_t pageno, struct sim_page *page, unsigned mask);
/* The page for changing, allocated and unshared. */
struct sim_page *sim_image_change(struct sim_image *image, uint64_t pageno);

#endif
