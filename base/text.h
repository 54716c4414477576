/* SPDX-License-Identifier: BSD-3-Clause */
/* base/text.h: text that people type and others print. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed UTF-8 without control characters (no zero byte, no C0, DEL or C1). */
bool text_is_plain(const char *text, size_t len);

#endif
