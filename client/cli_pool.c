/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_pool.c: the commands that begin with `byre pool`. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "client/backend.h"
#include "client/cli.h"
#include "client/progress.h"
#include "client/signature.h"

/* Prints a pool as far as it is wanted, and closes the backend. */
static enum cli_exit finish_with_info(struct backend *b, const struct cli *cli, bool quiet,
				      struct byre_error *err)
{
	struct byre_pool_info info;
	struct byre_error close_err;
	int r;

	r = b->ops->pool_info(b, &info, err);
	if (!r && cli->given & CLI_JSON)
		print_json(pool_json(&info, b->idle));
	else if (!r && !quiet)
		print_pool(&info, b->idle);

	if (b->ops->close(b, &close_err) && !r)
		return cli_fail_err(cli, &close_err);
	return r ? cli_fail_err(cli, err) : CLI_OK;
}

static bool is_block_device(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

enum cli_exit run_pool_create(const struct cli *cli)
{
	const char *path = cli->args[0];
	struct progress progress;
	struct fs_create_options opt = {
		.size_bytes = cli->size.bytes,
		.sparse = (cli->given & CLI_SPARSE) != 0,
		.force = (cli->given & CLI_FORCE) != 0,
		.progress = progress_update,
		.progress_arg = &progress,
		.describe = signature_describe,
		.wipe = signature_wipe,
	};
	struct fs_error fe = {""};
	struct byre_error err;
	struct backend b;
	int r;

	if (!(cli->given & CLI_SIZE) && !is_block_device(path))
		return cli_usage(cli, "--size is missing: how large should %s be?", path);

	progress_init(&progress, "allocating");
	r = fs_create(path, &opt, &fe);
	progress_clear(&progress);
	if (r) {
		backend_fs_error(r, &fe, "cannot create pool", path, &err);
		return cli_fail_err(cli, &err);
	}

	cli_note_rounding(&cli->size);
	if (opt.sparse)
		cli_note("note: %s is sparse: while the file system under it is full, new data is refused",
			 path);
	if (!(cli->given & CLI_JSON))
		return CLI_OK;
	if (backend_open_file(&b, path, true, &err))
		return cli_fail_err(cli, &err);
	return finish_with_info(&b, cli, true, &err);
}

enum cli_exit run_pool_info(const struct cli *cli)
{
	struct byre_error err;
	struct backend b;
	int r;

	if (cli->nr_args && cli->given & CLI_CONNECT)
		return cli_usage(cli, "FILE is read without a daemon: give it or --connect");
	r = cli->nr_args ? backend_open_file(&b, cli->args[0], true, &err)
			 : backend_open_daemon(&b, cli, &err);
	if (r)
		return cli_fail_err(cli, &err);
	return finish_with_info(&b, cli, false, &err);
}

/* Nonzero: not grown; err is empty when it has been told. */
static int grow(struct backend *b, const struct cli *cli, struct cli_size *size, struct byre_error *err)
{
	struct byre_pool_info info;

	if (size->relative) {
		if (b->ops->pool_info(b, &info, err))
			return err->code;
		if (!cli_add_size(cli, info.size, size))
			return 1;
	}
	return b->ops->pool_grow(b, size->bytes, err);
}

enum cli_exit run_pool_grow(const struct cli *cli)
{
	struct byre_error err = {0}, close_err;
	struct backend b;
	struct cli_size size = {0}; /* 0: all of the device */

	if (cli->nr_args && !cli_parse_new_size(cli, cli->args[0], &size))
		return CLI_USAGE;
	if (backend_open(&b, cli, false, &err))
		return cli_fail_err(cli, &err);
	if (grow(&b, cli, &size, &err)) {
		b.ops->close(&b, &close_err);
		return err.text[0] ? cli_fail_err(cli, &err) : CLI_FAILED;
	}
	cli_note_rounding(&size);
	return finish_with_info(&b, cli, true, &err);
}

/* ---- pool trim ------------------------------------------------------------ */

#define TRIM_LOOK_US 100000u

/* Starts it and waits until all was looked at. */
static int trim(struct byre *b, uint64_t *ret_bytes, struct byre_error *err)
{
	struct byre_pool_info before, now;
	struct progress progress;
	int r = byre_pool_info(b, &before, err);

	if (r == 0)
		r = byre_pool_trim(b, err);
	progress_init(&progress, "trim");
	while (r == 0) {
		r = byre_pool_info(b, &now, err);
		if (r || now.trim_left_bytes == 0)
			break;
		progress_update(&progress, now.trim_total_bytes - now.trim_left_bytes, now.trim_total_bytes);
		usleep(TRIM_LOOK_US);
	}
	progress_clear(&progress);
	if (r == 0)
		*ret_bytes = now.discarded_bytes - before.discarded_bytes;
	return r;
}

enum cli_exit run_pool_trim(const struct cli *cli)
{
	char text[SIZE_FORMAT_MAX];
	struct byre_error err;
	uint64_t bytes = 0;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = trim(b, &bytes, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:I}", "discarded_bytes", (json_int_t)bytes));
	else
		printf("%s discarded\n", size_format(bytes, text, sizeof(text)));
	return CLI_OK;
}

/* ---- pool check ----------------------------------------------------------- */

struct check {
	struct progress progress;
	bool quiet;			 /* findings are counted only */
	json_t *lines, *details, *notes; /* NULL: printed as they come */
	uint64_t by_cure[FS_CURES];
};

static void on_finding(void *arg, const char *line)
{
	struct check *check = arg;

	if (check->quiet)
		return;
	if (check->lines) {
		json_array_append_new(check->lines, text_json(line));
		return;
	}
	progress_clear(&check->progress);
	printf("%s\n", line);
}

static void on_detail(void *arg, const struct fs_finding *f)
{
	static const char *const cures[FS_CURES] = {
		[FS_CURE_DONE] = "repaired",
		[FS_CURE_REPAIR] = "repair",
		[FS_CURE_OVERWRITE] = "overwrite",
		[FS_CURE_RESTORE] = "restore",
	};
	struct check *check = arg;
	json_t *json;

	check->by_cure[f->cure]++;
	if (check->quiet || !check->details)
		return;
	json = json_pack("{s:o, s:s, s:o}", "text", text_json(f->text), "cure", cures[f->cure], "advice",
			 text_json(f->advice));
	if (f->volume) {
		json_object_set_new(json, "volume", json_string(f->volume));
		json_object_set_new(json, "offset", json_integer((json_int_t)f->off));
		json_object_set_new(json, "length", json_integer((json_int_t)f->len));
	}
	json_array_append_new(check->details, json);
}

static void on_note(void *arg, const char *line)
{
	struct check *check = arg;

	if (check->quiet)
		return;
	if (check->notes) {
		json_array_append_new(check->notes, text_json(line));
		return;
	}
	progress_clear(&check->progress);
	cli_note("note: %s", line);
}

static void on_check_progress(void *arg, uint64_t done, uint64_t total)
{
	struct check *check = arg;

	progress_update(&check->progress, done, total);
}

static int check_once(const char *path, bool repair, struct check *check, uint64_t *ret_findings,
		      struct byre_error *err)
{
	const struct fs_check_options opt = {
		.repair = repair,
		.finding = on_finding,
		.detail = on_detail,
		.note = on_note,
		.progress = on_check_progress,
		.arg = check,
	};
	struct fs_error fe = {""};
	int r;

	memset(check->by_cure, 0, sizeof(check->by_cure));
	progress_init(&check->progress, repair ? "repairing" : "checking");
	r = fs_check(path, &opt, ret_findings, &fe);
	progress_clear(&check->progress);
	return r ? backend_fs_error(r, &fe, "cannot check pool", path, err) : 0;
}

static const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

/* What to do about all that is left, in one sentence. */
static const char *check_advice(const struct check *check, uint64_t left)
{
	uint64_t mendable = check->by_cure[FS_CURE_DONE] + check->by_cure[FS_CURE_REPAIR];

	if (mendable)
		return "run it again with --repair";
	if (check->by_cure[FS_CURE_OVERWRITE] == left)
		return "overwrite, trim or restore the ranges named, or delete their volumes; the rest of the pool is good";
	return "copy off what you can read, and restore the pool from a backup";
}

/* Prints what came out of it: `left` of `found` findings are still there. */
static enum cli_exit check_verdict(const struct cli *cli, const struct check *check, uint64_t found,
				   uint64_t left)
{
	const char *path = cli->args[0];
	bool repair = (cli->given & CLI_REPAIR) != 0;

	if (check->lines)
		print_json(json_pack("{s:o, s:b, s:I, s:I, s:O, s:O, s:O}", "path", text_json(path), "clean",
				     left == 0, "findings", (json_int_t)found, "left", (json_int_t)left,
				     "lines", check->lines, "details", check->details, "notes",
				     check->notes));
	else if (!found)
		printf("%s: nothing is wrong\n", path);
	else if (!left)
		printf("%s: %" PRIu64 " finding%s, all repaired\n", path, found, plural(found));

	if (!left)
		return CLI_OK;
	return cli_fail(cli, -EUCLEAN, "pool check %s: %" PRIu64 " finding%s%s: %s", path, left, plural(left),
			repair ? " left after the repair" : "", check_advice(check, left));
}

enum cli_exit run_pool_check(const struct cli *cli)
{
	bool repair = (cli->given & CLI_REPAIR) != 0;
	struct check check = {0};
	uint64_t found = 0, left;
	struct byre_error err;
	enum cli_exit code;
	int r;

	if (cli->given & CLI_JSON) {
		check.lines = json_array();
		check.details = json_array();
		check.notes = json_array();
	}
	r = check_once(cli->args[0], repair, &check, &found, &err);
	left = found;
	if (!r && repair && found) {
		check.quiet = true; /* what is left was among what was told */
		r = check_once(cli->args[0], false, &check, &left, &err);
	}

	code = r ? cli_fail_err(cli, &err) : check_verdict(cli, &check, found, left);
	json_decref(check.lines);
	json_decref(check.details);
	json_decref(check.notes);
	return code;
}
