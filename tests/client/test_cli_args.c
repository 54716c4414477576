/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/client/test_cli_args.c: command lines, and what becomes of them. The commands themselves are not run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "client/cli_args.c" /* NOLINT(bugprone-suspicious-include): the unit under test */
#include "client/commands.c" /* NOLINT(bugprone-suspicious-include): likewise */

#define NOT_RUN(name)                             \
	enum cli_exit name(const struct cli *cli) \
	{                                         \
		return CLI_FAILED;                \
	}
NOT_RUN(run_pool_create)
NOT_RUN(run_pool_info)
NOT_RUN(run_pool_check)
NOT_RUN(run_pool_dump)
NOT_RUN(run_pool_grow)
NOT_RUN(run_pool_trim)
NOT_RUN(run_volume_create)
NOT_RUN(run_volume_list)
NOT_RUN(run_volume_info)
NOT_RUN(run_volume_resize)
NOT_RUN(run_volume_set)
NOT_RUN(run_volume_rename)
NOT_RUN(run_volume_delete)
NOT_RUN(run_client_list)
NOT_RUN(run_client_drop)
NOT_RUN(run_top)
NOT_RUN(run_scrub_start)
NOT_RUN(run_scrub_status)
NOT_RUN(run_scrub_stop)
NOT_RUN(run_stats)
NOT_RUN(run_commit)
NOT_RUN(run_shutdown)

/* Parses a line whose words are separated by single blanks; out and err get what was printed. */
static bool parse(const char *line, struct cli *cli, enum cli_exit *code, char *out, char *err)
{
	static char words[512];
	char *argv[32] = {(char *)"byre"};
	int argc = 1, saved[2] = {dup(1), dup(2)};
	FILE *files[2] = {tmpfile(), tmpfile()};
	char *const texts[2] = {out, err};
	bool ok;

	snprintf(words, sizeof(words), "%s", line);
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;

	fflush(stdout);
	dup2(fileno(files[0]), 1);
	dup2(fileno(files[1]), 2);
	*cli = (struct cli){0};
	ok = cli_parse(argc, argv, cli, code);
	fflush(stdout);
	fflush(stderr);
	for (int i = 0; i < 2; i++) {
		size_t n;

		dup2(saved[i], i + 1);
		close(saved[i]);
		rewind(files[i]);
		n = fread(texts[i], 1, 8191, files[i]);
		texts[i][n] = '\0';
		fclose(files[i]);
	}
	return ok;
}

static char out[8192], err[8192];

static struct cli accept_line(const char *line)
{
	enum cli_exit code;
	struct cli cli;

	if (!parse(line, &cli, &code, out, err))
		fail_msg("'%s' was not taken: %s", line, err);
	assert_string_equal(out, "");
	assert_string_equal(err, "");
	return cli;
}

static void refuse_line(const char *line, const char *part)
{
	enum cli_exit code = CLI_OK;
	struct cli cli;

	if (parse(line, &cli, &code, out, err))
		fail_msg("'%s' was taken", line);
	assert_int_equal(code, CLI_USAGE);
	assert_string_equal(out, "");
	if (!strstr(err, part))
		fail_msg("'%s': '%s' is not in '%s'", line, part, err);
}

static void help_line(const char *line, const char *part)
{
	enum cli_exit code = CLI_FAILED;
	struct cli cli;

	assert_false(parse(line, &cli, &code, out, err));
	assert_int_equal(code, CLI_OK);
	assert_string_equal(err, "");
	if (!strstr(out, part))
		fail_msg("'%s': '%s' is not in '%s'", line, part, out);
}

static void test_cli_options_may_stand_anywhere(void **state)
{
	static const char *const lines[] = {
		"volume create vm1 10G --reserved --cache writeback --json --connect unix:/x",
		"--connect unix:/x --json volume create --cache=writeback vm1 --reserved 10G",
		"volume --reserved create --json vm1 --connect=unix:/x 10G --cache writeback",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct cli cli = accept_line(lines[i]);

		assert_ptr_equal(cli.command, command_find("volume", "create"));
		assert_int_equal(cli.nr_args, 2);
		assert_string_equal(cli.args[0], "vm1");
		assert_string_equal(cli.args[1], "10G");
		assert_string_equal(cli.connect, "unix:/x");
		assert_true(cli.given & CLI_JSON);
		assert_true(cli.given & CLI_RESERVED);
		assert_true(cli.writeback);
		assert_null(cli.pool);
	}
}

