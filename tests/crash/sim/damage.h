/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/damage.h: bit rot and damaged caches, done to a device that nobody has open.
 *
 * What is damaged is never more than the format promises to survive: one side of the metadata, superblocks
 * but the first, data (whose reads may fail then), any slots of free-space caches, and nodes of volumes (of
 * which the model knows what is lost with them).
 */
#ifndef TESTS_CRASH_SIM_DAMAGE_H
#define TESTS_CRASH_SIM_DAMAGE_H

#include "tests/crash/sim/world.h"

struct device;

/* As the profile wants it. `clean`: the flush log is empty. */
void damage_do(struct world *w, bool clean);
/*
 * On a copy of what a crash has left: a record of the flush log rots, of a group that is not the last. The
 * check and the pool that is opened must say that something is lost, and everything else must go on.
 */
void damage_log(struct world *w);
/* Puts right what was damaged and is still as it was left. */
void damage_mend(struct world *w);
/* The same on another image of the same moment. */
void damage_mend_image(struct world *w, struct device *image);

#endif
