/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/check/dump.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "fs/check/check.h"
#include "fs/check/dump_int.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/backing_format.h"
#include "fs/format/claim_format.h"
#include "fs/format/print.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

typedef unsigned long long ull;

static const uint64_t super_offsets[SUPER_COPIES] = SUPER_OFFSETS;

void dump_problem(struct dump *d, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	d->problems++;
	print_problem(&d->p, "%s", text);
}

bool dump_within_limit(struct dump *d, uint64_t *n)
{
	if (d->opt->max_items == 0 || (*n)++ < d->opt->max_items)
		return true;
	print_begin(&d->p, "more");
	print_text(&d->p, "text", "and more: the limit was reached", 31);
	print_end(&d->p);
	return false;
}

bool dump_read(struct dump *d, uint64_t off, void *buf, uint64_t len, const char *what)
{
	int r = device_sync(d->q, DEVICE_READ, off, buf, len);

	if (r == -EINVAL && (off > d->dev->size || len > d->dev->size - off))
		dump_problem(d, "%s: offset %llu lies behind the end of the file", what, (ull)off);
	else if (r)
		dump_problem(d, "%s: offset %llu cannot be read: %s", what, (ull)off, strerror(-r));
	return r == 0;
}

/* ---- superblocks ----------------------------------------------------------- */

struct copy {
	struct super_block sb;
	/* usable: nothing is wrong but where it stands, its checksum, or the file's size */
	bool read, valid, usable;
};

static void print_copy(struct dump *d, unsigned i, const struct copy *c, const char *why)
{
	struct print *p = &d->p;

	print_begin(p, "superblock");
	print_number(p, "copy", i);
	print_number(p, "offset", super_offsets[i]);
	print_bool(p, "valid", c->valid);
	if (le64_to_cpu(c->sb.magic) == SUPER_MAGIC) {
		print_word(p, "checksum", le32_to_cpu(c->sb.crc) == super_checksum(&c->sb) ? "good" : "bad");
		super_print(p, &c->sb);
	}
	print_end(p);
	if (!c->valid)
		dump_problem(d, "superblock copy %u at offset %llu %s", i, (ull)super_offsets[i], why);
}

static void read_copy(struct dump *d, unsigned i, bool print, struct copy *c)
{
	const char *why = "", *ignored;
	char what[32];

	snprintf(what, sizeof(what), "superblock copy %u", i);
	c->read = dump_read(d, super_offsets[i], d->block, SUPER_SIZE, what);
	if (!c->read)
		return;
	memcpy(&c->sb, d->block, SUPER_SIZE);
	c->valid = super_validate(&c->sb, super_offsets[i], d->dev->size, &why) == 0;
	c->usable = le64_to_cpu(c->sb.magic) == SUPER_MAGIC && super_validate_fields(&c->sb, &ignored) == 0;
	if (print)
		print_copy(d, i, c, why);
}

/* What two copies differ in, but for their place and checksum. */
static void compare_copies(struct dump *d, const struct copy *copy, unsigned best)
{
	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		if (i == best || !copy[i].read || le64_to_cpu(copy[i].sb.magic) != SUPER_MAGIC ||
		    super_compare(NULL, &copy[best].sb, &copy[i].sb) == 0)
			continue;
		print_begin(&d->p, "superblock_difference");
		print_number(&d->p, "1_copy", best);
		print_number(&d->p, "2_copy", i);
		super_compare(&d->p, &copy[best].sb, &copy[i].sb);
		print_end(&d->p);
	}
}

/* A valid one, or else one that is nearly so; of these the newest. */
static bool better(const struct copy *a, const struct copy *b)
{
	if (!a->usable || !b->usable)
		return a->usable && !b->usable;
	if (a->valid != b->valid)
		return a->valid;
	return le64_to_cpu(a->sb.generation) > le64_to_cpu(b->sb.generation);
}

static void print_chosen(struct dump *d, const struct copy *copy, unsigned best)
{
	compare_copies(d, copy, best);
	for (unsigned i = 0; i < SUPER_SYSTEM_GROUPS; i++)
		if (le64_to_cpu(d->sb.system[i].start))
			super_system_group_print(&d->p, i, &d->sb.system[i]);
	super_scrub_print(&d->p, &d->sb.scrub);
}

