/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_scrub.c: the commands that begin with `byre scrub`. */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "client/cli.h"

/* What is damaged, as it is printed or put into JSON. */
struct damage {
	json_t *list; /* NULL: print it */
	uint64_t count;
};

static int on_damage(void *arg, const struct byre_scrub_damage *d)
{
	struct damage *damage = arg;

	damage->count++;
	if (!damage->list)
		printf("volume %s: %" PRIu64 " bytes at byte %" PRIu64
		       " are %s: overwrite or trim them, or restore them from a backup\n",
		       d->volume, d->len, d->off, d->lost ? "lost" : "damaged");
	else
		json_array_append_new(damage->list,
				      json_pack("{s:s, s:I, s:I, s:I, s:s}", "volume", d->volume, "volume_id",
						(json_int_t)d->volume_id, "offset", (json_int_t)d->off,
						"length", (json_int_t)d->len, "kind",
						d->lost ? "lost" : "damaged"));
	return 0;
}

/* The state, with the ranges that are damaged, which come first in what is printed. */
static int show_status(const struct cli *cli, struct byre *b, struct byre_error *err)
{
	struct damage damage = {.list = cli->given & CLI_JSON ? json_array() : NULL};
	char text[SCRUB_TEXT_MAX], done[SIZE_FORMAT_MAX], total[SIZE_FORMAT_MAX];
	struct byre_scrub scrub;
	bool more;
	json_t *obj;
	int r = byre_scrub_status(b, &scrub, on_damage, &damage, &more, err);

	if (r) {
		json_decref(damage.list);
		return r;
	}
	if (damage.list) {
		obj = scrub_json(&scrub);
		json_object_set_new(obj, "damage", damage.list);
		json_object_set_new(obj, "more", json_boolean(more));
		print_json(obj);
		return 0;
	}
	if (more)
		printf("there is more damage than the daemon has kept a list of\n");
	printf("scrub: %s; %s of about %s read\n", scrub_text(&scrub, text),
	       size_format(scrub.bytes_done, done, sizeof(done)),
	       size_format(scrub.bytes_total, total, sizeof(total)));
	return 0;
}

/* Connects, does `call`, and shows what is then the case if that is wanted. */
static enum cli_exit with_daemon(const struct cli *cli,
				 int (*call)(const struct cli *cli, struct byre *b, struct byre_error *err),
				 bool show)
{
	struct byre_error err;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = call ? call(cli, b, &err) : 0;
	if (!r && show)
		r = show_status(cli, b, &err);
	byre_close(b);
	return r ? cli_fail_err(cli, &err) : CLI_OK;
}

static int start(const struct cli *cli, struct byre *b, struct byre_error *err)
{
	return byre_scrub_start(b, cli->rate.asked, (cli->given & CLI_RESTART) != 0, err);
}

static int stop(const struct cli *cli, struct byre *b, struct byre_error *err)
{
	return byre_scrub_stop(b, err);
}

enum cli_exit run_scrub_start(const struct cli *cli)
{
	return with_daemon(cli, start, cli->given & CLI_JSON);
}
enum cli_exit run_scrub_status(const struct cli *cli)
{
	return with_daemon(cli, NULL, true);
}
enum cli_exit run_scrub_stop(const struct cli *cli)
{
	return with_daemon(cli, stop, cli->given & CLI_JSON);
}
