/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/config.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/util.h"

#define RUN_DIR "/run/byre"
#define SOCKET_MODE_DEFAULT 0660

static int fail(struct config_error *err, const char *name, const char *value, const char *why)
{
	snprintf(err->msg, sizeof(err->msg), "%s: '%.300s' %s", name, value, why);
	for (char *c = err->msg; *c; c++) /* it stays one line */
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	return -EINVAL;
}

static int set_path(char path[PATH_MAX], const char *name, const char *value, struct config_error *err)
{
	if (!*value || strlen(value) >= PATH_MAX)
		return fail(err, name, value, "is not a path");
	strcpy(path, value);
	return 0;
}

static int parse_unsigned(const char *text, unsigned max, unsigned *ret_value)
{
	char *end;
	unsigned long v;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || v > max)
		return -EINVAL;
	*ret_value = v;
	return 0;
}

/* A list from a stronger source starts anew; one from a weaker source is not looked at further. */
static int add_addr(struct config_list *list, unsigned max, const char *name, const char *value,
		    enum config_source source, struct config_error *err)
{
	struct addr addr;
	int r = addr_parse(value, &addr);

	if (r == -ENAMETOOLONG)
		return fail(err, name, value, "is too long for an address");
	if (r < 0)
		return fail(err, name, value, "is not an address; use unix:PATH or tcp:HOST:PORT");
	if (source < list->source)
		return 0;
	if (source > list->source)
		list->count = 0;
	list->source = source;
	if (list->count == max)
		return fail(err, name, value, "is one address too many");
	list->addrs[list->count++] = addr;
	return 0;
}

static int set_pool(struct config *c, const char *value, struct config_error *err)
{
	return set_path(c->pool, "pool", value, err);
}

static int set_cache(struct config *c, const char *value, struct config_error *err)
{
	uint64_t bytes;

	if (size_parse(value, &bytes) < 0)
		return fail(err, "cache-size", value,
			    "is not a size; use bytes, or a number with K, M, G or T");
	if (!bytes)
		return fail(err, "cache-size", value,
			    "is no memory at all; leave it out for the default, 1G");
	c->cache_bytes = bytes;
	return 0;
}

static int set_memory(struct config *c, const char *value, struct config_error *err)
{
	uint64_t bytes;

	if (size_parse(value, &bytes) < 0)
		return fail(err, "memory", value, "is not a size; use bytes, or a number with K, M, G or T");
	if (bytes < SERVER_MEMORY_MIN)
		return fail(err, "memory", value,
			    "is too little; 64M is the least, for one request of 32 MiB and the rest");
	if (bytes > INT64_MAX)
		return fail(err, "memory", value, "is more than any machine has");
	c->memory_bytes = bytes;
	return 0;
}

static int set_commit(struct config *c, const char *value, struct config_error *err)
{
	unsigned seconds;

	if (parse_unsigned(value, CONFIG_COMMIT_INTERVAL_MAX_S, &seconds) < 0 || !seconds)
		return fail(err, "commit-interval", value, "is not a number of seconds from 1 to 3600");
	c->commit_interval_ms = seconds * 1000;
	return 0;
}

static int set_threads(struct config *c, const char *value, struct config_error *err)
{
	unsigned threads;

	if (parse_unsigned(value, SERVER_THREADS_MAX, &threads) < 0 || !threads)
		return fail(err, "threads", value, "is not a number from 1 to 256");
	c->threads = threads;
	return 0;
}

static int set_seconds(unsigned *seconds, const char *name, const char *value, struct config_error *err)
{
	unsigned v;

	if (parse_unsigned(value, CONFIG_TIMEOUT_MAX_S, &v) < 0 || !v)
		return fail(err, name, value, "is not a number of seconds from 1 to 86400");
	*seconds = v;
	return 0;
}

static int set_stall(struct config *c, const char *value, struct config_error *err)
{
	return set_seconds(&c->stall_timeout_s, "stall-timeout", value, err);
}

