/* SPDX-License-Identifier: BSD-3-Clause */
/* server/journal.h: lines with fields, for systemd's journal. */
#ifndef SERVER_JOURNAL_H
#define SERVER_JOURNAL_H

#include "base/log.h"

/* A struct log's send. */
bool journal_send(enum log_level level, const char *text, const struct log_field *fields, unsigned count);

#endif
