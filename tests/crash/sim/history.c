/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/history.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/crash/sim/sched.h"

#define MAGIC "byre-crash 1"

static const char *const step_names[STEP_KINDS] = {
	[STEP_IO] = "io",	    [STEP_RUN] = "run",
	[STEP_DRAIN] = "drain",	    [STEP_TIME] = "time",
	[STEP_COMMIT] = "commit",   [STEP_CREATE] = "create",
	[STEP_DELETE] = "delete",   [STEP_RENAME] = "rename",
	[STEP_RESIZE] = "resize",   [STEP_READBACK] = "readback",
	[STEP_CLEAN] = "clean",	    [STEP_CLOSE] = "close",
	[STEP_CRASH] = "crash",	    [STEP_GROW] = "grow",
	[STEP_FAULT] = "fault",	    [STEP_NOMEM] = "nomem",
	[STEP_SCATTER] = "scatter", [STEP_HOLE] = "hole",
	[STEP_LOGFAIL] = "logfail", [STEP_GROUPS] = "groups",
	[STEP_SCRUB] = "scrub",	    [STEP_HOST_FULL] = "host-full",
	[STEP_LINGER] = "linger",   [STEP_BURST] = "burst",
};

static const char *const profile_names[PROFILES] = {
	[PROFILE_PLAIN] = "plain", [PROFILE_ERRORS] = "errors", [PROFILE_ROT] = "rot",
	[PROFILE_SLOTS] = "slots", [PROFILE_NOMEM] = "nomem",	[PROFILE_LOST] = "lost",
};

const char *step_name(enum step_kind kind)
{
	return step_names[kind];
}
const char *profile_name(enum profile profile)
{
	return profile_names[profile];
}

/* ---- drawing ------------------------------------------------------------------- */

static unsigned draw(uint64_t *rng, const uint8_t *weight, unsigned n)
{
	unsigned sum = 0, at, i = 0;

	for (unsigned k = 0; k < n; k++)
		sum += weight[k];
	at = (unsigned)rng_below(rng, sum);
	while (at >= weight[i])
		at -= weight[i++];
	return i;
}

static void draw_setting(struct setting *s, uint64_t *rng)
{
	static const uint8_t profiles[PROFILES] = {60, 12, 8, 10, 10, 0};
	static const unsigned preempts[] = {0, 0, 5, 30, 200};
	static const unsigned writes[] = {8, 32, 256};

	s->profile = draw(rng, profiles, PROFILES);
	s->pool_bytes = (16 + rng_below(rng, 33)) << 20;
	if (rng_below(rng, 3) == 0)
		s->pool_bytes = (16 + rng_below(rng, 4)) << 20;
	s->cache_bytes = 2u << 20;
	s->commit_interval_ms = rng_below(rng, 2) ? 5000 : 100;
	s->loops = 1 + (unsigned)rng_below(rng, 2);
	s->preempt = preempts[rng_below(rng, ARRAY_SIZE(preempts))];
	s->volume_blocks_max = 256u << rng_below(rng, 5);
	s->write_blocks_max = writes[rng_below(rng, ARRAY_SIZE(writes))];
	s->complete_max = (unsigned)rng_below(rng, 4);
	s->fifo = rng_below(rng, 8) == 0;
	s->discard_zeroes = rng_below(rng, 2);
	s->scatters = s->volume_blocks_max >= 2048 && rng_below(rng, 2);
	s->log_bytes = rng_below(rng, 4) == 1 ? (96 + rng_below(rng, 3) * 12) << 10 : 0;
	s->group_step = rng_below(rng, 4) == 0 ? 256u << 10 : 0;
	s->bitmap_bytes = rng_below(rng, 2) ? rng_below(rng, 4) * 4096 : UINT64_MAX;
	if (s->group_step) /* a group tree of several nodes */
		s->pool_bytes += 96u << 20;
	/* Drawn behind all that is older, so that histories keep their meaning. */
	if (s->profile == PROFILE_PLAIN && rng_below(rng, 10) == 0) {
		s->profile = PROFILE_LOST;
		s->volume_blocks_max = 4096;
		s->scatters = true; /* trees with several leaves */
	}
	s->sparse = rng_below(rng, 4) == 2;
	s->discard = rng_below(rng, 2);
}

static struct history *history_alloc(uint64_t seed, size_t count)
{
	struct history *h = calloc(1, sizeof(*h));
	uint64_t rng = seed;

	ASSERT(h);
	h->seed = seed;
	h->step = calloc(count, sizeof(*h->step));
	ASSERT(h->step);
	draw_setting(&h->setting, &rng);
	return h;
}

