/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/history.h: what a run does: a setting and a list of steps, both drawn from a seed.
 *
 * A step carries one random number, from which everything that it does is drawn when it runs, and a list of
 * steps stays meaningful when some are left out: that is how a failing history is cut down.
 */
#ifndef TESTS_CRASH_SIM_HISTORY_H
#define TESTS_CRASH_SIM_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum step_kind {
	STEP_IO,    /* some requests to one loop */
	STEP_RUN,   /* the fibers run for a while */
	STEP_DRAIN, /* until no request is under way */
	STEP_TIME,  /* passes */
	STEP_COMMIT,
	STEP_CREATE,
	STEP_DELETE,
	STEP_RENAME,
	STEP_RESIZE,
	STEP_GROW,     /* the pool */
	STEP_READBACK, /* all of one volume, while others go on */
	STEP_CLEAN,    /* idle and committed: the engine's books are checked */
	STEP_CLOSE,    /* closed, checked, opened */
	STEP_CRASH,    /* now or soon */
	STEP_FAULT,    /* the device will fail something */
	STEP_NOMEM,    /* an allocation will fail */
	/*
	 * hundreds of single blocks of one volume, apart: its tree gets more leaves than one, or loses them
	 */
	STEP_SCATTER,
	/* the flush log cannot be written while a commit is under way; then idleness, then a flush */
	STEP_LOGFAIL,
	STEP_GROUPS,	/* many block groups are made, and leave again as nobody needs them */
	STEP_SCRUB,	/* one is started or stopped; it goes on after crashes */
	STEP_HOST_FULL, /* the host's file system under a sparse pool, or not any more */
	/* a large trim in a volume with a large tree, while a rebuild or anything else goes on */
	STEP_HOLE,
	STEP_LINGER, /* reads stay under way for long, while others go on */
	STEP_BURST,  /* several operations on volumes together, of the same ones, too */
	STEP_KINDS,
};

struct step {
	enum step_kind kind;
	uint64_t r;
};

/* What else goes wrong beside crashes. */
enum profile {
	PROFILE_PLAIN,
	PROFILE_ERRORS,
	PROFILE_ROT,
	PROFILE_SLOTS,
	PROFILE_NOMEM,
	PROFILE_LOST,
	PROFILES
};

struct setting {
	enum profile profile;
	uint64_t pool_bytes, cache_bytes;
	unsigned commit_interval_ms, loops, preempt;
	unsigned volume_blocks_max, write_blocks_max;
	unsigned complete_max;
	/* 0: as the pool is made; else less, so that it is full and comes round more often */
	uint64_t log_bytes;
	bool fifo, discard_zeroes, scatters;
	uint64_t group_step;   /* 0: as pools are made; else so small that groups are neighbours, and many */
	uint64_t bitmap_bytes; /* that bitmaps of data groups may take; UINT64_MAX: any */
	bool sparse;	       /* a file, on a host that is full at times */
	bool discard;	       /* what is freed is discarded */
};

struct history {
	uint64_t seed;
	struct setting setting;
	struct step *step;
	size_t count;
};

struct history *history_new(uint64_t seed);
/* Only the steps whose keep[i] is set. */
struct history *history_part(const struct history *h, const bool *keep);
void history_free(struct history *h);

/* A text file, one step a line. load: NULL with a message on stderr. save: 0 or a negative errno. */
struct history *history_load(const char *path);
int history_save(const struct history *h, const char *path);

const char *step_name(enum step_kind kind);
const char *profile_name(enum profile profile);

#endif
