/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "server/config.h"

static struct config config;
static struct config_error err;

static int setup(void **state)
{
	config_init(&config);
	err.msg[0] = 0;
	return 0;
}

static int set(const char *name, const char *value)
{
	return config_set(&config, name, value, CONFIG_FROM_ARGS, &err);
}

static int read_text(const char *text)
{
	char path[] = "/tmp/test-config-XXXXXX";
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	r = config_read_file(&config, path, &err);
	unlink(path);
	return r;
}

static const char *text_of(const struct addr *addr)
{
	static char buf[ADDR_TEXT_MAX];

	return addr_format(addr, buf);
}

static void test_values(void **state)
{
	assert_int_equal(set("pool", "/srv/pool"), 0);
	assert_int_equal(set("cache-size", "2G"), 0);
	assert_int_equal(set("discard", "off"), 0);
	assert_int_equal(set("commit-interval", "7"), 0);
	assert_int_equal(set("threads", "3"), 0);
	assert_int_equal(set("log-level", "debug"), 0);
	assert_int_equal(set("read-only", "yes"), 0);
	assert_int_equal(set("default-export", "vm1"), 0);
	assert_string_equal(config.default_export, "vm1");
	assert_true(config.read_only);
	assert_int_equal(set("warn-full", "50,99"), 0);
	assert_int_equal(config.warn_full_count, 2);
	assert_int_equal(config.warn_full[1], 99);
	assert_int_equal(set("warn-full", "off"), 0);
	assert_int_equal(config.warn_full_count, 0);
	assert_int_equal(set("nbd", "unix:/a"), 0);
	assert_int_equal(set("nbd", "tcp:[::1]:1"), 0);
	assert_string_equal(config.pool, "/srv/pool");
	assert_int_equal(config.cache_bytes, 2ull << 30);
	assert_int_equal(config.commit_interval_ms, 7000);
	assert_int_equal(config.threads, 3);
	assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(config.nbd.count, 2);
	assert_string_equal(text_of(&config.nbd.addrs[1]), "tcp:[::1]:1");
}

