/* SPDX-License-Identifier: BSD-3-Clause */
/* client/commands.c: the table of commands, and the help that is made from it. */
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "client/cli.h"

#define ASK (CLI_JSON | CLI_CONNECT | CLI_TIMEOUT)
#define ASK_OR_FILE (ASK | CLI_POOL)

const struct command commands[] = {
	{"pool", "create", "FILE --size SIZE [--sparse] [--force]", "make a pool",
	 "Makes a pool in FILE, which must not exist yet. A block device is taken whole, without --size.\n"
	 "  --size SIZE   of the file; rounded up to a multiple of 4 KiB\n"
	 "  --sparse      do not allocate the file's space now: the host's file system may run out of it later\n"
	 "  --force       overwrite a file or a device that already holds something\n",
	 CLI_JSON | CLI_SIZE | CLI_SPARSE | CLI_FORCE, 1, 1, run_pool_create},
	{"pool", "info", "[FILE]", "show a pool's sizes and counters",
	 "Asks the daemon; with FILE, reads a pool that no daemon has open.\n", ASK, 0, 1, run_pool_info},
	{"pool", "check", "FILE [--repair]", "verify every invariant of a pool that no daemon has open",
	 "Exits with 1 when something is wrong with the pool.\n"
	 "  --repair      rewrite what can be derived from the trees, and check again\n",
	 CLI_JSON | CLI_REPAIR, 1, 1, run_pool_check},
	{"pool", "dump", "FILE [PART...] [--limit N]", "print what stands in a pool that no daemon has open",
	 "For people and for bug reports. Reads only, and goes on where something is damaged: lines that begin with\n"
	 "'problem' say what. PART is any of superblock, claim, spares, groups, volumes, log, caches,\n"
	 "'volume NAME' (its extents) and 'node ADDRESS' (a tree's node, by its logical address). Without one: all but\n"
	 "extents, nodes and the entries of caches.\n"
	 "  --limit N     print at most N items of each list\n"
	 "  --json        one JSON object a line\n",
	 CLI_JSON | CLI_LIMIT, 1, CLI_ARGS_MAX, run_pool_dump},
	{"pool", "grow", "[SIZE|+SIZE]", "make the pool larger",
	 "SIZE is the pool's new size, +SIZE is added to what it has; it is rounded up to a multiple of 4 KiB.\n"
	 "Without it the pool takes all of its device, or of its file if that has been made larger.\n",
	 ASK_OR_FILE | CLI_SLOW, 0, 1, run_pool_grow},
	{"pool", "trim", "", "give back all that is free, now",
	 "To the file system under a sparse pool, or to a device that can discard. The daemon does that by itself for what\n"
	 "is freed, unless it runs with --discard off. While there are reserved volumes, data block groups keep their space.\n",
	 ASK | CLI_SLOW, 0, 0, run_pool_trim},
	{"volume", "create", "NAME SIZE [--reserved] [--cache direct]", "make a volume",
	 "SIZE is rounded up to a multiple of 4 KiB and may be larger than the pool.\n"
	 "  --reserved    set space aside, so that no write to the volume can fail for lack of it\n"
	 "  --cache MODE  direct (the default, and the only one yet)\n",
	 ASK_OR_FILE | CLI_RESERVED | CLI_CACHE, 2, 2, run_volume_create},
	{"volume", "list", "", "list the volumes", "", ASK_OR_FILE, 0, 0, run_volume_list},
	{"volume", "info", "NAME", "show a volume", "", ASK_OR_FILE, 1, 1, run_volume_info},
	{"volume", "resize", "NAME SIZE|+SIZE [--shrink]", "make a volume larger or smaller",
	 "SIZE is the volume's new size, +SIZE is added to what it has; it is rounded up to a multiple of 4 KiB.\n"
	 "  --shrink      allow a smaller size: what lies behind it is lost. No client may have the volume open\n",
	 ASK_OR_FILE | CLI_SHRINK, 2, 2, run_volume_resize},
	{"volume", "set", "NAME [--reserved|--thin] [--read-only|--writable] [--comment TEXT]",
	 "change what a volume is",
	 "  --reserved    set space aside, so that no write to the volume can fail for lack of it\n"
	 "  --thin        take space as it is written to\n"
	 "  --read-only   refuse writes from now on\n"
	 "  --writable    take them again; clients that have the volume open see it when they connect again\n"
	 "  --comment TEXT  one line to remember it by, at most 255 bytes; \"\" removes it\n",
	 ASK_OR_FILE | CLI_RESERVED | CLI_THIN | CLI_READ_ONLY | CLI_WRITABLE | CLI_COMMENT, 1, 1,
	 run_volume_set},
	{"volume", "rename", "OLD NEW", "give a volume another name", "", ASK_OR_FILE, 2, 2,
	 run_volume_rename},
	{"volume", "delete", "NAME", "delete a volume and all that it holds",
	 "A volume that a client has open is not deleted.\n", ASK_OR_FILE, 1, 1, run_volume_delete},
	{"client", "list", "", "list who is connected by NBD", "", ASK, 0, 0, run_client_list},
	{"client", "drop", "ID", "cut a client's connection",
	 "For a client that hangs: what it has open can then be deleted or made smaller. A client that is set up to connect\n"
	 "again does so. IDs are in 'byre client list'.\n",
	 ASK, 1, 1, run_client_drop},
	{NULL, "top", "[--interval SECS] [--count N]", "show volumes and clients by load, again and again",
	 "  --interval SECS  between two looks (default: 2)\n"
	 "  --count N        end after this many (default: on a terminal never, else 1)\n",
	 ASK | CLI_INTERVAL | CLI_COUNT, 0, 0, run_top},
	{"scrub", "start", "[--rate SIZE] [--restart]",
	 "read everything that is allocated, and repair what can be repaired",
	 "The daemon does it in the background, and gives way to its clients. Metadata is repaired from its twin; data that is\n"
	 "damaged is named by 'byre scrub status'. One that was stopped goes on where it was.\n"
	 "  --rate SIZE   read at most this many bytes a second (default: 128M)\n"
	 "  --restart     begin anew\n",
	 ASK | CLI_RATE | CLI_RESTART, 0, 0, run_scrub_start},
	{"scrub", "status", "", "show the scrub that runs, or the last one, and what is damaged", "", ASK, 0,
	 0, run_scrub_status},
	{"scrub", "stop", "", "stop the scrub that runs", "", ASK, 0, 0, run_scrub_stop},
	{NULL, "stats", "", "show the daemon's counters", "", ASK, 0, 0, run_stats},
	{NULL, "commit", "", "make everything durable now, in a new generation", "", ASK | CLI_SLOW, 0, 0,
	 run_commit},
	{NULL, "shutdown", "", "stop the daemon",
	 "The daemon finishes what is under way, commits and exits.\n", ASK, 0, 0, run_shutdown},
};
const unsigned nr_commands = ARRAY_SIZE(commands);

