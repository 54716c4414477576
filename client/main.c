/* SPDX-License-Identifier: BSD-3-Clause */
/* client/main.c: byre, the command line. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/cli.h"

int main(int argc, char **argv)
{
	struct cli cli = {0};
	enum cli_exit code;

	if (argc)
		argv[0] = (char *)"byre"; /* how getopt begins its lines */
	if (cli_parse(argc, argv, &cli, &code))
		code = cli.command->run(&cli);

	if (fflush(stdout) || ferror(stdout))
		code = cli_fail(&cli, -errno, "cannot write the output: %s", strerror(errno));
	return code;
}
