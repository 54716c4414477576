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
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static struct log pipe_log(int fds[2], enum log_level level)
{
	struct log log;

	assert_int_equal(pipe(fds), 0);
	log_init(&log, "prog", level);
	log.fd = fds[1];
	return log;
}

static void expect_text(int fds[2], const char *want)
{
	char buf[4096];
	ssize_t n;

	close(fds[1]);
	n = read(fds[0], buf, sizeof(buf) - 1);
	assert_true(n >= 0);
	buf[n] = 0;
	assert_string_equal(buf, want);
	close(fds[0]);
}

static void test_lines_above_the_level_are_dropped(void **state)
{
	int fds[2];
	struct log log = pipe_log(fds, LOG_LEVEL_WARNING);

	log_line(&log, LOG_LEVEL_INFO, "no");
	log_line(&log, LOG_LEVEL_WARNING, "a %d", 1);
	log_line(&log, LOG_LEVEL_ERROR, "b");
	log_set_level(&log, LOG_LEVEL_DEBUG);
	log_line(&log, LOG_LEVEL_DEBUG, "c");
	log_set_level(&log, LOG_LEVEL_ERROR);
	log_bare(&log, "ready");
	expect_text(fds, "prog: warning: a 1\nprog: error: b\nprog: c\nready\n");
}

static void test_control_characters_cannot_forge_lines(void **state)
{
	int fds[2];
	struct log log = pipe_log(fds, LOG_LEVEL_INFO);

	log_line(&log, LOG_LEVEL_INFO, "a\nready\033[2J");
	expect_text(fds, "prog: a?ready?[2J\n");
}

static void test_journal_gets_levels(void **state)
{
	char stream[64];
	struct log log;
	struct stat st;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_init(&log, "prog", LOG_LEVEL_INFO);
	unsetenv("JOURNAL_STREAM");
	assert_true(log.journal);
	log.fd = fds[1];
	log_line(&log, LOG_LEVEL_ERROR, "broken");
	log_bare(&log, "ready");
	expect_text(fds, "<3>broken\n<5>ready\n");
}

static void test_long_lines_are_cut(void **state)
{
	static char text[3 * LOG_LINE_MAX];
	char buf[2 * LOG_LINE_MAX];
	int fds[2];
	struct log log = pipe_log(fds, LOG_LEVEL_INFO);

	memset(text, 'x', sizeof(text) - 1);
	log_line(&log, LOG_LEVEL_INFO, "%s", text);
	assert_in_range(read(fds[0], buf, sizeof(buf)), LOG_LINE_MAX / 2, LOG_LINE_MAX + 8);
	close(fds[0]);
	close(fds[1]);
}

static void test_level_names(void **state)
{
	enum log_level level;

	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_parse("error", &level), 0);
	assert_int_equal(level, LOG_LEVEL_ERROR);
	assert_int_equal(log_level_parse("", &level), -EINVAL);
	assert_int_equal(log_level_parse("Error", &level), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_above_the_level_are_dropped),
		cmocka_unit_test(test_control_characters_cannot_forge_lines),
		cmocka_unit_test(test_journal_gets_levels),
		cmocka_unit_test(test_long_lines_are_cut),
		cmocka_unit_test(test_level_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
