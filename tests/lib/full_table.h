/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/lib/full_table.h: a process that has no descriptor left. */
#ifndef TESTS_LIB_FULL_TABLE_H
#define TESTS_LIB_FULL_TABLE_H

#include <sys/resource.h>

#define FULL_TABLE_MAX 1024

struct full_table {
	struct rlimit before;
	int fill[FULL_TABLE_MAX];
	unsigned count;
};

/* All descriptors are taken afterwards, until somebody closes one. */
void full_table_begin(struct full_table *t);

void full_table_end(struct full_table *t);

#endif
