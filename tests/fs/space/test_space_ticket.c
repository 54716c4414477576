/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/fs/space/test_space_ticket.c: who waits for space, and behind whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "tests/lib/engine.h"
#include "tests/lib/engine_check.h"
#include "tests/lib/space_hold.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/fs.h"
#include "fs/core/fs_int.h"
#include "fs/space/space_info.h"
#include "fs/volume/volume.h"
#include "fs/format/volume_format.h"

/* What a test asks for: a ticket that notes its answer. */
struct asked {
	struct space_ticket t;
	int answer; /* 1: none yet */
};

static void note_answer(struct space_ticket *t, int error)
{
	container_of(t, struct asked, t)->answer = error;
}

static int ask(struct engine *e, struct asked *a, uint64_t blocks, struct space_promise *promise,
	       uint32_t flags)
{
	*a = (struct asked){
		.t = {.want = {blocks * BLOCK, {1, volume_item_bytes(blocks + 2, blocks)}, promise},
		      .flags = flags,
		      .done = note_answer},
		.answer = 1};
	return space_reserve(e->fs, &a->t);
}

/* Answers who can be; a commit that frees nothing has ended. */
static void run(struct engine *e)
{
	(void)space_run_tickets(e->fs, 0, true);
}

static void give_back(struct engine *e, struct asked *a)
{
	assert_int_equal(a->answer, 0);
	space_unreserve(e->fs, &a->t.want);
}

/* A pool with two reserved volumes of 4 MiB each. */
static struct engine *two_reserved(struct fs_volume *ret_vol[2])
{
	struct engine *e = engine_new(64 * MIB, 1);

	for (unsigned i = 0; i < 2; i++) {
		const char *name = i ? "s" : "r";

		assert_int_equal(fs_volume_create(e->fs, name, 4 * MIB, FS_VOLUME_RESERVED, NULL), 0);
		ret_vol[i] = engine_volume(e, name, 0);
	}
	return e;
}

static void end(struct engine *e, struct fs_volume *vol[2])
{
	fs_volume_put(vol[0]);
	fs_volume_put(vol[1]);
	engine_check_all(e);
	engine_free(e);
}

/* Regression: a write to a reserved volume waited behind those to thin volumes that found no space. */
static void test_space_promised_writes_do_not_wait_behind_others(void **state)
{
	struct asked thin, promised, freeing;
	struct space_reservation held;
	struct fs_volume *vol[2];
	struct engine *e = two_reserved(vol);

	held = hold_all_but(e, 0, 1);
	/* something is under way, so that there is something to wait for */
	held.pending = (struct space_pending){1, 0};
	e->fs->space->in_flight.touches++;
	assert_int_equal(ask(e, &thin, 1, NULL, 0), -EINPROGRESS);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(ask(e, &promised, 1, &vol[i % 2]->promise, 0), 0);
		promised.answer = 0;
		give_back(e, &promised);
	}
	assert_int_equal(ask(e, &freeing, 0, NULL, SPACE_FREEING), 0);
	freeing.answer = 0;
	give_back(e, &freeing);
	run(e);
	assert_int_equal(thin.answer, 1);
	space_unreserve(e->fs, &held);
	run(e);
	give_back(e, &thin);
	end(e, vol);
}

/* A reserved volume that has to wait for what it overwrites holds up itself, and nobody else. */
static void test_space_owed_later_holds_up_one_volume(void **state)
{
	struct asked all, first, second, other, thin;
	struct fs_volume *vol[2];
	struct engine *e = two_reserved(vol);
	struct space_promise *r = &vol[0]->promise;
	struct space_reservation one = {BLOCK, {0, 0}, r};

	assert_int_equal(ask(e, &all, r->promised / BLOCK, r, 0), 0);
	assert_int_equal(ask(e, &first, 2, r, 0), -EINPROGRESS);
	assert_int_equal(ask(e, &second, 1, r, 0), -EINPROGRESS);
	assert_int_equal(ask(e, &other, 1, &vol[1]->promise, 0), 0);
	assert_int_equal(ask(e, &thin, 1, NULL, 0), 0);
	space_unreserve(e->fs, &one); /* of `all`: the second would fit, but does not overtake */
	all.t.want.data_bytes -= BLOCK;
	run(e);
	assert_int_equal(first.answer, 1);
	assert_int_equal(second.answer, 1);
	one.data_bytes = BLOCK;
	space_unreserve(e->fs, &one);
	all.t.want.data_bytes -= BLOCK;
	run(e);
	assert_int_equal(first.answer, 0);
	assert_int_equal(second.answer, 1);
	give_back(e, &first);
	run(e);
	give_back(e, &second);
	all.answer = other.answer = thin.answer = 0;
	give_back(e, &all);
	give_back(e, &other);
	give_back(e, &thin);
	end(e, vol);
}

/* What nobody can have at the moment is given to those first who are promised it, in order. */
static void test_space_promised_writes_are_served_first(void **state)
{
	struct space_reservation many = {.pending = {2000000, 0}}; /* more than may be pending */
	struct asked thin, first, second, later;
	struct fs_volume *vol[2];
	struct engine *e = two_reserved(vol);

	lock_take(&e->fs->space->lock);
	e->fs->space->in_flight.touches += many.pending.touches;
	lock_drop(&e->fs->space->lock);
	assert_int_equal(ask(e, &thin, 1, NULL, 0), -EINPROGRESS);
	assert_int_equal(ask(e, &first, 1, &vol[0]->promise, 0), -EINPROGRESS);
	assert_int_equal(ask(e, &second, 1, &vol[1]->promise, 0), -EINPROGRESS);
	run(e);
	assert_int_equal(thin.answer, 1);
	assert_int_equal(first.answer, 1);
	space_unreserve(e->fs, &many);
	assert_int_equal(ask(e, &later, 1, &vol[0]->promise, 0), -EINPROGRESS);
	run(e);
	give_back(e, &first);
	give_back(e, &second);
	give_back(e, &later);
	give_back(e, &thin);
	end(e, vol);
}

/* Commits that go on and on for the promised ones are no reason for a thin write to wait for ever. */
static void test_space_grants_to_promised_writes_do_not_keep_others_waiting(void **state)
{
	struct space_reservation held;
	struct asked thin, promised;
	struct fs_volume *vol[2];
	struct engine *e = two_reserved(vol);
	unsigned commits = 0;

	held = hold_all_but(e, 0, 1);
	e->fs->space->in_flight.touches++;
	assert_int_equal(ask(e, &thin, 1, NULL, 0), -EINPROGRESS);
	for (; thin.answer == 1; commits++) {
		assert_true(commits < 30);
		assert_int_equal(ask(e, &promised, 1, &vol[0]->promise, 0), 0);
		promised.answer = 0;
		give_back(e, &promised);
		lock_take(&e->fs->space->lock);
		e->fs->space->change_commits++;
		lock_drop(&e->fs->space->lock);
		run(e);
	}
	assert_int_equal(thin.answer, -ENOSPC);
	assert_true(commits > 4);
	e->fs->space->in_flight.touches--;
	space_unreserve(e->fs, &held);
	end(e, vol);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_space_promised_writes_do_not_wait_behind_others),
		cmocka_unit_test(test_space_owed_later_holds_up_one_volume),
		cmocka_unit_test(test_space_promised_writes_are_served_first),
		cmocka_unit_test(test_space_grants_to_promised_writes_do_not_keep_others_waiting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
