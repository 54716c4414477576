/* SPDX-License-Identifier: BSD-3-Clause */
/* server/main.c: byred's command line. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "server/config.h"
#include "server/journal.h"
#include "server/server.h"

#define PROGRAM "byred"
#define EXIT_USAGE 2
#define RUN_DIR "/run/byre"

static const char usage_text[] =
	"Usage: byred --pool FILE [OPTION]...\n"
	"Serves the volumes of a Byre pool over NBD, and its management over RPC.\n"
	"\n"
	"  --pool FILE                the pool: a file or a block device made by 'byre pool create'\n"
	"  --nbd ADDR                 serve NBD there; may be repeated\n"
	"  --rpc ADDR                 serve RPC there; may be repeated\n"
	"  --default-export VOLUME    what NBD clients get that name none (default: they are refused)\n"
	"  --http ADDR                serve /metrics and /healthz there (default: off)\n"
	"  --socket-mode MODE         permissions of unix sockets (default: 0660)\n"
	"  --socket-owner USER        their owner\n"
	"  --socket-group GROUP       and their group (default: those of the process)\n"
	"  --config FILE              read settings from FILE; the command line wins\n"
	"  --cache-size SIZE          memory for nodes and data (default: 1G)\n"
	"  --memory SIZE              memory that clients can make the daemon hold, beside the cache (default: 256M)\n"
	"  --commit-interval SECONDS  commit at least so often (default: 5)\n"
	"  --stall-timeout SECONDS    how long a client may keep a request or a reply waiting (default: 60)\n"
	"  --stop-timeout SECONDS     how long a stop waits for clients (default: 10)\n"
	"  --threads N                event loops (default: one a core)\n"
	"  --scrub-interval DAYS      read and verify the whole pool so often; 0: never (default: 30)\n"
	"  --scrub-rate SIZE          of such a scrub: bytes a second at the most (default: 128M)\n"
	"  --discard on|off           give back what is freed (default: on for sparse files, and devices that can discard)\n"
	"  --log-level LEVEL          error, warning, notice, info (default) or debug\n"
	"  --read-only                change nothing, to rescue data: volumes can be read, as a crash left them\n"
	"  --warn-full LIST           warn when this many percent of the pool are used (default: 80,90,95; off: never)\n"
	"  --write-log FILE           record every write and flush of the pool there (for tests; it grows fast)\n"
	"  --help                     show this and exit\n"
	"  --version                  show the version and exit\n"
	"\n"
	"ADDR is unix:PATH or tcp:HOST:PORT (IPv6 in brackets). SIZE is bytes, or a number with K, M, G, T or P.\n"
	"Without --nbd: unix:DIR/nbd.sock. Without --rpc: unix:DIR/rpc.sock. DIR is the pool's folder, or what systemd\n"
	"gives the service under /run. Whoever can connect can read and change everything.\n";

enum { OPT_HELP = 1, OPT_VERSION, OPT_CONFIG, OPT_READ_ONLY, OPT_VALUE };

/* Options with OPT_VALUE are settings: config_set knows them by the same names. */
static const struct option long_options[] = {
	{"pool", required_argument, NULL, OPT_VALUE},
	{"nbd", required_argument, NULL, OPT_VALUE},
	{"rpc", required_argument, NULL, OPT_VALUE},
	{"http", required_argument, NULL, OPT_VALUE},
	{"cache-size", required_argument, NULL, OPT_VALUE},
	{"socket-mode", required_argument, NULL, OPT_VALUE},
	{"socket-owner", required_argument, NULL, OPT_VALUE},
	{"socket-group", required_argument, NULL, OPT_VALUE},
	{"memory", required_argument, NULL, OPT_VALUE},
	{"commit-interval", required_argument, NULL, OPT_VALUE},
	{"stall-timeout", required_argument, NULL, OPT_VALUE},
	{"stop-timeout", required_argument, NULL, OPT_VALUE},
	{"threads", required_argument, NULL, OPT_VALUE},
	{"scrub-interval", required_argument, NULL, OPT_VALUE},
	{"scrub-rate", required_argument, NULL, OPT_VALUE},
	{"discard", required_argument, NULL, OPT_VALUE},
	{"log-level", required_argument, NULL, OPT_VALUE},
	{"write-log", required_argument, NULL, OPT_VALUE},
	{"warn-full", required_argument, NULL, OPT_VALUE},
	{"default-export", required_argument, NULL, OPT_VALUE},
	{"read-only", no_argument, NULL, OPT_READ_ONLY},
	{"config", required_argument, NULL, OPT_CONFIG},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{NULL, 0, NULL, 0},
};

