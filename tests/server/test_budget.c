/* SPDX-License-Identifier: BSD-3-Clause */
/* The budget of memory: fair shares, the reserve in order, waking, and the books under threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>

#include "base/util.h"
#include "server/budget.h"

#define SIZE 10000
#define ACCOUNTS 8

struct rig {
	struct budget b;
	struct budget_member m;
	struct budget_account acct[ACCOUNTS];
	_Atomic unsigned wakes;
};

static void on_wake(struct budget_member *m)
{
	atomic_fetch_add(&container_of(m, struct rig, m)->wakes, 1);
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	budget_init(&rig->b, SIZE, 0);
	rig->m.wake = on_wake;
	budget_add_member(&rig->b, &rig->m);
	for (int i = 0; i < ACCOUNTS; i++)
		budget_account_init(&rig->acct[i], &rig->b, &rig->m);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	for (int i = 0; i < ACCOUNTS; i++) {
		budget_give(&rig->acct[i], rig->acct[i].held);
		budget_account_fini(&rig->acct[i]);
	}
	budget_fini(&rig->b);
	free(rig);
	return 0;
}

static void test_greedy_accounts_share_alike_and_leave_a_share(void **state)
{
	struct rig *rig = *state;
	bool any = true;

	while (any) {
		any = false;
		for (int i = 0; i < ACCOUNTS - 1; i++)
			any |= budget_take(&rig->acct[i], 1);
	}
	for (int i = 0; i < ACCOUNTS - 1; i++)
		assert_in_range(rig->acct[i].held, SIZE / ACCOUNTS - 1, SIZE / ACCOUNTS + 1);
	assert_in_range(atomic_load(&rig->b.free), SIZE / ACCOUNTS - 1, SIZE / ACCOUNTS + 10);
	assert_true(budget_take(&rig->acct[ACCOUNTS - 1], budget_room(&rig->acct[ACCOUNTS - 1])));
	assert_in_range(rig->acct[ACCOUNTS - 1].held, SIZE / ACCOUNTS / 2 - 1, SIZE / ACCOUNTS / 2 + 5);
}

/*
 * One that came early and took all it could gets no more, and each of those that follow gets half of what is
 * left.
 */
static void test_an_early_one_cannot_have_everything(void **state)
{
	struct rig *rig = *state;

	assert_false(budget_take(&rig->acct[0], SIZE / 2 + 1));
	assert_true(budget_take(&rig->acct[0], SIZE / 2));
	assert_false(budget_take(&rig->acct[0], 1));
	assert_true(budget_take(&rig->acct[1], SIZE / 4));
	assert_false(budget_take(&rig->acct[1], 1));
	assert_int_equal(budget_room(&rig->acct[0]), 0);
	budget_give(&rig->acct[0], SIZE / 2);
	assert_true(budget_take(&rig->acct[1], SIZE / 8));
}

static void test_the_reserve_goes_round_in_order(void **state)
{
	struct rig *rig = *state;

	assert_true(budget_queue(&rig->acct[0]));
	assert_true(budget_queue(&rig->acct[0]));
	for (int i = 1; i < 5; i++)
		assert_false(budget_queue(&rig->acct[i]));
	assert_true(budget_is_short(&rig->b));
	assert_int_equal(atomic_load(&rig->wakes), 1); /* all are told that it is */
	budget_leave(&rig->acct[2]);		       /* it got what it wanted elsewhere */
	budget_leave(&rig->acct[0]);
	assert_int_equal(atomic_load(&rig->wakes), 2);
	assert_true(budget_queue(&rig->acct[1]));
	assert_false(budget_queue(&rig->acct[3]));
	assert_false(budget_queue(&rig->acct[2])); /* again: behind the others */
	budget_leave(&rig->acct[1]);
	assert_true(budget_queue(&rig->acct[3]));
	budget_account_fini(&rig->acct[3]); /* gone: the next one has it */
	assert_true(budget_queue(&rig->acct[4]));
	budget_leave(&rig->acct[4]);
	assert_true(budget_queue(&rig->acct[2]));
	assert_false(budget_is_short(&rig->b));
	budget_leave(&rig->acct[2]);
	budget_account_init(&rig->acct[3], &rig->b, &rig->m);
}

static void test_a_give_wakes_who_waits_once(void **state)
{
	struct rig *rig = *state;

	assert_true(budget_take(&rig->acct[0], 100));
	budget_give(&rig->acct[0], 10);
	assert_int_equal(atomic_load(&rig->wakes), 0);
	budget_member_wait(&rig->m);
	budget_member_wait(&rig->m);
	budget_give(&rig->acct[0], 10);
	budget_give(&rig->acct[0], 10);
	assert_int_equal(atomic_load(&rig->wakes), 1);
}

static void test_a_forced_charge_is_counted(void **state)
{
	struct rig *rig = *state;

	budget_force(&rig->acct[0], SIZE + 1);
	assert_false(budget_take(&rig->acct[1], 1));
	assert_int_equal(budget_room(&rig->acct[1]), 0);
	budget_give(&rig->acct[0], SIZE + 1);
	assert_true(budget_take(&rig->acct[1], 1));
}

#define THREADS 4

struct worker {
	struct rig *rig;
	pthread_t thread;
	unsigned n;
};

/* Takes, waits for the reserve, uses it alone, gives. */
static void *work(void *arg)
{
	static _Atomic unsigned inside;
	struct worker *w = arg;
	struct budget_account *acct = &w->rig->acct[w->n];
	unsigned seed = w->n;

	for (int i = 0; i < 100000; i++) {
		uint64_t n = rand_r(&seed) % 3000;

		if (budget_take(acct, n)) {
			if (rand_r(&seed) % 2)
				budget_give(acct, acct->held);
		} else if (budget_queue(acct)) {
			ASSERT(atomic_fetch_add(&inside, 1) == 0);
			atomic_fetch_sub(&inside, 1);
			budget_leave(acct);
		} else {
			budget_member_wait(&w->rig->m);
			budget_give(acct, acct->held);
		}
	}
	budget_leave(acct);
	return NULL;
}

static void test_books_balance_under_threads(void **state)
{
	struct worker w[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){.rig = *state, .n = i};
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
	/* teardown has budget_fini compare */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_greedy_accounts_share_alike_and_leave_a_share),
		T(test_an_early_one_cannot_have_everything),
		T(test_the_reserve_goes_round_in_order),
		T(test_a_give_wakes_who_waits_once),
		T(test_a_forced_charge_is_counted),
		T(test_books_balance_under_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
