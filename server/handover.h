/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/handover.h: listening sockets that outlive the process. They are left with the service manager
 * (systemd's FileDescriptorStoreMax=) and come back from it, so that clients that connect during a restart
 * wait instead of failing. A socket unit's sockets come in the same way.
 */
#ifndef SERVER_HANDOVER_H
#define SERVER_HANDOVER_H

#include <stdbool.h>

#include "base/addr.h"
#include "base/log.h"

#define HANDOVER_MAX 64

struct handover {
	int fds[HANDOVER_MAX]; /* that came from the manager and are not taken yet */
	unsigned count;
	const struct addr_access *access; /* of unix sockets, new or kept */
	struct log *log;
	bool keeps; /* there is a manager: sockets are left with it, and their files stay */
};

/* Takes what the environment names; once in a process, before threads. */
void handover_init(struct handover *h, const struct addr_access *access, struct log *log);
/* Closes the sockets that nobody has taken, and makes the manager forget them. */
void handover_end_of_start(struct handover *h);

/*
 * As addr_listen: the manager's socket for the address, or a new one, which is left with the manager too.
 * Either gets the mode and owner that are asked for; if the manager's socket belongs to somebody else (a
 * socket unit's to root), the log says so instead.
 */
int handover_listen(struct handover *h, const struct addr *addr, int *ret_fd);
/* As addr_unlink, unless the socket outlives the process. */
void handover_unlink(const struct handover *h, const struct addr *addr);

#endif
