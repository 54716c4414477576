/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim_host.c: the simulated device as a sparse file: which pages have blocks of a host that
 * may be full.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/device/device_sim_image.h"
#include "fs/device/device_sim_int.h"

static uint64_t count_pages(const struct sim_device *sim, uint64_t first, uint64_t end)
{
	uint64_t n = 0;

	for (uint64_t i = first; sim->blocks && i < end; i++)
		n += sim->blocks[i] != 0;
	return n;
}

int sim_host_allocate(struct sim_device *sim, uint64_t off, uint64_t len)
{
	uint64_t first = off / SIM_PAGE, end = (off + len) / SIM_PAGE, lacking;

	if (!sim->blocks)
		return 0;
	lacking = end - first - count_pages(sim, first, end);
	if (lacking && (sim->host_full || lacking > sim->host_left))
		return -ENOSPC;
	if (sim->host_left != UINT64_MAX)
		sim->host_left -= lacking;
	for (uint64_t i = first; i < end; i++)
		if (!sim->blocks[i])
			sim->blocks[i] = sim_log_seq(&sim->log) + 2;
	return 0;
}

void sim_host_discard(struct sim_device *sim, uint64_t off, uint64_t len)
{
	if (!sim->blocks)
		return;
	if (sim->host_left != UINT64_MAX)
		sim->host_left += count_pages(sim, off / SIM_PAGE, (off + len) / SIM_PAGE);
	memset(sim->blocks + off / SIM_PAGE, 0, len / SIM_PAGE * sizeof(*sim->blocks));
}

int sim_host_look(const struct sim_device *sim, struct device_host *ret_host)
{
	if (!sim->blocks)
		return -ENOTSUP;
	ret_host->used_bytes = count_pages(sim, 0, sim->dev.size / SIM_PAGE) * SIM_PAGE;
	ret_host->free_bytes = sim->host_full		      ? 0
			       : sim->host_left == UINT64_MAX ? UINT64_MAX
							      : sim->host_left * SIM_PAGE;
	return 0;
}

void sim_host_grow(struct sim_device *sim, uint64_t old_size, uint64_t size)
{
	if (!sim->blocks)
		return;
	sim->blocks = realloc(sim->blocks, size / SIM_PAGE * sizeof(*sim->blocks));
	ASSERT(sim->blocks);
	memset(sim->blocks + old_size / SIM_PAGE, 0, (size - old_size) / SIM_PAGE * sizeof(*sim->blocks));
}

static void set_sparse(struct sim_device *sim)
{
	uint64_t pages = sim->dev.size / SIM_PAGE;

	sim->dev.sparse = true;
	sim->host_left = UINT64_MAX;
	free(sim->blocks);
	sim->blocks = sim_alloc(pages * sizeof(*sim->blocks));
	memset(sim->blocks, 0, pages * sizeof(*sim->blocks));
	for (uint64_t i = sim_image_next(sim->view, 0, pages); i < pages;
	     i = sim_image_next(sim->view, i + 1, pages))
		sim->blocks[i] = 1;
}

void sim_host_crash(struct sim_device *sim, struct sim_device *image, uint64_t *rng)
{
	uint64_t pages = sim->dev.size / SIM_PAGE;
	bool lose = sim_random(rng) % 2;

	if (!sim->blocks)
		return;
	set_sparse(image); /* nobody else has it yet, and sim's lock is held */
	/*
	 * Written pages have theirs whatever else was lost; and a flush covers what was allocated before it
	 * was submitted.
	 */
	for (uint64_t i = 0; i < pages; i++)
		if (sim->blocks[i] && (sim->blocks[i] - 1 <= sim->stable_seq || !lose || sim_random(rng) % 2))
			image->blocks[i] = 1;
	image->host_full = sim->host_full;
	image->host_left = sim->host_left;
	if (sim->host_left != UINT64_MAX)
		image->host_left += count_pages(sim, 0, pages) -
				    min_u64(count_pages(sim, 0, pages), count_pages(image, 0, pages));
}

void device_sim_set_sparse(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	set_sparse(sim);
	lock_drop(&sim->lock);
}

void device_sim_set_host_full(struct device *dev, bool full)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim->host_full = full;
	lock_drop(&sim->lock);
}

void device_sim_set_host_left(struct device *dev, uint64_t bytes)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim->host_left = bytes == UINT64_MAX ? bytes : bytes / SIM_PAGE;
	lock_drop(&sim->lock);
}

uint64_t device_sim_host_pages(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);
	uint64_t n;

	lock_take(&sim->lock);
	n = count_pages(sim, 0, dev->size / SIM_PAGE);
	lock_drop(&sim->lock);
	return n;
}
