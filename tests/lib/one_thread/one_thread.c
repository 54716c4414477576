/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/one_thread/one_thread.c: linked into the unit tests that the Makefile says have one thread
 * (ONE_THREAD), which are not run under ThreadSanitizer. One that makes a second thread all the same ends
 * here, in every build.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

int pthread_create(pthread_t *ret_thread, const pthread_attr_t *attr, void *(*fn)(void *arg), void *arg)
{
	fprintf(stderr,
		"this program has threads: take it out of ONE_THREAD in the Makefile, so that ThreadSanitizer sees it\n");
	abort();
}
