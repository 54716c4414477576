/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim_crash.c: the simulated device's log of events, what a crash leaves of it, and history.
 * The rules that it follows are in device_sim.h, 3. and 4.
 */
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "base/util.h"
#include "fs/device/device.h"
#include "fs/device/device_sim.h"
#include "fs/device/device_sim_image.h"
#include "fs/device/device_sim_int.h"

/* ---- events --------------------------------------------------------------------------- */

static void event_add(struct sim_event *event, uint64_t pageno, struct sim_page *page)
{
	event->changes[event->count++] = (struct sim_change){.pageno = pageno, .page = page};
}

static void make_write(struct sim_event *event, const struct device_io *io)
{
	struct iovec one = {.iov_base = io->buf, .iov_len = io->len};
	const struct iovec *iov = io->iovcnt ? io->iov : &one;
	uint64_t pageno = io->off / SIM_PAGE;

	for (int i = 0; i < (io->iovcnt ? io->iovcnt : 1); i++) {
		for (uint64_t at = 0; at < iov[i].iov_len; at += SIM_PAGE) {
			struct sim_page *page = sim_page_new();

			memcpy(page->data, (const char *)iov[i].iov_base + at, SIM_PAGE);
			event_add(event, pageno++, page);
		}
	}
}

static struct sim_page *garbage_page(uint64_t *rng)
{
	struct sim_page *page = sim_page_new();
	uint64_t pattern = sim_random(rng);

	for (unsigned i = 0; i < SIM_PAGE; i += sizeof(pattern))
		memcpy(page->data + i, &pattern, sizeof(pattern));
	return page;
}

static void make_discard(struct sim_event *event, struct sim_device *sim, uint64_t first, uint64_t end)
{
	for (uint64_t i = sim_image_next(sim->view, first, end); i < end;
	     i = sim_image_next(sim->view, i + 1, end)) {
		uint64_t fate = sim->discard_zeroes ? 0 : sim_random(&sim->rng) % 3;

		if (fate < 2)
			event_add(event, i, fate == 0 ? NULL : garbage_page(&sim->rng));
	}
}

struct sim_event sim_event_make(struct sim_device *sim, const struct sim_pending *pending)
{
	const struct device_io *io = pending->io;
	struct sim_event event = {
		.info = {.op = io->op, .off = io->off, .len = io->len, .start = pending->start}};
	uint64_t first = io->off / SIM_PAGE, end = (io->off + io->len) / SIM_PAGE, n = end - first;

	if (io->op == DEVICE_DISCARD)
		n = min_u64(n, sim_image_pages(sim->view));
	event.changes = sim_alloc(max_u64(n, 1) * sizeof(*event.changes));
	if (io->op == DEVICE_WRITE)
		make_write(&event, io);
	else
		make_discard(&event, sim, first, end);
	return event;
}

void sim_event_fini(struct sim_event *event)
{
	for (uint64_t i = 0; i < event->count; i++)
		sim_page_put(event->changes[i].page);
	free(event->changes);
}

void sim_event_apply(const struct sim_event *event, struct sim_image *image)
{
	for (uint64_t i = 0; i < event->count; i++)
		sim_image_set(image, event->changes[i].pageno, sim_page_get(event->changes[i].page));
}

/* How a write is torn. */
struct tear {
	enum { TEAR_SECTORS, TEAR_PAGES, TEAR_PREFIX, TEAR_SUFFIX, TEAR_STYLES } style;
	uint64_t cut; /* PREFIX, SUFFIX: the sector where it is cut */
};

static struct tear draw_tear(const struct sim_event *event, uint64_t *rng)
{
	struct tear tear = {.style = sim_random(rng) % TEAR_STYLES};

	tear.cut = sim_random(rng) % (event->count * SIM_PAGE_SECTORS + 1);
	return tear;
}

/* The sectors of the event's i-th page that survive. */
static unsigned tear_mask(const struct tear *tear, uint64_t i, uint64_t *rng)
{
	uint64_t first = i * SIM_PAGE_SECTORS;
	unsigned before; /* the cut, within this page */

	if (tear->style == TEAR_SECTORS)
		return sim_random(rng) & SIM_ALL_SECTORS;
	if (tear->style == TEAR_PAGES)
		return sim_random(rng) & 1 ? SIM_ALL_SECTORS : 0;
	before = tear->cut <= first ? 0 : (unsigned)min_u64(tear->cut - first, SIM_PAGE_SECTORS);
	before = (1u << before) - 1;
	return tear->style == TEAR_PREFIX ? before : SIM_ALL_SECTORS & ~before;
}

