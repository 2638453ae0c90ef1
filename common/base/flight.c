#include "base/flight.h"

#include <errno.h>
#include <event2/event.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/budget.h"
#include "base/log.h"
#include "base/scm.h"

#define LOOK_MS 100

struct parcel {
	struct wl_list link; // flight.parcels
	struct budget *budget;
	size_t n_fds;
	size_t in_flight;       // charged as BUDGET_FLIGHT
	struct wl_array memory; // struct charge *
	uint64_t end;           // flight.written by then
};

struct flight {
	struct wl_list link;     // flights.list
	struct wl_list turn;     // flights.waiting, or empty
	struct flights *flights; // NULL: nobody looks by itself
	struct budget *budget;   // NULL: fds in flight are not charged
	size_t loose;            // fds in flight of the parcel that comes next
	int fd;
	struct charge *buffer;  // may be NULL
	bool closing;           // fd is ours
	bool alone;             // and nobody else's
	uint64_t written;       // since there were parcels; as the kernel counts, or less
	struct wl_list parcels; // parcel.link, the oldest first
};

struct flights {
	struct budget *budget;
	struct wl_list list;    // flight.link
	struct wl_list waiting; // flight.turn: who came first goes first
	struct event *timer;    // pending while there are parcels
	bool told;              // that the user has too many in flight
};

/* ---- parcels ---- */

struct parcel *parcel_create(struct budget *budget)
{
	struct parcel *parcel = calloc(1, sizeof(*parcel));
	if (parcel != NULL) {
		parcel->budget = budget;
		wl_list_init(&parcel->link);
		wl_array_init(&parcel->memory);
	}
	return parcel;
}

void parcel_destroy(struct parcel *parcel)
{
	if (parcel == NULL) {
		return;
	}
	struct charge **memory;
	wl_array_for_each (memory, &parcel->memory) {
		charge_unref(*memory);
	}
	wl_array_release(&parcel->memory);
	budget_release(parcel->budget, BUDGET_FDS, parcel->n_fds);
	budget_release(parcel->budget, BUDGET_FLIGHT, parcel->in_flight);
	wl_list_remove(&parcel->link);
	free(parcel);
}

bool parcel_add(struct parcel *parcel, struct charge *memory)
{
	if (!budget_charge(parcel->budget, BUDGET_FDS, 1)) {
		return false;
	}
	if (memory != NULL) {
		struct charge **kept = wl_array_add(&parcel->memory, sizeof(*kept));
		if (kept == NULL) {
			budget_release(parcel->budget, BUDGET_FDS, 1);
			return false;
		}
		*kept = charge_ref(memory);
	}
	parcel->n_fds++;
	return true;
}

/* ---- a socket ---- */

static void leave_queue(struct flight *flight)
{
	wl_list_remove(&flight->turn);
	wl_list_init(&flight->turn);
}

/* Sockets may be in what others carry: who comes first may be the only way to the next. */
static bool is_next(const struct flight *flight)
{
	const struct flights *flights = flight->flights;
	return flights == NULL || wl_list_empty(&flights->waiting) ||
		flights->waiting.next == &flight->turn;
}

static bool take_off(struct flight *flight, size_t n_fds)
{
	if (flight->budget == NULL || n_fds == 0) {
		return true;
	}
	if (!is_next(flight) || !budget_charge(flight->budget, BUDGET_FLIGHT, n_fds)) {
		budget_forget(flight->budget); // it waits
		if (flight->flights != NULL && wl_list_empty(&flight->turn)) {
			wl_list_insert(flight->flights->waiting.prev, &flight->turn);
		}
		return false;
	}
	leave_queue(flight);
	flight->loose += n_fds;
	return true;
}

static void land(struct flight *flight, size_t n_fds)
{
	if (flight->budget != NULL) {
		budget_release(flight->budget, BUDGET_FLIGHT, n_fds);
		flight->loose -= n_fds;
	}
}

