#include "program/worker.h"

#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <string.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/workers.h"
#include "channel/record.h"
#include "program/asker.h"
#include "program/confine.h"
#include "program/options.h"
#include "program/records.h"
#include "relay/session.h"

/*
 * An event's priority is PRIORITIES / 2 = 1 unless it is set, and libevent calls it only when none
 * of a lower number is active. Counts of eventfds go at the last, event_base_get_npriorities() - 1,
 * so that bytes that were written before a count leave before it. Of two priorities, the default
 * would be the last already.
 */
#define PRIORITIES 3

#define LEAVE_MS 1000

struct worker {
	const struct worker_config *config;
	struct event_base *base;
	struct event *terminate; // SIGTERM
	struct event *print;     // SIGUSR1
	struct session *session;
	struct record *record; // NULL: none
	struct asker *asker;   // NULL: the session shares nothing
	struct content_store contents;
	struct confine_filters filters;
	unsigned int number;
	uint32_t service;
	int attached_fd; // -1: none, or handed over
	struct worker_peer peer;
	uint8_t link[16]; // of a guest's session
	struct budget budget;
	bool ended;
	bool failed;   // with a reason
	bool forsaken; // the parent does not read
};

static void handle_ended(void *data, const char *reason)
{
	struct worker *worker = data;
	worker->ended = true;
	worker->failed = reason != NULL;
	event_base_loopbreak(worker->base);
}

// The parent may be slow to read, or stopped. We do not wait for ever.
static void handle_left(void *data, int fd, const uint64_t amounts[BUDGET_COUNT])
{
	struct worker *worker = data;
	struct record_left record = {.type = RECORD_LEFT};
	memcpy(record.amounts, amounts, sizeof(record.amounts));
	struct pollfd parent = {
		.fd = worker->config->options->session_fd,
		.events = POLLOUT,
	};
	if (!worker->forsaken && poll(&parent, 1, LEAVE_MS) == 1) {
		workers_report(parent.fd, &record, sizeof(record), fd);
	} else {
		worker->forsaken = true;
	}
}

static void handle_stored(void *data, const struct content_hash *hash, int fd)
{
	struct worker *worker = data;
	const struct record_stored record = {.type = RECORD_STORED, .hash = *hash};
	workers_report(worker->config->options->session_fd, &record, sizeof(record), fd);
}

static bool handle_ask(void *data, const struct event_note *note, int fd)
{
	return asker_send(((struct worker *)data)->asker, note, fd);
}

static uint32_t handle_offer_global(void *data, const char *interface, uint32_t version)
{
	const struct worker_config *config = ((struct worker *)data)->config;
	return config->offer_global(config->data, interface, version);
}

static void print_stats(const struct worker *worker)
{
	char title[64];
	struct stats stats = *session_stats(worker->session);
	stats.sessions = 1;
	snprintf(title, sizeof(title), "%s: session %u", worker->config->program, worker->number);
	stats_print(stderr, title, &stats);
	snprintf(title, sizeof(title), "%s: budget of session %u", worker->config->program,
		worker->number);
	budget_print(stderr, title, &worker->budget);
}

static void handle_terminate(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	struct worker *worker = data;
	char reason[64];
	snprintf(reason, sizeof(reason), "%s is stopping", worker->config->program);
	if (!worker->ended) {
		session_stop(worker->session, reason);
	}
}

static void handle_print(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	print_stats(data);
}

// Where SIGUSR1 has no handler of ours it would end us: it is blocked from the start, and again at
// the end, since the parent cannot know how far we are.
static void block_signals(int how)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(how, &set, NULL);
}

static bool worker_init(struct worker *worker, const struct worker_config *config)
{
	*worker = (struct worker){.config = config, .attached_fd = -1};
	content_store_init(&worker->contents);
	worker->base = event_base_new();
	if (worker->base == NULL || event_base_priority_init(worker->base, PRIORITIES) < 0) {
		return false;
	}
	worker->terminate = evsignal_new(worker->base, SIGTERM, handle_terminate, worker);
	worker->print = evsignal_new(worker->base, SIGUSR1, handle_print, worker);
	return worker->terminate != NULL && worker->print != NULL;
}

