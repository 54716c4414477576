/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * base/addr.h: the addresses that users type: `unix:PATH` and `tcp:HOST:PORT` (IPv6 in brackets).
 *
 * All calls come from any thread. Errors are negative errno values; name look-up failures become
 * -EHOSTUNREACH (no such host) or -EAGAIN (the name service did not answer).
 */
#ifndef BASE_ADDR_H
#define BASE_ADDR_H

#include <stdbool.h>
#include <sys/types.h>

#define ADDR_PATH_MAX 107 /* what fits sockaddr_un with its final zero */
#define ADDR_HOST_MAX 255
#define ADDR_TEXT_MAX (ADDR_HOST_MAX + 16)

enum addr_kind { ADDR_UNIX, ADDR_TCP };

struct addr {
	enum addr_kind kind;
	char path[ADDR_PATH_MAX + 1]; /* ADDR_UNIX */
	char host[ADDR_HOST_MAX + 1]; /* ADDR_TCP: without brackets */
	char port[6];		      /* ADDR_TCP: 0 to 65535, digits */
};

/* -EINVAL: neither form, or an empty part; -ENAMETOOLONG: the path or the host is too long. */
int addr_parse(const char *text, struct addr *ret_addr);

/* The text that addr_parse takes, into buf of ADDR_TEXT_MAX bytes; returns buf. */
const char *addr_format(const struct addr *addr, char *buf);

/* Who may connect to a unix socket. */
struct addr_access {
	unsigned mode; /* permission bits */
	uid_t uid;     /* -1: as it is made */
	gid_t gid;
};

/*
 * A listening socket, non-blocking and close-on-exec. A unix socket that nobody listens on any more is
 * removed first; -EADDRINUSE when somebody does, -EEXIST when the path holds something else. May wait for the
 * name service.
 */
int addr_listen(const struct addr *addr, int *ret_fd);
/*
 * The same, and a unix socket has this mode and owner, from its first moment on: never may anybody connect
 * who must not. -EPERM: the owner cannot be set.
 */
int addr_listen_as(const struct addr *addr, const struct addr_access *access, int *ret_fd);
/*
 * Gives the unix socket of an address, which is there already, this mode and owner (-1: the user and group of
 * this process). Nothing is done where it has them, or for TCP. -EACCES: it belongs to somebody else; -EPERM:
 * the owner cannot be set. It is then as it was.
 */
int addr_set_access(const struct addr *addr, const struct addr_access *access);
/* Only processes of this machine can connect. False for names that are not addresses. */
bool addr_is_local(const struct addr *addr);

/* Whether a listening socket is the one that clients of this address reach. May wait for the name service. */
bool addr_is_bound(const struct addr *addr, int fd);

/* Removes the unix socket of an address that addr_listen made; does nothing for TCP. */
void addr_unlink(const struct addr *addr);

/* For tests. A connected, blocking, close-on-exec socket (TCP_NODELAY for TCP). Waits. */
int addr_connect(const struct addr *addr, int *ret_fd);

/* The same, but -ETIMEDOUT after so long (0: never); the name service takes its own time. */
int addr_connect_within(const struct addr *addr, unsigned timeout_ms, int *ret_fd);

#endif
