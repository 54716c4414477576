/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_daemon.c: the commands that talk to the daemon about itself: stats, commit, shutdown. */
#include <inttypes.h>
#include <stdio.h>

#include "client/cli.h"

enum cli_exit run_stats(const struct cli *cli)
{
	struct byre_pool_info pool;
	struct byre_stats stats;
	struct byre_error err;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_stats(b, &stats, &err);
	if (!r)
		r = byre_pool_info(b, &pool, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);

	if (cli->given & CLI_JSON)
		print_json(stats_json(&stats, &pool));
	else
		print_stats(&stats, &pool);
	return CLI_OK;
}

enum cli_exit run_commit(const struct cli *cli)
{
	struct byre_error err;
	uint64_t generation;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_commit(b, &generation, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:I}", "generation", (json_int_t)generation));
	return CLI_OK;
}

enum cli_exit run_shutdown(const struct cli *cli)
{
	struct byre_error err;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_shutdown(b, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:b}", "stopping", 1));
	return CLI_OK;
}
