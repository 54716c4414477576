/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/cli.h: what the files of the command line `byre` share. Commands stand in a table (commands.c), one
 * function each; their options are parsed in one place (cli_args.c) before anything runs.
 *
 * Invariants
 * 1. Exit codes: CLI_OK; CLI_FAILED with exactly one line on standard error; CLI_USAGE when the command line
 *    is wrong by itself, whatever the pool holds, and then nothing has been tried. With --json that line is a
 *    JSON object.
 * 2. Standard output holds results only; notes, errors and progress go to standard error.
 */
#ifndef CLIENT_CLI_H
#define CLIENT_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/byre.h"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* A command's options, as bits of struct command's `options`. */
enum cli_option {
	CLI_JSON = 1 << 0,
	CLI_CONNECT = 1 << 1,
	CLI_POOL = 1 << 2,
	CLI_SIZE = 1 << 3,
	CLI_SPARSE = 1 << 4,
	CLI_FORCE = 1 << 5,
	CLI_REPAIR = 1 << 6,
	CLI_RESERVED = 1 << 7,
	CLI_CACHE = 1 << 8,
	CLI_HELP = 1 << 9,
	CLI_VERSION = 1 << 10,
	CLI_TIMEOUT = 1 << 11,
	CLI_SHRINK = 1 << 12,
	CLI_INTERVAL = 1 << 13,
	CLI_COUNT = 1 << 14,
	CLI_RATE = 1 << 15,
	CLI_RESTART = 1 << 16,
	CLI_THIN = 1 << 17,
	CLI_READ_ONLY = 1 << 18,
	CLI_WRITABLE = 1 << 19,
	CLI_COMMENT = 1 << 20,
	CLI_LIMIT = 1 << 21,
	/* No option: the command may take as long as it takes. */
	CLI_SLOW = 1 << 30,
};

/* How long a daemon may take to answer, where neither --timeout nor CLI_SLOW says else. */
#define CLI_TIMEOUT_MS 120000u
#define CLI_TIMEOUT_MAX_S 1000000u

#define CLI_ARGS_MAX 32

struct command;

/* A size as it was typed, and rounded up to a multiple of 4 KiB. */
struct cli_size {
	uint64_t asked, bytes;
	bool relative; /* it was "+SIZE": to be added to what there is */
};

/* A parsed command line. Strings belong to argv. */
struct cli {
	const struct command *command;
	unsigned given;		    /* enum cli_option: what was there */
	const char *connect;	    /* NULL: the default */
	const char *pool;	    /* NULL: ask the daemon */
	struct cli_size size;	    /* of --size */
	struct cli_size rate;	    /* of --rate */
	bool writeback;		    /* of --cache */
	unsigned limit;		    /* of --limit; 0: not given */
	const char *comment;	    /* of --comment; NULL: not given */
	unsigned interval_s, count; /* of --interval and --count; 0: not given */
	unsigned timeout_ms;	    /* for each answer of the daemon; 0: none */
	int nr_args;		    /* behind the command's own words */
	const char *args[CLI_ARGS_MAX];
};

struct command {
	const char *group; /* "volume", or NULL for commands of one word */
	const char *name;
	const char *synopsis; /* what follows the name */
	const char *summary;  /* one line */
	const char *details;  /* for --help; lines that end in a newline */
	unsigned options;     /* enum cli_option */
	int args_min, args_max;
	enum cli_exit (*run)(const struct cli *cli);
};

/* ---- commands.c: the table and its help ---- */

extern const struct command commands[];
extern const unsigned nr_commands;
bool command_group_exists(const char *group);
const struct command *command_find(const char *group, const char *name);
/* "volume create" into buf; returns buf. */
const char *command_title(const struct command *cmd, char *buf, size_t len);
void help_program(void);
void help_group(const char *group);
void help_command(const struct command *cmd);

/* ---- cli_args.c: from argv to struct cli ---- */

/*
 * True: *ret_cli is a command to run. False: all is said (help, version, or what was wrong), *ret_exit is the
 * exit code.
 */
bool cli_parse(int argc, char **argv, struct cli *ret_cli, enum cli_exit *ret_exit);

/* The name of an option, one bit of enum cli_option, without dashes. */
const char *cli_option_name(unsigned bit);

