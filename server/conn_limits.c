/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/conn_limits.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
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
	return n > 3 ? n - 3 : 0; /* without `.`, `..` and the folder itself */
}

void conn_limits_share(struct conn_limits *l, unsigned left)
{
	l->http = max_u64(min_u64(left / 16, HTTP_CONNECTIONS_MAX), 1);
	l->rpc = max_u64(min_u64(left / 8, RPC_CONNECTIONS_MAX), 1);
	l->nbd = left > l->http + l->rpc ? min_u64(left - l->http - l->rpc, NBD_CONNECTIONS_MAX) : 1;
}

void conn_limits_init(struct conn_limits *l, unsigned to_come)
{
	struct rlimit lim = {.rlim_cur = 1024};
	unsigned used = count_open() + to_come + SERVER_FDS_KEPT;

	getrlimit(RLIMIT_NOFILE, &lim);
	conn_limits_share(l, lim.rlim_cur > used ? min_u64(lim.rlim_cur - used, 1u << 20) : 0);
	l->missing = lim.rlim_cur < used + SERVER_FDS_MIN ? used + SERVER_FDS_MIN - lim.rlim_cur : 0;
}

enum accept_failure accept_failure(int listen_fd, int error)
{
	struct pollfd pfd = {.fd = listen_fd, .events = POLLIN};

	if (poll(&pfd, 1, 0) == 0)
		return ACCEPT_NOBODY;
	return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM ? ACCEPT_NO_ROOM
											 : ACCEPT_OTHER;
}
