#ifndef TESTS_BENCH_CLIENT_CLOCK_H
#define TESTS_BENCH_CLIENT_CLOCK_H

#include <stdbool.h>
#include <stddef.h>

double clock_now(void); // seconds

struct samples {
	double *values;
	size_t count, capacity;
};

void samples_add(struct samples *samples, double value);
// The value that the given part (0 to 1) of the samples does not exceed; 0 where there are none.
// Sorts the samples.
double samples_quantile(struct samples *samples, double part);
double samples_mean(const struct samples *samples);
void samples_finish(struct samples *samples);

// Sums up the time that counts. With announce, each start and stop is a line on stdout and goes on
// when a line comes back on stdin: so somebody else can read other clocks at the same moments.
struct stopwatch {
	bool announce;
	double started, total;
};

void stopwatch_start(struct stopwatch *watch);
void stopwatch_stop(struct stopwatch *watch);

// Prints a workload's line, see workloads.h. The samples are seconds, and finished.
void latencies_print(const char *workload, struct samples *samples, const struct stopwatch *watch);

#endif
