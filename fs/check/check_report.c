/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_report.c: what is wrong, told so that somebody can act on it: neighbours joined, in order,
 * each with what to do.
 *
 * Growth: memory is CHECK_DAMAGE_MAX pieces, lines are CHECK_LINES_MAX, however much is broken. A piece that
 * follows the last one of its kind costs nothing; only where pieces come in no order are they sorted, once
 * for each time that the list is full.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/check/check_int.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"

typedef unsigned long long ull;

static const char *const advice_of[FS_CURES] = {
	[FS_CURE_DONE] = "nothing is left to do",
	[FS_CURE_REPAIR] = "--repair mends it",
	[FS_CURE_OVERWRITE] = "overwrite or trim this range, or restore it from a backup; the rest is good",
	[FS_CURE_RESTORE] = "copy off what can be read, and restore the pool from a backup",
};

/* ---- lines ----------------------------------------------------------------- */

static void tell(struct check *c, const struct fs_finding *f)
{
	char line[768];

	c->findings++;
	if (c->findings > CHECK_LINES_MAX + 1)
		return;
	if (c->findings == CHECK_LINES_MAX + 1) {
		if (c->opt->finding)
			c->opt->finding(c->opt->arg, "there is more; from here on findings are only counted");
		return;
	}
	snprintf(line, sizeof(line), f->cure == FS_CURE_DONE ? "%s" : "%s: %s", f->text, f->advice);
	if (c->opt->finding)
		c->opt->finding(c->opt->arg, line);
	if (c->opt->detail)
		c->opt->detail(c->opt->arg, f);
}

static void vtell(struct check *c, struct fs_finding *f, const char *fmt, va_list args)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, args);
	f->text = text;
	f->advice = advice_of[f->cure];
	tell(c, f);
}

void check_finding(struct check *c, const char *fmt, ...)
{
	struct fs_finding f = {.cure = FS_CURE_RESTORE};
	va_list args;

	va_start(args, fmt);
	vtell(c, &f, fmt, args);
	va_end(args);
}

void check_finding_cure(struct check *c, enum fs_cure cure, const char *fmt, ...)
{
	struct fs_finding f = {.cure = cure};
	va_list args;

	va_start(args, fmt);
	vtell(c, &f, fmt, args);
	va_end(args);
}

void check_finding_range(struct check *c, enum fs_cure cure, const char *volume, uint64_t off, uint64_t len,
			 const char *fmt, ...)
{
	struct fs_finding f = {.cure = cure, .volume = volume, .off = off, .len = len};
	va_list args;

	va_start(args, fmt);
	vtell(c, &f, fmt, args);
	va_end(args);
}

void check_note(struct check *c, const char *fmt, ...)
{
	char line[512];
	va_list args;

	if (!c->opt->note)
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	c->opt->note(c->opt->arg, line);
}

/* ---- damage ---------------------------------------------------------------- */

struct check_damage {
	struct check_damage_piece piece[CHECK_DAMAGE_MAX];
	unsigned count;
	uint64_t more_bytes, more_from, more_to; /* of data that found no room in the list */
	uint64_t more_copies;			 /* of nodes, likewise */
	enum fs_cure more_cure;
};

int check_damage_init(struct check *c)
{
	c->damage = mem_zalloc(sizeof(*c->damage));
	return c->damage ? 0 : -ENOMEM;
}

void check_damage_fini(struct check *c)
{
	mem_free(c->damage);
	c->damage = NULL;
}

static bool is_alike(const struct check_damage_piece *a, const struct check_damage_piece *b)
{
	return a->kind == b->kind && a->cure == b->cure && a->copy == b->copy && strcmp(a->why, b->why) == 0;
}

/*
 * b comes behind a. Data is one piece where the volume's bytes are; where they stand on the device is the
 * first one's.
 */
static bool join(struct check_damage_piece *a, const struct check_damage_piece *b)
{
	if (!is_alike(a, b) || a->at + a->len != b->at)
		return false;
	a->len += b->len;
	return true;
}

