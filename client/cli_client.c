/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_client.c: byre client list, client drop. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "base/util.h"
#include "client/cli.h"

/* One of the two is used. */
struct list {
	struct table table;
	json_t *array;
};

static int add_row(struct table *t, const struct byre_client_info *i)
{
	char id[24], when[TIME_MAX], got[SIZE_FORMAT_MAX], put[SIZE_FORMAT_MAX], errors[24];
	uint64_t failed = 0;
	const char *cells[] = {id,
			       i->volume[0] ? i->volume : "-",
			       i->read_only ? "read-only" : "writable",
			       i->peer,
			       when,
			       got,
			       put,
			       errors};

	for (int k = 0; k <= BYRE_OTHER; k++)
		failed += i->figures.kind[k].errors;
	snprintf(id, sizeof(id), "%" PRIu64, i->id);
	snprintf(errors, sizeof(errors), "%" PRIu64, failed);
	time_text(i->since_ns, when);
	size_format(i->figures.kind[BYRE_READ].bytes, got, sizeof(got));
	size_format(i->figures.kind[BYRE_WRITE].bytes, put, sizeof(put));
	return table_add(t, cells);
}

static int add_client(void *arg, const struct byre_client_info *info)
{
	struct list *list = arg;

	if (list->array)
		return json_array_append_new(list->array, client_json(info)) ? -ENOMEM : 0;
	return add_row(&list->table, info);
}

static int list_init(struct list *list, bool json)
{
	static const char *const headings[] = {"ID",	"VOLUME", "ACCESS",  "PEER",
					       "SINCE", "READ",	  "WRITTEN", "FAILED"};

	*list = (struct list){.array = json ? json_array() : NULL};
	if (json)
		return list->array ? 0 : -ENOMEM;
	return table_init(&list->table, ARRAY_SIZE(headings), 1u | 1u << 5 | 1u << 6 | 1u << 7, headings);
}

enum cli_exit run_client_list(const struct cli *cli)
{
	struct byre_error err = {.code = -ENOMEM, .text = "client list: out of memory"};
	struct list list;
	struct byre *b;
	int r = list_init(&list, cli->given & CLI_JSON);

	if (!r)
		r = cli_connect(cli, &b, &err);
	if (!r) {
		r = byre_client_list(b, add_client, &list, &err);
		byre_close(b);
	}
	if (!r && list.array)
		print_json(json_incref(list.array));
	else if (!r)
		table_print(&list.table);
	json_decref(list.array);
	table_fini(&list.table);
	return r ? cli_fail_err(cli, &err) : CLI_OK;
}

enum cli_exit run_client_drop(const struct cli *cli)
{
	const char *text = cli->args[0];
	struct byre_error err;
	struct byre *b;
	char *end;
	uint64_t id;
	int r;

	errno = 0;
	id = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		return cli_usage(cli, "'%s' is not a client's id: see 'byre client list'", text);
	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_client_drop(b, id, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:I, s:b}", "id", (json_int_t)id, "dropped", 1));
	return CLI_OK;
}
