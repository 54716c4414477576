/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/client/test_libbyre.c: libbyre against the real RPC server over a fake engine, and against daemons
 * that are none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "client/byre.h"
#include "proto/byre.pb-c.h"
#include "proto/rpc_frame.h"
#include "tests/lib/rpc_fixture.h"

static struct byre *open_client(struct fixture *fx)
{
	struct byre_error err = {0, ""};
	struct byre *b = NULL;

	if (byre_connect(fx->address, &b, &err))
		fail_msg("%s", err.text);
	return b;
}

static void test_libbyre_pool_calls(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx);
	struct byre_pool_info info;
	struct byre_error err;
	struct byre_stats stats;
	uint64_t generation;

	assert_int_equal(byre_pool_info(b, &info, &err), 0);
	assert_int_equal(info.size, 16ull << 30);
	assert_int_equal(info.free_bytes, UINT64_MAX);
	assert_int_equal(info.generation, 7);
	assert_int_equal(info.groups_data, 3);
	assert_int_equal(info.errors_io, 5);
	assert_int_equal(info.uuid[15], 0xab);
	assert_string_equal(info.device_kind, "fake");
	assert_true(info.direct_io);
	assert_false(info.read_only);

	assert_int_equal(byre_commit(b, &generation, &err), 0);
	assert_int_equal(generation, 8);
	assert_int_equal(byre_commit(b, NULL, NULL), 0);
	assert_int_equal(byre_pool_grow(b, 32ull << 30, &err), 0);
	assert_int_equal(byre_pool_grow(b, 1ull << 30, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_int_equal(byre_pool_grow(b, 4097, &err), -EINVAL);
	assert_int_equal(byre_pool_trim(b, &err), 0);
	assert_non_null(strstr(err.text, "4097"));

	assert_int_equal(byre_stats(b, &stats, &err), 0);
	assert_int_equal(byre_pool_info(b, &info, &err), 0);
	assert_int_equal(info.size, 32ull << 30);
	assert_int_equal(stats.rpc_connections, 1);
	assert_int_equal(stats.rpc_errors, 2);
	assert_true(stats.rpc_requests >= 7);
	byre_close(b);
}

static void test_libbyre_volume_life(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx);
	struct byre_volume_info info;
	struct byre_error err;

	assert_int_equal(byre_volume_create(b, "one", 10 << 20, BYRE_VOLUME_WRITEBACK, &err), 0);
	assert_int_equal(byre_volume_create(b, "one", 10 << 20, 0, &err), -EEXIST);
	assert_string_equal(err.text, "volume one: exists already");
	assert_int_equal(byre_volume_info(b, "one", &info, &err), 0);
	assert_string_equal(info.name, "one");
	assert_int_equal(info.size, 10 << 20);
	assert_int_equal(info.flags, BYRE_VOLUME_WRITEBACK);
	assert_int_equal(info.ctime_ns, 1700000000000000000);
	assert_int_equal(info.uuid[0], 0xcd);
	assert_int_equal(byre_volume_rename(b, "one", "two", &err), 0);
	assert_int_equal(byre_volume_info(b, "one", &info, &err), -ENOENT);
	assert_non_null(strstr(err.text, "one"));
	assert_int_equal(byre_volume_resize(b, "two", 4096, 0, &err), -EINVAL);
	assert_int_equal(byre_volume_resize(b, "two", 4096, 2, &err), -EINVAL);
	assert_int_equal(byre_volume_resize(b, "two", 4096, BYRE_RESIZE_SHRINK, &err), 0);
	assert_int_equal(byre_volume_info(b, "two", &info, &err), 0);
	assert_int_equal(info.size, 4096);
	assert_int_equal(
		byre_volume_set(b, "two", BYRE_SET_READ_ONLY | BYRE_SET_RESERVED, "the second", &err), 0);
	assert_int_equal(byre_volume_info(b, "two", &info, &err), 0);
	assert_int_equal(info.flags, BYRE_VOLUME_WRITEBACK | BYRE_VOLUME_READ_ONLY | BYRE_VOLUME_RESERVED);
	assert_string_equal(info.comment, "the second");
	assert_int_equal(byre_volume_set(b, "two", BYRE_SET_WRITABLE | BYRE_SET_THIN, NULL, &err), 0);
	assert_int_equal(byre_volume_info(b, "two", &info, &err), 0);
	assert_int_equal(info.flags, BYRE_VOLUME_WRITEBACK);
	assert_string_equal(info.comment, "the second");
	assert_int_equal(byre_volume_set(b, "two", 64, NULL, &err), -EINVAL);
	assert_int_equal(byre_volume_delete(b, "two", &err), 0);
	assert_int_equal(byre_volume_delete(b, "two", NULL), -ENOENT);
	byre_close(b);
}

