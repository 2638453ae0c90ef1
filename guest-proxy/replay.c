#include "guest-proxy/replay.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "channel/recording.h"
#include "guest-proxy/minimise.h"
#include "guest-proxy/mutation.h"
#include "guest-proxy/options.h"
#include "guest-proxy/player.h"

#define PATIENCE_MS         10000
#define MUTATED_PATIENCE_MS 1000
#define MAX_RUNS            400

static bool load(const char *path, struct recording *recording)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		log_errno("cannot open %s", path);
		return false;
	}
	const char *wrong = recording_read(recording, fd);
	close(fd);
	if (wrong == NULL && strcmp(recording->service, SERVICE_WAYLAND) != 0) {
		wrong = "a recording of another service than Wayland";
	}
	if (wrong != NULL) {
		log_error("cannot replay %s: %s", path, wrong);
	} else if (recording->torn) {
		log_warn("%s ends within a frame, which is left out", path);
	}
	return wrong == NULL;
}

static void save(const char *path, const struct recording *recording)
{
	char beside[PATH_MAX], name[PATH_MAX];
	snprintf(beside, sizeof(beside), "%s.min", path);
	int fd = record_create_file(beside, name, sizeof(name));
	if (fd < 0 || !recording_write(recording, fd)) {
		log_error("cannot write %s", name);
		return;
	}
	printf("minimised recording: %s\n", name);
}

static void minimise(const struct guest_options *options, struct recording *recording)
{
	const struct minimise_options minimise = {
		.guest = options,
		.restart_command = options->replay.restart_command,
		.max_runs = MAX_RUNS,
	};
	size_t n_runs;
	if (!mutation_split(recording)) {
		log_error("out of memory");
		return;
	}
	if (!minimise_run(&minimise, recording, &n_runs)) {
		printf("it does not happen again at full speed: nothing is minimised\n");
		return;
	}
	printf("played %zu times to minimise it\n", n_runs);
	save(options->replay.path, recording);
}

static void report(
	const struct replay_options *replay, const struct player_result *result, size_t n_mutations)
{
	if (replay->mutate) {
		printf("seed %" PRIu64 ": %zu mutations\n", replay->seed, n_mutations);
	}
	printf("%zu frames sent, %zu requests left out, %zu waits given up\n", result->frames,
		result->left_out, result->given_up);
	if (!result->complete) {
		printf("ended early: %s\n", result->reason);
	}
}

static int judge(const struct guest_options *options, struct recording *recording,
	const struct player_result *result)
{
	const struct replay_options *replay = &options->replay;
	bool mutated = (recording->flags & RECORD_MUTATED) != 0;
	if (result->complete || result->stopped) {
		return EXIT_SUCCESS;
	}
	if (!result->welcomed) {
		return EXIT_FAILURE; // nothing has come of it
	}
	if (minimise_probe(options)) {
		return mutated ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	printf("the compositor is gone, or does not answer\n");
	if (replay->mutate) {
		printf("failing seed: %" PRIu64 "\n", replay->seed);
	}
	if (replay->restart_command != NULL) {
		minimise(options, recording);
	}
	return REPLAY_COMPOSITOR_GONE;
}

static int play(const struct guest_options *options, struct recording *recording)
{
	const struct replay_options *replay = &options->replay;
	size_t n_mutations = 0;
	if (replay->mutate && !mutation_apply(recording, replay->seed, &n_mutations)) {
		log_error("out of memory");
		return EXIT_FAILURE;
	}
	bool mutated = (recording->flags & RECORD_MUTATED) != 0;
	const struct player_options player = {
		.guest = options,
		.speed = replay->speed,
		.hold = replay->hold,
		.patience_ms = mutated ? MUTATED_PATIENCE_MS : PATIENCE_MS,
	};
	struct player_result result;
	player_run(&player, recording, &result);
	report(replay, &result, n_mutations);
	return judge(options, recording, &result);
}

int replay_main(const struct guest_options *options)
{
	struct recording recording;
	int status = EXIT_FAILURE;
	signal(SIGPIPE, SIG_IGN);
	recording_init(&recording);
	if (load(options->replay.path, &recording)) {
		status = play(options, &recording);
	}
	recording_finish(&recording);
	return status;
}
