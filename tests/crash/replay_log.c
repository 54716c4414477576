/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/replay_log.c: looks at the log of a recorded device (fs/device/device_record.h), or builds the
 * pool as it was after one of its records.
 *
 *   replay_log LOG --list                          prints the flush points and the totals
 *   replay_log LOG BASE OUT [--to N] [--crash SEED]
 *
 * BASE is a copy of the pool at the moment when recording began. OUT becomes BASE plus the records 1 to N
 * (default: all). With --crash, writes and discards that no flush among these covers are dropped or torn at
 * random, as a crash may do. Exit: 0 done, 1 failed, 2 wrong usage. A log that is cut off at its end is fine,
 * and said.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "fs/device/device_record.h"

#define SECTOR 512u
#define COPY_CHUNK (1u << 20)

struct options {
	const char *log, *base, *out;
	bool list, crash;
	uint64_t to, seed;
};

static uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static int fail(const char *what, const char *path, int err)
{
	fprintf(stderr, "replay_log: %s %s: %s\n", what, path, strerror(-err));
	return err;
}

/* ---- the image -------------------------------------------------------------------------- */

static int write_all(int fd, const char *buf, uint64_t off, uint64_t len)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int copy_range(int from, int to, uint64_t off, uint64_t end)
{
	static char buf[COPY_CHUNK];

	while (off < end) {
		ssize_t n = pread(from, buf, min_u64(sizeof(buf), end - off), (off_t)off);
		int err = n < 0 ? -errno : n == 0 ? -EIO : write_all(to, buf, off, (uint64_t)n);

		if (err)
			return err;
		off += (uint64_t)n;
	}
	return 0;
}

/* Holes stay holes. */
static int copy_file(int from, int to)
{
	struct stat st;
	off_t data = 0, hole;
	int err = fstat(from, &st) || ftruncate(to, st.st_size) ? -errno : 0;

	while (!err && (data = lseek(from, data, SEEK_DATA)) >= 0) {
		hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		err = copy_range(from, to, (uint64_t)data, (uint64_t)hole);
		data = hole;
	}
	return err;
}

static int make_out(const struct options *opt, int *ret_fd)
{
	int from = open(opt->base, O_RDONLY | O_CLOEXEC), to = -1, err;

	if (from < 0)
		return fail("cannot open", opt->base, -errno);
	to = open(opt->out, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	err = to < 0 ? fail("cannot make", opt->out, -errno) : copy_file(from, to);
	if (err && to >= 0) {
		fail("cannot copy to", opt->out, err);
		close(to);
	}
	close(from);
	*ret_fd = to;
	return err;
}

static int apply_range(int fd, const struct record *rec, uint64_t at, uint64_t len)
{
	if (rec->type == RECORD_WRITE)
		return write_all(fd, (const char *)rec->data + at, rec->off + at, len);
	if (!len)
		return 0;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(rec->off + at), (off_t)len) &&
	    errno != EOPNOTSUPP)
		return -errno;
	return 0; /* where holes cannot be made: a discarded range may hold anything */
}

static int apply(int fd, const struct record *rec)
{
	switch (rec->type) {
	case RECORD_WRITE:
	case RECORD_DISCARD: return apply_range(fd, rec, 0, rec->len);
	case RECORD_SIZE: return ftruncate(fd, (off_t)rec->len) ? -errno : 0;
	default: return 0;
	}
}

/* Nothing, all, a beginning, or some sectors of it. */
static int apply_torn(int fd, const struct record *rec, uint64_t *rng)
{
	uint64_t sectors = rec->len / SECTOR;
	int err = 0;

	switch (rnd(rng) % 4) {
	case 0: return 0;
	case 1: return apply(fd, rec);
	case 2: return apply_range(fd, rec, 0, rnd(rng) % (sectors + 1) * SECTOR);
	default:
		for (uint64_t i = 0; i < sectors && !err; i++)
			if (rnd(rng) & 1)
				err = apply_range(fd, rec, i * SECTOR, SECTOR);
		return err;
	}
}

/* ---- the log --------------------------------------------------------------------------------- */