static void test_wrong_values_are_told(void **state)
{
	static const char *const cases[][2] = {
		{"pool", ""},
		{"cache-size", "many"},
		{"cache-size", "-1"},
		{"cache-size", "0"},
		{"discard", "yes"},
		{"commit-interval", "0"},
		{"commit-interval", "3601"},
		{"commit-interval", "5s"},
		{"threads", "0"},
		{"threads", "257"},
		{"threads", " 1"},
		{"threads", "99999999999"},
		{"log-level", "loud"},
		{"nbd", "localhost"},
		{"rpc", "unix:"},
		{"http", "tcp:x"},
		{"colour", "blue"},
		{"read-only", "maybe"},
		{"default-export", "a/b"},
		{"default-export", "-x"},
		{"warn-full", ""},
		{"warn-full", "90,80"},
		{"warn-full", "80,"},
		{"warn-full", "0"},
		{"warn-full", "101"},
		{"warn-full", "1,2,3,4,5,6,7,8,9"},
		{"warn-full", "80%"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		err.msg[0] = 0;
		assert_int_equal(set(cases[i][0], cases[i][1]), -EINVAL);
		assert_non_null(strstr(err.msg, cases[i][0]));
	}
	assert_int_equal(set("http", "tcp:127.0.0.1:1"), 0);
	assert_int_equal(set("http", "tcp:127.0.0.1:2"), -EINVAL);
}

static void test_too_many_addresses(void **state)
{
	for (int i = 0; i < SERVER_LISTENERS_MAX; i++)
		assert_int_equal(set("nbd", "unix:/a"), 0);
	assert_int_equal(set("nbd", "unix:/a"), -EINVAL);
}

static void test_file(void **state)
{
	assert_int_equal(read_text("# comment\n[byred]\npool = /srv/pool ; the big one\nnbd = unix:/a\n"
				   "nbd=tcp:h:1\n; another\nrpc = unix:/r\nthreads=2\nlog-level = warning\n"),
			 0);
	assert_string_equal(config.pool, "/srv/pool");
	assert_int_equal(config.nbd.count, 2);
	assert_int_equal(config.threads, 2);
	assert_int_equal(config.log_level, LOG_LEVEL_WARNING);
}

static void test_command_line_wins_over_the_file(void **state)
{
	assert_int_equal(set("nbd", "unix:/mine"), 0);
	assert_int_equal(set("threads", "4"), 0);
	assert_int_equal(read_text("[byred]\nnbd = unix:/a\nnbd = unix:/b\nthreads = 2\nrpc = unix:/r\n"), 0);
	assert_int_equal(config.nbd.count, 1);
	assert_string_equal(text_of(&config.nbd.addrs[0]), "unix:/mine");
	assert_int_equal(config.threads, 4);
	assert_string_equal(text_of(&config.rpc.addrs[0]), "unix:/r");
}

static void test_file_errors_name_the_first_line_that_is_wrong(void **state)
{
	assert_int_equal(read_text("[byred]\nthreads = 2\nthreads = no\nspeed = fast\n"), -EINVAL);
	assert_non_null(strstr(err.msg, ":3:"));
	assert_non_null(strstr(err.msg, "threads"));
	assert_int_equal(read_text("[byred]\nnonsense\n"), -EINVAL);
	assert_non_null(strstr(err.msg, ":2:"));
	assert_int_equal(read_text("[byred]\nnonsense\nthreads = no\n"), -EINVAL);
	assert_non_null(strstr(err.msg, ":2: this line"));
	assert_int_equal(read_text("threads = 2\n"), -EINVAL);
	assert_int_equal(read_text("[other]\nthreads = 2\n"), -EINVAL);
	assert_int_equal(config_read_file(&config, "/nonexistent/file", &err), -ENOENT);
	/* checked although the command line wins */
	assert_int_equal(set("threads", "4"), 0);
	assert_int_equal(read_text("[byred]\nthreads = no\n"), -EINVAL);
}

/* inih, left alone, adds an indented line to the value before it. */
static void test_an_indented_line_is_a_setting_of_its_own(void **state)
{
	assert_int_equal(
		read_text("[byred]\npool = /srv/pool\n  threads = 3\n\tnbd = unix:/a\n\t # nothing\n"), 0);
	assert_string_equal(config.pool, "/srv/pool");
	assert_int_equal(config.threads, 3);
	assert_int_equal(config.nbd.count, 1);
}

/* What lay behind byte 199 of a comment was read as a line of its own. */
static void test_the_tail_of_a_long_comment_is_no_setting(void **state)
{
	char text[1024], tail[] = "threads = 7";

	for (size_t len = 150; len < 450; len++) {
		config_init(&config);
		snprintf(text, sizeof(text), "[byred]\npool = /a\n%c%*s%s\nlog-level = debug\n",
			 len % 2 ? '#' : ';', (int)len, "", tail);
		assert_int_equal(read_text(text), 0);
		assert_int_equal(config.threads, 0);
		assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
	}
}

static void test_a_line_that_does_not_fit_is_told(void **state)
{
	char text[1024];

	for (size_t len = 150; len < 450; len++) {
		int r;

		config_init(&config);
		snprintf(text, sizeof(text), "[byred]\nthreads = 2\npool = /%0*d\n", (int)len, 0);
		r = read_text(text);
		if (r == 0) {
			assert_int_equal(strlen(config.pool), len + 1);
			continue;
		}
		assert_int_equal(r, -EINVAL);
		assert_true(len > 180); /* where the library's line ends */
		assert_non_null(strstr(err.msg, ":3:"));
		assert_non_null(strstr(err.msg, "too long"));
	}
	assert_int_not_equal(read_text(text), 0);
}

static void test_unknown_sections_are_told(void **state)
{
	assert_int_equal(read_text("[byred]\nthreads = 2\n[bread]\n"), -EINVAL);
	assert_non_null(strstr(err.msg, ":3:"));
	assert_non_null(strstr(err.msg, "[bread]"));
	assert_int_equal(read_text("[]\n"), -EINVAL);
	assert_int_equal(read_text("[byred]\nthreads = 2\n\n[byred] ; again\nthreads = 3\n"), 0);
	assert_int_equal(config.threads, 3);
}

static void test_default_addresses(void **state)
{
	static const struct {
		const char *pool, *runtime_dir;
		bool block;
		const char *dir;
	} cases[] = {
		{"/srv/byre/pool", NULL, false, "/srv/byre"},
		{"pool", NULL, false, "."},
		{"/pool", NULL, false, ""},
		{"/srv/pool", "/run/byre", false, "/run/byre"},
		{"/srv/pool", "/run/byre:/run/x", false, "/run/byre"},
		{"/dev/sdb", NULL, true, "/run/byre"},
		{"data/pool", "", false, "data"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char want[128];

		config_init(&config);
		assert_int_equal(set("pool", cases[i].pool), 0);
		assert_int_equal(config_default_addrs(&config, cases[i].runtime_dir, cases[i].block, &err),
				 0);
		snprintf(want, sizeof(want), "unix:%s/nbd.sock", cases[i].dir);
		assert_string_equal(text_of(&config.nbd.addrs[0]), want);
		assert_int_equal(config.nbd.count, 1); /* TCP is open to every user: only when asked for */
		snprintf(want, sizeof(want), "unix:%s/rpc.sock", cases[i].dir);
		assert_string_equal(text_of(&config.rpc.addrs[0]), want);
		assert_int_equal(config.http.count, 0);
	}
}

/* Whatever is in a file or a value, what is said about it is one line. */
static void test_errors_are_one_line(void **state)
{
	char path[] = "/tmp/test-config-XXXXXX";
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "[no end\nx\n", 10), 10);
	assert_int_equal(config_read_file(&config, path, &err), -EINVAL);
	assert_null(strpbrk(err.msg, "\n\r\t"));
	assert_int_equal(set("log-level", "in\nfo\t"), -EINVAL);
	assert_null(strpbrk(err.msg, "\n\r\t"));
	close(fd);
	unlink(path);
}

