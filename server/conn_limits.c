/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/conn_limits.h"

#include <dirent.h>
#include <sys/resource.h>

#include "base/util.h"
#include "server/limits.h"

#define OPEN_GUESS 64u /* where /proc is not there */

static unsigned count_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!dir)
		return OPEN_GUESS;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

void conn_limits_share(struct conn_limits *l, unsigned left)
{
	l->http = max_u64(min_u64(left / 16, HTTP_CONNECTIONS_MAX), 1);
	l->rpc = max_u64(min_u64(left / 8, RPC_CONNECTIONS_MAX), 1);
	l->nbd = left > l->http + l->rpc ? min_u64(left - l->http - l->rpc, NBD_CONNECTIONS_MAX) : 1;
}

void conn_limits_init(struct conn_limits *l)
{
	struct rlimit lim = {.rlim_cur = 1024};
	unsigned used = count_open() + SERVER_FDS_KEPT;

	getrlimit(RLIMIT_NOFILE, &lim);
	conn_limits_share(l, lim.rlim_cur > used ? min_u64(lim.rlim_cur - used, 1u << 20) : 0);
}