struct flight *flight_create(struct flights *flights, int fd, struct charge *buffer)
{
	struct flight *flight = calloc(1, sizeof(*flight));
	if (flight != NULL) {
		flight->flights = flights;
		flight->budget = flights != NULL ? flights->budget : NULL;
		flight->fd = fd;
		flight->buffer = buffer != NULL ? charge_ref(buffer) : NULL;
		wl_list_init(&flight->parcels);
		wl_list_init(&flight->link);
		wl_list_init(&flight->turn);
		if (flights != NULL) {
			wl_list_insert(&flights->list, &flight->link);
		}
	}
	return flight;
}

/* What the reader has not taken, with what the kernel needs for it. */
static uint64_t unread(const struct flight *flight)
{
	int n = 0;
	return ioctl(flight->fd, SIOCOUTQ, &n) < 0 || n < 0 ? 0 : (uint64_t)n;
}

/* Gives back what is not among the last bytes that were written. */
static void drop_taken(struct flight *flight, uint64_t left)
{
	struct parcel *parcel, *next;
	wl_list_for_each_safe (parcel, next, &flight->parcels, link) {
		if (left > flight->written - parcel->end) {
			return;
		}
		parcel_destroy(parcel);
	}
}

/* Whether nobody has to look after it any more. */
static bool is_taken(struct flight *flight)
{
	uint64_t left = unread(flight);
	drop_taken(flight, left);
	return wl_list_empty(&flight->parcels) && !(flight->alone && left > 0);
}

/* Gives back all that was charged. */
static void discharge(struct flight *flight)
{
	struct parcel *parcel, *next;
	wl_list_for_each_safe (parcel, next, &flight->parcels, link) {
		parcel_destroy(parcel);
	}
	land(flight, flight->loose);
	charge_unref(flight->buffer);
	flight->buffer = NULL;
}

/* What it gives back is what nobody else of the session keeps charged. */
static void leave(struct flight *flight)
{
	struct budget *budget = flight->budget;
	uint64_t amounts[BUDGET_COUNT];
	memcpy(amounts, budget->used, sizeof(amounts));
	discharge(flight);
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		amounts[i] -= budget->used[i];
	}
	if (flight->alone) {
		shutdown(flight->fd, SHUT_RDWR);
	}
	budget->leave(budget->leave_data, flight->fd, amounts);
}

void flight_destroy(struct flight *flight)
{
	if (flight == NULL) {
		return;
	}
	if (flight->budget != NULL && flight->budget->leave != NULL && !is_taken(flight)) {
		leave(flight);
	}
	discharge(flight);
	wl_list_remove(&flight->link);
	wl_list_remove(&flight->turn);
	if (flight->closing) {
		close(flight->fd);
	}
	free(flight);
}

/*
 * How many the user may have in flight before a message whose fds the budget counts already. Others, of any
 * number of VMs, can fill what all may have: who has few goes on, and takes a fifth of what is left at most.
 */
static rlim_t user_limit(const struct budget *budget)
{
	uint64_t own = budget != NULL ? budget_total(budget, BUDGET_FLIGHT) : UINT64_MAX;
	uint64_t left = own < FLIGHT_USER_ALL / 4 ? FLIGHT_USER_ALL - 4 * own : 0;
	return left > FLIGHT_USER_MAX ? left : FLIGHT_USER_MAX;
}

/*
 * The kernel compares what the user has in flight with the sender's limit of open files, which need not
 * be the same at other times. It knows what all sessions have, also those that have ended.
 */
static ssize_t send_below_limit(const struct flight *flight, const struct iovec *iov, size_t n_iov,
	const struct fdlist *fds, size_t n_fds)
{
	struct rlimit own;
	const rlim_t limit = n_fds > 0 ? user_limit(flight->budget) : 0;
	if (n_fds == 0 || getrlimit(RLIMIT_NOFILE, &own) < 0 || own.rlim_cur <= limit) {
		return scm_send(flight->fd, iov, n_iov, fds, n_fds);
	}
	const struct rlimit low = {.rlim_cur = limit, .rlim_max = own.rlim_max};
	setrlimit(RLIMIT_NOFILE, &low);
	ssize_t n = scm_send(flight->fd, iov, n_iov, fds, n_fds);
	setrlimit(RLIMIT_NOFILE, &own);
	return n;
}

