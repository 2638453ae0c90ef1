#include "tests/bench/client/clock.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double clock_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void samples_add(struct samples *samples, double value)
{
	if (samples->count == samples->capacity) {
		samples->capacity = samples->capacity > 0 ? 2 * samples->capacity : 1024;
		samples->values = reallocarray(samples->values, samples->capacity, sizeof(double));
		if (samples->values == NULL) {
			err(1, "samples");
		}
	}
	samples->values[samples->count++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double samples_quantile(struct samples *samples, double part)
{
	if (samples->count == 0) {
		return 0;
	}
	qsort(samples->values, samples->count, sizeof(double), compare);
	return samples->values[(size_t)(part * (double)(samples->count - 1))];
}

double samples_mean(const struct samples *samples)
{
	double sum = 0;
	for (size_t i = 0; i < samples->count; i++) {
		sum += samples->values[i];
	}
	return samples->count > 0 ? sum / (double)samples->count : 0;
}

void samples_finish(struct samples *samples)
{
	free(samples->values);
	*samples = (struct samples){0};
}

static void announce(const struct stopwatch *watch, const char *what)
{
	if (!watch->announce) {
		return;
	}
	puts(what);
	fflush(stdout);
	int c;
	do {
		c = getchar();
	} while (c != '\n' && c != EOF);
}

void stopwatch_start(struct stopwatch *watch)
{
	announce(watch, "start");
	watch->started = clock_now();
}

void stopwatch_stop(struct stopwatch *watch)
{
	watch->total += clock_now() - watch->started;
	announce(watch, "stop");
}

void latencies_print(const char *workload, struct samples *samples, const struct stopwatch *watch)
{
	printf("{\"workload\": \"%s\", \"count\": %zu, \"seconds\": %.6f, \"p50_us\": %.2f, "
	       "\"p95_us\": %.2f, \"mean_us\": %.2f}\n",
		workload, samples->count, watch->total, samples_quantile(samples, 0.5) * 1e6,
		samples_quantile(samples, 0.95) * 1e6, samples_mean(samples) * 1e6);
	samples_finish(samples);
}