struct history *history_new(uint64_t seed)
{
	static const uint8_t plain[STEP_KINDS] = {
		[STEP_IO] = 90,	   [STEP_RUN] = 60,	[STEP_DRAIN] = 3,  [STEP_TIME] = 6,
		[STEP_COMMIT] = 8, [STEP_CREATE] = 4,	[STEP_DELETE] = 2, [STEP_RENAME] = 2,
		[STEP_RESIZE] = 4, [STEP_READBACK] = 1, [STEP_CLEAN] = 2,  [STEP_CLOSE] = 1,
		[STEP_CRASH] = 5,  [STEP_GROW] = 1,	[STEP_SCRUB] = 2,  [STEP_LINGER] = 4,
		[STEP_BURST] = 5,
	};
	uint64_t rng = ~seed;
	size_t count = 60 + rng_below(&rng, 160);
	struct history *h = history_alloc(seed, count + 2);
	uint8_t weight[STEP_KINDS];

	memcpy(weight, plain, sizeof(weight));
	if (h->setting.profile == PROFILE_ERRORS)
		weight[STEP_FAULT] = 6, weight[STEP_LOGFAIL] = 4;
	if (h->setting.profile == PROFILE_NOMEM)
		weight[STEP_NOMEM] = 12;
	if (h->setting.profile == PROFILE_LOST) { /* nodes are lost between two lives of the pool */
		weight[STEP_CRASH] = 9;
		weight[STEP_CLOSE] = 3;
	}
	if (h->setting.sparse)
		weight[STEP_HOST_FULL] = 5;
	if (h->setting.scatters) { /* deleting a large tree takes several commits */
		weight[STEP_SCATTER] = 8;
		weight[STEP_HOLE] = 4;
		weight[STEP_DELETE] = 6;
	}
	if (h->setting.group_step) {
		weight[STEP_GROUPS] = 6;
		weight[STEP_GROW] = 3;
	}
	h->step[h->count++] = (struct step){STEP_CREATE, rng_next(&rng)};
	while (h->count <= count)
		h->step[h->count++] = (struct step){draw(&rng, weight, STEP_KINDS), rng_next(&rng)};
	h->step[h->count++] = (struct step){STEP_CLOSE, rng_next(&rng)};
	return h;
}

struct history *history_part(const struct history *h, const bool *keep)
{
	struct history *part = history_alloc(h->seed, h->count);

	for (size_t i = 0; i < h->count; i++)
		if (keep[i])
			part->step[part->count++] = h->step[i];
	return part;
}

void history_free(struct history *h)
{
	if (!h)
		return;
	free(h->step);
	free(h);
}

/* ---- files --------------------------------------------------------------------- */

int history_save(const struct history *h, const char *path)
{
	FILE *f = fopen(path, "w");

	if (!f)
		return -errno;
	fprintf(f, MAGIC "\nseed %" PRIu64 "\n", h->seed);
	for (size_t i = 0; i < h->count; i++)
		fprintf(f, "%s 0x%" PRIx64 "\n", step_names[h->step[i].kind], h->step[i].r);
	return fclose(f) ? -errno : 0;
}

static bool parse_step(const char *line, struct step *ret_step)
{
	char name[16];

	if (sscanf(line, "%15s %" SCNx64, name, &ret_step->r) != 2)
		return false;
	for (int k = 0; k < STEP_KINDS; k++) {
		if (strcmp(name, step_names[k]) == 0) {
			ret_step->kind = k;
			return true;
		}
	}
	return false;
}

static struct history *load(FILE *f)
{
	struct history *h;
	size_t room = 64;
	uint64_t seed;
	char line[128];

	if (!fgets(line, sizeof(line), f) || strcmp(line, MAGIC "\n") != 0 || !fgets(line, sizeof(line), f) ||
	    sscanf(line, "seed %" SCNu64, &seed) != 1)
		return NULL;
	h = history_alloc(seed, room);
	while (fgets(line, sizeof(line), f)) {
		if (h->count == room) {
			room *= 2;
			h->step = realloc(h->step, room * sizeof(*h->step));
			ASSERT(h->step);
		}
		if (!parse_step(line, &h->step[h->count++])) {
			history_free(h);
			return NULL;
		}
	}
	return h;
}

struct history *history_load(const char *path)
{
	FILE *f = fopen(path, "r");
	struct history *h;

	if (!f) {
		fprintf(stderr, "crash: %s: %s\n", path, strerror(errno));
		return NULL;
	}
	h = load(f);
	fclose(f);
	if (!h)
		fprintf(stderr, "crash: %s: not a history\n", path);
	return h;
}
