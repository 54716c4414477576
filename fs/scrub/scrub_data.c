/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub_data.c: blocks of data: read in the order in which they stand on the device, neighbours
 * together.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/device/device.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/scrub/scrub_int.h"
#include "fs/space/block_group.h"
#include "fs/volume/extent.h"

/* ---- reads ----------------------------------------------------------------- */

static void read_done(struct device_io *io)
{
	struct scrub_read *rd = container_of(io, struct scrub_read, io);

	*rd->error = io->error;
	rd->next = rd->run->free_read;
	rd->run->free_read = rd;
	rd->run->under_way--;
}

void scrub_wait(struct scrub_run *r)
{
	while (r->under_way)
		r->q->dev->ops->wait(r->q);
}

void scrub_submit(struct scrub_run *r, uint64_t off, void *buf, uint64_t len, int *ret_error)
{
	struct scrub_read *rd;

	while (!r->free_read)
		r->q->dev->ops->wait(r->q);
	rd = r->free_read;
	r->free_read = rd->next;
	r->under_way++;
	rd->error = ret_error;
	rd->io = (struct device_io){.op = DEVICE_READ, .off = off, .len = len, .buf = buf, .done = read_done};
	r->q->dev->ops->submit(r->q, &rd->io);
	r->q->dev->ops->kick(r->q);
	r->bytes += len;
}

int scrub_read(struct scrub_run *r, uint64_t off, void *buf, uint64_t len)
{
	int e = device_sync(r->q, DEVICE_READ, off, buf, len);

	r->bytes += len;
	return e ? device_sync(r->q, DEVICE_READ, off, buf, len) : 0;
}

/* ---- what is to be read ----------------------------------------------------- */

bool scrub_data_add(struct scrub_run *r, const struct extent *e)
{
	uint64_t off[GROUP_STRIPES_MAX];
	uint32_t n = (uint32_t)e->nblk;

	if (r->blocks + n > SCRUB_BLOCKS * r->scale)
		return false;
	if (block_group_map(r->fs, e->addr, e->nblk * FS_BLOCK_SIZE, off) != 1) {
		r->found++;
		scrub_damaged(r, FS_SCRUB_DAMAGED, e->blk * FS_BLOCK_SIZE, e->nblk * FS_BLOCK_SIZE,
			      "it stands in no data group");
		return true;
	}
	for (uint32_t i = 0; i < n; i++)
		r->crc[r->blocks + i] = le32_to_cpu(e->crc[i]);
	r->piece[r->pieces++] = (struct scrub_piece){
		.blk = e->blk, .addr = e->addr, .off = off[0], .nblk = n, .crc = r->blocks};
	r->blocks += n;
	return true;
}

static int by_off(const void *pa, const void *pb)
{
	const struct scrub_piece *a = pa, *b = pb;

	return a->off < b->off ? -1 : a->off > b->off;
}

static int by_blk(const void *pa, const void *pb)
{
	const struct scrub_piece *a = pa, *b = pb;

	return a->blk < b->blk ? -1 : a->blk > b->blk;
}

/*
 * How many pieces from i on are one read, which is as long as *ret_len; their blocks come behind *data in
 * `data`.
 */
static unsigned join(struct scrub_run *r, unsigned i, uint32_t *data, uint64_t *ret_len)
{
	struct scrub_piece *p = r->piece;
	uint64_t len = 0;
	unsigned k;

	for (k = i; k < r->pieces && p[k].off == p[i].off + len; k++) {
		if (len + p[k].nblk * (uint64_t)FS_BLOCK_SIZE > SCRUB_READ_MAX)
			break;
		p[k].lead = i;
		p[k].data = *data;
		*data += p[k].nblk;
		len += p[k].nblk * (uint64_t)FS_BLOCK_SIZE;
	}
	*ret_len = len;
	return k - i;
}

static void read_all(struct scrub_run *r)
{
	uint32_t data = 0;
	uint64_t len;

	qsort(r->piece, r->pieces, sizeof(r->piece[0]), by_off);
	for (unsigned i = 0, n; i < r->pieces; i += n) {
		uint8_t *buf = r->data + (uint64_t)data * FS_BLOCK_SIZE;

		n = join(r, i, &data, &len);
		scrub_submit(r, r->piece[i].off, buf, len, &r->piece[i].error);
	}
	scrub_wait(r);
}

/* ---- what is wrong with it --------------------------------------------------- */

/* The block is in memory, as it was written: that is as good as a twin. */
static bool mend_from_memory(struct scrub_run *r, uint64_t addr, uint64_t off, uint32_t crc)
{
	struct cache_entry *entry = cache_get(r->fs->cache, CACHE_DATA, addr);
	bool done = false;

	if (entry && crc32c(entry->data, FS_BLOCK_SIZE) == crc)
		done = scrub_mend(r, off, entry->data, r->copy[0], FS_BLOCK_SIZE);
	cache_put(r->fs->cache, entry);
	return done;
}

static void look_at_block(struct scrub_run *r, const struct scrub_piece *p, uint32_t i)
{
	uint64_t skip = i * (uint64_t)FS_BLOCK_SIZE;
	uint32_t crc = r->crc[p->crc + i];
	int error = scrub_read(r, p->off + skip, r->copy[0], FS_BLOCK_SIZE);

	if (error == 0 && crc32c(r->copy[0], FS_BLOCK_SIZE) == crc)
		return;
	r->found++;
	atomic_fetch_add(error ? &r->fs->stats.errors_io : &r->fs->stats.errors_checksum, 1);
	if (mend_from_memory(r, p->addr + skip, p->off + skip, crc))
		atomic_fetch_add(&r->fs->stats.errors_corrected, 1);
	else
		scrub_damaged(r, FS_SCRUB_DAMAGED, p->blk * FS_BLOCK_SIZE + skip, FS_BLOCK_SIZE,
			      error ? strerror(-error) : "checksum does not match");
}

void scrub_data_read(struct scrub_run *r)
{
	if (r->pieces == 0)
		return;
	read_all(r);
	for (unsigned i = 0; i < r->pieces; i++)
		r->piece[i].error = r->piece[r->piece[i].lead].error;
	qsort(r->piece, r->pieces, sizeof(r->piece[0]), by_blk); /* so that damage is reported in order */
	for (unsigned i = 0; i < r->pieces; i++) {
		const struct scrub_piece *p = &r->piece[i];

		for (uint32_t k = 0; k < p->nblk; k++)
			if (p->error || crc32c(r->data + (p->data + k) * (uint64_t)FS_BLOCK_SIZE,
					       FS_BLOCK_SIZE) != r->crc[p->crc + k])
				look_at_block(r, p, k);
	}
}
