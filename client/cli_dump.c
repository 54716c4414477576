/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_dump.c: `byre pool dump`. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "client/backend.h"
#include "client/cli.h"
#include "fs/fs.h"

static const struct part {
	const char *name;
	uint32_t parts;
} parts[] = {
	{"superblock", FS_DUMP_SUPERBLOCK},
	{"claim", FS_DUMP_CLAIM},
	{"spares", FS_DUMP_SPARES},
	{"groups", FS_DUMP_GROUPS},
	{"volumes", FS_DUMP_VOLUMES},
	{"log", FS_DUMP_LOG},
	{"caches", FS_DUMP_CACHES | FS_DUMP_CACHE_ENTRIES},
};

#define PARTS_ALL                                                                                 \
	(FS_DUMP_SUPERBLOCK | FS_DUMP_CLAIM | FS_DUMP_SPARES | FS_DUMP_GROUPS | FS_DUMP_VOLUMES | \
	 FS_DUMP_LOG | FS_DUMP_CACHES)

static uint32_t part_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (strcmp(parts[i].name, name) == 0)
			return parts[i].parts;
	return 0;
}

/* Decimal, or hexadecimal with 0x. */
static bool parse_address(const char *text, uint64_t *ret_addr)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*ret_addr = strtoull(text, &end, 0);
	return !errno && !*end;
}

struct wanted {
	struct fs_dump_options opt;
	uint64_t nodes[CLI_ARGS_MAX];
};

/* Each word behind FILE. CLI_USAGE: it has been said what is wrong. */
static enum cli_exit parse_parts(const struct cli *cli, struct wanted *w)
{
	for (int i = 1; i < cli->nr_args; i++) {
		const char *word = cli->args[i], *next = i + 1 < cli->nr_args ? cli->args[i + 1] : NULL;
		uint32_t part = part_find(word);

		w->opt.parts |= part;
		if (part)
			continue;
		if (strcmp(word, "volume") == 0) {
			if (!next)
				return cli_usage(cli, "'volume' is missing a name");
			if (w->opt.volume)
				return cli_usage(cli, "one volume at a time: %s or %s", w->opt.volume, next);
			if (!cli_check_name(cli, next))
				return CLI_USAGE;
			w->opt.volume = next;
		} else if (strcmp(word, "node") == 0) {
			if (!next)
				return cli_usage(cli, "'node' is missing an address");
			if (!parse_address(next, &w->nodes[w->opt.nr_nodes++]))
				return cli_usage(
					cli,
					"'%s' is not an address: use a number, or 0x and hexadecimal digits",
					next);
		} else {
			return cli_usage(
				cli,
				"'%s' is not a part of a pool: use superblock, claim, spares, groups, volumes, "
				"log, caches, 'volume NAME' or 'node ADDRESS'",
				word);
		}
		i++;
	}
	return CLI_OK;
}

static void print_line(void *arg, const char *text)
{
	puts(text);
}

enum cli_exit run_pool_dump(const struct cli *cli)
{
	struct wanted w = {
		.opt = {.json = (cli->given & CLI_JSON) != 0, .max_items = cli->limit, .line = print_line}};
	enum cli_exit code = parse_parts(cli, &w);
	struct fs_error fe = {""};
	struct byre_error err;
	uint64_t problems = 0;
	int r;

	if (code != CLI_OK)
		return code;
	w.opt.nodes = w.nodes;
	if (cli->nr_args == 1)
		w.opt.parts = PARTS_ALL;
	r = fs_dump(cli->args[0], &w.opt, &problems, &fe);
	if (r) {
		backend_fs_error(r, &fe, "cannot dump pool", cli->args[0], &err);
		return cli_fail_err(cli, &err);
	}
	if (problems && !w.opt.json)
		cli_note("note: %" PRIu64 " problem%s: byre pool check %s says what to do about damage",
			 problems, problems == 1 ? "" : "s", cli->args[0]);
	return CLI_OK;
}
