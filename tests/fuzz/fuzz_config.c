/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_config.c: the configuration file, and each setting by itself as the command line would give it. Whatever
 * is in them: a setting is taken or refused with one line, and what was refused has changed nothing that is dangerous to use.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"pool",	     "nbd",	      "rpc",	     "http",	     "cache-size", "memory",
				    "commit-interval", "threads",      "stall-timeout", "stop-timeout", "log-level",  "write-log",
				    "no-such"};

static void check_list(const struct config_list *list)
{
	char text[ADDR_TEXT_MAX];
	struct addr again;

	ASSERT(list->count <= SERVER_LISTENERS_MAX);
	for (unsigned i = 0; i < list->count; i++)
		ASSERT(addr_parse(addr_format(&list->addrs[i], text), &again) == 0);
}

static void check(const struct config *c)
{
	char buf[256];

	ASSERT(strnlen(c->pool, sizeof(c->pool)) < sizeof(c->pool));
	ASSERT(strnlen(c->write_log, sizeof(c->write_log)) < sizeof(c->write_log));
	ASSERT(c->threads <= SERVER_THREADS_MAX);
	ASSERT(c->memory_bytes >= SERVER_MEMORY_MIN && c->memory_bytes <= INT64_MAX);
	ASSERT(c->stall_timeout_s >= 1 && c->stop_timeout_s >= 1);
	ASSERT(c->log_level >= LOG_LEVEL_ERROR && c->log_level <= LOG_LEVEL_DEBUG);
	check_list(&c->nbd);
	check_list(&c->rpc);
	check_list(&c->http);
	config_diff(c, c, buf, sizeof(buf));
	ASSERT(!*buf);
}

static void check_error(int r, const struct config_error *err)
{
	ASSERT(r <= 0);
	if (r == -EINVAL)
		ASSERT(*err->msg && !strchr(err->msg, '\n') && strnlen(err->msg, sizeof(err->msg)) < sizeof(err->msg));
}

/* The first byte chooses the setting. */
static void set_one(const uint8_t *data, size_t size)
{
	struct config *c = malloc(sizeof(*c));
	struct config_error err = {""};
	char *value = malloc(size + 1);

	ASSERT(c && value);
	config_init(c);
	memcpy(value, data + 1, size - 1);
	value[size - 1] = 0;
	check_error(config_set(c, names[data[0] % ARRAY_SIZE(names)], value, CONFIG_FROM_ARGS, &err), &err);
	check(c);
	free(value);
	free(c);
}

static void read_file(const uint8_t *data, size_t size)
{
	struct config *c = malloc(sizeof(*c));
	struct config_error err = {""};
	int fd = memfd_create("config", MFD_CLOEXEC);
	char path[64];

	ASSERT(c && fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	config_init(c);
	check_error(config_read_file(c, path, &err), &err);
	check(c);
	close(fd);
	free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	set_one(data, size);
	read_file(data + 1, size - 1);
	return 0;
}
