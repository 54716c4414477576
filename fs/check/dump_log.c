/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/dump_log.c: the flush log's records, their items, and what opening the pool would replay of them.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "fs/check/dump_int.h"
#include "fs/commit/flush_log_reader.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"

typedef unsigned long long ull;

struct log_dump {
	struct dump *d;
	struct log_reader rd;
	uint64_t printed;
	bool full; /* as many items as are wanted */
};

/* Of an item in a group that is whole. */
static const char *item_fate(const struct log_dump *ld, const struct log_item *item, bool sure)
{
	const struct dump *d = ld->d;

	if (le16_to_cpu(item->type) == LOG_GROUP) {
		const struct group_item *g = dump_group_find(d, le64_to_cpu(item->id), 1);

		return g && g->start == le64_to_cpu(item->id) ? "no_committed" : "yes";
	}
	if (le64_to_cpu(item->generation) <= le64_to_cpu(d->sb.generation))
		return "no_committed";
	return sure || le16_to_cpu(item->type) != LOG_EXTENT ? "yes" : "if_data_is_there";
}

static void print_items(struct log_dump *ld, const struct log_record *rec, bool whole, bool sure)
{
	const uint8_t *items = (const uint8_t *)(rec + 1);
	uint64_t used = le32_to_cpu(rec->bytes) - sizeof(*rec);
	const struct log_item *item;
	struct dump *d = ld->d;

	d->p.indent++;
	for (uint64_t at = 0; at < used && !ld->full; at += le32_to_cpu(item->bytes)) {
		if (log_item_check(items + at, used - at, &item)) {
			dump_problem(d, "flush log: record %llu: the item at byte %llu of it makes no sense",
				     (ull)le64_to_cpu(rec->seq), (ull)(at + sizeof(*rec)));
			break;
		}
		ld->full = !dump_within_limit(d, &ld->printed);
		if (ld->full)
			break;
		print_begin(&d->p, "log_item");
		print_word(&d->p, "replayed", whole ? item_fate(ld, item, sure) : "no_group_not_whole");
		log_item_print(&d->p, item);
		print_end(&d->p);
	}
	d->p.indent--;
}

static void print_record(struct log_dump *ld, uint64_t pos, const struct log_record *rec, bool whole,
			 bool sure)
{
	struct print *p = &ld->d->p;

	print_begin(p, "log_record");
	log_record_print(p, rec);
	print_number(p, "position", pos);
	print_number(p, "offset", ld->rd.offset + pos % ld->rd.size);
	print_word(p, "replayed", whole ? "yes" : "no_group_not_whole");
	print_end(p);
	print_items(ld, rec, whole, sure);
}

/* Records from pos on, to before `end`; end 0: to the last that is there. */
static void print_records(struct log_dump *ld, uint64_t pos, uint64_t seq, uint64_t end, bool sure)
{
	int error = 0;

	while (end ? pos < end : pos - ld->rd.tail < ld->rd.size) {
		const struct log_record *rec = log_reader_record(&ld->rd, pos, seq, &error);
		uint64_t next;

		if (!rec)
			break;
		next = log_reader_next(&ld->rd, pos, rec);
		print_record(ld, pos, rec, end != 0, sure);
		pos = next;
		seq++;
	}
}

/* Where replay ends. */
static void print_end_of_log(struct log_dump *ld, uint64_t pos, uint64_t seq)
{
	struct print *p = &ld->d->p;
	struct log_lost lost;

	print_begin(p, "log_end");
	print_number(p, "position", pos);
	print_number(p, "offset", ld->rd.offset + pos % ld->rd.size);
	print_number(p, "next_seq", seq);
	print_end(p);
	print_records(ld, pos, seq, 0, false); /* of a group that is not whole */
	log_reader_lost(&ld->rd, pos, seq, &lost);
	if (lost.records)
		dump_problem(
			ld->d,
			"flush log: record %llu is damaged, and %llu records of at least %llu flushes behind "
			"it are not replayed",
			(ull)seq, (ull)lost.records, (ull)lost.flushes);
}

static int walk(struct log_dump *ld, struct log_group_read g[2])
{
	struct log_reader *rd = &ld->rd;
	uint64_t pos = rd->tail, seq = rd->seq;
	unsigned cur = 0;
	int have = log_reader_group(rd, pos, seq, &g[cur]);

	while (have == 1) {
		int next = log_reader_group(rd, g[cur].end, g[cur].seq, &g[!cur]);

		/* Data of a group is there if a later one follows, or if it says so. */
		print_records(ld, pos, seq, g[cur].end, next == 1 || g[cur].flags & LOG_DATA_DURABLE);
		pos = g[cur].end;
		seq = g[cur].seq;
		cur = !cur;
		have = next;
	}
	if (have == 0)
		print_end_of_log(ld, pos, seq);
	return have;
}

int dump_log(struct dump *d)
{
	struct log_dump ld = {.d = d};
	struct log_group_read g[2] = {{0}, {0}};
	int r = log_reader_init(&ld.rd, d->q, &d->sb);

	if (r)
		return r;
	print_begin(&d->p, "log");
	print_number(&d->p, "offset", ld.rd.offset);
	print_number(&d->p, "size", ld.rd.size);
	print_number(&d->p, "tail", ld.rd.tail);
	print_number(&d->p, "seq", ld.rd.seq);
	print_end(&d->p);
	r = walk(&ld, g);
	if (r < 0 && r != -ENOMEM) {
		dump_problem(d, "flush log: offset %llu cannot be read: %s", (ull)ld.rd.bad_offset,
			     strerror(-r));
		r = 0;
	}
	log_group_read_fini(&g[0]);
	log_group_read_fini(&g[1]);
	log_reader_fini(&ld.rd);
	return r;
}