static int each_record(const struct options *opt, int (*fn)(void *arg, const struct record *rec), void *arg)
{
	struct record_reader *reader;
	struct record rec = {0};
	int ret = record_reader_open(opt->log, &reader);

	if (ret)
		return fail("cannot read", opt->log, ret);
	while (rec.seq < opt->to && (ret = record_reader_next(reader, &rec)) > 0) {
		ret = fn(arg, &rec);
		if (ret)
			break;
	}
	if (ret < 0)
		fail("stopped in", opt->log, ret);
	else if (opt->list && record_reader_is_cut(reader))
		printf("the log is cut off in its last record\n");
	record_reader_close(reader);
	return ret < 0 ? ret : 0;
}

struct totals {
	uint64_t count[RECORD_SIZE + 1], bytes[RECORD_SIZE + 1], last;
};

static int list_record(void *arg, const struct record *rec)
{
	struct totals *t = arg;

	t->count[rec->type]++;
	t->bytes[rec->type] += rec->len;
	t->last = rec->seq;
	if (rec->type == RECORD_FLUSH)
		printf("flush %llu covers %llu\n", (unsigned long long)rec->seq,
		       (unsigned long long)rec->covers);
	return 0;
}

static int list_log(const struct options *opt)
{
	struct totals t = {0};
	int err = each_record(opt, list_record, &t);

	if (!err)
		printf("records %llu: writes %llu (%llu bytes), discards %llu (%llu bytes), flushes %llu, sizes %llu\n",
		       (unsigned long long)t.last, (unsigned long long)t.count[RECORD_WRITE],
		       (unsigned long long)t.bytes[RECORD_WRITE], (unsigned long long)t.count[RECORD_DISCARD],
		       (unsigned long long)t.bytes[RECORD_DISCARD], (unsigned long long)t.count[RECORD_FLUSH],
		       (unsigned long long)t.count[RECORD_SIZE]);
	return err;
}

struct replay {
	int fd;
	bool crash;
	uint64_t covered, last, rng;
};

static int find_covered(void *arg, const struct record *rec)
{
	struct replay *r = arg;

	r->covered = max_u64(r->covered, rec->covers);
	r->last = rec->seq;
	return 0;
}

static int replay_record(void *arg, const struct record *rec)
{
	struct replay *r = arg;

	if (r->crash && rec->seq > r->covered && (rec->type == RECORD_WRITE || rec->type == RECORD_DISCARD))
		return apply_torn(r->fd, rec, &r->rng);
	return apply(r->fd, rec);
}

static int replay_log(const struct options *opt)
{
	struct replay r = {.crash = opt->crash, .rng = opt->seed};
	int err = each_record(opt, find_covered, &r);

	if (!err && opt->to != UINT64_MAX && r.last < opt->to) {
		fprintf(stderr, "replay_log: %s has only %llu records\n", opt->log,
			(unsigned long long)r.last);
		return -ENOENT;
	}
	if (!err)
		err = make_out(opt, &r.fd);
	if (err)
		return err;
	err = each_record(opt, replay_record, &r);
	if (close(r.fd) && !err)
		err = fail("cannot write", opt->out, -errno);
	if (!err)
		printf("%s: records 1 to %llu\n", opt->out, (unsigned long long)r.last);
	return err;
}

/* ---- the command line ----------------------------------------------------------------------------- */

static bool parse_number(const char *arg, uint64_t *ret_n)
{
	char *end;

	if (!arg || *arg < '0' || *arg > '9')
		return false;
	errno = 0;
	*ret_n = strtoull(arg, &end, 0);
	return !*end && !errno;
}

static bool parse(int argc, char **argv, struct options *opt)
{
	const char **places[] = {&opt->log, &opt->base, &opt->out};
	unsigned place = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list")) {
			opt->list = true;
		} else if (!strcmp(argv[i], "--to")) {
			if (!parse_number(argv[++i], &opt->to))
				return false;
		} else if (!strcmp(argv[i], "--crash")) {
			opt->crash = true;
			if (!parse_number(argv[++i], &opt->seed))
				return false;
		} else if (argv[i][0] == '-' || place == ARRAY_SIZE(places)) {
			return false;
		} else {
			*places[place++] = argv[i];
		}
	}
	return place == (opt->list ? 1 : 3);
}

int main(int argc, char **argv)
{
	struct options opt = {.to = UINT64_MAX};

	if (!parse(argc, argv, &opt)) {
		fprintf(stderr,
			"usage: replay_log LOG --list | replay_log LOG BASE OUT [--to N] [--crash SEED]\n");
		return 2;
	}
	return (opt.list ? list_log(&opt) : replay_log(&opt)) ? 1 : 0;
}
