/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_data.c: reads data and compares checksums, several extents at a time. Blocks that do not
 * match are put aside as suspects and looked at one by one, on the other queue.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/check/check_int.h"
#include "fs/device/device.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/volume/extent.h"

typedef unsigned long long ull;

#define READ_MAX (EXTENT_BLOCKS_MAX * FS_BLOCK_SIZE)

struct suspect {
	const struct check_group *group;
	uint64_t blk, addr;
	uint32_t crc;
	unsigned copy;
};

struct data_read {
	struct device_io io;
	struct check *c;
	const struct check_group *group;
	uint64_t blk, addr;
	unsigned copy;
	le32 crc[EXTENT_BLOCKS_MAX];
	void *buf;
	struct data_read *next; /* of the free ones */
};

struct check_data {
	struct data_read read[CHECK_DATA_UNDER_WAY];
	struct data_read *free;
	unsigned under_way;
	struct suspect suspect[CHECK_SUSPECTS_MAX];
	unsigned suspects;
	void *block[GROUP_STRIPES_MAX];
};

int check_data_init(struct check *c)
{
	struct check_data *d = mem_zalloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	c->data = d;
	for (unsigned i = 0; i < CHECK_DATA_UNDER_WAY; i++) {
		d->read[i].c = c;
		d->read[i].next = d->free;
		d->free = &d->read[i];
		d->read[i].buf = mem_alloc_aligned(DEVICE_ALIGN, READ_MAX);
		if (!d->read[i].buf)
			return -ENOMEM;
	}
	for (unsigned i = 0; i < GROUP_STRIPES_MAX; i++) {
		d->block[i] = mem_alloc_aligned(DEVICE_ALIGN, FS_BLOCK_SIZE);
		if (!d->block[i])
			return -ENOMEM;
	}
	return 0;
}

void check_data_fini(struct check *c)
{
	struct check_data *d = c->data;

	if (!d)
		return;
	while (d->under_way)
		c->data_q->dev->ops->wait(c->data_q);
	for (unsigned i = 0; i < CHECK_DATA_UNDER_WAY; i++)
		mem_free(d->read[i].buf);
	for (unsigned i = 0; i < GROUP_STRIPES_MAX; i++)
		mem_free(d->block[i]);
	mem_free(d);
	c->data = NULL;
}

static void read_done(struct device_io *io)
{
	struct data_read *r = container_of(io, struct data_read, io);
	struct check_data *d = r->c->data;

	for (uint64_t i = 0; i < io->len / FS_BLOCK_SIZE; i++) {
		uint32_t crc = le32_to_cpu(r->crc[i]);

		if (io->error || crc32c((char *)r->buf + i * FS_BLOCK_SIZE, FS_BLOCK_SIZE) != crc)
			d->suspect[d->suspects++] = (struct suspect){
				r->group, r->blk + i, r->addr + i * FS_BLOCK_SIZE, crc, r->copy};
	}
	r->next = d->free;
	d->free = r;
	d->under_way--;
}

static int read_block(struct check *c, const struct suspect *s, unsigned copy, void *buf)
{
	int r = device_sync(c->q, DEVICE_READ, s->group->stripe[copy] + (s->addr - s->group->start), buf,
			    FS_BLOCK_SIZE);

	return r || crc32c(buf, FS_BLOCK_SIZE) == s->crc ? r : -EUCLEAN;
}

/* Once more, by itself: an error that has passed is none. */
static void look_at(struct check *c, const struct suspect *s)
{
	uint64_t off = s->group->stripe[s->copy] + (s->addr - s->group->start);
	struct check_damage_piece p = {
		DAMAGE_DATA, FS_CURE_OVERWRITE, s->copy, s->blk * FS_BLOCK_SIZE, FS_BLOCK_SIZE, off, 0, NULL};
	int r = read_block(c, s, s->copy, c->data->block[0]);

	if (r == 0)
		return;
	p.why = r == -EUCLEAN ? "checksum does not match" : strerror(-r);
	for (unsigned i = 0; i < s->group->nr_stripes && p.cure == FS_CURE_OVERWRITE; i++) {
		if (i == s->copy || read_block(c, s, i, c->data->block[1]))
			continue;
		p.cure = check_rewrite(c, off, c->data->block[1], FS_BLOCK_SIZE) ? FS_CURE_DONE
										 : FS_CURE_REPAIR;
	}
	check_damage_add(c, &p);
}

static void look_at_all(struct check *c)
{
	for (unsigned i = 0; i < c->data->suspects; i++)
		look_at(c, &c->data->suspect[i]);
	c->data->suspects = 0;
}

/* Waits until one more read may start with room for its suspects. */
static void make_room(struct check *c)
{
	struct check_data *d = c->data;

	while (!d->free || (d->under_way + 1) * EXTENT_BLOCKS_MAX + d->suspects > CHECK_SUSPECTS_MAX) {
		if (d->suspects) {
			look_at_all(c);
			continue;
		}
		c->data_q->dev->ops->wait(c->data_q);
	}
}

static void progress(struct check *c, uint64_t bytes)
{
	c->data_done = min_u64(c->data_done + bytes, c->data_total);
	if (c->opt->progress)
		c->opt->progress(c->opt->arg, c->data_done, c->data_total);
}

int check_data_add(struct check *c, const struct extent *e, const struct check_group *g)
{
	for (unsigned copy = 0; copy < g->nr_stripes; copy++) {
		struct data_read *r;

		make_room(c);
		r = c->data->free;
		c->data->free = r->next;
		c->data->under_way++;
		r->group = g;
		r->blk = e->blk;
		r->addr = e->addr;
		r->copy = copy;
		memcpy(r->crc, e->crc, e->nblk * sizeof(le32));
		r->io = (struct device_io){
			.op = DEVICE_READ,
			.off = g->stripe[copy] + (e->addr - g->start),
			.len = e->nblk * FS_BLOCK_SIZE,
			.buf = r->buf,
			.done = read_done,
		};
		c->data_q->dev->ops->submit(c->data_q, &r->io);
		c->data_q->dev->ops->kick(c->data_q);
	}
	progress(c, e->nblk * FS_BLOCK_SIZE);
	return 0;
}

int check_data_finish(struct check *c)
{
	struct check_data *d = c->data;

	while (d->under_way)
		c->data_q->dev->ops->wait(c->data_q);
	look_at_all(c);
	return 0;
}
