/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_output.c: how results are written: JSON, times, tables. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/size.h"
#include "base/util.h"
#include "client/cli.h"

/* RFC 3339, UTC, whole seconds. */
const char *time_text(int64_t ns, char buf[TIME_MAX])
{
	time_t seconds = (time_t)(ns / 1000000000);
	struct tm tm;

	if (!gmtime_r(&seconds, &tm) || !strftime(buf, TIME_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm))
		strcpy(buf, "?");
	return buf;
}

void print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(value);
}

const char *latency_text(uint64_t us, char *buf)
{
	if (us < 1000)
		snprintf(buf, SIZE_FORMAT_MAX, "%" PRIu64 " us", us);
	else if (us < 10000)
		snprintf(buf, SIZE_FORMAT_MAX, "%.1f ms", (double)us / 1e3);
	else if (us < 1000000)
		snprintf(buf, SIZE_FORMAT_MAX, "%" PRIu64 " ms", us / 1000);
	else
		snprintf(buf, SIZE_FORMAT_MAX, "%.1f s", (double)us / 1e6);
	return buf;
}

/* ---- tables --------------------------------------------------------------- */

int table_init(struct table *t, unsigned columns, unsigned right, const char *const *headings)
{
	ASSERT(columns <= TABLE_COLUMNS_MAX);
	*t = (struct table){.columns = columns, .right = right};
	return table_add(t, headings);
}

/* The next cell, with its final zero. */
static int put_cell(struct table *t, unsigned column, const char *text)
{
	size_t len = strlen(text), size = t->size ? t->size : 4096;
	char *grown;

	while (size - t->len < len + 1)
		size *= 2;
	if (size != t->size) {
		grown = mem_realloc(t->cells, size);
		if (!grown)
			return -ENOMEM;
		t->cells = grown;
		t->size = size;
	}
	memcpy(t->cells + t->len, text, len + 1);
	t->len += len + 1;
	t->widths[column] = (int)max_u64((uint64_t)t->widths[column], len);
	return 0;
}

int table_add(struct table *t, const char *const *cells)
{
	int r = 0;

	for (unsigned c = 0; c < t->columns && r == 0; c++)
		r = put_cell(t, c, cells[c]);
	return r;
}

void table_print(const struct table *t)
{
	const char *cell = t->cells;

	for (unsigned c = 0; cell < t->cells + t->len; c = (c + 1) % t->columns) {
		bool last = c + 1 == t->columns;

		if (t->right & 1u << c)
			printf("%*s", t->widths[c], cell);
		else
			printf("%-*s", last ? 0 : t->widths[c], cell);
		fputs(last ? "\n" : "  ", stdout);
		cell += strlen(cell) + 1;
	}
}

void table_fini(struct table *t)
{
	mem_free(t->cells);
	*t = (struct table){0};
}

json_t *text_json(const char *text)
{
	json_t *json = json_string(text);
	char *plain;

	if (json)
		return json;
	plain = mem_alloc(strlen(text) + 1);
	if (!plain)
		return NULL;
	for (size_t i = 0; i == 0 || text[i - 1]; i++)
		plain[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	json = json_string(plain);
	mem_free(plain);
	return json;
}
