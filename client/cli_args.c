/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/cli_args.c: from argv to a command and its options. Options may stand anywhere; which of them a
 * command takes is known only when all is read, so that check comes last.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "base/size.h"
#include "base/util.h"
#include "client/cli.h"

static const struct option long_options[] = {
	{"json", no_argument, NULL, CLI_JSON},
	{"connect", required_argument, NULL, CLI_CONNECT},
	{"pool", required_argument, NULL, CLI_POOL},
	{"size", required_argument, NULL, CLI_SIZE},
	{"sparse", no_argument, NULL, CLI_SPARSE},
	{"force", no_argument, NULL, CLI_FORCE},
	{"repair", no_argument, NULL, CLI_REPAIR},
	{"reserved", no_argument, NULL, CLI_RESERVED},
	{"cache", required_argument, NULL, CLI_CACHE},
	{"help", no_argument, NULL, CLI_HELP},
	{"version", no_argument, NULL, CLI_VERSION},
	{"timeout", required_argument, NULL, CLI_TIMEOUT},
	{"shrink", no_argument, NULL, CLI_SHRINK},
	{"interval", required_argument, NULL, CLI_INTERVAL},
	{"count", required_argument, NULL, CLI_COUNT},
	{"rate", required_argument, NULL, CLI_RATE},
	{"restart", no_argument, NULL, CLI_RESTART},
	{"thin", no_argument, NULL, CLI_THIN},
	{"read-only", no_argument, NULL, CLI_READ_ONLY},
	{"writable", no_argument, NULL, CLI_WRITABLE},
	{"comment", required_argument, NULL, CLI_COMMENT},
	{"limit", required_argument, NULL, CLI_LIMIT},
	{0},
};

static char *ascii(char *line)
{
	for (char *p = line; *p; p++) {
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	}
	return line;
}

/*
 * One line, whatever is in the arguments that it quotes. `code`: the error's name, for JSON; NULL: this is no
 * error.
 */
static void complain(const struct cli *cli, const char *code, const char *fmt, va_list ap)
{
	char line[1024];

	vsnprintf(line, sizeof(line), fmt, ap);
	for (char *p = line; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	}
	if (code && cli->given & CLI_JSON) {
		json_t *obj = json_pack("{s:s, s:s}", "error", line, "code", code);

		if (!obj) /* what it quotes is no UTF-8 */
			obj = json_pack("{s:s, s:s}", "error", ascii(line), "code", code);
		json_dumpf(obj, stderr, JSON_COMPACT);
		fputc('\n', stderr);
		json_decref(obj);
		return;
	}
	fprintf(stderr, "byre: %s\n", line);
}

enum cli_exit cli_usage(const struct cli *cli, const char *fmt, ...)
{
	const struct command *cmd = cli->command;
	char title[40];
	va_list ap;

	va_start(ap, fmt);
	complain(cli, "usage", fmt, ap);
	va_end(ap);
	if (cli->given & CLI_JSON)
		return CLI_USAGE;
	if (cmd)
		fprintf(stderr, "usage: byre %s %s\n", command_title(cmd, title, sizeof(title)),
			cmd->synopsis);
	else
		fprintf(stderr, "see 'byre --help'\n");
	return CLI_USAGE;
}

enum cli_exit cli_fail(const struct cli *cli, int code, const char *fmt, ...)
{
	const char *name = strerrorname_np(-code);
	va_list ap;

	va_start(ap, fmt);
	complain(cli, name ? name : "EIO", fmt, ap);
	va_end(ap);
	return CLI_FAILED;
}

enum cli_exit cli_fail_err(const struct cli *cli, const struct byre_error *err)
{
	return cli_fail(cli, err->code, "%s", err->text);
}

void cli_note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(NULL, NULL, fmt, ap);
	va_end(ap);
}

int cli_connect(const struct cli *cli, struct byre **ret_byre, struct byre_error *err)
{
	return byre_connect_timeout(cli->connect, cli->timeout_ms, ret_byre, err);
}

/* ---- arguments that commands have in common ------------------------------- */