static void test_libbyre_checks_arguments_before_it_sends(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx);
	struct byre_error err;

	assert_int_equal(byre_volume_create(b, "a/b", 4096, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'a/b'"));
	assert_int_equal(byre_volume_create(b, "a\nb", 4096, 0, &err), -EINVAL);
	assert_null(strchr(err.text, '\n'));
	assert_int_equal(byre_volume_create(b, "a", 4096, 64, &err), -EINVAL);
	assert_int_equal(byre_volume_create(b, "a", 4096, BYRE_VOLUME_READ_ONLY, &err), -EINVAL);
	assert_int_equal(byre_volume_rename(b, "a", "", &err), -EINVAL);
	assert_int_equal(byre_volume_create(b, "a", 1, 0, &err), -EINVAL); /* the server's check */
	assert_int_equal(fake_changes(fx->fs), 0);
	byre_close(b);
}

/* A program may know less of a struct than the library does, or more. */
static void test_libbyre_structs_may_grow(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx);
	struct {
		struct byre_pool_info known;
		uint64_t later[8];
	} newer;
	uint8_t older[offsetof(struct byre_pool_info, pinned_bytes) + 1];
	struct byre_pool_info info;
	struct byre_error err;

	memset(&newer, 0xee, sizeof(newer));
	memset(older, 0xee, sizeof(older));
	assert_int_equal(byre_pool_info(b, &info, &err), 0);
	assert_int_equal(byre_pool_info_sized(b, &newer.known, sizeof(newer), &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(newer.later); i++)
		assert_int_equal(newer.later[i], 0);
	assert_string_equal(newer.known.device_kind, "fake");
	assert_int_equal(byre_pool_info_sized(b, (struct byre_pool_info *)older, sizeof(older) - 1, &err), 0);
	assert_memory_equal(older, &info, sizeof(older) - 1);
	assert_int_equal(older[sizeof(older) - 1], 0xee);
	byre_close(b);
}

struct seen {
	unsigned count, stop_at;
};

static int see(void *arg, const struct byre_volume_info *info)
{
	struct seen *seen = arg;
	char name[16];

	snprintf(name, sizeof(name), "v%05u", seen->count);
	assert_string_equal(info->name, name);
	return ++seen->count == seen->stop_at ? 42 : 0;
}

static void test_libbyre_list_goes_through_all_pages(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx);
	struct seen all = {0, 0}, some = {0, 600};
	struct byre_error err;
	char name[16];

	assert_int_equal(byre_volume_list(b, see, &all, &err), 0);
	assert_int_equal(all.count, 0);
	for (unsigned i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "v%05u", i);
		assert_int_equal(fs_volume_create(fx->fs, name, 4096, 0, NULL), 0);
	}
	assert_int_equal(byre_volume_list(b, see, &all, &err), 0);
	assert_int_equal(all.count, 1500);
	assert_int_equal(byre_volume_list(b, see, &some, &err), 42);
	assert_int_equal(some.count, 600);
	assert_int_equal(byre_commit(b, NULL, &err), 0);
	byre_close(b);
}

static void test_libbyre_connection_that_ended_says_so(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx), *c = NULL;
	struct byre_error err;

	assert_int_equal(byre_shutdown(b, &err), 0);
	fx_join(fx);
	assert_int_not_equal(byre_commit(b, NULL, &err), 0);
	assert_non_null(strstr(err.text, fx->path));
	assert_int_equal(byre_commit(b, NULL, &err), -ENOTCONN);
	byre_close(b);
	assert_int_not_equal(byre_connect(fx->address, &c, &err), 0);
	assert_non_null(strstr(err.text, fx->path));
	assert_null(c);
}

/* ---- what is no daemon ---------------------------------------------------- */

/* A daemon that accepts and says nothing: the kernel accepts for it, up to its queue's length. */
static void test_libbyre_does_not_wait_for_ever(void **state)
{
	struct fixture *fx = *state;
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), full[8];
	struct byre_error err;
	struct byre *b = NULL;
	char address[128];

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/mute", fx->dir);
	snprintf(address, sizeof(address), "unix:%s", sun.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, 2), 0);
	assert_int_equal(byre_connect_timeout(address, 50, &b, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "in time"));
	for (size_t i = 0; i < ARRAY_SIZE(full); i++) { /* until connecting itself would wait */
		full[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(full[i], (struct sockaddr *)&sun, sizeof(sun));
	}
	assert_int_equal(byre_connect_timeout(address, 50, &b, &err), -ETIMEDOUT);
	assert_null(b);
	for (size_t i = 0; i < ARRAY_SIZE(full); i++)
		close(full[i]);
	close(fd);
	unlink(sun.sun_path);
}

