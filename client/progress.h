/* SPDX-License-Identifier: BSD-3-Clause */
/* client/progress.h: a bar for long work, on standard error where that is a terminal, else nothing. */
#ifndef CLIENT_PROGRESS_H
#define CLIENT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *label;
	bool shown;   /* on a terminal */
	int permille; /* drawn last; -1: nothing yet */
};

void progress_init(struct progress *p, const char *label);
/* Fits the engine's callbacks: `arg` is the struct progress. */
void progress_update(void *arg, uint64_t done, uint64_t total);
/* Takes the bar away, before anything else is written to the terminal. A later update draws it again. */
void progress_clear(struct progress *p);

#endif
