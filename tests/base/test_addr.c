/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/util.h"

static void test_addresses_that_are_right(void **state)
{
	static const struct {
		const char *text, *host_or_path, *port;
		enum addr_kind kind;
	} cases[] = {
		{"unix:/run/byre/nbd.sock", "/run/byre/nbd.sock", "", ADDR_UNIX},
		{"unix:a:b", "a:b", "", ADDR_UNIX},
		{"tcp:127.0.0.1:10809", "127.0.0.1", "10809", ADDR_TCP},
		{"tcp:host.example:0", "host.example", "0", ADDR_TCP},
		{"tcp:[::1]:65535", "::1", "65535", ADDR_TCP},
		{"tcp:[fe80::1%eth0]:1", "fe80::1%eth0", "1", ADDR_TCP},
	};
	char buf[ADDR_TEXT_MAX];
	struct addr a;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(addr_parse(cases[i].text, &a), 0);
		assert_int_equal(a.kind, cases[i].kind);
		assert_string_equal(a.kind == ADDR_UNIX ? a.path : a.host, cases[i].host_or_path);
		assert_string_equal(a.port, cases[i].port);
		assert_string_equal(addr_format(&a, buf), cases[i].text);
	}
}

static void test_addresses_that_are_wrong(void **state)
{
	static const char *const cases[] = {
		"",
		"unix:",
		"tcp:",
		"tcp::1",
		"tcp:host",
		"tcp:host:",
		"tcp:host:x",
		"tcp:host:65536",
		"tcp:::1:80",
		"tcp:[::1]",
		"tcp:[::1]80",
		"tcp:[]:80",
		"tcp:[::1:80",
		"tcp:::1]:80",
		"/path",
		"udp:host:80",
		"tcp:host:-1",
		"tcp:host:123456",
		"tcp:a b:80",
		"tcp:host:8 0",
		"TCP:host:1",
		"tcp:[",
		"tcp:]:1",
		"tcp:host:+1",
		"tcp:[[::1]]:1",
	};
	struct addr a = {.kind = 77}, same = a;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (addr_parse(cases[i], &a) != -EINVAL)
			fail_msg("'%s' was taken", cases[i]);
		assert_memory_equal(&a, &same, sizeof(a));
	}
}

static void test_long_addresses(void **state)
{
	char text[400];
	struct addr a;

	memset(text, 'x', sizeof(text));
	memcpy(text, "unix:", 5);
	text[5 + ADDR_PATH_MAX] = 0;
	assert_int_equal(addr_parse(text, &a), 0);
	text[5 + ADDR_PATH_MAX] = 'x';
	text[5 + ADDR_PATH_MAX + 1] = 0;
	assert_int_equal(addr_parse(text, &a), -ENAMETOOLONG);
	memset(text, 'x', sizeof(text));
	memcpy(text, "tcp:", 4);
	strcpy(text + 4 + ADDR_HOST_MAX, ":1");
	assert_int_equal(addr_parse(text, &a), 0);
	strcpy(text + 4 + ADDR_HOST_MAX, "x:1");
	assert_int_equal(addr_parse(text, &a), -ENAMETOOLONG);
}

static struct addr temp_addr(char dir[])
{
	char text[128];
	struct addr a;

	assert_non_null(mkdtemp(dir));
	snprintf(text, sizeof(text), "unix:%s/sock", dir);
	assert_int_equal(addr_parse(text, &a), 0);
	return a;
}

static void test_unix_socket_that_is_stale_is_replaced(void **state)
{
	char dir[] = "/tmp/test-addr-XXXXXX";
	struct addr a = temp_addr(dir);
	int fd, second, client;

	assert_int_equal(addr_connect(&a, &client), -ENOENT);
	assert_int_equal(addr_listen(&a, &fd), 0);
	assert_int_equal(addr_listen(&a, &second), -EADDRINUSE);
	assert_int_equal(addr_connect(&a, &client), 0);
	close(client);
	close(fd); /* as when the daemon was killed: the file stays */
	assert_int_equal(addr_connect(&a, &client), -ECONNREFUSED);
	assert_int_equal(addr_listen(&a, &fd), 0);
	assert_int_equal(addr_connect(&a, &client), 0);
	close(client);
	close(fd);
	addr_unlink(&a);
	assert_int_equal(access(a.path, F_OK), -1);
	rmdir(dir);
}

static void test_file_that_is_no_socket_is_kept(void **state)
{
	char dir[] = "/tmp/test-addr-XXXXXX";
	struct addr a = temp_addr(dir);
	FILE *f = fopen(a.path, "w");
	int fd;

	fputs("precious", f);
	fclose(f);
	assert_int_equal(addr_listen(&a, &fd), -EEXIST);
	assert_int_equal(access(a.path, F_OK), 0);
	unlink(a.path);
	rmdir(dir);
}