static void worker_finish(struct worker *worker)
{
	session_destroy(worker->session);
	block_signals(SIG_BLOCK);
	asker_destroy(worker->asker);
	record_destroy(worker->record);
	if (worker->terminate != NULL) {
		event_free(worker->terminate);
	}
	if (worker->print != NULL) {
		event_free(worker->print);
	}
	if (worker->base != NULL) {
		event_base_free(worker->base);
	}
	budget_leave(&worker->budget);
	content_store_finish(&worker->contents);
	confine_finish(&worker->filters);
}

static void prepare(const struct worker_config *config, struct confine_filters *filters)
{
	if (!config->options->no_sandbox) {
		confine_prepare(filters, config->strict_sandbox);
	}
	session_prepare(config->exports); // last: it leaves memory as a session wants it
}

// Somebody waits already: there is no time to prepare for it.
static bool is_assigned(const struct worker *worker)
{
	struct pollfd session = {
		.fd = worker->config->options->session_fd,
		.events = POLLIN,
	};
	return poll(&session, 1, 0) == 1;
}

static bool is_record(
	const struct worker *worker, const struct record_session *record, const struct fdlist *fds)
{
	return record->type == RECORD_SESSION && record->of_vm <= 1 && record->attached <= 1 &&
		record->service <= worker->config->options->services.count &&
		record->n_contents <= CONTENT_STORE_MAX &&
		fds->count == 1 + record->attached + record->of_vm + record->n_contents;
}

// The connection, or -1.
static int take_record(
	struct worker *worker, const struct record_session *record, struct fdlist *fds)
{
	worker->number = record->number;
	worker->service = record->service;
	worker->peer = record->peer;
	memcpy(worker->link, record->link, sizeof(worker->link));
	int fd = fdlist_take(fds);
	worker->attached_fd = record->attached > 0 ? fdlist_take(fds) : -1;
	if (record->of_vm && !budget_join(&worker->budget, fdlist_take(fds), record->slot)) {
		log_errno("session %u: cannot map its VM's budget", record->number);
		close(fd);
		return -1;
	}
	if (record->of_vm) {
		worker->budget.leave = handle_left;
		worker->budget.leave_data = worker;
	}
	for (size_t i = 0; i < record->n_contents; i++) {
		content_store_put(&worker->contents, &record->contents[i], fdlist_take(fds));
	}
	return fd;
}

// The connection, or -1 if there is none to serve; *status is the exit status then.
static int receive_session(struct worker *worker, int *status)
{
	struct record_session record;
	struct fdlist fds;
	fdlist_init(&fds);
	int fd = -1;
	if (!is_assigned(worker)) {
		prepare(worker->config, &worker->filters);
		workers_ready(worker->config->options->session_fd);
	}
	ssize_t n =
		workers_receive(worker->config->options->session_fd, &record, sizeof(record), &fds);
	*status = n == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	if (n == sizeof(record) && is_record(worker, &record, &fds)) {
		fd = take_record(worker, &record, &fds);
	} else if (n != 0) {
		log_error("--session-fd is for our own use");
	}
	fdlist_finish(&fds);
	return fd;
}

static void hand_over_attached(struct worker *worker)
{
	int fd = worker->attached_fd;
	worker->attached_fd = -1;
	if (fd < 0) {
		return;
	}
	if (worker->config->attached != NULL) {
		worker->config->attached(worker->config->data, fd);
	} else {
		close(fd);
	}
}

// From here on all that the process does is run the session.
static bool confine(struct worker *worker, const struct session_options *session)
{
	const struct program_options *options = worker->config->options;
	const struct confine_options confine = {
		.any_kind = session->service != NULL,
		.strict = worker->config->strict_sandbox,
		.max_memory = session->budget->limits.most[BUDGET_MEMORY],
		.max_fds = session->budget->limits.most[BUDGET_FDS],
		.maps_guest = worker->peer.by_device,
		.session_fd = options->session_fd,
	};
	return options->no_sandbox || confine_session(&worker->filters, &confine) == 0;
}

// The new file of the session; -1: none, or it cannot be made.
static int open_record(const struct program_options *options)
{
	char name[PATH_MAX];
	if (options->record == NULL) {
		return -1;
	}
	int fd = record_create_file(options->record, name, sizeof(name));
	if (fd < 0) {
		log_warn("not recorded: cannot create %s: %s", name, strerror(-fd));
	} else {
		log_info("recorded in %s", name);
	}
	return fd;
}

