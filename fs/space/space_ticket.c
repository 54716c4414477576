/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/space_ticket.c: which requests wait for space, behind which, and for how long. space_info.c
 * decides what fits.
 *
 * There is a queue for each class (enum space_class). Each is served in order. But a request that waits only
 * for its own volume's promise, because a commit has yet to free what it overwrites, holds up nobody else.
 */
#include <errno.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/space/backing.h"
#include "fs/space/space_info.h"
#include "fs/space/space_info_int.h"

#define TICKET_IDLE_COMMITS_MAX 256u /* of any kind, without a grant */
/* of changes, that pass without granting any ticket before one is refused, even if others go on freeing */
#define TICKET_COMMITS_MAX 8u

static enum space_class class_of(const struct space_ticket *t)
{
	if (t->flags & SPACE_FREEING)
		return SPACE_CLASS_FREEING;
	return t->want.promise && t->want.promise->promised ? SPACE_CLASS_PROMISED : SPACE_CLASS_PLAIN;
}

/*
 * Whether a commit could free anything: something pinned, or pending that may replace or drop extents. Or a
 * group of a sparse pool can be made for it.
 */
static bool can_reclaim_locked(struct fs *fs, const struct space_ticket *t)
{
	const struct space_info *si = fs->space;

	return backing_helps_locked(fs, &t->want, t->flags) || si->kind[SPACE_DATA].pinned ||
	       si->kind[SPACE_METADATA].pinned || si->running.touches || si->committing.touches ||
	       si->in_flight.touches || atomic_load(&fs->orphans) || fs_is_rebuilding(fs);
}

/* ---- queues ---------------------------------------------------------------- */

void space_tickets_init(struct space_info *si)
{
	for (unsigned c = 0; c < SPACE_CLASSES; c++)
		TAILQ_INIT(&si->tickets[c]);
}

/* Notes what it waits for. */
static void set_why_locked(struct space_info *si, struct space_ticket *t, enum space_fit why)
{
	if (t->class == SPACE_CLASS_PROMISED)
		si->nr_stuck += (uint64_t)(why == SPACE_FULL) - (uint64_t)(t->why == SPACE_FULL);
	t->why = why;
}

static void queue_locked(struct fs *fs, struct space_ticket *t, enum space_fit why)
{
	struct space_info *si = fs->space;

	t->commits = atomic_load(&fs->commits_started);
	t->change_commits = si->change_commits;
	t->class = class_of(t); /* a volume may come to be promised something, or no longer be */
	t->why = SPACE_FITS;
	set_why_locked(si, t, why);
	TAILQ_INSERT_TAIL(&si->tickets[t->class], t, link);
	si->nr_tickets++;
	if (t->want.promise)
		t->want.promise->waiting++;
}

static void unqueue_locked(struct space_info *si, struct space_ticket *t)
{
	set_why_locked(si, t, SPACE_FITS);
	TAILQ_REMOVE(&si->tickets[t->class], t, link);
	si->nr_tickets--;
	if (t->want.promise)
		t->want.promise->waiting--;
}

/*
 * Requests that free space help those that wait, and overtake them. Promised writes wait for nobody without a
 * promise.
 */
static bool may_try_locked(const struct space_info *si, const struct space_ticket *t)
{
	switch (class_of(t)) {
	case SPACE_CLASS_FREEING: return true;
	case SPACE_CLASS_PROMISED: return t->want.promise->waiting == 0 && si->nr_stuck == 0;
	default:
		return TAILQ_EMPTY(&si->tickets[SPACE_CLASS_FREEING]) &&
		       TAILQ_EMPTY(&si->tickets[SPACE_CLASS_PLAIN]) && si->nr_stuck == 0;
	}
}

int space_reserve(struct fs *fs, struct space_ticket *t)
{
	struct space_info *si = fs->space;
	enum space_fit fit = SPACE_FULL;
	int r = 0;

	if (fs_is_read_only(fs))
		return -EROFS;
	lock_take(&si->lock);
	if (may_try_locked(si, t))
		fit = space_try_reserve_locked(fs, &t->want, t->flags);
	else if (class_of(t) == SPACE_CLASS_PROMISED && t->want.promise->waiting)
		fit = SPACE_OWED_LATER; /* as the one before it, until it is tried */
	if (fit == SPACE_FITS) {
		r = 0;
	} else if (!can_reclaim_locked(fs, t) && si->nr_tickets == 0) {
		si->enospc++;
		r = -ENOSPC;
	} else if (t->flags & SPACE_NOTICKET) {
		r = -EAGAIN;
	} else {
		queue_locked(fs, t, fit);
		r = -EINPROGRESS;
	}
	lock_drop(&si->lock);
	if (r == -EINPROGRESS)
		fs_kick_commit(fs);
	return r;
}

