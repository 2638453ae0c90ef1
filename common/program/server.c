#include "program/server.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/acceptor.h"
#include "base/child.h"
#include "base/closer.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/rlimit.h"
#include "base/sandbox.h"
#include "base/workers.h"
#include "channel/channel.h"
#include "program/eventfds.h"
#include "program/options.h"
#include "program/records.h"
#include "program/vms.h"
#include "relay/token.h"

#define GRACE_MS 2000
#define LOOK_MS  100
#define SIGNALS  4

static_assert(sizeof(struct record_session) <= CHILD_RECORD_MAX, "fits a record");
static_assert(sizeof(struct record_event) <= CHILD_RECORD_MAX, "fits a record");
static_assert(sizeof(struct record_stats) <= CHILD_RECORD_MAX, "fits a record");
static_assert(sizeof(struct record_denied) <= CHILD_RECORD_MAX, "fits a record");
static_assert(sizeof(struct record_left) <= CHILD_RECORD_MAX, "fits a record");

struct entrance {
	struct server *server;
	struct acceptor *acceptor; // NULL: nobody is accepted any more
	uint32_t service;
};

// Of a session, as long as its process lives.
struct seat {
	struct wl_list link; // server.seats
	unsigned int number;
	uint32_t service;
	struct worker_peer peer;
	struct vm *vm; // NULL: none
	size_t slot;
	bool violated; // its sandbox: it is dying, and says so once
};

struct server {
	struct server_config config;
	struct entrance entrances[SERVER_MAX_LISTENERS];
	struct workers *workers;
	struct wl_list seats; // seat.link
	struct eventfds eventfds;
	uint8_t link[16]; // of all sessions
	struct vms *vms;  // NULL: none
	struct event *signals[SIGNALS];
	struct event *deadline; // of server_finish
	struct event *look;     // pending while there is something that nobody has read
	struct content_store contents;
	int attached_fd;      // for each session; -1: none
	struct stats totals;  // of the sessions that have ended
	unsigned int numbers; // of sessions, given out so far
	int status;
	bool accepting;
	bool finishing;
	bool stopping;
};

static void print_totals(const struct server *server)
{
	char title[64];
	snprintf(title, sizeof(title), "%s: sessions that have ended", server->config.program);
	stats_print(stderr, title, &server->totals);
	if (server->vms != NULL) {
		vms_print(server->vms, stderr, server->config.program);
	}
}

static void stop(struct server *server)
{
	server->stopping = true;
	event_base_loopbreak(server->config.base);
}

static bool push_copy(struct fdlist *fds, int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0 || !fdlist_push(fds, copy)) {
		log_errno("cannot give a session its files");
		return false;
	}
	return true;
}

// The record of a new session, with the files that it may use.
static bool prepare_record(const struct server *server, const struct seat *seat,
	struct record_session *record, struct fdlist *fds)
{
	*record = (struct record_session){
		.type = RECORD_SESSION,
		.number = seat->number,
		.service = seat->service,
		.peer = seat->peer,
		.of_vm = seat->vm != NULL,
		.slot = (uint32_t)seat->slot,
	};
	if (server->attached_fd >= 0) {
		if (!push_copy(fds, server->attached_fd)) {
			return false;
		}
		record->attached = 1;
	}
	memcpy(record->link, server->link, sizeof(record->link));
	if (seat->vm != NULL && !push_copy(fds, vm_page(seat->vm))) {
		return false;
	}
	for (size_t i = 0; i < server->contents.count; i++) {
		const struct content_entry *entry = &server->contents.entries[i];
		if (!push_copy(fds, entry->fd)) {
			return false;
		}
		record->contents[record->n_contents++] = entry->hash;
	}
	return true;
}

static void seat_destroy(struct seat *seat)
{
	if (seat->vm != NULL) {
		vm_leave(seat->vm, seat->slot);
	}
	wl_list_remove(&seat->link);
	free(seat);
}