static int by_place(const void *pa, const void *pb)
{
	const struct check_damage_piece *a = pa, *b = pb;

	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	if (a->copy != b->copy)
		return a->copy < b->copy ? -1 : 1;
	return a->at < b->at ? -1 : a->at > b->at;
}

static void sort_and_join(struct check_damage *d)
{
	unsigned kept = 0;

	qsort(d->piece, d->count, sizeof(d->piece[0]), by_place);
	for (unsigned i = 0; i < d->count; i++)
		if (kept == 0 || !join(&d->piece[kept - 1], &d->piece[i]))
			d->piece[kept++] = d->piece[i];
	d->count = kept;
}

static void count_more(struct check_damage *d, const struct check_damage_piece *p)
{
	if (p->kind == DAMAGE_NODE_COPY) {
		d->more_copies += p->len / NODE_SIZE;
		d->more_cure = p->cure;
		return;
	}
	d->more_from = d->more_bytes ? min_u64(d->more_from, p->at) : p->at;
	d->more_to = max_u64(d->more_to, p->at + p->len);
	d->more_bytes += p->len;
}

void check_damage_add(struct check *c, const struct check_damage_piece *piece)
{
	struct check_damage *d = c->damage;

	if (d->count && join(&d->piece[d->count - 1], piece))
		return;
	/* Once it is full of runs that cannot be joined, it stays so. */
	if (d->count == CHECK_DAMAGE_MAX && !d->more_bytes && !d->more_copies)
		sort_and_join(d);
	if (d->count == CHECK_DAMAGE_MAX)
		count_more(d, piece);
	else
		d->piece[d->count++] = *piece;
}

static const char *what_was_done(enum fs_cure cure)
{
	return cure == FS_CURE_DONE	? " (repaired from its twin)"
	       : cure == FS_CURE_REPAIR ? " (its twin is good)"
					: "";
}

static void tell_nodes(struct check *c, const char *tree, const struct check_damage_piece *p)
{
	if (p->len > NODE_SIZE)
		check_finding_cure(
			c, p->cure,
			"%s: copy %u of %llu nodes from node %llu on, %llu bytes from device offset %llu on: %s%s",
			tree, p->copy, (ull)(p->len / NODE_SIZE), (ull)p->addr, (ull)p->len, (ull)p->dev_off,
			p->why, what_was_done(p->cure));
	else
		check_finding_cure(c, p->cure, "%s: node %llu, copy %u at device offset %llu: %s%s", tree,
				   (ull)p->addr, p->copy, (ull)p->dev_off, p->why, what_was_done(p->cure));
}

static void tell_more(struct check *c, const char *tree, const char *volume)
{
	struct check_damage *d = c->damage;

	if (d->more_bytes)
		check_finding_range(
			c, FS_CURE_OVERWRITE, volume, d->more_from, d->more_to - d->more_from,
			"%s: data in %llu bytes more, in many pieces between byte %llu and byte %llu, is damaged",
			tree, (ull)d->more_bytes, (ull)d->more_from, (ull)d->more_to);
	if (d->more_copies)
		check_finding_cure(c, d->more_cure, "%s: %llu copies more of nodes are damaged%s", tree,
				   (ull)d->more_copies, what_was_done(d->more_cure));
	d->more_bytes = d->more_from = d->more_to = d->more_copies = 0;
}

void check_damage_tell(struct check *c, const char *tree, const char *volume)
{
	struct check_damage *d = c->damage;

	sort_and_join(d);
	for (unsigned i = 0; i < d->count; i++) {
		const struct check_damage_piece *p = &d->piece[i];

		if (p->kind == DAMAGE_NODE_COPY)
			tell_nodes(c, tree, p);
		else
			check_finding_range(
				c, p->cure, volume, p->at, p->len,
				"%s: data at byte %llu, %llu bytes (device offset %llu, copy %u): %s%s", tree,
				(ull)p->at, (ull)p->len, (ull)p->dev_off, p->copy, p->why,
				what_was_done(p->cure));
	}
	d->count = 0;
	tell_more(c, tree, volume);
}