bool cli_check_name(const struct cli *cli, const char *name)
{
	if (byre_name_is_valid(name))
		return true;
	cli_usage(cli,
		  "'%s' is not a valid name: use 1 to %d letters, digits, '.', '_' or '-', "
		  "and begin with neither '.' nor '-'",
		  name, BYRE_NAME_MAX);
	return false;
}

/* The bound is that of volumes; a file cannot be larger either. */
bool cli_parse_size(const struct cli *cli, const char *text, struct cli_size *ret_size)
{
	uint64_t size;
	int r;

	r = size_parse(text, &size);
	if (r == -EINVAL) {
		cli_usage(
			cli,
			"'%s' is not a size: use bytes, or a number with K, M, G, T or P, such as 10G, 1.5T, 512MiB",
			text);
		return false;
	}
	if (r || !size || size > BYRE_VOLUME_SIZE_MAX) {
		cli_usage(cli, "a size of %s is not possible: use 1 to %" PRIu64 " bytes", text,
			  BYRE_VOLUME_SIZE_MAX);
		return false;
	}
	*ret_size = (struct cli_size){.asked = size, .bytes = round_up_u64(size, BYRE_BLOCK_SIZE)};
	return true;
}

bool cli_parse_new_size(const struct cli *cli, const char *text, struct cli_size *ret_size)
{
	bool relative = *text == '+';

	if (!cli_parse_size(cli, text + relative, ret_size))
		return false;
	ret_size->relative = relative;
	return true;
}

bool cli_add_size(const struct cli *cli, uint64_t have, struct cli_size *size)
{
	if (!size->relative)
		return true;
	if (size->bytes > BYRE_VOLUME_SIZE_MAX - have) {
		cli_fail(cli, -EINVAL, "%" PRIu64 " bytes more than %" PRIu64 " are more than there can be",
			 size->bytes, have);
		return false;
	}
	size->asked += have;
	size->bytes += have;
	size->relative = false;
	return true;
}

void cli_note_rounding(const struct cli_size *size)
{
	if (size->bytes != size->asked)
		cli_note("note: the size is rounded up from %" PRIu64 " to %" PRIu64
			 " bytes, a multiple of 4 KiB",
			 size->asked, size->bytes);
}

/* ---- options -------------------------------------------------------------- */

struct raw_options {
	const char *size, *cache, *timeout, *interval, *count, *rate, *limit;
};

/* False: getopt has said what is wrong. */
static bool read_options(int argc, char **argv, struct cli *cli, struct raw_options *raw)
{
	int opt;

	optind = 0; /* glibc: start afresh */
	while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (opt == '?')
			return false;
		cli->given |= (unsigned)opt;
		switch (opt) {
		case CLI_CONNECT: cli->connect = optarg; break;
		case CLI_POOL: cli->pool = optarg; break;
		case CLI_SIZE: raw->size = optarg; break;
		case CLI_RATE: raw->rate = optarg; break;
		case CLI_CACHE: raw->cache = optarg; break;
		case CLI_TIMEOUT: raw->timeout = optarg; break;
		case CLI_INTERVAL: raw->interval = optarg; break;
		case CLI_LIMIT: raw->limit = optarg; break;
		case CLI_COUNT: raw->count = optarg; break;
		case CLI_COMMENT: cli->comment = optarg; break;
		default: break;
		}
	}
	return true;
}

/* Finds the command in the words; *ret_rest are those behind its name. */
static bool find_command(struct cli *cli, int nr_words, char **words, int *ret_rest, enum cli_exit *ret_exit)
{
	const char *group = nr_words && command_group_exists(words[0]) ? words[0] : NULL;
	int used = group ? 2 : 1;

	if (nr_words < used) {
		if (cli->given & CLI_HELP) {
			if (group)
				help_group(group);
			else
				help_program();
			*ret_exit = CLI_OK;
		} else {
			*ret_exit =
				cli_usage(cli, "which command%s%s?", group ? " of " : "", group ? group : "");
		}
		return false;
	}

	cli->command = command_find(group, words[used - 1]);
	if (!cli->command) {
		*ret_exit = cli_usage(cli, "unknown command '%s%s%s'", group ? group : "", group ? " " : "",
				      words[used - 1]);
		return false;
	}
	*ret_rest = used;
	return true;
}

