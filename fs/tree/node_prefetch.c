/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/tree/node_prefetch.h"

#include <string.h>

#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/space/block_group.h"
#include "fs/tree/node.h"

void node_prefetch_init(struct node_prefetch *pf, struct fs *fs, struct device_queue *q)
{
	unsigned max = (unsigned)min_u64(NODE_PREFETCH_MAX, max_u64(fs->opt.cache_bytes / NODE_SIZE / 16, 2));

	memset(pf, 0, sizeof(*pf));
	pf->fs = fs;
	pf->q = q;
	pf->max_interior = max_u64(max / 8, 1);
	pf->max_leaves = max - pf->max_interior;
	for (unsigned i = 0; i < NODE_PREFETCH_MAX; i++)
		pf->slot[i].pf = pf;
}

static unsigned *used(struct node_prefetch *pf, uint8_t level)
{
	return level ? &pf->interior : &pf->leaves;
}

static void slot_free(struct prefetch_slot *s)
{
	cache_put(s->pf->fs->cache, s->entry);
	s->entry = NULL;
	s->id.addr = 0;
	--*used(s->pf, s->id.level);
}

static void slot_wait(struct prefetch_slot *s)
{
	while (s->under_way)
		s->pf->q->dev->ops->wait(s->pf->q);
	slot_free(s);
}

/* A node that is not valid stays unpublished, and is freed with its pin. */
static void slot_read(struct device_io *io)
{
	struct prefetch_slot *s = container_of(io, struct prefetch_slot, io);
	const char *why;

	s->under_way = false;
	if (io->error == 0 && node_validate(node_header(s->entry), &s->id, s->pf->fs->uuid, &why) == 0)
		cache_publish(s->pf->fs->cache, s->entry, s->id.addr);
}

void node_prefetch_fini(struct node_prefetch *pf)
{
	for (unsigned i = 0; i < NODE_PREFETCH_MAX; i++)
		if (pf->slot[i].id.addr)
			slot_wait(&pf->slot[i]);
}

static struct prefetch_slot *find_slot(struct node_prefetch *pf, uint64_t addr)
{
	for (unsigned i = 0; i < NODE_PREFETCH_MAX; i++)
		if (pf->slot[i].id.addr == addr)
			return &pf->slot[i];
	return NULL;
}

/* Pins what is in the cache, or starts to read it. */
static bool slot_start(struct prefetch_slot *s)
{
	struct node_prefetch *pf = s->pf;
	uint64_t off[GROUP_STRIPES_MAX];

	s->entry = cache_get(pf->fs->cache, CACHE_NODE, s->id.addr);
	if (s->entry)
		return true;
	if (block_group_map(pf->fs, s->id.addr, NODE_SIZE, off) < 1)
		return false;
	s->entry = cache_alloc(pf->fs->cache, CACHE_NODE);
	if (!s->entry)
		return false;
	s->under_way = true;
	s->io = (struct device_io){
		.op = DEVICE_READ, .off = off[0], .buf = s->entry->data, .len = NODE_SIZE, .done = slot_read};
	pf->q->dev->ops->submit(pf->q, &s->io);
	pf->q->dev->ops->kick(pf->q);
	return true;
}

bool node_prefetch_want(struct node_prefetch *pf, const struct node_ident *id)
{
	struct prefetch_slot *s;

	if (id->level ? pf->interior >= pf->max_interior : pf->leaves >= pf->max_leaves)
		return false;
	if (find_slot(pf, id->addr))
		return true;
	s = find_slot(pf, 0);
	s->id = *id;
	++*used(pf, id->level);
	if (!slot_start(s))
		slot_free(s);
	return true;
}

void node_prefetch_take(struct node_prefetch *pf, uint64_t addr)
{
	struct prefetch_slot *s = find_slot(pf, addr);

	if (s)
		slot_wait(s);
}