static void test_libbyre_call_ends_with_its_time(void **state)
{
	struct fixture *fx = *state;
	struct byre *b = open_client(fx);
	struct byre_error err;

	byre_set_timeout(b, 50);
	fake_hold_commits(fx->fs, true);
	assert_int_equal(byre_commit(b, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "may still be done"));
	assert_int_equal(byre_commit(b, NULL, &err), -ENOTCONN);
	fake_hold_commits(fx->fs, false);
	byre_close(b);
}

struct impostor {
	int fd;
	const void *says;
	size_t len;
};

static void *impostor_run(void *arg)
{
	struct impostor *imp = arg;
	char buf[256];
	int fd = accept(imp->fd, NULL, NULL);

	if (read(fd, buf, sizeof(buf)) > 0 && imp->len)
		(void)!write(fd, imp->says, imp->len);
	close(fd);
	return NULL;
}

/* Connects to something that answers hello with `says` and closes. */
static int connect_to_impostor(const void *says, size_t len, struct byre_error *err)
{
	struct impostor imp = {.says = says, .len = len};
	char dir[] = "/tmp/byre-rpc-XXXXXX", path[64], address[80];
	struct byre *b = NULL;
	pthread_t thread;
	int r;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(address, sizeof(address), "unix:%s", path);
	imp.fd = fx_bind(path);
	assert_int_equal(listen(imp.fd, 1), 0);
	pthread_create(&thread, NULL, impostor_run, &imp);
	r = byre_connect(address, &b, err);
	assert_null(b);
	pthread_join(thread, NULL);
	close(imp.fd);
	unlink(path);
	rmdir(dir);
	return r;
}

