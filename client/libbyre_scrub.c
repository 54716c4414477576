/* SPDX-License-Identifier: BSD-3-Clause */
/* client/libbyre_scrub.c: libbyre's calls about scrubs. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/libbyre_int.h"
#include "proto/figure_table.h"

void libbyre_scrub_from_message(const Byre__Scrub *from, struct byre_scrub *to)
{
	*to = (struct byre_scrub){0};
	if (!from) /* an older daemon */
		return;
	to->state = (enum byre_scrub_state)from->state;
	SCRUB_FIGURES(FIGURE_COPY);
}

int byre_scrub_start(struct byre *b, uint64_t rate, bool restart, struct byre_error *err)
{
	Byre__ScrubStartRequest rq = BYRE__SCRUB_START_REQUEST__INIT;

	rq.rate = rate;
	rq.restart = restart;
	return libbyre_call_empty(b, BYRE__METHOD__METHOD_SCRUB_START, "scrub start", &rq.base, err);
}

int byre_scrub_stop(struct byre *b, struct byre_error *err)
{
	static const Byre__Empty none = BYRE__EMPTY__INIT;

	return libbyre_call_empty(b, BYRE__METHOD__METHOD_SCRUB_STOP, "scrub stop", &none.base, err);
}

static int each_damage(const Byre__ScrubStatusReply *m, byre_scrub_damage_fn fn, void *arg)
{
	int r = 0;

	for (size_t i = 0; fn && r == 0 && i < m->n_damage; i++) {
		const Byre__ScrubDamage *from = m->damage[i];
		struct byre_scrub_damage d = {.volume_id = from->volume_id,
					      .off = from->offset,
					      .len = from->length,
					      .lost = from->lost};

		libbyre_word(d.volume, sizeof(d.volume), from->volume);
		r = fn(arg, &d);
	}
	return r;
}

int byre_scrub_status_sized(struct byre *b, struct byre_scrub *ret_scrub, size_t size,
			    byre_scrub_damage_fn fn, void *arg, bool *ret_more, struct byre_error *err)
{
	static const Byre__Empty none = BYRE__EMPTY__INIT;
	const Byre__ScrubStatusReply *m;
	ProtobufCMessage *reply;
	struct byre_scrub scrub;
	int r;

	r = libbyre_call(b, BYRE__METHOD__METHOD_SCRUB_STATUS, "scrub status", &none.base,
			 &byre__scrub_status_reply__descriptor, &reply, err);
	if (r)
		return r;
	m = (const Byre__ScrubStatusReply *)reply;
	libbyre_scrub_from_message(m->scrub, &scrub);
	libbyre_copy_out(ret_scrub, size, &scrub, sizeof(scrub));
	if (ret_more)
		*ret_more = m->more;
	r = each_damage(m, fn, arg);
	libbyre_free(reply);
	return r;
}
