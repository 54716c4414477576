/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 1024
#define PORT_MAX 65535
#define STALE_TIMEOUT_MS 1000

static int parse_unix(const char *path, struct addr *ret_addr)
{
	struct addr a = {.kind = ADDR_UNIX};

	if (!*path)
		return -EINVAL;
	if (strlen(path) > ADDR_PATH_MAX)
		return -ENAMETOOLONG;
	strcpy(a.path, path);
	*ret_addr = a;
	return 0;
}

static int parse_port(const char *text, char port[6])
{
	size_t len = strspn(text, "0123456789");

	if (!len || text[len] || len > 5 || atoi(text) > PORT_MAX)
		return -EINVAL;
	strcpy(port, text);
	return 0;
}

static int parse_tcp(const char *text, struct addr *ret_addr)
{
	struct addr a = {.kind = ADDR_TCP};
	const char *host = text, *host_end, *colon = strrchr(text, ':');

	if (!colon)
		return -EINVAL;
	host_end = colon;
	if (*host == '[') {
		if (host_end[-1] != ']')
			return -EINVAL;
		host++;
		host_end--;
	} else if (memchr(host, ':', host_end - host)) {
		return -EINVAL;
	}
	if (host_end <= host || strpbrk(host, "[ ") || memchr(host, ']', host_end - host))
		return -EINVAL;
	if (host_end - host > ADDR_HOST_MAX)
		return -ENAMETOOLONG;
	memcpy(a.host, host, host_end - host);
	if (parse_port(colon + 1, a.port) < 0)
		return -EINVAL;
	*ret_addr = a;
	return 0;
}

int addr_parse(const char *text, struct addr *ret_addr)
{
	if (!strncmp(text, "unix:", 5))
		return parse_unix(text + 5, ret_addr);
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(text + 4, ret_addr);
	return -EINVAL;
}

const char *addr_format(const struct addr *addr, char *buf)
{
	if (addr->kind == ADDR_UNIX)
		snprintf(buf, ADDR_TEXT_MAX, "unix:%s", addr->path);
	else
		snprintf(buf, ADDR_TEXT_MAX, strchr(addr->host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s",
			 addr->host, addr->port);
	return buf;
}

static struct sockaddr_un unix_sockaddr(const struct addr *addr)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	strcpy(sun.sun_path, addr->path);
	return sun;
}

/*
 * A socket's own time-out bounds connect, too, also where the listener's queue is full, which no poll tells
 * of a unix socket. When it is over, unix sockets say EAGAIN and TCP ones EINPROGRESS.
 */
static int connect_within(int fd, const void *sockaddr, socklen_t len, unsigned timeout_ms)
{
	const struct timeval tv = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000},
			     never = {0};
	int r;

	if (timeout_ms && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
		return -errno;
	do {
		r = connect(fd, sockaddr, len);
	} while (r < 0 && errno == EINTR);
	r = r < 0 ? -errno : 0;
	if (timeout_ms && (r == -EAGAIN || r == -EINPROGRESS))
		r = -ETIMEDOUT;
	if (!r && timeout_ms && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &never, sizeof(never)) < 0)
		r = -errno;
	return r;
}