static void test_libbyre_distrusts_what_it_hears(void **state)
{
	struct rpc_frame wrong_id = {.kind = RPC_REPLY, .id = 99}, data = {.kind = RPC_DATA, .id = 1};
	struct rpc_frame garbled = {.kind = RPC_REPLY, .id = 1, .message_len = 4};
	struct rpc_frame last = {.kind = RPC_REPLY, .status = BYRE__STATUS__STATUS_EAGAIN, .message_len = 9};
	static const uint8_t go_away[9] = {0x0a, 7, 'g', 'o', '\n', 'a', 'w', 'a', 'y'};
	uint8_t wire[RPC_HEADER_LEN + 16];
	struct byre_error err;

	assert_int_equal(connect_to_impostor("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 32, &err), -EPROTO);
	assert_non_null(strstr(err.text, "does not speak"));
	assert_int_equal(connect_to_impostor("", 0, &err), -ECONNRESET);
	rpc_frame_encode(&wrong_id, (struct rpc_header *)wire);
	assert_int_equal(connect_to_impostor(wire, RPC_HEADER_LEN, &err), -EPROTO);
	rpc_frame_encode(&data, (struct rpc_header *)wire);
	assert_int_equal(connect_to_impostor(wire, RPC_HEADER_LEN, &err), -EPROTO);
	rpc_frame_encode(&garbled, (struct rpc_header *)wire);
	memset(wire + RPC_HEADER_LEN, 0xff, 4);
	assert_int_equal(connect_to_impostor(wire, RPC_HEADER_LEN + 4, &err), -EPROTO);
	rpc_frame_encode(&last, (struct rpc_header *)wire);
	memcpy(wire + RPC_HEADER_LEN, go_away, sizeof(go_away));
	assert_int_equal(connect_to_impostor(wire, RPC_HEADER_LEN + 9, &err), -EAGAIN);
	assert_string_equal(err.text, "go away");
}

/* Says hello, and then sends frames without end that answer nothing. */
static void *chatter_run(void *arg)
{
	static const struct rpc_frame hello = {.kind = RPC_REPLY, .id = 1},
				      nothing = {.kind = RPC_CREDIT, .id = 2, .credit = 1};
	struct rpc_header header, many[100];
	const struct impostor *imp = arg;
	char buf[256];
	int fd = accept(imp->fd, NULL, NULL);

	rpc_frame_encode(&hello, &header);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		rpc_frame_encode(&nothing, &many[i]);
	if (read(fd, buf, sizeof(buf)) > 0 && write(fd, &header, sizeof(header)) == (ssize_t)sizeof(header))
		for (int i = 0; i < 200000 && send(fd, many, sizeof(many), MSG_NOSIGNAL) > 0; i++)
			;
	close(fd);
	return NULL;
}

static void test_libbyre_call_ends_with_its_time_whatever_comes(void **state)
{
	struct fixture *fx = *state;
	char path[128], address[140];
	struct impostor imp = {0};
	struct byre_error err;
	struct byre *b = NULL;
	pthread_t thread;

	snprintf(path, sizeof(path), "%s/chatter", fx->dir);
	snprintf(address, sizeof(address), "unix:%s", path);
	imp.fd = fx_bind(path);
	assert_int_equal(listen(imp.fd, 1), 0);
	pthread_create(&thread, NULL, chatter_run, &imp);
	assert_int_equal(byre_connect(address, &b, &err), 0);
	byre_set_timeout(b, 50);
	assert_int_equal(byre_commit(b, NULL, &err), -ETIMEDOUT);
	byre_close(b);
	pthread_join(thread, NULL);
	close(imp.fd);
	unlink(path);
}

static int look_at_volume(void *arg, const struct byre_volume_info *info)
{
	assert_string_equal(info->name, "evil?[2J?name?");
	return ++*(int *)arg, 0;
}

/* A terminal would obey some of it. */
static void test_libbyre_names_of_a_stranger_are_plain(void **state)
{
	struct fixture *fx = *state;
	struct fs_info info = {.device_kind = "a\tkind\x7f"};
	struct byre *b = open_client(fx);
	struct byre_pool_info pool;
	struct byre_error err;
	int seen = 0;

	strcpy(fx->fs->volumes[0].name, "evil\033[2J\nname\xff");
	fx->fs->nr_volumes = 1;
	fx->fs->info = &info;
	assert_int_equal(byre_volume_list(b, look_at_volume, &seen, &err), 0);
	assert_int_equal(seen, 1);
	assert_int_equal(byre_pool_info(b, &pool, &err), 0);
	assert_string_equal(pool.device_kind, "a?kind?");
	byre_close(b);
}

static void test_libbyre_addresses(void **state)
{
	struct byre_error err;
	struct byre *b = NULL;

	assert_int_equal(byre_connect("ftp:nowhere", &b, &err), -EINVAL);
	assert_non_null(strstr(err.text, "ftp:nowhere"));
	assert_int_equal(byre_connect("unix:/nonexistent/sock", &b, &err), -ENOENT);
	assert_non_null(strstr(err.text, "unix:/nonexistent/sock"));
	assert_int_equal(byre_connect("unix:/nonexistent/sock", &b, NULL), -ENOENT);
	unsetenv("BYRE_CONNECT");
	assert_string_equal(byre_default_address(), BYRE_DEFAULT_ADDRESS);
	setenv("BYRE_CONNECT", "", 1);
	assert_string_equal(byre_default_address(), BYRE_DEFAULT_ADDRESS);
	setenv("BYRE_CONNECT", "unix:/x", 1);
	assert_string_equal(byre_default_address(), "unix:/x");
	unsetenv("BYRE_CONNECT");
	byre_close(NULL);
}

static void test_libbyre_names(void **state)
{
	char name[258];

	memset(name, 'n', 256);
	name[256] = '\0';
	assert_false(byre_name_is_valid(name));
	name[255] = '\0';
	assert_true(byre_name_is_valid(name));
	assert_true(byre_name_is_valid("A-z_0.9"));
	assert_false(byre_name_is_valid(""));
	assert_false(byre_name_is_valid("."));
	assert_false(byre_name_is_valid("-x"));
	assert_false(byre_name_is_valid("x y"));
	assert_false(byre_name_is_valid("\xc3\xa4"));
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, fx_setup, fx_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(test_libbyre_pool_calls),
		WITH_SERVER(test_libbyre_volume_life),
		WITH_SERVER(test_libbyre_checks_arguments_before_it_sends),
		WITH_SERVER(test_libbyre_structs_may_grow),
		WITH_SERVER(test_libbyre_does_not_wait_for_ever),
		WITH_SERVER(test_libbyre_call_ends_with_its_time),
		WITH_SERVER(test_libbyre_call_ends_with_its_time_whatever_comes),
		WITH_SERVER(test_libbyre_names_of_a_stranger_are_plain),
		WITH_SERVER(test_libbyre_list_goes_through_all_pages),
		WITH_SERVER(test_libbyre_connection_that_ended_says_so),
		cmocka_unit_test(test_libbyre_distrusts_what_it_hears),
		cmocka_unit_test(test_libbyre_addresses),
		cmocka_unit_test(test_libbyre_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
