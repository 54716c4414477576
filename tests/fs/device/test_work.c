/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/fs/device/test_work.c: the workers: what waits leaves half of them to what does not. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/fs.h"
#include "fs/device/work.h"

#define PATIENCE_S 60

struct item {
	struct fs_work work;
	sem_t *started, *go;
};

static void meet(struct fs_work *work)
{
	struct item *i = container_of(work, struct item, work);

	assert_non_null(work_queue());
	sem_post(i->started);
	while (sem_wait(i->go))
		;
}

static bool wait_for(sem_t *sem, unsigned seconds)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	while (sem_timedwait(sem, &until))
		if (errno == ETIMEDOUT)
			return false;
	return true;
}

/* Regression: what waits for commits could take all threads but one, and cold reads stood behind it. */
static void test_work_that_waits_leaves_half_of_the_threads(void **state)
{
	struct device *dev = device_sim_new(1 << 20, 1);
	sem_t waiting, quick, go;
	struct item slow[12], fast[4];
	struct work_pool pool;

	assert_int_equal(sem_init(&waiting, 0, 0) | sem_init(&quick, 0, 0) | sem_init(&go, 0, 0), 0);
	assert_int_equal(work_pool_init(&pool, dev, 8), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(slow); i++) {
		slow[i] = (struct item){{.fn = meet}, &waiting, &go};
		work_pool_add_waiting(&pool, &slow[i].work);
	}
	for (unsigned i = 0; i < 4; i++)
		assert_true(wait_for(&waiting, PATIENCE_S));
	for (unsigned i = 0; i < ARRAY_SIZE(fast); i++) {
		fast[i] = (struct item){{.fn = meet}, &quick, &go};
		work_pool_add(&pool, &fast[i].work);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(fast); i++) /* all at the same time: none ends before `go` */
		assert_true(wait_for(&quick, PATIENCE_S));
	assert_false(wait_for(&waiting, 0)); /* and no more of the others */
	for (unsigned i = 0; i < ARRAY_SIZE(slow) + ARRAY_SIZE(fast); i++)
		sem_post(&go);
	for (unsigned i = 4; i < ARRAY_SIZE(slow); i++)
		assert_true(wait_for(&waiting, PATIENCE_S));
	work_pool_fini(&pool);
	device_close(dev);
	sem_destroy(&waiting);
	sem_destroy(&quick);
	sem_destroy(&go);
}

/* The least there may be. */
static void test_work_three_threads_are_enough(void **state)
{
	struct device *dev = device_sim_new(1 << 20, 1);
	struct item slow[2], fast;
	sem_t started, quick, go;
	struct work_pool pool;

	assert_int_equal(sem_init(&started, 0, 0) | sem_init(&quick, 0, 0) | sem_init(&go, 0, 0), 0);
	assert_int_equal(work_pool_init(&pool, dev, 1), 0);
	for (unsigned i = 0; i < 2; i++) {
		slow[i] = (struct item){{.fn = meet}, &started, &go};
		work_pool_add_waiting(&pool, &slow[i].work);
	}
	assert_true(wait_for(&started, PATIENCE_S));
	fast = (struct item){{.fn = meet}, &quick, &go};
	work_pool_add(&pool, &fast.work);
	assert_true(wait_for(&quick, PATIENCE_S));
	for (unsigned i = 0; i < 3; i++)
		sem_post(&go);
	assert_true(wait_for(&started, PATIENCE_S));
	work_pool_fini(&pool);
	device_close(dev);
	sem_destroy(&started);
	sem_destroy(&quick);
	sem_destroy(&go);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_work_that_waits_leaves_half_of_the_threads),
		cmocka_unit_test(test_work_three_threads_are_enough),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
