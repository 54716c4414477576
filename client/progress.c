/* SPDX-License-Identifier: BSD-3-Clause */
/* client/progress.c: a bar for long work. Debian has no C library for one. */
#include "client/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/util.h"

#define BAR_MAX 60

void progress_init(struct progress *p, const char *label)
{
	*p = (struct progress){.label = label, .shown = isatty(STDERR_FILENO), .permille = -1};
}

/* Columns for the bar itself, beside the label, the brackets and "100.0%". */
static int bar_width(const struct progress *p)
{
	struct winsize ws;
	int columns = 80, width;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col)
		columns = ws.ws_col;
	width = columns - (int)strlen(p->label) - 12;
	return width < 0 ? 0 : width > BAR_MAX ? BAR_MAX : width;
}

void progress_update(void *arg, uint64_t done, uint64_t total)
{
	static const char hashes[] = "############################################################";
	struct progress *p = arg;
	int permille, width, full;

	if (!p->shown)
		return;
	/* In floating point, as done * 1000 does not fit for the largest pools. */
	permille = total ? (int)(1000.0 * (double)min_u64(done, total) / (double)total) : 1000;
	if (permille == p->permille)
		return;

	width = bar_width(p);
	full = width * permille / 1000;
	fprintf(stderr, "\r%s [%.*s%*s] %3d.%d%%", p->label, full, hashes, width - full, "", permille / 10,
		permille % 10);
	p->permille = permille;
}

void progress_clear(struct progress *p)
{
	if (p->permille >= 0)
		fputs("\r\033[K", stderr);
	p->permille = -1;
}
