/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/journal.h"

#include <stdio.h>
#include <string.h>
#include <systemd/sd-journal.h>

#define FIELD_MAX 400

bool journal_send(enum log_level level, const char *text, const struct log_field *fields, unsigned count)
{
	char message[LOG_LINE_MAX + 16], priority[16], field[LOG_FIELDS_MAX][FIELD_MAX];
	struct iovec iov[LOG_FIELDS_MAX + 3];
	int n = 0;

	iov[n++] = (struct iovec){message, (size_t)snprintf(message, sizeof(message), "MESSAGE=%s", text)};
	iov[n++] =
		(struct iovec){priority, (size_t)snprintf(priority, sizeof(priority), "PRIORITY=%d", level)};
	iov[n++] = (struct iovec){(void *)"SYSLOG_IDENTIFIER=byred", sizeof("SYSLOG_IDENTIFIER=byred") - 1};
	for (unsigned i = 0; i < count; i++) {
		if (!fields[i].value)
			continue;
		snprintf(field[i], FIELD_MAX, "%s=%s", fields[i].name, fields[i].value);
		iov[n++] = (struct iovec){field[i], strlen(field[i])};
	}
	return sd_journal_sendv(iov, n) == 0;
}