static void test_cli_every_command_is_found(void **state)
{
	assert_ptr_equal(accept_line("pool create f --size 16M --sparse --force").command->run,
			 run_pool_create);
	assert_ptr_equal(accept_line("pool info").command->run, run_pool_info);
	assert_ptr_equal(accept_line("pool info f --json").command->run, run_pool_info);
	assert_ptr_equal(accept_line("pool check f --repair").command->run, run_pool_check);
	assert_ptr_equal(accept_line("pool dump f volume v node 0x40 log --json").command->run,
			 run_pool_dump);
	assert_int_equal(accept_line("pool dump f --limit 7").limit, 7);
	refuse_line("pool dump f --limit 0", "not a number of items");
	assert_ptr_equal(accept_line("pool grow 1T").command->run, run_pool_grow);
	assert_ptr_equal(accept_line("pool trim").command->run, run_pool_trim);
	assert_ptr_equal(accept_line("volume create v 1G --pool f").command->run, run_volume_create);
	assert_ptr_equal(accept_line("volume list").command->run, run_volume_list);
	assert_ptr_equal(accept_line("volume info v").command->run, run_volume_info);
	assert_ptr_equal(accept_line("volume resize v 1G").command->run, run_volume_resize);
	assert_ptr_equal(accept_line("volume rename a b").command->run, run_volume_rename);
	assert_ptr_equal(accept_line("volume delete v").command->run, run_volume_delete);
	assert_ptr_equal(accept_line("scrub start --rate 64M --restart").command->run, run_scrub_start);
	assert_int_equal(accept_line("scrub start --rate 64M").rate.asked, 64 << 20);
	assert_ptr_equal(accept_line("scrub status --json").command->run, run_scrub_status);
	assert_ptr_equal(accept_line("scrub stop").command->run, run_scrub_stop);
	assert_ptr_equal(accept_line("stats --json").command->run, run_stats);
	assert_ptr_equal(accept_line("commit").command->run, run_commit);
	assert_ptr_equal(accept_line("shutdown").command->run, run_shutdown);
}

static void test_cli_sizes_are_rounded_up(void **state)
{
	assert_int_equal(accept_line("pool create f --size 1G").size.bytes, 1u << 30);
	assert_int_equal(accept_line("pool create f --size 4097").size.bytes, 8192);
	assert_int_equal(accept_line("pool create f --size 4097").size.asked, 4097);
	assert_int_equal(accept_line("pool create f --size 9223372036854771712").size.bytes,
			 BYRE_VOLUME_SIZE_MAX);
}

static void test_cli_wrong_lines_are_refused(void **state)
{
	refuse_line("", "which command");
	refuse_line("pool", "which command of pool");
	refuse_line("nonsense", "unknown command 'nonsense'");
	refuse_line("volume nonsense", "unknown command 'volume nonsense'");
	refuse_line("snapshot create a@b", "unknown command 'snapshot'");
	refuse_line("create", "unknown command 'create'");
	refuse_line("pool create", "an argument is missing");
	refuse_line("volume create x", "usage: byre volume create NAME SIZE");
	refuse_line("volume list surplus", "'surplus' is one argument too many");
	refuse_line("volume list --sparse", "no option --sparse");
	refuse_line("stats --pool f", "no option --pool");
	refuse_line("pool check f --connect unix:/x", "no option --connect");
	refuse_line("volume list --pool f --connect unix:/x", "give one of them");
	refuse_line("volume list --connect nowhere", "'nowhere' is not an address");
	refuse_line("volume list --nonsense", "nonsense");
	refuse_line("volume list -x", "x");
	refuse_line("volume list --connect", "connect");
	refuse_line("volume create x -5", "5");
	refuse_line("volume create v 1G --cache none", "'none'");
	refuse_line("pool create f --size 12Q", "'12Q' is not a size");
	refuse_line("pool create f --size 0", "not possible");
	refuse_line("pool create f --size 9223372036854771713", "not possible");
	refuse_line("pool create f --size 99999999999999999999999", "not possible");
}