static int set_stop(struct config *c, const char *value, struct config_error *err)
{
	return set_seconds(&c->stop_timeout_s, "stop-timeout", value, err);
}

static int set_discard(struct config *c, const char *value, struct config_error *err)
{
	if (strcmp(value, "on") == 0)
		c->discard = FS_DISCARD_ON;
	else if (strcmp(value, "off") == 0)
		c->discard = FS_DISCARD_OFF;
	else
		return fail(err, "discard", value, "is neither on nor off");
	return 0;
}

static int set_scrub_interval(struct config *c, const char *value, struct config_error *err)
{
	unsigned days;

	if (parse_unsigned(value, CONFIG_SCRUB_INTERVAL_MAX_DAYS, &days) < 0)
		return fail(err, "scrub-interval", value, "is not a number of days from 0 (never) to 3650");
	c->scrub_interval_days = days;
	return 0;
}

static int set_scrub_rate(struct config *c, const char *value, struct config_error *err)
{
	uint64_t bytes;

	if (size_parse(value, &bytes) < 0 || !bytes)
		return fail(err, "scrub-rate", value,
			    "is not a number of bytes a second; use 64M, for example");
	c->scrub_rate = bytes;
	return 0;
}

static int set_mode(struct config *c, const char *value, struct config_error *err)
{
	char *end;
	unsigned long mode = strtoul(value, &end, 8);

	if (*value < '0' || *value > '7' || *end || mode > 0777)
		return fail(err, "socket-mode", value, "is not a mode in octal, like 0660");
	c->sockets.mode = mode;
	return 0;
}

/* A number stands for itself. */
static int set_owner(struct config *c, const char *value, struct config_error *err)
{
	struct passwd *pw = getpwnam(value);
	unsigned id;

	if (pw)
		id = pw->pw_uid;
	else if (parse_unsigned(value, INT_MAX, &id) < 0)
		return fail(err, "socket-owner", value, "is not a user of this machine");
	c->sockets.uid = id;
	return 0;
}

static int set_group(struct config *c, const char *value, struct config_error *err)
{
	struct group *gr = getgrnam(value);
	unsigned id;

	if (gr)
		id = gr->gr_gid;
	else if (parse_unsigned(value, INT_MAX, &id) < 0)
		return fail(err, "socket-group", value, "is not a group of this machine");
	c->sockets.gid = id;
	return 0;
}

static int set_level(struct config *c, const char *value, struct config_error *err)
{
	if (log_level_parse(value, &c->log_level) < 0)
		return fail(err, "log-level", value, "is none of error, warning, notice, info, debug");
	return 0;
}

static int set_read_only(struct config *c, const char *value, struct config_error *err)
{
	bool yes = !strcmp(value, "yes");

	if (!yes && strcmp(value, "no") != 0)
		return fail(err, "read-only", value, "is neither yes nor no");
	c->read_only = yes;
	return 0;
}

/* "80,90,95", or "off". */
static int set_warn_full(struct config *c, const char *value, struct config_error *err)
{
	unsigned list[CONFIG_WARN_FULL_MAX], n = 0;
	const char *p = value;
	char *end;

	if (!strcmp(value, "off")) {
		c->warn_full_count = 0;
		return 0;
	}
	do {
		unsigned long v = *p >= '0' && *p <= '9' ? strtoul(p, &end, 10) : 0;

		if (n == CONFIG_WARN_FULL_MAX || v < 1 || v > 100 || (n && v <= list[n - 1]) ||
		    (*end && *end != ','))
			return fail(
				err, "warn-full", value,
				"is neither off nor a list of at most 8 percentages from 1 to 100, the smallest first, such as 80,90,95");
		list[n++] = (unsigned)v;
		p = end + 1;
	} while (*end);
	memcpy(c->warn_full, list, sizeof(list));
	c->warn_full_count = n;
	return 0;
}

static int set_write_log(struct config *c, const char *value, struct config_error *err)
{
	return set_path(c->write_log, "write-log", value, err);
}