// NULL with errno, as vms_enter.
static struct seat *seat_create(
	struct server *server, uint32_t service, const struct worker_peer *peer)
{
	struct seat *seat = calloc(1, sizeof(*seat));
	if (seat == NULL) {
		return NULL;
	}
	if (server->vms != NULL) {
		seat->vm = vms_enter(server->vms, peer->cid, channel_clock(), &seat->slot);
		if (seat->vm == NULL) {
			int saved = errno;
			free(seat);
			errno = saved;
			return NULL;
		}
	}
	seat->number = ++server->numbers;
	seat->service = service;
	seat->peer = *peer;
	wl_list_insert(&server->seats, &seat->link);
	return seat;
}

static struct seat *find_seat(struct server *server, unsigned int number)
{
	struct seat *seat;
	wl_list_for_each (seat, &server->seats, link) {
		if (seat->number == number) {
			return seat;
		}
	}
	return NULL;
}

// Takes fd, which may have been sent what a close waits for.
static void refuse(struct server *server, uint32_t service, const char *text, int fd)
{
	server->config.refuse(fd, service, text);
	closer_close_socket(fd);
}

// Takes fd. False: it has no process, which has been logged.
static bool give_process(struct server *server, const struct seat *seat, int fd)
{
	struct record_session record;
	struct fdlist fds;
	fdlist_init(&fds);
	bool ok = fdlist_push(&fds, fd) && prepare_record(server, seat, &record, &fds);
	int error = ok
		? workers_assign(server->workers, seat->number, &record, sizeof(record), &fds)
		: -errno;
	if (error < 0 && fds.count > 0) {
		log_limited(LOG_ERROR, "session %u: cannot be started: %s", seat->number,
			strerror(-error));
		refuse(server, seat->service, "no process can be started for it",
			fdlist_take(&fds));
	}
	fdlist_finish(&fds);
	return error == 0;
}

// Takes fd.
static void turn_away(struct server *server, uint32_t service, const char *text, int fd)
{
	log_limited(LOG_WARN, "a connection was turned away: %s", text);
	refuse(server, service, text, fd);
}

// Takes fd.
static void turn_away_unseated(struct server *server, uint32_t service, int error, int fd)
{
	switch (error) {
	case EAGAIN: // which the log says from time to time
		refuse(server, service, "too many connections per second (--connection-rate)", fd);
		break;
	case EDQUOT:
		turn_away(server, service, "over the VM's budget of sessions (--max-vm-sessions)",
			fd);
		break;
	case ENOBUFS:
		turn_away(server, service,
			"programs on the host have not read what the VM's sessions have left", fd);
		break;
	default:
		turn_away(server, service, strerror(error), fd);
		break;
	}
}

// Takes fd.
static void start_session(
	struct server *server, uint32_t service, const struct worker_peer *peer, int fd)
{
	struct seat *seat = seat_create(server, service, peer);
	if (seat == NULL) {
		turn_away_unseated(server, service, errno, fd);
		return;
	}
	if (server->config.prepare != NULL) {
		server->config.prepare(server->config.data);
	}
	if (!give_process(server, seat, fd)) {
		seat_destroy(seat);
	}
}

static void stop_accepting(struct server *server)
{
	server->accepting = false;
	for (size_t i = 0; i < SERVER_MAX_LISTENERS; i++) {
		struct entrance *entrance = &server->entrances[i];
		if (entrance->acceptor != NULL) {
			closer_close_socket(acceptor_take_socket(entrance->acceptor));
			entrance->acceptor = NULL;
		}
	}
}

// Takes fd.
static void admit(struct server *server, uint32_t service, struct worker_peer peer, int fd)
{
	unsigned int max = server->config.options->max_sessions;
	if (server->config.admit != NULL && !server->config.admit(server->config.data, fd, &peer)) {
		closer_close_socket(fd);
		return;
	}
	if (workers_busy(server->workers) >= max) {
		char text[64];
		snprintf(text, sizeof(text), "too many sessions (%u)", max);
		turn_away(server, service, text, fd);
		return;
	}
	start_session(server, service, &peer, fd);
	if (server->config.options->oneshot) {
		stop_accepting(server);
		if (workers_busy(server->workers) == 0 && !server->config.waits_for_finish) {
			server->status = EXIT_FAILURE; // it could not be started
			stop(server);
		}
	}
}