/* For arguments that commands check themselves: one line and the usage; returns CLI_USAGE. */
enum cli_exit cli_usage(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One line, with `code` (a negative errno value) beside it in JSON; returns CLI_FAILED. */
enum cli_exit cli_fail(const struct cli *cli, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
enum cli_exit cli_fail_err(const struct cli *cli, const struct byre_error *err);
/* One line that is no error. */
void cli_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Each prints the usage when the argument is wrong. */
bool cli_check_name(const struct cli *cli, const char *name);
bool cli_parse_size(const struct cli *cli, const char *text, struct cli_size *ret_size);
/* The same, or "+SIZE"; cli_add_size then makes it what is meant. */
bool cli_parse_new_size(const struct cli *cli, const char *text, struct cli_size *ret_size);
/* False: more than there can be; one line was printed. */
bool cli_add_size(const struct cli *cli, uint64_t have, struct cli_size *size);
/* Says so if the size was rounded; for when the work is done, as a failure has one line only. */
void cli_note_rounding(const struct cli_size *size);

/* The daemon that the command is meant for. */
int cli_connect(const struct cli *cli, struct byre **ret_byre, struct byre_error *err);

/* ---- cli_figures.c, cli_text.c: pools, volumes, clients and counters, as JSON and for people ---- */

json_t *scrub_json(const struct byre_scrub *s);
/* `idle`: no daemon has it open. */
json_t *pool_json(const struct byre_pool_info *info, bool idle);
json_t *volume_json(const struct byre_volume_info *info);
json_t *client_json(const struct byre_client_info *info);
json_t *stats_json(const struct byre_stats *stats, const struct byre_pool_info *pool);
/* By kinds of requests, with bounds of latencies in `latency`. */
json_t *figures_json(const struct byre_figures *figures);

/* "finished 2026-01-02T03:04:05Z, nothing was wrong" into buf; returns buf. */
#define SCRUB_TEXT_MAX 256
const char *scrub_text(const struct byre_scrub *s, char buf[SCRUB_TEXT_MAX]);
void print_pool(const struct byre_pool_info *info, bool idle);
void print_volume(const struct byre_volume_info *info);
void print_stats(const struct byre_stats *stats, const struct byre_pool_info *pool);

/* ---- cli_output.c: how results are written ---- */

/* Prints and drops `value`. */
void print_json(json_t *value);
/* RFC 3339, UTC, whole seconds; into buf, which it returns. */
#define TIME_MAX 32
const char *time_text(int64_t ns, char buf[TIME_MAX]);
/* "120 us", "3.5 ms", "2 s": into buf of SIZE_FORMAT_MAX bytes, which it returns. */
const char *latency_text(uint64_t us, char *buf);

/* A string of text that may be no UTF-8, as file names: what is not ASCII is a question mark then. */
json_t *text_json(const char *text);

#define TABLE_COLUMNS_MAX 8

/* Lines under headings, columns as wide as they need to be. Takes little more memory than its words. */
struct table {
	unsigned columns;
	unsigned right; /* bits: columns that stand to the right */
	int widths[TABLE_COLUMNS_MAX];
	char *cells; /* strings, one behind the other */
	size_t len, size;
};

/* `headings` has `columns` strings. -ENOMEM. */
int table_init(struct table *t, unsigned columns, unsigned right, const char *const *headings);
int table_add(struct table *t, const char *const *cells);
void table_print(const struct table *t);
void table_fini(struct table *t);

/* of cli_text.c: a table of volumes */
int cli_volume_table_init(struct table *t);
int volume_table_add(struct table *t, const struct byre_volume_info *info);

/* ---- one function a command ---- */

enum cli_exit run_pool_create(const struct cli *cli);
enum cli_exit run_pool_info(const struct cli *cli);
enum cli_exit run_pool_check(const struct cli *cli);
enum cli_exit run_pool_dump(const struct cli *cli);
enum cli_exit run_pool_grow(const struct cli *cli);
enum cli_exit run_pool_trim(const struct cli *cli);
enum cli_exit run_volume_create(const struct cli *cli);
enum cli_exit run_volume_list(const struct cli *cli);
enum cli_exit run_volume_info(const struct cli *cli);
enum cli_exit run_volume_resize(const struct cli *cli);
enum cli_exit run_volume_set(const struct cli *cli);
enum cli_exit run_volume_rename(const struct cli *cli);
enum cli_exit run_volume_delete(const struct cli *cli);
enum cli_exit run_client_list(const struct cli *cli);
enum cli_exit run_client_drop(const struct cli *cli);
enum cli_exit run_top(const struct cli *cli);
enum cli_exit run_scrub_start(const struct cli *cli);
enum cli_exit run_scrub_status(const struct cli *cli);
enum cli_exit run_scrub_stop(const struct cli *cli);
enum cli_exit run_stats(const struct cli *cli);
enum cli_exit run_commit(const struct cli *cli);
enum cli_exit run_shutdown(const struct cli *cli);

#endif
