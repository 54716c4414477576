/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_volume.c: the commands that begin with `byre volume`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "client/backend.h"
#include "client/cli.h"

/* Closes the backend after an operation that returned r; reports what failed first. */
static enum cli_exit finish(struct backend *b, const struct cli *cli, int r, const struct byre_error *err)
{
	struct byre_error close_err;
	int close_r = b->ops->close(b, &close_err);

	if (r)
		return cli_fail_err(cli, err);
	return close_r ? cli_fail_err(cli, &close_err) : CLI_OK;
}

/* After a change: JSON shows the volume as it is now, people hear nothing. */
static enum cli_exit finish_with_volume(struct backend *b, int r, const struct cli *cli, const char *name,
					struct byre_error *err)
{
	struct byre_volume_info info;

	if (!r && cli->given & CLI_JSON) {
		r = b->ops->volume_info(b, name, &info, err);
		if (!r)
			print_json(volume_json(&info));
	}
	return finish(b, cli, r, err);
}

enum cli_exit run_volume_create(const struct cli *cli)
{
	const char *name = cli->args[0];
	uint32_t flags = (cli->given & CLI_RESERVED ? BYRE_VOLUME_RESERVED : 0) |
			 (cli->writeback ? BYRE_VOLUME_WRITEBACK : 0);
	struct byre_error err;
	struct backend b;
	struct cli_size size;
	int r;

	if (!cli_check_name(cli, name) || !cli_parse_size(cli, cli->args[1], &size))
		return CLI_USAGE;
	if (backend_open(&b, cli, false, &err))
		return cli_fail_err(cli, &err);
	r = b.ops->volume_create(&b, name, size.bytes, flags, &err);
	if (!r)
		cli_note_rounding(&size);
	return finish_with_volume(&b, r, cli, name, &err);
}

/* One of the two is used. */
struct list {
	struct table table;
	json_t *array;
};

static int list_add(void *arg, const struct byre_volume_info *info)
{
	struct list *list = arg;

	if (list->array)
		return json_array_append_new(list->array, volume_json(info)) ? -ENOMEM : 0;
	return volume_table_add(&list->table, info);
}

enum cli_exit run_volume_list(const struct cli *cli)
{
	struct list list = {.array = cli->given & CLI_JSON ? json_array() : NULL};
	struct byre_error err = {.code = -ENOMEM, .text = "volume list: out of memory"};
	struct backend b;
	enum cli_exit code;
	int r;

	if (backend_open(&b, cli, true, &err)) {
		json_decref(list.array);
		return cli_fail_err(cli, &err);
	}
	r = list.array ? 0 : cli_volume_table_init(&list.table);
	if (!r)
		r = b.ops->volume_list(&b, list_add, &list, &err);

	code = finish(&b, cli, r, &err);
	if (code == CLI_OK && list.array)
		print_json(json_incref(list.array));
	else if (code == CLI_OK)
		table_print(&list.table);
	json_decref(list.array);
	table_fini(&list.table);
	return code;
}

enum cli_exit run_volume_info(const struct cli *cli)
{
	struct byre_volume_info info;
	struct byre_error err;
	struct backend b;
	int r;

	if (!cli_check_name(cli, cli->args[0]))
		return CLI_USAGE;
	if (backend_open(&b, cli, true, &err))
		return cli_fail_err(cli, &err);
	r = b.ops->volume_info(&b, cli->args[0], &info, &err);
	if (!r && cli->given & CLI_JSON)
		print_json(volume_json(&info));
	else if (!r)
		print_volume(&info);
	return finish(&b, cli, r, &err);
}

/* Of "+SIZE": what the volume is to have. */
static int add_size(struct backend *b, const struct cli *cli, struct cli_size *size, struct byre_error *err)
{
	struct byre_volume_info info;
	int r = size->relative ? b->ops->volume_info(b, cli->args[0], &info, err) : 0;

	if (r || !size->relative || cli_add_size(cli, info.size, size))
		return r;
	return 1; /* it has been told */
}

enum cli_exit run_volume_resize(const struct cli *cli)
{
	const char *name = cli->args[0];
	uint32_t flags = cli->given & CLI_SHRINK ? BYRE_RESIZE_SHRINK : 0;
	struct byre_error err, close_err;
	struct backend b;
	struct cli_size size;
	int r;

	if (!cli_check_name(cli, name) || !cli_parse_new_size(cli, cli->args[1], &size))
		return CLI_USAGE;
	if (backend_open(&b, cli, false, &err))
		return cli_fail_err(cli, &err);
	r = add_size(&b, cli, &size, &err);
	if (r > 0) {
		b.ops->close(&b, &close_err);
		return CLI_FAILED;
	}
	if (!r)
		r = b.ops->volume_resize(&b, name, size.bytes, flags, &err);
	if (!r)
		cli_note_rounding(&size);
	return finish_with_volume(&b, r, cli, name, &err);
}

/* False: two options contradict each other, or there is none; it has been told. */
static bool set_flags(const struct cli *cli, uint32_t *ret_flags)
{
	static const struct {
		unsigned option;
		uint32_t flag;
	} map[] = {
		{CLI_RESERVED, BYRE_SET_RESERVED},
		{CLI_THIN, BYRE_SET_THIN},
		{CLI_READ_ONLY, BYRE_SET_READ_ONLY},
		{CLI_WRITABLE, BYRE_SET_WRITABLE},
	};
	const uint32_t space = BYRE_SET_RESERVED | BYRE_SET_THIN,
		       access = BYRE_SET_READ_ONLY | BYRE_SET_WRITABLE;

	*ret_flags = 0;
	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		*ret_flags |= cli->given & map[i].option ? map[i].flag : 0;
	if ((*ret_flags & space) == space || (*ret_flags & access) == access) {
		cli_usage(cli, "a volume is reserved or thin, and read-only or writable, not both");
		return false;
	}
	if (!*ret_flags && !cli->comment) {
		cli_usage(cli, "nothing to set");
		return false;
	}
	return true;
}

enum cli_exit run_volume_set(const struct cli *cli)
{
	const char *name = cli->args[0];
	struct byre_error err;
	struct backend b;
	uint32_t flags;
	int r;

	if (!cli_check_name(cli, name) || !set_flags(cli, &flags))
		return CLI_USAGE;
	if (backend_open(&b, cli, false, &err))
		return cli_fail_err(cli, &err);
	r = b.ops->volume_set(&b, name, flags, cli->comment, &err);
	return finish_with_volume(&b, r, cli, name, &err);
}

enum cli_exit run_volume_rename(const struct cli *cli)
{
	const char *from = cli->args[0], *to = cli->args[1];
	struct byre_error err;
	struct backend b;
	int r;

	if (!cli_check_name(cli, from) || !cli_check_name(cli, to))
		return CLI_USAGE;
	if (backend_open(&b, cli, false, &err))
		return cli_fail_err(cli, &err);
	r = b.ops->volume_rename(&b, from, to, &err);
	return finish_with_volume(&b, r, cli, to, &err);
}

enum cli_exit run_volume_delete(const struct cli *cli)
{
	const char *name = cli->args[0];
	struct byre_error err;
	struct backend b;
	int r;

	if (!cli_check_name(cli, name))
		return CLI_USAGE;
	if (backend_open(&b, cli, false, &err))
		return cli_fail_err(cli, &err);
	r = b.ops->volume_delete(&b, name, &err);
	if (!r && cli->given & CLI_JSON)
		print_json(json_pack("{s:s, s:b}", "name", name, "deleted", 1));
	return finish(&b, cli, r, &err);
}
