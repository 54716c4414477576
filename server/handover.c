/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define FD_NAME "byre"

void handover_init(struct handover *h, const struct addr_access *access, struct log *log)
{
	int n;

	*h = (struct handover){.access = access, .log = log, .keeps = getenv("NOTIFY_SOCKET") != NULL};
	n = sd_listen_fds(1);
	for (int i = 0; i < n; i++) {
		if (h->count < HANDOVER_MAX && sd_is_socket(SD_LISTEN_FDS_START + i, 0, 0, 1) > 0)
			h->fds[h->count++] = SD_LISTEN_FDS_START + i;
		else
			close(SD_LISTEN_FDS_START + i);
	}
	/* What is taken is stored again: else each restart would add to the store. */
	if (h->keeps)
		sd_notify(0, "FDSTOREREMOVE=1\nFDNAME=" FD_NAME);
}

void handover_end_of_start(struct handover *h)
{
	for (unsigned i = 0; i < h->count; i++)
		close(h->fds[i]);
	h->count = 0;
}

static bool take(struct handover *h, const struct addr *addr, int *ret_fd)
{
	for (unsigned i = 0; i < h->count; i++) {
		int fd = h->fds[i];

		if (!addr_is_bound(addr, fd))
			continue;
		h->fds[i] = h->fds[--h->count];
		if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
			close(fd);
			return false;
		}
		*ret_fd = fd;
		return true;
	}
	return false;
}

/* The configuration may have changed since the socket was made. */
static int set_access(struct handover *h, const struct addr *addr)
{
	char text[ADDR_TEXT_MAX];
	int r = addr_set_access(addr, h->access);

	if (r != -EACCES)
		return r;
	log_line(
		h->log, LOG_LEVEL_WARNING,
		"%s: the service manager's socket belongs to somebody else and does not get mode %04o and the owner that are asked for; "
		"a socket unit has SocketMode=, SocketUser= and SocketGroup= for it",
		addr_format(addr, text), h->access->mode);
	return 0;
}

int handover_listen(struct handover *h, const struct addr *addr, int *ret_fd)
{
	int fd, r;

	if (!take(h, addr, &fd)) {
		r = addr_listen_as(addr, h->access, &fd);
		if (r < 0)
			return r;
	} else if ((r = set_access(h, addr)) < 0) {
		close(fd);
		return r;
	}
	if (h->keeps)
		sd_pid_notify_with_fds(0, 0, "FDSTORE=1\nFDNAME=" FD_NAME, &fd, 1);
	*ret_fd = fd;
	return 0;
}

void handover_unlink(const struct handover *h, const struct addr *addr)
{
	if (!h->keeps)
		addr_unlink(addr);
}
