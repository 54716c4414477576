/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/base/test_base.c: ranked locks (their debug checks, also in a build without them), checksums,
 * allocation that fails when told to, little-endian types, arithmetic helpers.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef BYRE_DEBUG
#define BYRE_DEBUG 1
#endif
#include "base/lock.c" /* with its checks; the library's copy is not linked */

#include "base/crc32c.h"
#include "base/le.h"
#include "base/mem.h"

/* ---- locks ----------------------------------------------------------------------- */

/* Whether fn makes a process abort. */
static bool aborts(void (*fn)(void))
{
	int status;
	pid_t pid;

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)!freopen("/dev/null", "w", stderr);
		signal(SIGABRT, SIG_DFL);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status))
		assert_int_equal(WEXITSTATUS(status), 0);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void take_in_order(void)
{
	struct lock a, b, c;

	lock_init(&a, 1);
	lock_init(&b, 2);
	lock_init(&c, 3);
	for (int i = 0; i < 3; i++) {
		lock_take(&a);
		lock_take(&c);
		lock_assert_held(&a);
		lock_drop(&a); /* in any order */
		lock_drop(&c);
		lock_take(&b);
		lock_take(&c);
		lock_drop(&c);
		lock_drop(&b);
	}
	lock_fini(&a);
	lock_fini(&b);
	lock_fini(&c);
}

static void take_out_of_order(void)
{
	struct lock a, b;

	lock_init(&a, 1);
	lock_init(&b, 2);
	lock_take(&b);
	lock_take(&a);
}

static void take_two_of_one_rank(void)
{
	struct lock a, b;

	lock_init(&a, 5);
	lock_init(&b, 5);
	lock_take(&a);
	lock_take(&b);
}

/* It comes after one that is held, not after the other. */
static void take_between_two(void)
{
	struct lock a, b, c;

	lock_init(&a, 5);
	lock_init(&b, 7);
	lock_init(&c, 6);
	lock_take(&a);
	lock_take(&b);
	lock_take(&c);
}

static void drop_what_is_not_held(void)
{
	struct lock a;

	lock_init(&a, 5);
	pthread_mutex_lock(&a.mutex); /* so that the mutex itself does not mind */
	lock_drop(&a);
}

static void assert_what_is_not_held(void)
{
	struct lock a;

	lock_init(&a, 5);
	lock_assert_held(&a);
}

static void test_base_locks_out_of_order_abort(void **state)
{
	assert_false(aborts(take_in_order));
	assert_true(aborts(take_out_of_order));
	assert_true(aborts(take_two_of_one_rank));
	assert_true(aborts(take_between_two));
	assert_true(aborts(drop_what_is_not_held));
	assert_true(aborts(assert_what_is_not_held));
}

struct handover {
	struct lock lock;
	pthread_cond_t cond;
	int value;
};

static void *hand_over(void *arg)
{
	struct handover *h = arg;

	lock_take(&h->lock);
	h->value = 1;
	pthread_cond_signal(&h->cond);
	while (h->value != 2)
		lock_wait(&h->lock, &h->cond);
	h->value = 3;
	pthread_cond_signal(&h->cond);
	lock_drop(&h->lock);
	return NULL;
}

static void test_base_locks_wait_and_time_out(void **state)
{
	struct handover h = {.value = 0};
	struct timespec before, after;
	pthread_t thread;

	lock_init(&h.lock, 9);
	lock_cond_init(&h.cond);
	lock_take(&h.lock);
	clock_gettime(CLOCK_MONOTONIC, &before);
	while (lock_wait_ms(&h.lock, &h.cond, 20)) /* it may wake for nothing */
		;
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true((after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec >=
		    20000000L);
	assert_int_equal(pthread_create(&thread, NULL, hand_over, &h), 0);
	while (h.value != 1)
		lock_wait(&h.lock, &h.cond);
	h.value = 2;
	pthread_cond_signal(&h.cond);
	while (h.value != 3)
		assert_true(lock_wait_ms(&h.lock, &h.cond, 60000));
	lock_drop(&h.lock);
	pthread_join(thread, NULL);
	pthread_cond_destroy(&h.cond);
	lock_fini(&h.lock);
}

/* ---- checksums ---------------------------------------------------------------------- */

/* Bit by bit, from the polynomial. */
static uint32_t slow_crc32c(const uint8_t *p, size_t len)
{
	uint32_t crc = 0xffffffffu;

	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		for (int b = 0; b < 8; b++)
			crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
	}
	return ~crc;
}

