/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/full_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

void full_table_begin(struct full_table *t)
{
	struct rlimit lim;
	int fd;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &t->before), 0);
	lim = t->before;
	lim.rlim_cur = FULL_TABLE_MAX < lim.rlim_max ? FULL_TABLE_MAX : lim.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	t->count = 0;
	while ((fd = dup(0)) >= 0)
		t->fill[t->count++] = fd;
}

void full_table_end(struct full_table *t)
{
	while (t->count)
		close(t->fill[--t->count]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &t->before), 0);
}
