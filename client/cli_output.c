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

int table_add(struct table *t, const char *const *cells)
{
	void *grown = mem_realloc(t->cells, (size_t)(t->rows + 1) * t->columns * CELL_MAX);

	if (!grown)
		return -ENOMEM;
	t->cells = grown;
	for (unsigned c = 0; c < t->columns; c++)
		snprintf(t->cells[t->rows * t->columns + c], CELL_MAX, "%s", cells[c]);
	t->rows++;
	return 0;
}

static int column_width(const struct table *t, unsigned column)
{
	size_t width = 0;

	for (unsigned r = 0; r < t->rows; r++)
		width = max_u64(width, strlen(t->cells[r * t->columns + column]));
	return (int)width;
}

void table_print(const struct table *t)
{
	int widths[TABLE_COLUMNS_MAX];

	for (unsigned c = 0; c < t->columns; c++)
		widths[c] = column_width(t, c);

	for (unsigned r = 0; r < t->rows; r++) {
		for (unsigned c = 0; c < t->columns; c++) {
			const char *cell = t->cells[r * t->columns + c];
			bool last = c + 1 == t->columns;

			if (t->right & 1u << c)
				printf("%*s", widths[c], cell);
			else
				printf("%-*s", last ? 0 : widths[c], cell);
			fputs(last ? "\n" : "  ", stdout);
		}
	}
}

void table_fini(struct table *t)
{
	mem_free(t->cells);
	*t = (struct table){0};
}