static void apply_torn(const struct sim_event *event, struct sim_image *image, uint64_t *rng)
{
	struct tear tear = draw_tear(event, rng);

	for (uint64_t i = 0; i < event->count; i++)
		sim_image_set_sectors(image, event->changes[i].pageno, event->changes[i].page,
				      tear_mask(&tear, i, rng));
}

void sim_event_tear(struct sim_event *event, struct sim_image *image, uint64_t *rng)
{
	apply_torn(event, image, rng);
	for (uint64_t i = 0; i < event->count; i++) {
		struct sim_change *change = &event->changes[i];

		sim_page_put(change->page);
		change->page = sim_page_get((struct sim_page *)sim_image_peek(image, change->pageno));
	}
}

/* ---- the log ------------------------------------------------------------------------------ */

void sim_log_append(struct sim_log *log, const struct sim_event *event)
{
	if (log->count == log->room) {
		log->room = max_u64(32, log->room * 2);
		log->events = realloc(log->events, log->room * sizeof(*event));
		ASSERT(log->events);
	}
	log->events[log->count++] = *event;
}

static void log_drop_to(struct sim_log *log, uint64_t seq)
{
	uint64_t n = seq < log->first ? 0 : seq - log->first + 1;

	for (uint64_t i = 0; i < n; i++)
		sim_event_fini(&log->events[i]);
	if (n)
		memmove(log->events, log->events + n, (log->count - n) * sizeof(*log->events));
	log->first += n;
	log->count -= n;
}

void sim_settle(struct sim_device *sim, uint64_t seq, bool failed)
{
	for (uint64_t i = max_u64(sim->stable_seq + 1, sim->log.first); i <= seq; i++) {
		struct sim_event *event = &sim->log.events[i - sim->log.first];

		if (failed)
			sim_event_tear(event, sim->stable, &sim->rng);
		else
			sim_event_apply(event, sim->stable);
	}
	sim->stable_seq = max_u64(sim->stable_seq, seq);
	log_drop_to(&sim->log, sim->base ? min_u64(sim->stable_seq, sim->base_seq) : sim->stable_seq);
}

/* ---- what was under way ---------------------------------------------------------------------- */

static uint64_t under_way_max(const struct sim_device *sim)
{
	uint64_t n = 0;

	for (struct sim_queue *sq = sim->queues; sq; sq = sq->next)
		n += sq->count;
	return n;
}

/* Events of the writes and discards under way; freed with free_events. */
static struct sim_event *collect_under_way(struct sim_device *sim, uint64_t *ret_count)
{
	struct sim_event *events = sim_alloc((under_way_max(sim) + 1) * sizeof(*events));
	uint64_t n = 0;

	for (struct sim_queue *sq = sim->queues; sq; sq = sq->next) {
		for (uint64_t i = 0; i < sq->count; i++) {
			enum device_op op = sq->pending[i].io->op;

			if (sq->pending[i].effect && (op == DEVICE_WRITE || op == DEVICE_DISCARD))
				events[n++] = sim_event_make(sim, &sq->pending[i]);
		}
	}
	*ret_count = n;
	return events;
}

static void free_events(struct sim_event *events, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		sim_event_fini(&events[i]);
	free(events);
}

void sim_die_locked(struct sim_device *sim)
{
	if (sim->dead)
		return;
	sim->frozen = collect_under_way(sim, &sim->frozen_count);
	sim->dead = true;
}

void sim_crash_fini(struct sim_device *sim)
{
	free_events(sim->frozen, sim->frozen_count);
	free_events(sim->log.events, sim->log.count);
	sim_image_free(sim->base);
	sim_image_free(sim->cursor);
}

/* ---- what survives ------------------------------------------------------------------------------ */

struct candidate {
	uint64_t key; /* the order in which they reach the medium */
	const struct sim_event *event;
	bool completed;
};

