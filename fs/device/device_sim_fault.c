/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim_fault.c: the simulated device's faults: requests that fail, tear or get lost, bad
 * pages, bit rot.
 */
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/device/device_sim_image.h"
#include "fs/device/device_sim_int.h"

/* ---- requests ------------------------------------------------------------------------------ */

static bool fault_matches(const struct device_sim_fault *fault, const struct device_io *io)
{
	if (!(fault->ops & DEVICE_SIM_OP(io->op)))
		return false;
	if (io->op == DEVICE_FLUSH || !fault->len)
		return true;
	return io->off < fault->off + fault->len && fault->off < io->off + io->len;
}

/* The fault that hits the request, counted; or NULL. */
static struct sim_fault *find_fault_locked(struct sim_device *sim, const struct device_io *io)
{
	for (unsigned i = 0; i < SIM_FAULTS_MAX; i++) {
		struct sim_fault *f = &sim->faults[i];

		if (!f->used || !fault_matches(&f->fault, io))
			continue;
		if (f->fault.skip) {
			f->fault.skip--;
			continue;
		}
		if (!f->forever && --f->fault.count == 0)
			f->used = false;
		return f;
	}
	return NULL;
}

static void apply_fault(struct sim_pending *p, const struct device_sim_fault *fault)
{
	bool flush = p->io->op == DEVICE_FLUSH;

	p->error = fault->kind == DEVICE_SIM_LOSE ? 0 : fault->error;
	p->torn = fault->kind == DEVICE_SIM_FAIL_TORN && p->io->op == DEVICE_WRITE;
	p->effect = p->torn || (flush && fault->kind != DEVICE_SIM_LOSE);
}

void sim_fault_apply_locked(struct sim_device *sim, struct sim_pending *p)
{
	struct sim_fault *fault = find_fault_locked(sim, p->io);

	if (fault) {
		apply_fault(p, &fault->fault);
	} else if (sim->hook) {
		p->error = sim->hook(sim->hook_arg, p->io);
		p->effect = !p->error || p->io->op == DEVICE_FLUSH;
	}
}

unsigned device_sim_fault_add(struct device *dev, const struct device_sim_fault *fault)
{
	struct sim_device *sim = sim_of(dev);
	unsigned i = 0;

	lock_take(&sim->lock);
	while (i < SIM_FAULTS_MAX && sim->faults[i].used)
		i++;
	ASSERT(i < SIM_FAULTS_MAX);
	sim->faults[i] = (struct sim_fault){.fault = *fault, .used = true, .forever = fault->count == 0};
	lock_drop(&sim->lock);
	return i;
}

void device_sim_fault_remove(struct device *dev, unsigned id)
{
	struct sim_device *sim = sim_of(dev);

	ASSERT(id < SIM_FAULTS_MAX);
	lock_take(&sim->lock);
	sim->faults[id].used = false;
	lock_drop(&sim->lock);
}

void device_sim_fault_clear(struct device *dev)
{
	for (unsigned i = 0; i < SIM_FAULTS_MAX; i++)
		device_sim_fault_remove(dev, i);
	device_sim_set_hook(dev, NULL, NULL);
}

void device_sim_set_hook(struct device *dev, int (*hook)(void *arg, const struct device_io *io), void *arg)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim->hook = hook;
	sim->hook_arg = arg;
	lock_drop(&sim->lock);
}

/* ---- content ---------------------------------------------------------------------------- */

/* Calls fn on a copy of the change's page, and makes it the change's. */
static void change_logged(struct sim_change *change, void (*fn)(void *arg, struct sim_page *page), void *arg)
{
	struct sim_page *page = sim_page_new();

	if (change->page)
		memcpy(page->data, change->page->data, SIM_PAGE);
	else
		memset(page->data, 0, SIM_PAGE);
	fn(arg, page);
	sim_page_put(change->page);
	change->page = page;
}