static int dump_supers(struct dump *d, bool print)
{
	struct copy *copy = mem_zalloc(SUPER_COPIES * sizeof(*copy));
	unsigned best = 0;

	if (!copy)
		return -ENOMEM;
	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		read_copy(d, i, print, &copy[i]);
		if (better(&copy[i], &copy[best]))
			best = i;
	}
	d->has_super = copy[best].usable;
	d->sb = copy[best].sb;
	if (d->has_super && print)
		print_chosen(d, copy, best);
	if (!d->has_super)
		dump_problem(d, "no superblock can be used: there is nothing to find trees and log by");
	else if (!copy[best].valid)
		dump_problem(d, "no superblock is valid: going on with copy %u all the same", best);
	mem_free(copy);
	return 0;
}

/* ---- what stands alone ------------------------------------------------------ */

static void dump_claim(struct dump *d)
{
	if (dump_read(d, CLAIM_OFFSET, d->block, CLAIM_BYTES, "claim"))
		claim_print(&d->p, d->block);
}

static void dump_spares(struct dump *d)
{
	for (unsigned i = 0; i < 2; i++)
		if (dump_read(d, SPARES_OFFSET + i * SPARES_BYTES, d->block, SPARES_BYTES, "spares"))
			spares_print(&d->p, SPARES_OFFSET + i * SPARES_BYTES, d->block);
}

/* ---- all of it ------------------------------------------------------------- */

static int dump_parts(struct dump *d)
{
	const struct fs_dump_options *opt = d->opt;
	uint32_t parts = opt->parts;
	int r = dump_supers(d, parts & FS_DUMP_SUPERBLOCK);

	if (r == 0 && parts & FS_DUMP_CLAIM)
		dump_claim(d);
	if (r == 0 && parts & FS_DUMP_SPARES)
		dump_spares(d);
	if (!d->has_super || r)
		return r;
	r = dump_groups(d, parts & FS_DUMP_GROUPS);
	if (r == 0 && parts & FS_DUMP_VOLUMES)
		r = dump_volumes(d);
	if (r == 0 && opt->volume)
		r = dump_volume(d, opt->volume);
	if (r == 0 && parts & FS_DUMP_LOG)
		r = dump_log(d);
	if (r == 0 && parts & FS_DUMP_CACHES)
		r = dump_caches(d, parts & FS_DUMP_CACHE_ENTRIES);
	for (size_t i = 0; r == 0 && i < opt->nr_nodes; i++)
		dump_node(d, opt->nodes[i]);
	return r;
}

static int dump_init(struct dump *d)
{
	int r = d->dev->ops->queue_new(d->dev, &d->q);

	for (unsigned i = 0; r == 0 && i < NODE_LEVEL_MAX; i++)
		for (unsigned k = 0; r == 0 && k < GROUP_STRIPES_MAX; k++) {
			d->node[i][k] = mem_alloc_aligned(DEVICE_ALIGN, NODE_SIZE);
			r = d->node[i][k] ? 0 : -ENOMEM;
		}
	d->block = mem_alloc_aligned(DEVICE_ALIGN, SUPER_SIZE);
	return r == 0 && !d->block ? -ENOMEM : r;
}

static void dump_fini(struct dump *d)
{
	for (unsigned i = 0; i < NODE_LEVEL_MAX; i++)
		for (unsigned k = 0; k < GROUP_STRIPES_MAX; k++)
			mem_free(d->node[i][k]);
	mem_free(d->block);
	mem_free(d->group);
	device_queue_free(d->q);
}

int dump_device(struct device *dev, const struct fs_dump_options *opt, uint64_t *ret_problems,
		struct fs_error *err)
{
	struct dump *d = mem_zalloc(sizeof(*d));
	int r;

	if (!d)
		return fs_fail(err, -ENOMEM, "out of memory");
	d->dev = dev;
	d->opt = opt;
	d->p.line = opt->line;
	d->p.arg = opt->arg;
	d->p.json = opt->json;
	r = dump_init(d);
	if (r == 0)
		r = dump_parts(d);
	*ret_problems = d->problems;
	dump_fini(d);
	mem_free(d);
	return r ? fs_fail(err, r, "the dump could not go on: %s", strerror(-r)) : 0;
}

int fs_dump(const char *path, const struct fs_dump_options *opt, uint64_t *ret_problems, struct fs_error *err)
{
	struct fs_error inner = {""};
	struct device *dev;
	int r = check_open_device(path, false, &dev, err);

	if (r)
		return r;
	r = dump_device(dev, opt, ret_problems, &inner);
	device_close(dev);
	return r ? fs_fail(err, r, "pool %s: %s", path, inner.msg) : 0;
}
