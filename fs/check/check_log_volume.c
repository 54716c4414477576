/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/check/check_log_volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/text.h"
#include "fs/check/check_int.h"
#include "fs/format/flush_log_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"

struct log_volume {
	struct check_volume cv;
	bool deleted;
};

static int by_id(const void *a, const void *b)
{
	uint64_t x = (*(struct log_volume *const *)a)->cv.id, y = (*(struct log_volume *const *)b)->cv.id;

	return x < y ? -1 : x > y;
}

/* The first whose id is not below. */
static size_t place_of(const struct log_volumes *lv, uint64_t id)
{
	size_t lo = 0, hi = lv->count;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (lv->by_id[mid]->cv.id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* At the end, in no order. */
static int append(struct log_volumes *lv, const struct check_volume *cv)
{
	struct log_volume *v = mem_zalloc(sizeof(*v));

	if (v && lv->count == lv->cap) {
		size_t cap = lv->cap ? lv->cap * 2 : 64;
		struct log_volume **list = mem_realloc(lv->by_id, cap * sizeof(*list));

		if (!list) {
			mem_free(v);
			return -ENOMEM;
		}
		lv->by_id = list;
		lv->cap = cap;
	}
	if (!v)
		return -ENOMEM;
	v->cv = *cv;
	lv->by_id[lv->count++] = v;
	return 0;
}

int log_volumes_init(struct log_volumes *lv, const struct check_volume *vol, size_t count)
{
	int r = 0;

	*lv = (struct log_volumes){0};
	for (size_t i = 0; r == 0 && i < count; i++)
		if (!vol[i].orphan)
			r = append(lv, &vol[i]);
	if (lv->count)
		qsort(lv->by_id, lv->count, sizeof(*lv->by_id), by_id);
	return r;
}

void log_volumes_fini(struct log_volumes *lv)
{
	for (size_t i = 0; i < lv->count; i++)
		mem_free(lv->by_id[i]);
	mem_free(lv->by_id);
}

static struct log_volume *find(const struct log_volumes *lv, uint64_t id)
{
	size_t at = place_of(lv, id);

	return at < lv->count && lv->by_id[at]->cv.id == id ? lv->by_id[at] : NULL;
}

const struct check_volume *log_volumes_find(const struct log_volumes *lv, uint64_t id)
{
	const struct log_volume *v = find(lv, id);

	return v && !v->deleted ? &v->cv : NULL;
}

/* A name may stand in the item without an end. False: it is none. */
static bool set_name(struct check_volume *cv, const void *name, uint8_t len)
{
	char text[FS_NAME_MAX + 1];

	memcpy(text, name, len);
	text[len] = '\0';
	snprintf(cv->name, sizeof(cv->name), "volume %s", text);
	cv->named = true;
	return fs_name_is_valid(text);
}

static int create(struct log_volumes *lv, const struct log_create *lc)
{
	struct check_volume cv = {.id = le64_to_cpu(lc->item.id), .size = le64_to_cpu(lc->size)};
	size_t at = place_of(lv, cv.id);
	struct log_volume *v;
	int r;

	if (cv.id < TREE_ID_FIRST_FREE || find(lv, cv.id) || !set_name(&cv, lc + 1, lc->name_len))
		return -EUCLEAN;
	r = append(lv, &cv);
	if (r)
		return r;
	v = lv->by_id[lv->count - 1];
	memmove(&lv->by_id[at + 1], &lv->by_id[at], (lv->count - 1 - at) * sizeof(*lv->by_id));
	lv->by_id[at] = v;
	return 0;
}

int log_volumes_apply(struct log_volumes *lv, const struct log_item *item)
{
	struct log_volume *v = find(lv, le64_to_cpu(item->id));

	if (le16_to_cpu(item->type) == LOG_CREATE)
		return create(lv, (const struct log_create *)item);
	if (!v || v->deleted)
		return -EUCLEAN;
	switch ((enum log_item_type)le16_to_cpu(item->type)) {
	case LOG_DELETE: v->deleted = true; return 0;
	case LOG_RENAME: {
		const struct log_rename *lr = (const struct log_rename *)item;

		return set_name(&v->cv, lr + 1, lr->name_len) ? 0 : -EUCLEAN;
	}
	case LOG_RESIZE: v->cv.size = le64_to_cpu(((const struct log_resize *)item)->size); return 0;
	case LOG_SET: {
		const struct log_set *ls = (const struct log_set *)item;

		return text_is_plain((const char *)(ls + 1), ls->comment_len) ? 0 : -EUCLEAN;
	}
	default: return -EUCLEAN;
	}
}