/* Calls fn for every copy of the page that there is, in images and in the log. */
static void change_all_locked(struct sim_device *sim, uint64_t pageno,
			      void (*fn)(void *arg, struct sim_page *page), void *arg)
{
	struct sim_image *images[] = {sim->view, sim->stable, sim->base, sim->cursor};

	for (unsigned i = 0; i < ARRAY_SIZE(images); i++)
		if (images[i])
			fn(arg, sim_image_change(images[i], pageno));
	for (uint64_t i = 0; i < sim->log.count; i++)
		for (uint64_t j = 0; j < sim->log.events[i].count; j++)
			if (sim->log.events[i].changes[j].pageno == pageno)
				change_logged(&sim->log.events[i].changes[j], fn, arg);
}

static void mark_bad(void *arg, struct sim_page *page)
{
	page->bad = true;
}

void device_sim_bad_range(struct device *dev, uint64_t off, uint64_t len)
{
	struct sim_device *sim = sim_of(dev);

	ASSERT((off | len) % SIM_PAGE == 0 && off <= dev->size && len <= dev->size - off);
	lock_take(&sim->lock);
	for (uint64_t i = off / SIM_PAGE; i < (off + len) / SIM_PAGE; i++)
		change_all_locked(sim, i, mark_bad, NULL);
	lock_drop(&sim->lock);
}

struct flip {
	uint64_t at;
	uint8_t mask;
};

static void flip_bit(void *arg, struct sim_page *page)
{
	const struct flip *flip = arg;

	page->data[flip->at] ^= flip->mask;
}

void device_sim_flip(struct device *dev, uint64_t addr, unsigned bit)
{
	struct sim_device *sim = sim_of(dev);
	struct flip flip = {.at = addr % SIM_PAGE, .mask = (uint8_t)(1u << bit % 8)};

	ASSERT(addr < dev->size);
	lock_take(&sim->lock);
	change_all_locked(sim, addr / SIM_PAGE, flip_bit, &flip);
	lock_drop(&sim->lock);
}

struct mend {
	const void *bad, *good;
};

static void mend_page(void *arg, struct sim_page *page)
{
	const struct mend *mend = arg;

	if (memcmp(page->data, mend->bad, SIM_PAGE) == 0)
		memcpy(page->data, mend->good, SIM_PAGE);
}

void device_sim_mend(struct device *dev, uint64_t off, const void *bad, const void *good)
{
	struct sim_device *sim = sim_of(dev);
	struct mend mend = {bad, good};

	ASSERT(off % SIM_PAGE == 0 && off < dev->size);
	lock_take(&sim->lock);
	change_all_locked(sim, off / SIM_PAGE, mend_page, &mend);
	lock_drop(&sim->lock);
}

void device_sim_peek(struct device *dev, uint64_t off, void *buf, uint64_t len)
{
	struct sim_device *sim = sim_of(dev);
	uint8_t page[SIM_PAGE], *to = buf;

	ASSERT(off <= dev->size && len <= dev->size - off);
	lock_take(&sim->lock);
	while (len) {
		uint64_t at = off % SIM_PAGE, n = min_u64(len, SIM_PAGE - at);

		sim_image_read(sim->view, off / SIM_PAGE, page);
		memcpy(to, page + at, n);
		to += n;
		off += n;
		len -= n;
	}
	lock_drop(&sim->lock);
}

struct poke {
	const uint8_t *from;
	uint64_t at, n;
};

static void poke_page(void *arg, struct sim_page *page)
{
	const struct poke *poke = arg;

	memcpy(page->data + poke->at, poke->from, poke->n);
}

void device_sim_poke(struct device *dev, uint64_t off, const void *buf, uint64_t len)
{
	struct sim_device *sim = sim_of(dev);
	struct poke poke = {.from = buf};

	ASSERT(off <= dev->size && len <= dev->size - off);
	lock_take(&sim->lock);
	while (len) {
		poke.at = off % SIM_PAGE;
		poke.n = min_u64(len, SIM_PAGE - poke.at);
		change_all_locked(sim, off / SIM_PAGE, poke_page, &poke);
		poke.from += poke.n;
		off += poke.n;
		len -= poke.n;
	}
	lock_drop(&sim->lock);
}