static void tell_once(struct flights *flights)
{
	if (flights != NULL && !flights->told) {
		flights->told = true;
		log_warn("fds wait: programs of this user leave too many others unread");
	}
}

ssize_t flight_send(struct flight *flight, const struct iovec *iov, size_t n_iov,
	const struct fdlist *fds, size_t n_fds)
{
	if (n_fds == 0 && wl_list_empty(&flight->parcels)) {
		return scm_send(flight->fd, iov, n_iov, fds, n_fds);
	}
	uint64_t before = unread(flight);
	drop_taken(flight, before);
	if (!take_off(flight, n_fds)) {
		return -ETOOMANYREFS;
	}
	ssize_t n = send_below_limit(flight, iov, n_iov, fds, n_fds);
	if (n == -ETOOMANYREFS) {
		tell_once(flight->flights);
	}
	if (n < 0) {
		land(flight, n_fds);
	} else {
		// Less than it is if the reader was just taking something, but never more.
		uint64_t after = unread(flight);
		uint64_t added = after > before ? after - before : 0;
		flight->written += added > (uint64_t)n ? added : (uint64_t)n;
	}
	return n;
}

static void look_later(struct flights *flights)
{
	const struct timeval later = {.tv_usec = LOOK_MS * 1000};
	if (!event_pending(flights->timer, EV_TIMEOUT, NULL)) {
		event_add(flights->timer, &later);
	}
}

void flight_add(struct flight *flight, struct parcel *parcel)
{
	if (parcel == NULL) {
		land(flight, flight->loose); // nobody will know when it has been taken
		return;
	}
	parcel->in_flight = flight->loose;
	flight->loose = 0;
	parcel->end = flight->written;
	wl_list_insert(flight->parcels.prev, &parcel->link);
	if (flight->flights != NULL) {
		look_later(flight->flights);
	}
}

void flight_close(struct flight *flight, bool alone)
{
	flight->closing = true;
	flight->alone = alone;
	leave_queue(flight);
	if (flight->flights == NULL || is_taken(flight)) {
		flight_destroy(flight);
		return;
	}
	if (alone) {
		shutdown(flight->fd, SHUT_RDWR);
	}
	look_later(flight->flights);
}

/* ---- a session ---- */

/* Whether there is something left to be taken. */
static bool look(struct flights *flights)
{
	bool any = false;
	struct flight *flight, *next;
	wl_list_for_each_safe (flight, next, &flights->list, link) {
		if (!flight->closing && wl_list_empty(&flight->parcels)) {
			continue;
		}
		if (!is_taken(flight)) {
			any = true;
		} else if (flight->closing) {
			flight_destroy(flight);
		}
	}
	return any;
}

static void reclaim(void *data)
{
	look(data);
}

static void handle_timer(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct flights *flights = data;
	if (look(flights)) {
		look_later(flights);
	}
}

struct flights *flights_create(struct event_base *base, struct budget *budget)
{
	struct flights *flights = calloc(1, sizeof(*flights));
	if (flights == NULL) {
		return NULL;
	}
	flights->budget = budget;
	wl_list_init(&flights->list);
	wl_list_init(&flights->waiting);
	flights->timer = evtimer_new(base, handle_timer, flights);
	if (flights->timer == NULL) {
		free(flights);
		return NULL;
	}
	budget->reclaim = reclaim;
	budget->reclaim_data = flights;
	return flights;
}

void flights_destroy(struct flights *flights)
{
	if (flights == NULL) {
		return;
	}
	struct flight *flight, *next;
	wl_list_for_each_safe (flight, next, &flights->list, link) {
		flight->flights = NULL;
		leave_queue(flight);
		wl_list_remove(&flight->link);
		wl_list_init(&flight->link);
		if (flight->closing) {
			flight_destroy(flight);
		}
	}
	flights->budget->reclaim = NULL;
	event_free(flights->timer);
	free(flights);
}