/* The volume may be made later. */
static int set_default_export(struct config *c, const char *value, struct config_error *err)
{
	if (*value && !fs_name_is_valid(value))
		return fail(err, "default-export", value, "is no name of a volume");
	snprintf(c->default_export, sizeof(c->default_export), "%s", value);
	return 0;
}

static const struct single {
	const char *name;
	int (*set)(struct config *c, const char *value, struct config_error *err);
	size_t source; /* offset of its enum config_source */
} singles[] = {
	{"pool", set_pool, offsetof(struct config, pool_source)},
	{"cache-size", set_cache, offsetof(struct config, cache_source)},
	{"commit-interval", set_commit, offsetof(struct config, commit_source)},
	{"threads", set_threads, offsetof(struct config, threads_source)},
	{"socket-mode", set_mode, offsetof(struct config, mode_source)},
	{"socket-owner", set_owner, offsetof(struct config, owner_source)},
	{"socket-group", set_group, offsetof(struct config, group_source)},
	{"memory", set_memory, offsetof(struct config, memory_source)},
	{"stall-timeout", set_stall, offsetof(struct config, stall_source)},
	{"stop-timeout", set_stop, offsetof(struct config, stop_source)},
	{"scrub-interval", set_scrub_interval, offsetof(struct config, scrub_interval_source)},
	{"scrub-rate", set_scrub_rate, offsetof(struct config, scrub_rate_source)},
	{"discard", set_discard, offsetof(struct config, discard_source)},
	{"log-level", set_level, offsetof(struct config, level_source)},
	{"read-only", set_read_only, offsetof(struct config, read_only_source)},
	{"warn-full", set_warn_full, offsetof(struct config, warn_full_source)},
	{"default-export", set_default_export, offsetof(struct config, default_export_source)},
	{"write-log", set_write_log, offsetof(struct config, write_log_source)},
};

static const struct {
	const char *name;
	size_t list;
	unsigned max;
} lists[] = {
	{"nbd", offsetof(struct config, nbd), SERVER_LISTENERS_MAX},
	{"rpc", offsetof(struct config, rpc), SERVER_LISTENERS_MAX},
	{"http", offsetof(struct config, http), 1},
};

void config_init(struct config *c)
{
	memset(c, 0, sizeof(*c));
	c->log_level = LOG_LEVEL_INFO;
	c->warn_full[0] = 80;
	c->warn_full[1] = 90;
	c->warn_full[2] = 95;
	c->warn_full_count = 3;
	c->sockets = (struct addr_access){.mode = SOCKET_MODE_DEFAULT, .uid = (uid_t)-1, .gid = (gid_t)-1};
	c->memory_bytes = SERVER_MEMORY_DEFAULT;
	c->stall_timeout_s = CONFIG_STALL_DEFAULT_S;
	c->stop_timeout_s = CONFIG_STOP_DEFAULT_S;
	c->scrub_interval_days = CONFIG_SCRUB_INTERVAL_DEFAULT_DAYS;
}

/* A weaker source's value is checked all the same, but lands in a copy that is thrown away. */
static int set_single(struct config *c, const struct single *single, const char *value,
		      enum config_source source, struct config_error *err)
{
	enum config_source *have = (enum config_source *)((char *)c + single->source);
	struct config scratch;
	int r;

	if (source < *have)
		return single->set(&scratch, value, err);
	r = single->set(c, value, err);
	if (!r)
		*have = source;
	return r;
}

int config_set(struct config *c, const char *name, const char *value, enum config_source source,
	       struct config_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		if (!strcmp(name, lists[i].name))
			return add_addr((struct config_list *)((char *)c + lists[i].list), lists[i].max, name,
					value, source, err);
	for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
		if (!strcmp(name, singles[i].name))
			return set_single(c, &singles[i], value, source, err);
	return fail(err, name, value, "sets something that is not known");
}

static const char *parent_dir(const char *path, char buf[PATH_MAX])
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return ".";
	if (slash == path)
		return "/";
	snprintf(buf, PATH_MAX, "%.*s", (int)(slash - path), path);
	return buf;
}

