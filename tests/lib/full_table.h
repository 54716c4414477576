/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/full_table.h: a process that has no descriptor left. For one .c file of a test, after cmocka.h.
 */
#ifndef TESTS_LIB_FULL_TABLE_H
#define TESTS_LIB_FULL_TABLE_H

#include <sys/resource.h>
#include <unistd.h>

#define FULL_TABLE_MAX 1024

struct full_table {
	struct rlimit before;
	int fill[FULL_TABLE_MAX];
	unsigned count;
};

/* All descriptors are taken afterwards, until somebody closes one. */
static inline void full_table_begin(struct full_table *t)
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

static inline void full_table_end(struct full_table *t)
{
	while (t->count)
		close(t->fill[--t->count]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &t->before), 0);
}

#endif