const char *cli_option_name(unsigned bit)
{
	for (const struct option *o = long_options; o->name; o++) {
		if ((unsigned)o->val == bit)
			return o->name;
	}
	return "?";
}

static bool set_timeout(struct cli *cli, const char *text)
{
	char *end;
	unsigned long seconds;

	cli->timeout_ms = cli->command->options & CLI_SLOW ? 0 : CLI_TIMEOUT_MS;
	if (!text)
		return true;
	seconds = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || seconds > CLI_TIMEOUT_MAX_S) {
		cli_usage(cli, "'%s' is not a number of seconds from 0 (wait for ever) to %u", text,
			  CLI_TIMEOUT_MAX_S);
		return false;
	}
	cli->timeout_ms = (unsigned)seconds * 1000;
	return true;
}

/* NULL: 0, not given. */
static bool parse_number(struct cli *cli, const char *text, const char *what, unsigned *ret_number)
{
	char *end;
	unsigned long v = text ? strtoul(text, &end, 10) : 0;

	if (text && (*text < '0' || *text > '9' || *end || !v || v > 1000000)) {
		cli_usage(cli, "'%s' is not a %s from 1 to 1000000", text, what);
		return false;
	}
	*ret_number = (unsigned)v;
	return true;
}

static bool check_options(struct cli *cli, const struct raw_options *raw)
{
	unsigned foreign = cli->given & ~cli->command->options & ~(unsigned)CLI_HELP;
	struct addr addr;

	if (foreign) {
		cli_usage(cli, "this command has no option --%s", cli_option_name(foreign & -foreign));
		return false;
	}
	if (cli->pool && cli->connect) {
		cli_usage(cli, "--pool works without a daemon, --connect with one: give one of them");
		return false;
	}
	if (cli->connect && addr_parse(cli->connect, &addr)) {
		cli_usage(cli, "'%s' is not an address: use unix:PATH or tcp:HOST:PORT", cli->connect);
		return false;
	}
	if (raw->cache && strcmp(raw->cache, "direct") != 0 && strcmp(raw->cache, "writeback") != 0) {
		cli_usage(cli, "'%s' is not a cache mode: use direct or writeback", raw->cache);
		return false;
	}
	cli->writeback = raw->cache && !strcmp(raw->cache, "writeback");
	if (!parse_number(cli, raw->interval, "number of seconds", &cli->interval_s) ||
	    !parse_number(cli, raw->count, "number", &cli->count) ||
	    !parse_number(cli, raw->limit, "number of items", &cli->limit))
		return false;
	return set_timeout(cli, raw->timeout) && (!raw->rate || cli_parse_size(cli, raw->rate, &cli->rate)) &&
	       (!raw->size || cli_parse_size(cli, raw->size, &cli->size));
}

static bool take_args(struct cli *cli, int nr, char **args)
{
	if (nr < cli->command->args_min) {
		cli_usage(cli, "an argument is missing");
		return false;
	}
	if (nr > cli->command->args_max) {
		cli_usage(cli, "'%s' is one argument too many", args[cli->command->args_max]);
		return false;
	}

	ASSERT(nr <= CLI_ARGS_MAX);
	for (int i = 0; i < nr; i++)
		cli->args[i] = args[i];
	cli->nr_args = nr;
	return true;
}

bool cli_parse(int argc, char **argv, struct cli *ret_cli, enum cli_exit *ret_exit)
{
	struct cli cli = {0};
	struct raw_options raw = {0};
	char **words;
	int nr_words, rest;

	*ret_exit = CLI_USAGE;
	*ret_cli = cli;
	if (!read_options(argc, argv, &cli, &raw)) {
		fputs("see 'byre --help'\n", stderr);
		return false;
	}
	if (cli.given & CLI_VERSION) {
		printf("byre %s\n", byre_version());
		*ret_exit = CLI_OK;
		return false;
	}

	words = argv + optind;
	nr_words = argc - optind;
	if (!find_command(&cli, nr_words, words, &rest, ret_exit))
		return false;
	if (cli.given & CLI_HELP) {
		help_command(cli.command);
		*ret_exit = CLI_OK;
		return false;
	}
	if (!take_args(&cli, nr_words - rest, words + rest) || !check_options(&cli, &raw))
		return false;

	*ret_cli = cli;
	return true;
}