static void test_cli_relative_sizes(void **state)
{
	struct cli cli = accept_line("volume resize v +1.5G --shrink");
	struct cli_size size;

	assert_true(cli.given & CLI_SHRINK);
	assert_true(cli_parse_new_size(&cli, cli.args[1], &size));
	assert_true(size.relative);
	assert_true(cli_add_size(&cli, 4096, &size));
	assert_int_equal(size.bytes, (3ull << 29) + 4096);
	assert_true(cli_parse_new_size(&cli, "1000", &size));
	assert_true(cli_add_size(&cli, 4096, &size));
	assert_int_equal(size.bytes, 4096);
	assert_true(cli_parse_new_size(&cli, "+4K", &size));
	assert_false(cli_add_size(&cli, BYRE_VOLUME_SIZE_MAX, &size));
	assert_false(cli_parse_new_size(&cli, "++1", &size));
	assert_false(cli_parse_new_size(&cli, "+", &size));
	assert_false(cli_parse_size(&cli, "+1", &size)); /* what is made has nothing to add to */
	assert_int_equal(accept_line("pool grow").nr_args, 0);
}

static void test_cli_timeouts(void **state)
{
	assert_int_equal(accept_line("volume list").timeout_ms, 120000);
	assert_int_equal(accept_line("volume list --timeout 5").timeout_ms, 5000);
	assert_int_equal(accept_line("volume list --timeout=0").timeout_ms, 0);
	assert_int_equal(accept_line("commit").timeout_ms, 0);
	assert_int_equal(accept_line("commit --timeout 7").timeout_ms, 7000);
	refuse_line("commit --timeout x", "not a number of seconds");
	refuse_line("commit --timeout 1s", "not a number of seconds");
	refuse_line("commit --timeout -1", "not a number of seconds");
	refuse_line("commit --timeout 99999999999999999999999", "not a number of seconds");
}

static void test_cli_errors_are_json_with_json(void **state)
{
	static const char *const lines[] = {"pool create f --size 10Q --json",
					    "pool create f --json --size \xff", "nonsense --json"};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		enum cli_exit code = CLI_OK;
		struct cli cli;
		json_t *obj;

		assert_false(parse(lines[i], &cli, &code, out, err));
		obj = json_loads(err, 0, NULL);
		assert_non_null(obj);
		assert_int_equal(strchr(err, '\n') - err, strlen(err) - 1);
		assert_string_equal(json_string_value(json_object_get(obj, "code")), "usage");
		assert_true(json_string_length(json_object_get(obj, "error")) > 5);
		json_decref(obj);
	}
}

static void test_cli_help_and_version(void **state)
{
	help_line("--help", "volume rename");
	help_line("--version", "byre " BYRE_VERSION "\n");
	help_line("volume --help", "byre volume COMMAND");
	help_line("volume create --help", "usage: byre volume create NAME SIZE [--reserved]");
	help_line("--help shutdown", "Stop the daemon");
	help_line("pool check --help --json", "--repair");
	assert_null(strstr(out, "--connect"));
	refuse_line("volume nonsense --help", "unknown command");
	for (unsigned i = 0; i < nr_commands; i++) {
		char line[64], title[40];

		snprintf(line, sizeof(line), "%s --help", command_title(&commands[i], title, sizeof(title)));
		help_line(line, title);
	}
}

static void test_cli_names_are_checked(void **state)
{
	struct cli cli = accept_line("volume delete v");

	assert_true(cli_check_name(&cli, "v.1"));
	assert_false(cli_check_name(&cli, "a b"));
	assert_false(cli_check_name(&cli, ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cli_options_may_stand_anywhere),
		cmocka_unit_test(test_cli_every_command_is_found),
		cmocka_unit_test(test_cli_sizes_are_rounded_up),
		cmocka_unit_test(test_cli_wrong_lines_are_refused),
		cmocka_unit_test(test_cli_relative_sizes),
		cmocka_unit_test(test_cli_timeouts),
		cmocka_unit_test(test_cli_errors_are_json_with_json),
		cmocka_unit_test(test_cli_help_and_version),
		cmocka_unit_test(test_cli_names_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