/* A crash in the making. */
struct crash {
	enum device_sim_crash_mode mode;
	uint64_t rng;
	unsigned keep, tear; /* percent; RANDOM */
	struct candidate *candidates;
	uint64_t count, completed;
};

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *ca = a, *cb = b;

	return ca->key < cb->key ? -1 : ca->key > cb->key;
}

static void crash_init(struct crash *crash, enum device_sim_crash_mode mode, uint64_t seed, uint64_t room)
{
	*crash = (struct crash){.mode = mode, .rng = seed ^ 0x6372617368u};
	crash->keep = sim_random(&crash->rng) % 101;
	crash->tear = sim_random(&crash->rng) % 101;
	crash->candidates = sim_alloc((room + 1) * sizeof(*crash->candidates));
}

/* In the order of their completion, before any crash_add_under_way. */
static void crash_add_completed(struct crash *crash, const struct sim_event *event)
{
	crash->candidates[crash->count++] =
		(struct candidate){.key = ++crash->completed << 32, .event = event, .completed = true};
}

/*
 * first_seq: the number of the first completed candidate. It was kicked after the event of the number
 * event->info.start.
 */
static void crash_add_under_way(struct crash *crash, const struct sim_event *event, uint64_t first_seq)
{
	uint64_t least = event->info.start < first_seq ? 0 : event->info.start - first_seq + 1;
	uint64_t pos = least + sim_random(&crash->rng) % (crash->completed - least + 1);

	crash->candidates[crash->count++] =
		(struct candidate){.key = (pos << 32) + 1 + (sim_random(&crash->rng) >> 33), .event = event};
}

enum fate { FATE_DROP, FATE_KEEP, FATE_TEAR };

static enum fate draw_fate(struct crash *crash, const struct candidate *c)
{
	switch (crash->mode) {
	case DEVICE_SIM_CRASH_KEEP_COMPLETED: return c->completed ? FATE_KEEP : FATE_DROP;
	case DEVICE_SIM_CRASH_KEEP_UNDER_WAY: return c->completed ? FATE_DROP : FATE_KEEP;
	case DEVICE_SIM_CRASH_KEEP_ALL: return FATE_KEEP;
	case DEVICE_SIM_CRASH_TORN: return FATE_TEAR;
	case DEVICE_SIM_CRASH_RANDOM:
		if (sim_random(&crash->rng) % 100 < crash->keep)
			return FATE_KEEP;
		return sim_random(&crash->rng) % 100 < crash->tear ? FATE_TEAR : FATE_DROP;
	default: return FATE_DROP;
	}
}

/* Lets the candidates reach the image, and frees them. */
static void crash_run(struct crash *crash, struct sim_image *image)
{
	qsort(crash->candidates, crash->count, sizeof(*crash->candidates), compare_candidates);
	for (uint64_t i = 0; i < crash->count; i++) {
		const struct candidate *c = &crash->candidates[i];
		enum fate fate = draw_fate(crash, c);

		if (fate == FATE_KEEP)
			sim_event_apply(c->event, image);
		else if (fate == FATE_TEAR)
			apply_torn(c->event, image, &crash->rng);
	}
	free(crash->candidates);
}

static struct device *crash_image_locked(struct sim_device *sim, enum device_sim_crash_mode mode,
					 uint64_t seed)
{
	struct sim_image *image = sim_image_clone(sim->stable);
	uint64_t first = max_u64(sim->stable_seq + 1, sim->log.first), count = sim->frozen_count,
		 rng = sim->rng;
	struct sim_event *under_way = sim->frozen;
	struct device *dev;
	struct crash crash;

	if (!sim->dead)
		under_way = collect_under_way(sim, &count);
	sim->rng = rng; /* looking changes nothing */
	crash_init(&crash, mode, seed, sim->log.count + count);
	for (uint64_t i = first; i <= sim_log_seq(&sim->log); i++)
		crash_add_completed(&crash, &sim->log.events[i - sim->log.first]);
	for (uint64_t i = 0; i < count; i++)
		crash_add_under_way(&crash, &under_way[i], first);
	crash_run(&crash, image);
	if (!sim->dead)
		free_events(under_way, count);
	dev = sim_device_new(image, sim->dev.size, seed);
	sim_host_crash(sim, sim_of(dev), &crash.rng);
	return dev;
}

void device_sim_kill(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim_die_locked(sim);
	lock_drop(&sim->lock);
}