static void handle_connected(void *data, int fd)
{
	const struct entrance *entrance = data;
	const struct worker_peer unknown = {0};
	admit(entrance->server, entrance->service, unknown, fd);
}

static void keep_content(
	struct server *server, const struct record_stored *stored, struct fdlist *fds)
{
	if (fds->count != 1) {
		return;
	}
	if (!content_check(&stored->hash, *fdlist_peek(fds))) {
		log_limited(LOG_WARN, "a file that a session stored is not what it was said to be");
		return;
	}
	content_store_put(&server->contents, &stored->hash, fdlist_take(fds));
}

static void log_denied(
	struct server *server, unsigned int number, const struct record_denied *denied)
{
	const struct seat *seat = find_seat(server, number);
	char from[64] = "a local program";
	if (seat != NULL && seat->peer.cid != 0) {
		snprintf(from, sizeof(from), "vsock cid %u port %u", seat->peer.cid,
			seat->peer.port);
	}
	log_limited(LOG_WARN, "session %u: %s was turned away: %.*s", number, from,
		(int)sizeof(denied->text) - 1, denied->text);
}

static bool tell_session(void *data, unsigned int number, const struct event_note *note, int fd)
{
	struct server *server = data;
	const struct record_event record = {.type = RECORD_EVENT, .note = *note};
	int error = workers_tell(server->workers, number, &record, sizeof(record), fd);
	if (error < 0 && error != -EPIPE && error != -ESRCH) {
		log_limited(LOG_WARN, "session %u: cannot be told of an eventfd: %s", number,
			strerror(-error));
	}
	return error == 0;
}

static bool handle_event_record(struct server *server, unsigned int number,
	const struct record_event *record, struct fdlist *fds)
{
	const struct seat *seat = find_seat(server, number);
	if (seat == NULL) {
		return false;
	}
	const struct eventfds_asker asker = {.session = number, .cid = seat->peer.cid};
	return eventfds_handle(&server->eventfds, &asker, record, fdlist_take(fds));
}

static void look_later(struct server *server)
{
	const struct timeval later = {.tv_usec = LOOK_MS * 1000};
	if (!event_pending(server->look, EV_TIMEOUT, NULL)) {
		event_add(server->look, &later);
	}
}

static void handle_look(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct server *server = data;
	if (vms_look(server->vms)) {
		look_later(server);
	}
}

static bool take_left(struct server *server, unsigned int number, const struct record_left *left,
	struct fdlist *fds)
{
	const struct seat *seat = find_seat(server, number);
	if (seat == NULL || seat->vm == NULL || fds->count == 0) {
		return false;
	}
	look_later(server);
	return vm_leave_unread(seat->vm, fdlist_take(fds), left->amounts);
}

// Nobody else's lines can hide it, and it is said once of each process.
static bool log_violation(struct server *server, const struct workers_sender *from,
	const struct sandbox_violation *violation)
{
	struct seat *seat = find_seat(server, from->number);
	if (seat == NULL || seat->violated) {
		return false;
	}
	seat->violated = true;
	sandbox_log_violation(from->pid, violation);
	return true;
}

static bool take_record(struct server *server, const struct workers_sender *from,
	const void *record, size_t len, struct fdlist *fds)
{
	uint32_t type = 0;
	memcpy(&type, record, len < sizeof(type) ? len : sizeof(type));
	if (type == RECORD_EVENT && len == sizeof(struct record_event)) {
		return handle_event_record(server, from->number, record, fds);
	}
	if (type == RECORD_LEFT && len == sizeof(struct record_left)) {
		return take_left(server, from->number, record, fds);
	}
	bool keeps = server->config.keeps_contents;
	if (keeps && type == RECORD_STORED && len == sizeof(struct record_stored)) {
		keep_content(server, record, fds);
	} else if (fds->count > 0) {
		return false;
	} else if (type == RECORD_STATS && len == sizeof(struct record_stats)) {
		struct record_stats part;
		memcpy(&part, record, sizeof(part));
		part.stats.sessions = 0; // counted when the process is gone
		stats_add(&server->totals, &part.stats);
	} else if (type == RECORD_VIOLATION && len == sizeof(struct sandbox_violation)) {
		return log_violation(server, from, record);
	} else if (type == RECORD_DENIED && len == sizeof(struct record_denied)) {
		log_denied(server, from->number, record);
	} else {
		return false;
	}
	return true;
}