struct args {
	int argc;
	char **argv;
};

static int set_config_file(struct config *c, const char *path, struct config_error *err)
{
	if (!*path || strlen(path) >= sizeof(c->file)) {
		snprintf(err->msg, sizeof(err->msg), "config: '%.300s' is not a path", path);
		return -EINVAL;
	}
	strcpy(c->file, path);
	return 0;
}

/*
 * Reads the command line into the configuration. Returns 0, OPT_HELP or OPT_VERSION, or -EINVAL: `err` tells
 * why, unless it is empty, when getopt has told it.
 */
static int parse_args(const struct args *args, struct config *c, struct config_error *err)
{
	int opt, index = 0, r = 0;

	err->msg[0] = 0;
	optind = 0; /* glibc: start from the beginning, also the second time */
	while (!r && (opt = getopt_long(args->argc, args->argv, "", long_options, &index)) != -1) {
		if (opt == OPT_HELP || opt == OPT_VERSION)
			return opt;
		if (opt == OPT_CONFIG)
			r = set_config_file(c, optarg, err);
		else if (opt == OPT_READ_ONLY)
			r = config_set(c, "read-only", "yes", CONFIG_FROM_ARGS, err);
		else if (opt == OPT_VALUE)
			r = config_set(c, long_options[index].name, optarg, CONFIG_FROM_ARGS, err);
		else
			r = -EINVAL;
	}
	if (!r && optind < args->argc) {
		snprintf(err->msg, sizeof(err->msg), "'%.300s' is not an option", args->argv[optind]);
		r = -EINVAL;
	}
	return r;
}

static bool is_block_device(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISBLK(st.st_mode);
}

/* What the command line left open, from the file and by default. */
static int complete(struct config *c, struct config_error *err)
{
	bool block;
	int r = *c->file ? config_read_file(c, c->file, err) : 0;

	if (r < 0)
		return r;
	if (!*c->pool) {
		snprintf(err->msg, sizeof(err->msg), "which pool? Give --pool FILE");
		return -EINVAL;
	}
	block = is_block_device(c->pool);
	if (block && !getenv("RUNTIME_DIRECTORY"))
		mkdir(RUN_DIR, 0755); /* where it is missing, listening tells */
	r = config_default_addrs(c, getenv("RUNTIME_DIRECTORY"), block, err);
	return r;
}

static int on_reload(void *arg, struct config *ret_config, struct config_error *err)
{
	int r;

	config_init(ret_config);
	r = parse_args(arg, ret_config, err);
	return r ? r : complete(ret_config, err);
}

int main(int argc, char **argv)
{
	struct args args = {argc, argv};
	struct server_options opt = {.reload = on_reload, .arg = &args};
	struct config_error err;
	struct log log;
	int r;

	config_init(&opt.config);
	r = parse_args(&args, &opt.config, &err);
	if (r == OPT_HELP || r == OPT_VERSION) {
		fputs(r == OPT_HELP ? usage_text : PROGRAM " " BYRE_VERSION "\n", stdout);
		return fflush(stdout) ? 1 : 0;
	}
	log_init(&log, PROGRAM, opt.config.log_level);
	if (!r)
		r = complete(&opt.config, &err);
	if (r < 0) {
		if (*err.msg)
			log_line(&log, LOG_LEVEL_ERROR, "%s", err.msg);
		if (r == -EINVAL)
			fputs("Try 'byred --help'.\n", stderr);
		return r == -EINVAL ? EXIT_USAGE : 1;
	}
	log_set_level(&log, opt.config.log_level);
	log.stamps = true;
	if (log.journal)
		log.send = journal_send;
	opt.log = &log;
	return server_run(&opt);
}
