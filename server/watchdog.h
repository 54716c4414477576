/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/watchdog.h: tells the service manager that the daemon is alive, as long as every loop runs the tasks
 * that it is given. A loop that hangs makes it silent, and the manager starts the daemon anew (WatchdogSec=
 * of its unit).
 */
#ifndef SERVER_WATCHDOG_H
#define SERVER_WATCHDOG_H

#include "base/log.h"
#include "server/loop.h"

struct watchdog;

/*
 * `loops[0]` runs the timer. *ret_watchdog is NULL where nobody asked for one. -ENOMEM. Before the loops run.
 */
int watchdog_new(struct loop *const *loops, unsigned count, struct log *log, struct watchdog **ret_watchdog);
/* When no loop runs any more. Accepts NULL. */
void watchdog_free(struct watchdog *w);

#endif