static bool handle_record(void *data, const struct workers_sender *from, const void *record,
	size_t len, struct fdlist *fds)
{
	bool ok = take_record(data, from, record, len, fds);
	if (!ok) {
		log_limited(LOG_WARN,
			"session %u: its process sent a record that makes no sense, and is killed",
			from->number);
	}
	return ok;
}

static void log_crash(const struct server *server, pid_t pid, int signal)
{
	if (server->stopping && (signal == SIGTERM || signal == SIGKILL)) {
		return; // ours
	}
	const char *name = sigabbrev_np(signal);
	log_error("session process %d crashed: SIG%s", (int)pid, name != NULL ? name : "?");
}

static void handle_gone(void *data, const struct workers_sender *from, int status)
{
	struct server *server = data;
	struct seat *seat = find_seat(server, from->number);
	server->totals.sessions++;
	if (seat != NULL) {
		seat_destroy(seat);
	}
	eventfds_forget(&server->eventfds, from->number);
	if (WIFSIGNALED(status)) {
		log_crash(server, from->pid, WTERMSIG(status));
	}
	if (workers_busy(server->workers) > 0 || server->stopping) {
		return;
	}
	bool done = !server->accepting && !server->config.waits_for_finish;
	if (done || server->finishing) {
		stop(server);
	}
}

static const struct workers_handler workers_handler = {
	.record = handle_record,
	.gone = handle_gone,
};

static void handle_stop_signal(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	stop(data);
}

static void handle_stats_signal(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	struct server *server = data;
	print_totals(server);
	workers_signal(server->workers, SIGUSR1);
}

static void handle_reload_signal(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	const struct server *server = data;
	server->config.reload(server->config.data);
}

static void handle_deadline(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	stop(data);
}