static void test_base_crc32c_is_castagnolis(void **state)
{
	static const uint8_t zeros[32] = {0};
	uint8_t buf[5000], ones[32];

	assert_int_equal(crc32c("123456789", 9), 0xe3069283u);
	assert_int_equal(crc32c("", 0), 0);
	assert_int_equal(crc32c(zeros, 32), 0x8a9136aau); /* RFC 3720, B.4 */
	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(crc32c(ones, 32), 0x62a8ab43u);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * i / 7 + i);
	for (size_t len = 0; len < 600; len++)
		for (size_t off = 0; off < 9; off++)
			assert_int_equal(crc32c(buf + off, len), slow_crc32c(buf + off, len));
	assert_int_equal(crc32c(buf, sizeof(buf)), slow_crc32c(buf, sizeof(buf)));
}

/* ---- memory ---------------------------------------------------------------------------- */

static void *any_alloc(unsigned kind, void *old)
{
	switch (kind % 4) {
	case 0: return mem_alloc(100);
	case 1: return mem_zalloc(100);
	case 2: return mem_alloc_aligned(4096, 8192);
	default: return mem_realloc(old, 200);
	}
}

static void *fail_elsewhere(void *arg)
{
	mem_fail_at(1);
	*(bool *)arg = mem_alloc(1) == NULL;
	return NULL;
}

static void test_base_memory_fails_at_the_nth_call(void **state)
{
	for (unsigned n = 1; n < 20; n++) {
		mem_fail_at(n);
		for (unsigned i = 1; i < 30; i++) {
			void *old = i % 4 == 3 ? malloc(10) : NULL, *p;

			if (old)
				memset(old, 0x5a, 10);
			assert_int_equal(mem_fail_pending() != 0, i <= n);
			p = any_alloc(i, old);
			if (i == n) {
				assert_null(p);
				if (old) /* as with realloc, it is still there */
					assert_int_equal(((uint8_t *)old)[9], 0x5a);
				free(old);
			} else {
				assert_non_null(p);
				if (i % 4 == 1)
					for (unsigned k = 0; k < 100; k++)
						assert_int_equal(((uint8_t *)p)[k], 0);
				if (i % 4 == 2)
					assert_int_equal((uintptr_t)p % 4096, 0);
				if (old)
					assert_int_equal(((uint8_t *)p)[9], 0x5a);
				mem_free(p);
			}
		}
	}
	mem_fail_at(1);
	mem_fail_at(0);
	mem_free(any_alloc(0, NULL));
	mem_free(NULL);
}

static void test_base_memory_fails_in_one_thread_only(void **state)
{
	bool failed = false;
	pthread_t thread;
	void *p;

	mem_fail_at(2);
	assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &failed), 0);
	pthread_join(thread, NULL);
	assert_true(failed);
	p = mem_alloc(1);
	assert_non_null(p);
	assert_null(mem_alloc(1));
	mem_free(p);
	mem_fail_at(0);
}

/* ---- numbers ------------------------------------------------------------------------------ */

static void test_base_numbers(void **state)
{
	static const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	le16 a;
	le32 b;
	le64 c;

	memcpy(&a, bytes, sizeof(a));
	memcpy(&b, bytes, sizeof(b));
	memcpy(&c, bytes, sizeof(c));
	assert_int_equal(le16_to_cpu(a), 0x0201);
	assert_int_equal(le32_to_cpu(b), 0x04030201);
	assert_true(le64_to_cpu(c) == 0x0807060504030201ull);
	c = cpu_to_le64(0x0807060504030201ull);
	assert_memory_equal(&c, bytes, 8);
	assert_true(round_up_u64(0, 4096) == 0 && round_up_u64(1, 4096) == 4096 &&
		    round_up_u64(4096, 4096) == 4096);
	assert_true(round_down_u64(4095, 4096) == 0 && round_down_u64(UINT64_MAX, 4096) == UINT64_MAX - 4095);
	assert_true(min_u64(1, UINT64_MAX) == 1 && max_u64(1, UINT64_MAX) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_base_locks_out_of_order_abort),
		cmocka_unit_test(test_base_locks_wait_and_time_out),
		cmocka_unit_test(test_base_crc32c_is_castagnolis),
		cmocka_unit_test(test_base_memory_fails_at_the_nth_call),
		cmocka_unit_test(test_base_memory_fails_in_one_thread_only),
		cmocka_unit_test(test_base_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