// Takes fd.
static void start_record(struct worker *worker, int fd, struct session_options *session)
{
	const char *service = session->service != NULL ? session->service : SERVICE_WAYLAND;
	bool to_host = session->exports == WIRE_REQUEST;
	worker->record = record_create(fd, to_host ? RECORD_TO_HOST : RECORD_TO_GUEST, service, 0);
	session->record = worker->record;
	if (worker->record == NULL) {
		log_warn("not recorded: %m");
	}
}

// Other sessions of its link may pass the same eventfds. Wayland's pass none.
static void create_asker(struct worker *worker, struct session_options *options)
{
	static const uint8_t none[16];
	if (options->service == NULL || memcmp(options->link, none, sizeof(none)) == 0) {
		return;
	}
	int fd = worker->config->options->session_fd;
	worker->asker = asker_create(worker->base, fd, options->link);
	options->ask = worker->asker != NULL ? handle_ask : NULL;
}

// Takes fd.
static bool create_session(struct worker *worker, int fd)
{
	const struct worker_config *config = worker->config;
	hand_over_attached(worker);
	const struct services *services = &config->options->services;
	worker->budget.limits = *config->limits;
	struct session_options options = {
		.base = worker->base,
		.exports = config->exports,
		.local_fd = -1,
		.channel_fd = -1,
		.service = worker->service > 0 ? services->list[worker->service - 1].name : NULL,
		.rules = config->options->rules,
		.dmabufs = worker->service == 0 && !config->options->no_dmabuf,
		.budget = &worker->budget,
		.ping_interval = config->options->ping_interval,
		.ping_timeout = config->options->ping_timeout,
		.contents = &worker->contents,
		.offer_global = config->offer_global != NULL ? handle_offer_global : NULL,
		.trace = config->options->trace ? stderr : NULL,
		.ended = handle_ended,
		.stored = config->keeps_contents ? handle_stored : NULL,
		.data = worker,
	};
	int record_fd = open_record(config->options); // as long as files can be opened
	memcpy(options.link, worker->link, sizeof(options.link));
	if (!config->prepare(config->data, fd, &worker->peer, &options)) {
		if (record_fd >= 0) {
			close(record_fd);
		}
		return false;
	}
	options.serves_files = options.service != NULL;
	if (record_fd >= 0) {
		start_record(worker, record_fd, &options);
	}
	create_asker(worker, &options);
	worker->session = session_create(&options);
	if (worker->session == NULL) {
		const char *over = budget_exceeded(&worker->budget);
		log_error("cannot create the session: %s", over != NULL ? over : strerror(errno));
		return false;
	}
	if (worker->asker != NULL) {
		asker_set_session(worker->asker, worker->session);
	}
	return confine(worker, &options);
}

static bool run_session(struct worker *worker)
{
	if (event_add(worker->terminate, NULL) < 0 || event_add(worker->print, NULL) < 0) {
		log_error("cannot handle signals");
		return false;
	}
	block_signals(SIG_UNBLOCK);
	while (!worker->ended) {
		if (event_base_dispatch(worker->base) != 0) {
			log_error("the session waits for nothing any more");
			worker->failed = true;
			break;
		}
	}
	const struct record_stats record = {
		.type = RECORD_STATS,
		.stats = *session_stats(worker->session),
	};
	workers_report(worker->config->options->session_fd, &record, sizeof(record), -1);
	if (worker->config->options->stats) {
		print_stats(worker);
	}
	return !worker->failed;
}

/* libevent tries files with epoll before it takes them as always ready, and tells of it. */
static void log_libevent(int severity, const char *text)
{
	(void)severity;
	log_debug("libevent: %s", text);
}

int worker_run(const struct worker_config *config)
{
	struct worker worker;
	int status = EXIT_FAILURE;
	event_set_log_callback(log_libevent);
	prctl(PR_SET_NAME, config->program); // it would be "exe" after /proc/self/exe
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); // a recording that may not grow is told so by write
	signal(SIGINT, SIG_IGN);  // of a terminal: the parent decides
	signal(SIGHUP, SIG_IGN);  // as well
	if (!worker_init(&worker, config)) {
		log_error("cannot create an event loop");
		worker_finish(&worker);
		return status;
	}
	int fd = receive_session(&worker, &status);
	if (fd >= 0) {
		log_set_session(worker.number);
		bool ok = create_session(&worker, fd) && run_session(&worker);
		status = ok ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	worker_finish(&worker);
	return status;
}
