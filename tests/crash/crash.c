/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/crash.c: the crash simulator: the engine as it is, with its threads as fibers, on a simulated
 * device, from a seed; with crashes, errors and damage; compared with a model (tests/crash/sim).
 *
 *   crash --seeds N [--first S] [--jobs J]   runs seeds S to S+N-1 (from 1) in J processes
 *   crash --seed S [--verbose] [--save FILE] runs one
 *   crash --replay FILE [--verbose]          runs a history from a file
 *   crash --prefixes N [--first S]           N runs of which every prefix of the log of writes is looked at
 *   --shrink                                 cuts a history that fails down, into crash-SEED.history (or
 *                                            --save FILE)
 *   --stop                                   ends at the first seed that fails (else after FAILURES_MAX)
 *
 * Exit: 0 all is well, 1 something failed, 2 wrong usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/history.h"
#include "tests/crash/sim/world.h"

#define JOBS_MAX 64
#define FAILURES_MAX 5
#define SEED_SECONDS 120 /* of real time, for one seed */

struct options {
	uint64_t seeds, first, seed, prefixes;
	unsigned jobs;
	const char *replay, *save;
	bool one, verbose, shrink, stop;
};

/* ---- one history --------------------------------------------------------------- */

/* In a process of its own. True: it passed. */
static bool passes(const struct history *h, bool quiet)
{
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		if (quiet) {
			int null = open("/dev/null", O_WRONLY);

			dup2(null, 1);
			dup2(null, 2);
		}
		alarm(SEED_SECONDS);
		history_run(h, false);
		_exit(0);
	}
	ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Leaves out runs of `chunk` steps as long as what is left fails. True: something went. */
static bool shrink_by(struct history **h, size_t chunk)
{
	bool less = false;

	for (size_t at = 0; at < (*h)->count;) {
		bool *keep = calloc((*h)->count, sizeof(*keep));
		struct history *part;

		ASSERT(keep);
		for (size_t i = 0; i < (*h)->count; i++)
			keep[i] = i < at || i >= at + chunk;
		part = history_part(*h, keep);
		free(keep);
		if (passes(part, true)) {
			history_free(part);
			at += chunk;
		} else {
			history_free(*h);
			*h = part;
			less = true;
		}
	}
	return less;
}

static int shrink(struct history *h, const char *save)
{
	char path[64];
	bool less = true;

	if (passes(h, true)) {
		printf("seed %" PRIu64 " does not fail\n", h->seed);
		history_free(h);
		return 0;
	}
	for (size_t chunk = h->count / 2; chunk >= 1; chunk /= 2)
		less = shrink_by(&h, chunk);
	while (less)
		less = shrink_by(&h, 1);
	snprintf(path, sizeof(path), "crash-%" PRIu64 ".history", h->seed);
	save = save ? save : path;
	if (history_save(h, save))
		fprintf(stderr, "crash: %s: %s\n", save, strerror(errno));
	printf("cut down to %zu steps; replay with: crash --replay %s --verbose\n", h->count, save);
	(void)passes(h, false);
	history_free(h);
	return 1;
}

static int run_one(struct history *h, const struct options *opt)
{
	if (!h)
		return 2;
	if (opt->shrink)
		return shrink(h, opt->save);
	if (opt->save && history_save(h, opt->save))
		fprintf(stderr, "crash: %s: %s\n", opt->save, strerror(errno));
	history_run(h, opt->verbose);
	printf("seed %" PRIu64 " passes\n", h->seed);
	history_free(h);
	return 0;
}

/* ---- many seeds ---------------------------------------------------------------- */

struct job {
	pid_t pid;	/* 0: has ended */
	uint64_t *seed; /* shared: the one that it is at; it goes on by `jobs` */
	uint64_t end;
};

struct jobs {
	const struct options *opt;
	struct job job[JOBS_MAX];
	unsigned running, failures;
	uint64_t failed[FAILURES_MAX];
};

static void work(const struct options *opt, struct job *job)
{
	for (; *job->seed < job->end; *job->seed += opt->jobs) {
		alarm(SEED_SECONDS);
		if (opt->prefixes) {
			history_prefixes(*job->seed, opt->verbose);
		} else {
			struct history *h = history_new(*job->seed);

			history_run(h, false);
			history_free(h);
		}
	}
	exit(0); /* so that a leak checker has its say */
}

static void start_job(struct jobs *jobs, struct job *job)
{
	fflush(stdout);
	job->pid = fork();
	ASSERT(job->pid >= 0);
	if (job->pid == 0)
		work(jobs->opt, job);
	jobs->running++;
}

static void job_failed(struct jobs *jobs, struct job *job, int status)
{
	uint64_t seed = *job->seed;

	if (jobs->opt->stop && jobs->failures) /* it was ended for another's sake */
		return;
	if (WIFSIGNALED(status))
		fprintf(stderr, "FAIL seed %" PRIu64 ": %s\n", seed,
			WTERMSIG(status) == SIGALRM ? "it took too long" : strsignal(WTERMSIG(status)));
	if (seed < job->end)
		fprintf(stderr, "  replay with: crash %s %" PRIu64 "%s\n",
			jobs->opt->prefixes ? "--prefixes 1 --first" : "--seed", seed,
			jobs->opt->prefixes ? "" : " --verbose; cut it down with --shrink");
	if (jobs->failures < FAILURES_MAX)
		jobs->failed[jobs->failures] = seed;
	jobs->failures++;
	*job->seed += jobs->opt->jobs;
	if (*job->seed < job->end && !jobs->opt->stop && jobs->failures < FAILURES_MAX)
		start_job(jobs, job);
}

