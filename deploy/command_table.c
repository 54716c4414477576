/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * deploy/command_table.c: prints byre's commands with their options, a line each, for deploy/completion.py.
 */
#include <stdio.h>

#include "client/cli.h"

int main(void)
{
	char title[40];

	for (unsigned i = 0; i < nr_commands; i++) {
		printf("%s\t--help", command_title(&commands[i], title, sizeof(title)));
		for (unsigned bit = 1; bit && bit < (unsigned)CLI_SLOW; bit <<= 1)
			if (commands[i].options & bit)
				printf(" --%s", cli_option_name(bit));
		putchar('\n');
	}
	return fflush(stdout) ? 1 : 0;
}