static void test_given_addresses_replace_the_defaults(void **state)
{
	assert_int_equal(set("pool", "/srv/pool"), 0);
	assert_int_equal(set("nbd", "unix:/x"), 0);
	assert_int_equal(config_default_addrs(&config, NULL, false, &err), 0);
	assert_int_equal(config.nbd.count, 1);
	assert_int_equal(config.rpc.count, 1);
}

static void test_folder_that_is_too_long_for_a_socket(void **state)
{
	char pool[200];

	memset(pool, 'x', sizeof(pool));
	pool[0] = '/';
	strcpy(pool + 150, "/pool");
	assert_int_equal(set("pool", pool), 0);
	assert_int_equal(config_default_addrs(&config, NULL, false, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.msg, "--nbd"));
}

static void test_diff(void **state)
{
	static struct config other;
	char buf[64];

	assert_int_equal(set("nbd", "unix:/x"), 0);
	other = config;
	other.log_level = LOG_LEVEL_ERROR;
	config_diff(&config, &other, buf, sizeof(buf));
	assert_string_equal(buf, "");
	other.threads = 9;
	strcpy(other.nbd.addrs[0].path, "/y");
	config_diff(&config, &other, buf, sizeof(buf));
	assert_string_equal(buf, "nbd threads");
	other = config;
	other.stop_timeout_s++;
	other.warn_full[0]++;
	strcpy(other.write_log, "/w");
	config_diff(&config, &other, buf, sizeof(buf));
	assert_string_equal(buf, "stop-timeout warn-full write-log");
	other = config;
	other.warn_full_count = 0;
	config_diff(&config, &other, buf, sizeof(buf));
	assert_string_equal(buf, "warn-full");
}

static void test_memory_has_two_bounds(void **state)
{
	assert_int_equal(set("memory", "1M"), -EINVAL);
	assert_non_null(strstr(err.msg, "too little"));
	assert_int_equal(set("memory", "9000P"), -EINVAL);
	assert_non_null(strstr(err.msg, "more than any machine has"));
}

static void test_file_that_cannot_be_read_says_why(void **state)
{
	assert_int_equal(config_read_file(&config, "/tmp", &err), -EISDIR);
	assert_string_equal(err.msg, "cannot read /tmp: Is a directory");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup(name, setup)
	const struct CMUnitTest tests[] = {
		T(test_values),
		T(test_wrong_values_are_told),
		T(test_too_many_addresses),
		T(test_file),
		T(test_an_indented_line_is_a_setting_of_its_own),
		T(test_the_tail_of_a_long_comment_is_no_setting),
		T(test_a_line_that_does_not_fit_is_told),
		T(test_unknown_sections_are_told),
		T(test_command_line_wins_over_the_file),
		T(test_file_errors_name_the_first_line_that_is_wrong),
		T(test_default_addresses),
		T(test_errors_are_one_line),
		T(test_given_addresses_replace_the_defaults),
		T(test_folder_that_is_too_long_for_a_socket),
		T(test_diff),
		T(test_memory_has_two_bounds),
		T(test_file_that_cannot_be_read_says_why),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