static int unix_connect(const struct addr *addr, unsigned timeout_ms, int *ret_fd)
{
	struct sockaddr_un sun = unix_sockaddr(addr);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	r = connect_within(fd, &sun, sizeof(sun), timeout_ms);
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* Only a socket that refuses connections is removed: anything else at the path belongs to somebody. */
static int unix_remove_stale(const struct addr *addr)
{
	struct stat st;
	int fd, r;

	if (lstat(addr->path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	r = unix_connect(addr, STALE_TIMEOUT_MS, &fd);
	if (!r)
		close(fd);
	if (!r || r == -ETIMEDOUT) /* with a full queue it has a listener, too */
		return -EADDRINUSE;
	if (r != -ECONNREFUSED)
		return r;
	return unlink(addr->path) < 0 ? -errno : 0;
}

/*
 * The socket's file is made with the mode that the descriptor has: without any until the owner is right.
 * Nobody can connect before listen, either.
 */
static int bind_unix(int fd, const struct sockaddr_un *sun, const struct addr_access *access)
{
	bool chown_wanted = access->uid != (uid_t)-1 || access->gid != (gid_t)-1;
	int r = 0;

	if (fchmod(fd, 0) < 0 || bind(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0)
		return -errno;
	if ((chown_wanted && chown(sun->sun_path, access->uid, access->gid) < 0) ||
	    chmod(sun->sun_path, access->mode) < 0) {
		r = -errno;
		unlink(sun->sun_path);
	}
	return r;
}

static int bind_and_listen(int family, const void *sockaddr, socklen_t len, const struct addr_access *access,
			   int *ret_fd)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, r = 0;

	if (fd < 0)
		return -errno;
	if (family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (family == AF_UNIX && access)
		r = bind_unix(fd, sockaddr, access);
	else if (bind(fd, sockaddr, len) < 0)
		r = -errno;
	if (!r && listen(fd, LISTEN_BACKLOG) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int unix_listen(const struct addr *addr, const struct addr_access *access, int *ret_fd)
{
	struct sockaddr_un sun = unix_sockaddr(addr);
	int r = unix_remove_stale(addr);

	return r < 0 ? r : bind_and_listen(AF_UNIX, &sun, sizeof(sun), access, ret_fd);
}

static int resolve(const struct addr *addr, int flags, struct addrinfo **ret_list)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
	int r = getaddrinfo(addr->host, addr->port, &hints, ret_list);

	switch (r) {
	case 0: return 0;
	case EAI_AGAIN: return -EAGAIN;
	case EAI_MEMORY: return -ENOMEM;
	case EAI_SYSTEM: return -errno;
	default: return -EHOSTUNREACH;
	}
}

static int tcp_listen(const struct addr *addr, int *ret_fd)
{
	struct addrinfo *list, *ai;
	int r = resolve(addr, AI_PASSIVE, &list);

	if (r < 0)
		return r;
	for (ai = list; ai; ai = ai->ai_next) {
		r = bind_and_listen(ai->ai_family, ai->ai_addr, ai->ai_addrlen, NULL, ret_fd);
		if (!r)
			break;
	}
	freeaddrinfo(list);
	return r;
}

static int tcp_connect_one(const struct addrinfo *ai, unsigned timeout_ms, int *ret_fd)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, r;

	if (fd < 0)
		return -errno;
	r = connect_within(fd, ai->ai_addr, ai->ai_addrlen, timeout_ms);
	if (r < 0) {
		close(fd);
		return r;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*ret_fd = fd;
	return 0;
}

static int tcp_connect(const struct addr *addr, unsigned timeout_ms, int *ret_fd)
{
	struct addrinfo *list, *ai;
	int r = resolve(addr, 0, &list);

	if (r < 0)
		return r;
	for (ai = list; ai; ai = ai->ai_next) {
		r = tcp_connect_one(ai, timeout_ms, ret_fd);
		if (!r)
			break;
	}
	freeaddrinfo(list);
	return r;
}

int addr_listen_as(const struct addr *addr, const struct addr_access *access, int *ret_fd)
{
	return addr->kind == ADDR_UNIX ? unix_listen(addr, access, ret_fd) : tcp_listen(addr, ret_fd);
}

int addr_listen(const struct addr *addr, int *ret_fd)
{
	return addr_listen_as(addr, NULL, ret_fd);
}

int addr_set_access(const struct addr *addr, const struct addr_access *access)
{
	uid_t uid = access->uid == (uid_t)-1 ? geteuid() : access->uid;
	gid_t gid = access->gid == (gid_t)-1 ? getegid() : access->gid;
	struct stat st;
	bool chown_wanted;
	int r = 0;

	if (addr->kind != ADDR_UNIX)
		return 0;
	if (lstat(addr->path, &st) < 0)
		return -errno;
	chown_wanted = st.st_uid != uid || st.st_gid != gid;
	if (!chown_wanted && (st.st_mode & 07777) == access->mode)
		return 0;
	/* As in bind_unix: no mode goes with the wrong owner. Only who owns a file may change its mode. */
	if (chmod(addr->path, chown_wanted ? 0 : access->mode) < 0)
		return errno == EPERM ? -EACCES : -errno;
	if (!chown_wanted)
		return 0;
	if (lchown(addr->path, uid, gid) < 0)
		r = -errno;
	if (chmod(addr->path, r ? st.st_mode & 07777 : access->mode) < 0 && !r)
		r = -errno;
	return r;
}

bool addr_is_local(const struct addr *addr)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (addr->kind == ADDR_UNIX || !strcmp(addr->host, "localhost"))
		return true;
	if (inet_pton(AF_INET, addr->host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, addr->host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/*
 * The socket's file may have been removed, and made anew by somebody else: then nobody can be connected to
 * both.
 */
static bool unix_is_bound(const struct addr *addr, const struct sockaddr_un *sun)
{
	struct stat st;

	return !strncmp(sun->sun_path, addr->path, sizeof(sun->sun_path)) && !lstat(addr->path, &st) &&
	       S_ISSOCK(st.st_mode);
}

static bool tcp_is_bound(const struct addr *addr, const struct sockaddr *bound, socklen_t len)
{
	struct addrinfo *list, *ai;
	bool found = false;

	if (resolve(addr, AI_PASSIVE, &list) < 0)
		return false;
	for (ai = list; ai && !found; ai = ai->ai_next)
		found = ai->ai_family == bound->sa_family && ai->ai_addrlen == len &&
			!memcmp(ai->ai_addr, bound, len);
	freeaddrinfo(list);
	return found;
}

bool addr_is_bound(const struct addr *addr, int fd)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
		return false;
	if (ss.ss_family == AF_UNIX)
		return addr->kind == ADDR_UNIX && unix_is_bound(addr, (const struct sockaddr_un *)&ss);
	return addr->kind == ADDR_TCP && tcp_is_bound(addr, (const struct sockaddr *)&ss, len);
}

void addr_unlink(const struct addr *addr)
{
	if (addr->kind == ADDR_UNIX)
		unlink(addr->path);
}

int addr_connect(const struct addr *addr, int *ret_fd)
{
	return addr_connect_within(addr, 0, ret_fd);
}

int addr_connect_within(const struct addr *addr, unsigned timeout_ms, int *ret_fd)
{
	return addr->kind == ADDR_UNIX ? unix_connect(addr, timeout_ms, ret_fd)
				       : tcp_connect(addr, timeout_ms, ret_fd);
}