// Started by nohup(1), or by who wants the same.
static bool ignores_hangup(void)
{
	struct sigaction action;
	return sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static bool add_signals(struct server *server)
{
	struct event_base *base = server->config.base;
	signal(SIGPIPE, SIG_IGN);
	server->signals[0] = evsignal_new(base, SIGTERM, handle_stop_signal, server);
	server->signals[1] = evsignal_new(base, SIGINT, handle_stop_signal, server);
	server->signals[2] = evsignal_new(base, SIGUSR1, handle_stats_signal, server);
	size_t n = 3;
	if (server->config.reload != NULL) {
		server->signals[n++] = evsignal_new(base, SIGHUP, handle_reload_signal, server);
	} else if (!ignores_hangup()) { // its terminal is gone
		server->signals[n++] = evsignal_new(base, SIGHUP, handle_stop_signal, server);
	}
	for (size_t i = 0; i < n; i++) {
		if (server->signals[i] == NULL || event_add(server->signals[i], NULL) < 0) {
			return false;
		}
	}
	return true;
}

// Takes the fds, also on failure.
static bool accept_from(
	struct server *server, const struct server_listener *listeners, size_t n_listeners)
{
	bool ok = true;
	for (size_t i = 0; i < n_listeners; i++) {
		struct entrance *entrance = &server->entrances[i];
		*entrance = (struct entrance){.server = server, .service = listeners[i].service};
		entrance->acceptor = acceptor_create(
			server->config.base, listeners[i].fd, handle_connected, entrance);
		ok = ok && entrance->acceptor != NULL;
	}
	return ok;
}

static void close_listeners(const struct server_config *config)
{
	for (size_t i = 0; i < config->n_listeners; i++) {
		close(config->listeners[i].fd);
	}
}

static bool check_sandbox(const struct server_config *config)
{
	if (config->options->no_sandbox) {
		log_warn(
			"--no-sandbox: a peer that takes over a session can do what this user can");
		return true;
	}
	return sandbox_check(config->strict_sandbox);
}

// Without random bytes there is no link, and nothing is shared.
static void init_eventfds(struct server *server)
{
	eventfds_init(&server->eventfds);
	server->eventfds.max_per_session = server->config.max_events;
	if (!server->config.is_host) {
		server->eventfds.max_per_vm = server->eventfds.max; // all are of one host
	}
	server->eventfds.side = server->config.is_host ? CHANNEL_EVENT_HOST : 0;
	server->eventfds.tell = tell_session;
	server->eventfds.data = server;
	if (getrandom(server->link, sizeof(server->link), 0) != sizeof(server->link)) {
		log_errno("cannot get random bytes");
		memset(server->link, 0, sizeof(server->link));
	}
}

// Sessions read it again, so that it can be replaced.
static bool check_token(const struct program_options *options)
{
	struct token token;
	bool ok = program_options_token(options, &token);
	token_wipe(&token);
	return ok;
}

// False with errno.
static bool start(struct server *server)
{
	const struct server_config *config = &server->config;
	bool accepts = accept_from(server, config->listeners, config->n_listeners);
	server->deadline = evtimer_new(config->base, handle_deadline, server);
	server->look = evtimer_new(config->base, handle_look, server);
	if (!accepts || server->deadline == NULL || server->look == NULL || !add_signals(server)) {
		errno = ENOMEM;
		return false;
	}
	server->workers = workers_create(config->base, config->argv, &workers_handler, server);
	if (server->workers == NULL || config->vms == NULL) {
		return server->workers != NULL;
	}
	server->vms = vms_create(config->vms);
	return server->vms != NULL;
}

struct server *server_create(const struct server_config *config)
{
	assert(config->n_listeners <= SERVER_MAX_LISTENERS);
	if (!check_token(config->options) || !check_sandbox(config)) {
		close_listeners(config);
		return NULL;
	}
	struct server *server = calloc(1, sizeof(*server));
	if (server == NULL) {
		log_errno("cannot start");
		close_listeners(config);
		return NULL;
	}
	server->config = *config;
	server->attached_fd = -1;
	server->accepting = true;
	wl_list_init(&server->seats);
	content_store_init(&server->contents);
	rlimit_raise_files();
	init_eventfds(server);
	if (!start(server)) {
		log_errno("cannot start");
		server_destroy(server);
		return NULL;
	}
	return server;
}

void server_destroy(struct server *server)
{
	if (server == NULL) {
		return;
	}
	server->stopping = true;
	stop_accepting(server);
	workers_destroy(server->workers, GRACE_MS);
	for (size_t i = 0; i < SIGNALS; i++) {
		if (server->signals[i] != NULL) {
			event_free(server->signals[i]);
		}
	}
	if (server->deadline != NULL) {
		event_free(server->deadline);
	}
	if (server->look != NULL) {
		event_free(server->look);
	}
	if (server->config.options->stats) {
		print_totals(server);
	}
	vms_destroy(server->vms);
	content_store_finish(&server->contents);
	if (server->attached_fd >= 0) {
		close(server->attached_fd);
	}
	eventfds_finish(&server->eventfds);
	free(server);
}

void server_connected(struct server *server, int fd, const struct worker_peer *peer)
{
	if (!server->accepting || server->stopping) {
		refuse(server, 0, "no more connections are accepted", fd);
		return;
	}
	admit(server, 0, *peer, fd);
}

void server_attach(struct server *server, int fd)
{
	if (server->attached_fd >= 0) {
		close(server->attached_fd);
	}
	server->attached_fd = fd;
}

void server_set_vms(struct server *server, const struct vms_options *vms)
{
	vms_set_options(server->vms, vms);
}

void server_announce(const struct server *server)
{
	notify_ready();
	if (server->config.options->print_ready) {
		puts("READY");
		fflush(stdout);
	}
}

int server_run(struct server *server)
{
	event_base_dispatch(server->config.base);
	return server->status;
}

void server_finish(struct server *server, int status)
{
	const struct timeval deadline = {.tv_sec = GRACE_MS / 1000};
	stop_accepting(server);
	server->status = status;
	server->finishing = true;
	if (workers_busy(server->workers) == 0 || event_add(server->deadline, &deadline) < 0) {
		stop(server);
	}
}
