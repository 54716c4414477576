/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_log.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/size.h"
#include "base/util.h"

#define ID_MAX 24

void nbd_log_init(struct nbd_log *l, struct log *log)
{
	*l = (struct nbd_log){.log = log, .since_us = figures_now_us(), .tokens = NBD_LOG_BURST};
}

static bool may_write(struct nbd_log *l)
{
	uint64_t now = figures_now_us(), more = (now - l->since_us) * NBD_LOG_RATE / 1000000;

	if (more) {
		l->tokens = min_u64(l->tokens + more, NBD_LOG_BURST);
		l->since_us = now;
	}
	if (!l->tokens) {
		l->left_out++;
		return false;
	}
	l->tokens--;
	if (l->left_out && now - l->told_us >= NBD_LOG_TELL_S * 1000000) {
		log_line(l->log, LOG_LEVEL_WARNING,
			 "%u lines about NBD connections were left out: there were too many", l->left_out);
		l->left_out = 0;
		l->told_us = now;
	}
	return true;
}

/* The fields that each line has. */
#define FIELDS_MAX 6
static void fill(struct log_field fields[FIELDS_MAX], char id[ID_MAX], const struct client *client,
		 const char *event, const char *volume, const char *why)
{
	const struct log_field all[FIELDS_MAX] = {
		{"BYRE_EVENT", event},	 {"BYRE_CLIENT", id}, {"BYRE_PEER", client->peer},
		{"BYRE_VOLUME", volume}, {"BYRE_WHY", why},
	};

	snprintf(id, ID_MAX, "%" PRIu64, client->id);
	for (int i = 0; i < FIELDS_MAX; i++)
		fields[i] = all[i];
}

void nbd_log_connect(struct nbd_log *l, const struct client *client, const char *volume)
{
	struct log_field fields[FIELDS_MAX];
	char id[ID_MAX];

	if (!l->log || !may_write(l))
		return;
	fill(fields, id, client, "connect", volume, NULL);
	log_event(l->log, LOG_LEVEL_INFO, fields, FIELDS_MAX - 1, "client %s (%s) opens %s%s", id,
		  client->peer, volume, client->read_only ? ", read-only" : "");
}

static double seconds_since(int64_t since_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double)((int64_t)now.tv_sec * 1000000000 + now.tv_nsec - since_ns) / 1e9;
}

void nbd_log_disconnect(struct nbd_log *l, const struct client *client, const char *volume, const char *why,
			bool stalled)
{
	char id[ID_MAX], moved[64], read[SIZE_FORMAT_MAX], written[SIZE_FORMAT_MAX];
	struct log_field fields[FIELDS_MAX];
	struct figures sum = {0};

	if (!l->log || !may_write(l))
		return;
	figures_sum(&sum, &client->figures);
	fill(fields, id, client, "disconnect", volume, why);
	snprintf(moved, sizeof(moved), "%" PRIu64,
		 sum.kind[FIGURES_READ].bytes + sum.kind[FIGURES_WRITE].bytes);
	fields[FIELDS_MAX - 1] = (struct log_field){"BYRE_BYTES", moved};
	log_event(l->log, stalled ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, fields, FIELDS_MAX,
		  "client %s (%s) leaves %s after %.1f s, %s read, %s written: %s", id, client->peer, volume,
		  seconds_since(client->since_ns),
		  size_format(sum.kind[FIGURES_READ].bytes, read, sizeof(read)),
		  size_format(sum.kind[FIGURES_WRITE].bytes, written, sizeof(written)), why);
}

void nbd_log_refused(struct nbd_log *l, const struct client *client, const char *refusal, const char *why)
{
	struct log_field fields[FIELDS_MAX];
	char id[ID_MAX];

	if (!l->log || !may_write(l))
		return;
	fill(fields, id, client, "refuse", NULL, *refusal ? refusal : why);
	log_event(l->log, *refusal ? LOG_LEVEL_NOTICE : LOG_LEVEL_INFO, fields, FIELDS_MAX - 1,
		  "client %s (%s) leaves without a volume: %s%s%s", id, client->peer, refusal,
		  *refusal ? "; " : "", why);
}