/* Somebody has the socket and takes no connections: that is told, and not waited for. */
static void test_unix_socket_of_a_busy_listener_is_in_use(void **state)
{
	char path[] = "/tmp/test-addr-XXXXXX", text[80];
	struct addr a;
	int listener, full[8], fd = -1;

	assert_non_null(mkdtemp(path));
	snprintf(text, sizeof(text), "unix:%s/s", path);
	assert_int_equal(addr_parse(text, &a), 0);
	assert_int_equal(addr_listen(&a, &listener), 0);
	assert_int_equal(listen(listener, 1), 0);
	for (size_t i = 0; i < ARRAY_SIZE(full); i++) {
		struct sockaddr_un sun = {.sun_family = AF_UNIX};

		strcpy(sun.sun_path, a.path);
		full[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(full[i], (const struct sockaddr *)&sun, sizeof(sun));
	}
	alarm(20); /* else this would wait for ever */
	assert_int_equal(addr_listen(&a, &fd), -EADDRINUSE);
	alarm(0);
	for (size_t i = 0; i < ARRAY_SIZE(full); i++)
		close(full[i]);
	close(listener);
	addr_unlink(&a);
	rmdir(path);
}

static void test_tcp_listen_and_connect(void **state)
{
	struct sockaddr_in sin = {0};
	socklen_t len = sizeof(sin);
	struct addr a;
	int fd = -1, client = -1, peer, second;

	assert_int_equal(addr_parse("tcp:127.0.0.1:0", &a), 0);
	assert_int_equal(addr_listen(&a, &fd), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	snprintf(a.port, sizeof(a.port), "%d", ntohs(sin.sin_port));
	assert_int_equal(accept(fd, NULL, NULL), -1); /* non-blocking */
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(addr_connect(&a, &client), 0);
	peer = accept(fd, NULL, NULL);
	assert_true(peer >= 0);
	assert_int_equal(addr_listen(&a, &second), -EADDRINUSE);
	close(peer);
	close(client);
	close(fd);
}

static void test_unix_sockets_have_the_mode_that_is_asked_for(void **state)
{
	static const unsigned modes[] = {0660, 0600, 0666, 0777};
	char dir[] = "/tmp/test-addr-XXXXXX";
	mode_t umask_before = umask(0077);
	struct addr addr = {.kind = ADDR_UNIX};
	struct stat st;
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(addr.path, sizeof(addr.path), "%s/s", dir);
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		const struct addr_access access = {.mode = modes[i], .uid = (uid_t)-1, .gid = (gid_t)-1};

		assert_int_equal(addr_listen_as(&addr, &access, &fd), 0);
		assert_int_equal(stat(addr.path, &st), 0);
		assert_int_equal(st.st_mode & 0777, modes[i]);
		close(fd);
		addr_unlink(&addr);
	}
	umask(umask_before);
	rmdir(dir);
}

static void assert_access(const struct addr *a, mode_t mode, uid_t uid, gid_t gid)
{
	struct stat st;

	assert_int_equal(lstat(a->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
	assert_int_equal(st.st_uid, uid);
	assert_int_equal(st.st_gid, gid);
}

/* As a daemon that is not root, in no other group. */
static void test_a_socket_keeps_its_mode_when_its_owner_cannot_be_set(void **state)
{
	const struct addr_access first = {0660, (uid_t)-1, (gid_t)-1}, second = {0666, (uid_t)-1, 0},
				 third = {0600, (uid_t)-1, (gid_t)-1};
	const uid_t other = 65534;
	char dir[] = "/tmp/test-addr-XXXXXX";
	struct addr own = {.kind = ADDR_UNIX}, roots = {.kind = ADDR_UNIX};
	int own_fd, roots_fd;

	if (geteuid())
		skip();
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chmod(dir, 0777), 0);
	snprintf(own.path, sizeof(own.path), "%s/own", dir);
	snprintf(roots.path, sizeof(roots.path), "%s/roots", dir);
	assert_int_equal(addr_listen_as(&roots, &first, &roots_fd), 0);
	assert_int_equal(setgroups(0, NULL), 0);
	assert_int_equal(setegid(other), 0);
	assert_int_equal(seteuid(other), 0);
	assert_int_equal(addr_listen_as(&own, &first, &own_fd), 0);

	assert_int_equal(addr_set_access(&own, &second), -EPERM);
	assert_access(&own, 0660, other, other);
	assert_int_equal(addr_set_access(&own, &third), 0);
	assert_access(&own, 0600, other, other);
	assert_int_equal(addr_set_access(&roots, &third), -EACCES);
	assert_access(&roots, 0660, 0, 0);

	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(0), 0);
	assert_int_equal(addr_set_access(&own, &second), 0);
	assert_access(&own, 0666, 0, 0);
	close(own_fd);
	close(roots_fd);
	addr_unlink(&own);
	addr_unlink(&roots);
	assert_int_equal(rmdir(dir), 0);
}

static void test_addresses_of_this_machine(void **state)
{
	static const char *const local[] = {"unix:/x", "tcp:127.0.0.1:1", "tcp:127.9.9.9:1", "tcp:[::1]:1",
					    "tcp:localhost:1"};
	static const char *const beyond[] = {"tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:192.0.2.1:1",
					     "tcp:example.org:1", "tcp:128.0.0.1:1"};
	struct addr addr;

	for (size_t i = 0; i < sizeof(local) / sizeof(*local); i++) {
		assert_int_equal(addr_parse(local[i], &addr), 0);
		assert_true(addr_is_local(&addr));
	}
	for (size_t i = 0; i < sizeof(beyond) / sizeof(*beyond); i++) {
		assert_int_equal(addr_parse(beyond[i], &addr), 0);
		assert_false(addr_is_local(&addr));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unix_sockets_have_the_mode_that_is_asked_for),
		cmocka_unit_test(test_a_socket_keeps_its_mode_when_its_owner_cannot_be_set),
		cmocka_unit_test(test_addresses_of_this_machine),
		cmocka_unit_test(test_addresses_that_are_right),
		cmocka_unit_test(test_addresses_that_are_wrong),
		cmocka_unit_test(test_long_addresses),
		cmocka_unit_test(test_unix_socket_that_is_stale_is_replaced),
		cmocka_unit_test(test_file_that_is_no_socket_is_kept),
		cmocka_unit_test(test_unix_socket_of_a_busy_listener_is_in_use),
		cmocka_unit_test(test_tcp_listen_and_connect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