static int default_socket(struct config_list *list, const char *dir, const char *file,
			  struct config_error *err)
{
	struct addr *addr = &list->addrs[list->count];
	size_t len = strlen(dir);
	int n;

	addr->kind = ADDR_UNIX;
	n = snprintf(addr->path, sizeof(addr->path), "%s%s%s", dir, len && dir[len - 1] == '/' ? "" : "/",
		     file);
	if (n < 0 || (size_t)n >= sizeof(addr->path)) {
		snprintf(err->msg, sizeof(err->msg),
			 "the folder %.300s is too long for the name of a unix socket; give --nbd and --rpc",
			 dir);
		return -ENAMETOOLONG;
	}
	list->count++;
	return 0;
}

int config_default_addrs(struct config *c, const char *runtime_dir, bool block_device,
			 struct config_error *err)
{
	char buf[PATH_MAX];
	const char *dir = block_device ? RUN_DIR : parent_dir(c->pool, buf);
	int r = 0;

	if (runtime_dir && *runtime_dir) { /* may be a list: the first is ours */
		snprintf(buf, sizeof(buf), "%.*s", (int)strcspn(runtime_dir, ":"), runtime_dir);
		dir = buf;
	}
	if (c->nbd.source == CONFIG_UNSET) {
		c->nbd.count = 0;
		r = default_socket(&c->nbd, dir, "nbd.sock", err);
	}
	if (!r && c->rpc.source == CONFIG_UNSET) {
		c->rpc.count = 0;
		r = default_socket(&c->rpc, dir, "rpc.sock", err);
	}
	return r;
}

static bool lists_differ(const struct config_list *a, const struct config_list *b)
{
	char ta[ADDR_TEXT_MAX], tb[ADDR_TEXT_MAX];

	if (a->count != b->count)
		return true;
	for (unsigned i = 0; i < a->count; i++)
		if (strcmp(addr_format(&a->addrs[i], ta), addr_format(&b->addrs[i], tb)) != 0)
			return true;
	return false;
}

static bool warnings_differ(const struct config *a, const struct config *b)
{
	return a->warn_full_count != b->warn_full_count ||
	       memcmp(a->warn_full, b->warn_full, a->warn_full_count * sizeof(a->warn_full[0])) != 0;
}

void config_diff(const struct config *a, const struct config *b, char *buf, size_t size)
{
	const struct {
		const char *name;
		bool differs;
	} items[] = {
		{"pool", strcmp(a->pool, b->pool) != 0},
		{"nbd", lists_differ(&a->nbd, &b->nbd)},
		{"rpc", lists_differ(&a->rpc, &b->rpc)},
		{"http", lists_differ(&a->http, &b->http)},
		{"cache-size", a->cache_bytes != b->cache_bytes},
		{"commit-interval", a->commit_interval_ms != b->commit_interval_ms},
		{"threads", a->threads != b->threads},
		{"read-only", a->read_only != b->read_only},
		{"default-export", strcmp(a->default_export, b->default_export) != 0},
		{"socket-mode", a->sockets.mode != b->sockets.mode},
		{"socket-owner", a->sockets.uid != b->sockets.uid},
		{"socket-group", a->sockets.gid != b->sockets.gid},
		{"memory", a->memory_bytes != b->memory_bytes},
		{"scrub-interval", a->scrub_interval_days != b->scrub_interval_days},
		{"scrub-rate", a->scrub_rate != b->scrub_rate},
		{"discard", a->discard != b->discard},
		{"stall-timeout", a->stall_timeout_s != b->stall_timeout_s},
		{"stop-timeout", a->stop_timeout_s != b->stop_timeout_s},
		{"warn-full", warnings_differ(a, b)},
		{"write-log", strcmp(a->write_log, b->write_log) != 0},
	};
	size_t len = 0;

	*buf = 0;
	for (size_t i = 0; i < ARRAY_SIZE(items); i++)
		if (items[i].differs && len < size)
			len += snprintf(buf + len, size - len, "%s%s", len ? " " : "", items[i].name);
}