static void job_ended(struct jobs *jobs, pid_t pid, int status)
{
	for (unsigned i = 0; i < jobs->opt->jobs; i++) {
		struct job *job = &jobs->job[i];

		if (job->pid != pid)
			continue;
		job->pid = 0;
		jobs->running--;
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			job_failed(jobs, job, status);
	}
	if (jobs->opt->stop && jobs->failures)
		for (unsigned i = 0; i < jobs->opt->jobs; i++)
			if (jobs->job[i].pid > 0)
				kill(jobs->job[i].pid, SIGKILL);
}

static int report(const struct jobs *jobs, uint64_t count, const struct timespec *start)
{
	const struct options *opt = jobs->opt;
	struct timespec end;
	double seconds;

	clock_gettime(CLOCK_MONOTONIC_RAW, &end);
	seconds = (double)(end.tv_sec - start->tv_sec) + (double)(end.tv_nsec - start->tv_nsec) / 1e9;
	printf("crash: %" PRIu64 " %s from %" PRIu64 " on, %u failed, %.1f s, %.1f ms each on each of %u\n",
	       count, opt->prefixes ? "runs with every prefix" : "seeds", opt->first, jobs->failures, seconds,
	       seconds * 1000 * opt->jobs / (double)count, opt->jobs);
	if (opt->shrink && !opt->prefixes)
		for (unsigned i = 0; i < jobs->failures && i < FAILURES_MAX; i++)
			(void)shrink(history_new(jobs->failed[i]), NULL);
	return jobs->failures != 0;
}

static int run_many(const struct options *opt)
{
	struct jobs *jobs = calloc(1, sizeof(*jobs));
	uint64_t count = opt->prefixes ? opt->prefixes : opt->seeds, *seeds;
	struct timespec start;
	int status, r;
	pid_t pid;

	seeds = mmap(NULL, JOBS_MAX * sizeof(*seeds), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	ASSERT(jobs && seeds != MAP_FAILED);
	clock_gettime(CLOCK_MONOTONIC_RAW, &start);
	jobs->opt = opt;
	for (unsigned i = 0; i < opt->jobs; i++) {
		jobs->job[i].seed = &seeds[i];
		jobs->job[i].end = opt->first + count;
		seeds[i] = opt->first + i;
		start_job(jobs, &jobs->job[i]);
	}
	while (jobs->running && (pid = waitpid(-1, &status, 0)) > 0)
		job_ended(jobs, pid, status);
	r = report(jobs, count, &start);
	munmap(seeds, JOBS_MAX * sizeof(*seeds));
	free(jobs);
	return r;
}

/* ---- the command line ---------------------------------------------------------- */

static int usage(void)
{
	fprintf(stderr, "usage: crash --seeds N [--first S] [--jobs J] [--stop] [--shrink]\n"
			"       crash --seed S | --replay FILE [--verbose] [--save FILE] [--shrink]\n"
			"       crash --prefixes N [--first S] [--jobs J]\n");
	return 2;
}

static bool parse(int argc, char **argv, struct options *opt)
{
	static const struct option longs[] = {
		{"seeds", required_argument, NULL, 'n'},
		{"first", required_argument, NULL, 'f'},
		{"jobs", required_argument, NULL, 'j'},
		{"seed", required_argument, NULL, 's'},
		{"replay", required_argument, NULL, 'r'},
		{"save", required_argument, NULL, 'o'},
		{"prefixes", required_argument, NULL, 'p'},
		{"verbose", no_argument, NULL, 'v'},
		{"shrink", no_argument, NULL, 'k'},
		{"stop", no_argument, NULL, 'x'},
		{NULL, 0, NULL, 0},
	};
	int c;

	*opt = (struct options){.first = 1, .jobs = 1};
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'n': opt->seeds = strtoull(optarg, NULL, 0); break;
		case 'f': opt->first = strtoull(optarg, NULL, 0); break;
		case 'j': opt->jobs = (unsigned)strtoul(optarg, NULL, 0); break;
		case 's': opt->seed = strtoull(optarg, NULL, 0), opt->one = true; break;
		case 'r': opt->replay = optarg; break;
		case 'o': opt->save = optarg; break;
		case 'p': opt->prefixes = strtoull(optarg, NULL, 0); break;
		case 'v': opt->verbose = true; break;
		case 'k': opt->shrink = true; break;
		case 'x': opt->stop = true; break;
		default: return false;
		}
	}
	return optind == argc && opt->jobs >= 1 && opt->jobs <= JOBS_MAX &&
	       (opt->seeds != 0) + (opt->prefixes != 0) + opt->one + (opt->replay != NULL) == 1;
}

int main(int argc, char **argv)
{
	struct options opt;

	if (!parse(argc, argv, &opt))
		return usage();
	if (opt.one)
		return run_one(history_new(opt.seed), &opt);
	if (opt.replay)
		return run_one(history_load(opt.replay), &opt);
	return run_many(&opt);
}