bool command_group_exists(const char *group)
{
	for (unsigned i = 0; i < nr_commands; i++) {
		if (commands[i].group && !strcmp(commands[i].group, group))
			return true;
	}
	return false;
}

static bool is_same_group(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

const struct command *command_find(const char *group, const char *name)
{
	for (unsigned i = 0; i < nr_commands; i++) {
		if (is_same_group(commands[i].group, group) && !strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

const char *command_title(const struct command *cmd, char *buf, size_t len)
{
	snprintf(buf, len, "%s%s%s", cmd->group ? cmd->group : "", cmd->group ? " " : "", cmd->name);
	return buf;
}

static void print_summaries(const char *group)
{
	char title[40];

	for (unsigned i = 0; i < nr_commands; i++) {
		if (!group || is_same_group(commands[i].group, group))
			printf("  %-16s %s\n", command_title(&commands[i], title, sizeof(title)),
			       commands[i].summary);
	}
}

static void print_common_options(unsigned options)
{
	if (options & CLI_CONNECT)
		printf("  --connect ADDR   the daemon: unix:PATH or tcp:HOST:PORT (default: $BYRE_CONNECT, else\n"
		       "                   " BYRE_DEFAULT_ADDRESS ")\n");
	if (options & CLI_TIMEOUT)
		printf("  --timeout SECS   how long the daemon may take to answer (default: %u; 0: for ever)\n",
		       options & CLI_SLOW && options != ~0u ? 0 : CLI_TIMEOUT_MS / 1000);
	if (options & CLI_POOL)
		printf("  --pool FILE      work on a pool file that no daemon has open\n");
	if (options & CLI_JSON)
		printf("  --json           print JSON: sizes in bytes, times in RFC 3339, UTC\n");
	printf("  --help           print this and exit\n");
}

void help_program(void)
{
	printf("usage: byre COMMAND [ARGUMENTS] [OPTIONS]\n\n"
	       "The command line of Byre, a copy-on-write storage server.\n\nCommands:\n");
	print_summaries(NULL);
	printf("\nOptions of most commands:\n");
	print_common_options(~0u);
	printf("  --version        print the version and exit\n\n"
	       "SIZE: bytes, or with K, M, G, T, P (powers of 1024), such as 10G, 1.5T or 512MiB.\n"
	       "Exit status: 0 done; 1 the operation failed; 2 wrong usage.\n"
	       "'byre COMMAND --help' says more about a command.\n");
}

void help_group(const char *group)
{
	printf("usage: byre %s COMMAND [ARGUMENTS] [OPTIONS]\n\nCommands:\n", group);
	print_summaries(group);
	printf("\n'byre %s COMMAND --help' says more about a command.\n", group);
}

void help_command(const struct command *cmd)
{
	char title[40];

	printf("usage: byre %s%s%s [OPTIONS]\n\n", command_title(cmd, title, sizeof(title)),
	       cmd->synopsis[0] ? " " : "", cmd->synopsis);
	printf("%c%s.\n", cmd->summary[0] & ~0x20, cmd->summary + 1);
	if (cmd->details[0])
		printf("%s", cmd->details);
	printf("\nOptions:\n");
	print_common_options(cmd->options);
}