void device_sim_kill_after(struct device *dev, uint64_t events)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim->kill_after = events;
	lock_drop(&sim->lock);
}

bool device_sim_is_dead(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);
	bool dead;

	lock_take(&sim->lock);
	dead = sim->dead;
	lock_drop(&sim->lock);
	return dead;
}

struct device *device_sim_crash_image(struct device *dev, enum device_sim_crash_mode mode, uint64_t seed)
{
	struct sim_device *sim = sim_of(dev);
	struct device *image;

	lock_take(&sim->lock);
	image = crash_image_locked(sim, mode, seed);
	lock_drop(&sim->lock);
	return image;
}

struct device *device_sim_crash(struct device *dev, enum device_sim_crash_mode mode, uint64_t seed)
{
	device_sim_kill(dev);
	return device_sim_crash_image(dev, mode, seed);
}

/* ---- history ---------------------------------------------------------------------------------------- */

void device_sim_history_start(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	sim_image_free(sim->base);
	sim_image_free(sim->cursor);
	sim->base = sim_image_clone(sim->view);
	sim->base_seq = sim_log_seq(&sim->log);
	sim->cursor = sim_image_clone(sim->view);
	sim->cursor_seq = sim->base_seq;
	lock_drop(&sim->lock);
}

uint64_t device_sim_history_count(struct device *dev)
{
	struct sim_device *sim = sim_of(dev);
	uint64_t n;

	lock_take(&sim->lock);
	n = sim->base ? sim_log_seq(&sim->log) - sim->base_seq : 0;
	lock_drop(&sim->lock);
	return n;
}

static struct sim_event *event_at(struct sim_device *sim, uint64_t seq)
{
	return &sim->log.events[seq - sim->log.first];
}

static uint64_t after_base(const struct sim_device *sim, uint64_t seq)
{
	return seq < sim->base_seq ? 0 : seq - sim->base_seq;
}

void device_sim_history_get(struct device *dev, uint64_t n, struct device_sim_event *ret_event)
{
	struct sim_device *sim = sim_of(dev);

	lock_take(&sim->lock);
	ASSERT(sim->base && n >= 1 && n <= sim_log_seq(&sim->log) - sim->base_seq);
	*ret_event = event_at(sim, sim->base_seq + n)->info;
	ret_event->start = after_base(sim, ret_event->start);
	ret_event->covers = after_base(sim, ret_event->covers);
	lock_drop(&sim->lock);
}

/* The last event that is stable right after event seq. */
static uint64_t stable_at(struct sim_device *sim, uint64_t seq)
{
	return seq == sim->base_seq ? seq : max_u64(sim->base_seq, event_at(sim, seq)->stable_seq);
}

/* The image of exactly the events up to seq. */
static struct sim_image *image_at(struct sim_device *sim, uint64_t seq)
{
	if (seq < sim->cursor_seq) {
		sim_image_free(sim->cursor);
		sim->cursor = sim_image_clone(sim->base);
		sim->cursor_seq = sim->base_seq;
	}
	while (sim->cursor_seq < seq)
		sim_event_apply(event_at(sim, ++sim->cursor_seq), sim->cursor);
	return sim_image_clone(sim->cursor);
}

struct device *device_sim_history_image(struct device *dev, uint64_t n, enum device_sim_crash_mode mode,
					uint64_t seed)
{
	struct sim_device *sim = sim_of(dev);
	uint64_t seq, last, stable;
	struct sim_image *image;
	struct crash crash;

	lock_take(&sim->lock);
	seq = sim->base_seq + n;
	last = sim_log_seq(&sim->log);
	ASSERT(sim->base && seq <= last);
	stable = stable_at(sim, seq);
	image = image_at(sim, stable);
	crash_init(&crash, mode, seed, last - stable);
	for (uint64_t i = stable + 1; i <= seq; i++)
		crash_add_completed(&crash, event_at(sim, i));
	for (uint64_t i = seq + 1; i <= last; i++)
		if (event_at(sim, i)->info.op != DEVICE_FLUSH && event_at(sim, i)->info.start <= seq)
			crash_add_under_way(&crash, event_at(sim, i), stable + 1);
	crash_run(&crash, image);
	lock_drop(&sim->lock);
	return sim_device_new(image, dev->size, seed);
}