void space_cancel(struct fs *fs, struct space_ticket *t)
{
	lock_take(&fs->space->lock);
	unqueue_locked(fs->space, t);
	lock_drop(&fs->space->lock);
}

/* ---- answers --------------------------------------------------------------- */

struct round {
	struct fs *fs;
	uint64_t commits; /* done */
	bool reclaimable;
	struct space_ticket_list answered;
};

static void answer_locked(struct round *round, struct space_ticket *t, int error)
{
	unqueue_locked(round->fs->space, t);
	t->error = error;
	TAILQ_INSERT_TAIL(&round->answered, t, link);
}

/* Nothing that could be reclaimed would help; or others go on freeing, and it helps nobody of this class. */
static bool is_hopeless_locked(const struct round *round, const struct space_ticket *t)
{
	const struct space_info *si = round->fs->space;

	/* Groups are made for it and leave again, on and on, and that changes nothing. */
	if (round->commits > t->commits + TICKET_IDLE_COMMITS_MAX &&
	    si->granted_at[t->class] <= t->change_commits && !atomic_load(&round->fs->orphans) &&
	    !fs_is_rebuilding(round->fs))
		return true;
	return si->change_commits >
		       max_u64(t->change_commits, si->granted_at[t->class]) + TICKET_COMMITS_MAX ||
	       (round->commits > t->commits && !round->reclaimable && !can_reclaim_locked(round->fs, t));
}

static void note_grant_locked(struct space_info *si, enum space_class class)
{
	si->granted_at[class] = si->change_commits;
	if (class == SPACE_CLASS_FREEING) /* the others may soon have what it frees */
		si->granted_at[SPACE_CLASS_PLAIN] = si->granted_at[SPACE_CLASS_PROMISED] = si->change_commits;
}

/* True: it was answered. */
static bool try_ticket_locked(struct round *round, struct space_ticket *t)
{
	struct space_info *si = round->fs->space;

	set_why_locked(si, t, space_try_reserve_locked(round->fs, &t->want, t->flags));
	if (t->why == SPACE_FITS) {
		note_grant_locked(si, t->class);
		answer_locked(round, t, 0);
	} else if (is_hopeless_locked(round, t)) {
		si->enospc++;
		answer_locked(round, t, -ENOSPC);
	} else {
		return false;
	}
	return true;
}

/* In order; false when the class ended with one that waits for what all of them need. */
static bool serve_class_locked(struct round *round, enum space_class class)
{
	struct space_info *si = round->fs->space;
	struct space_ticket *t, *next;
	/* some that free space need data for their edges; those that need none do not wait for them */
	bool no_data = false;

	si->round++;
	TAILQ_FOREACH_SAFE (t, &si->tickets[class], link, next) {
		if ((no_data && t->want.data_bytes) ||
		    (t->want.promise && t->want.promise->blocked_in == si->round))
			continue;
		if (try_ticket_locked(round, t))
			continue;
		if (t->why == SPACE_OWED_LATER)
			t->want.promise->blocked_in = si->round;
		else if (class == SPACE_CLASS_FREEING && t->want.data_bytes)
			no_data = true;
		else
			return false;
	}
	return !no_data;
}

static void call_answered(struct round *round)
{
	struct space_ticket *t;

	while ((t = TAILQ_FIRST(&round->answered))) {
		TAILQ_REMOVE(&round->answered, t, link); /* it is the caller's again in done */
		t->done(t, t->error);
	}
}

bool space_run_tickets(struct fs *fs, uint64_t commits, bool reclaimable)
{
	struct space_info *si = fs->space;
	struct round round = {fs, commits, reclaimable, TAILQ_HEAD_INITIALIZER(round.answered)};
	bool waiting;

	lock_take(&si->lock);
	(void)serve_class_locked(&round, SPACE_CLASS_FREEING);
	if (serve_class_locked(&round, SPACE_CLASS_PROMISED))
		(void)serve_class_locked(&round, SPACE_CLASS_PLAIN);
	waiting = si->nr_tickets > 0;
	lock_drop(&si->lock);
	call_answered(&round);
	return waiting;
}

void space_count_reclaim(struct fs *fs)
{
	lock_take(&fs->space->lock);
	fs->space->reclaim_commits += fs->space->nr_tickets > 0;
	lock_drop(&fs->space->lock);
}

void space_fail_tickets(struct fs *fs, int error)
{
	struct space_info *si = fs->space;
	struct round round = {.fs = fs, .answered = TAILQ_HEAD_INITIALIZER(round.answered)};
	struct space_ticket *t;

	lock_take(&si->lock);
	for (unsigned c = 0; c < SPACE_CLASSES; c++)
		while ((t = TAILQ_FIRST(&si->tickets[c])))
			answer_locked(&round, t, error);
	lock_drop(&si->lock);
	call_answered(&round);
}
