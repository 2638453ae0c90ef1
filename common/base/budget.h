#ifndef BASE_BUDGET_H
#define BASE_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/**
 * What the other side may make us keep and do: amounts of a session, and of all sessions of a VM
 * together. Charged before anything is allocated, and given back with it.
 *
 * A session counts for itself. So that the sum of a VM's sessions is known to each of them, they
 * share a page with one slot each: who charges writes its own slot, then adds up all of them. A slot
 * is all that a session leaves behind when it is killed, and the parent clears it. A session process
 * that was taken over can make the sums of its own VM wrong, and no others.
 */

enum budget_kind {
	BUDGET_FDS, // fdrefs that are open, whoever opened them; fds on their way to a local peer
	BUDGET_MEMORY,  // bytes of replicas, twins, and what waits for a local peer
	BUDGET_UNSENT,  // bytes that wait for the other side
	BUDGET_OBJECTS, // Wayland's
	BUDGET_STREAMS, // pipes and sockets
	BUDGET_PENDING, // fdrefs that wait for their message
	BUDGET_POOLS,   // wl_shm_pools, each of which its compositor maps
	BUDGET_MAPPED,  // bytes of them
	BUDGET_FRAMES,  // that wait for a local peer
	BUDGET_FLIGHT,  // fds in sockets whose local peers have not read them (base/flight.h)
	BUDGET_PLANES,  // of dma-bufs: each may be an fd of the compositor's
	BUDGET_LISTED,  // objects of which the compositor has one list for all of its clients
	BUDGET_COUNT,
};

struct budget_limits {
	uint64_t most[BUDGET_COUNT];
	uint64_t rate;       // messages per second; 0: any number
	uint64_t burst;      // messages at once, beyond the rate; at least 1
	uint64_t throughput; // bytes per second, and at once beyond that; 0: any number
	uint64_t told;       // bytes per second that others are told, and at once; 0: any number
};

// Who hears of a session, and would be disconnected if that was too much at once.
enum budget_hearer {
	BUDGET_PANELS,  // and who has the keyboard: windows and selections
	BUDGET_SOURCES, // whose selection it is: pastes
	BUDGET_HEARERS,
};

struct budget_page;
struct charge;

// Embedded; zeros are a budget of nothing. Only limits are to be written from outside.
struct budget {
	struct budget_limits limits;
	struct budget_page *page; // NULL: of no VM
	size_t slot;
	uint64_t used[BUDGET_COUNT], peak[BUDGET_COUNT];
	uint64_t messages_until, bytes_until, told_until[BUDGET_HEARERS]; // see base/rate.h
	uint64_t paused;    // nanoseconds, by budget_bytes
	char exceeded[160]; // empty: nothing
	// Gives back what is needed no more without anybody having noticed; NULL: there is nothing
	// like that. Called before a charge fails.
	void (*reclaim)(void *data);
	void *reclaim_data;
	// The session ends, and what it was charged for by kind stays in the kernel as long as nobody has
	// read it from fd, a socket, which is borrowed. NULL: it is not charged any more.
	void (*leave)(void *leave_data, int fd, const uint64_t amounts[BUDGET_COUNT]);
	void *leave_data;
};

// False: it would be more than there may be; nothing is charged, and budget_exceeded says so.
bool budget_charge(struct budget *budget, enum budget_kind kind, uint64_t amount);
void budget_release(struct budget *budget, enum budget_kind kind, uint64_t amount);
// Of what is measured, and not counted: what it is now. False as above, but it is what it is.
bool budget_set(struct budget *budget, enum budget_kind kind, uint64_t amount);
// n messages came. False as above.
bool budget_messages(struct budget *budget, uint64_t n);
// n, or the most that may come at once, if that is less.
uint64_t budget_burst(const struct budget *budget, uint64_t n);
// n bytes came, not more than some MiB. How many nanoseconds nothing is to be read that comes after them.
uint64_t budget_bytes(struct budget *budget, uint64_t n);
// Somebody is to be told of something, in n bytes. 0, or how many nanoseconds to wait before asking again.
uint64_t budget_tell(struct budget *budget, enum budget_hearer hearer, uint64_t n);
// What all sessions of its VM have now, or this one if it is of none.
uint64_t budget_total(const struct budget *budget, enum budget_kind kind);
// NULL, or which budget was exceeded last since budget_forget: "over the session's budget of fds: 4096
// (--max-fds)".
const char *budget_exceeded(const struct budget *budget);
void budget_forget(struct budget *budget);

// Bytes of memory that several may keep: they are given back by the last of them. NULL: over the
// budget, or ENOMEM.
struct charge *charge_create(struct budget *budget, uint64_t bytes);
// The same of another kind.
struct charge *charge_create_of(struct budget *budget, enum budget_kind kind, uint64_t amount);
struct charge *charge_ref(struct charge *charge);
void charge_unref(struct charge *charge); // NULL is fine
// To so much in all, if that is more. False as budget_charge.
bool charge_grow(struct charge *charge, uint64_t amount);

// Joins the sum of a VM. Takes fd, the page's. False with errno.
bool budget_join(struct budget *budget, int fd, size_t slot);
void budget_leave(struct budget *budget);

// The page of a VM for n_slots sessions at a time, and its CLOEXEC fd. NULL with errno.
struct budget_page *budget_page_create(const struct budget_limits *limits, size_t n_slots, int *fd);
void budget_page_destroy(struct budget_page *page); // NULL is fine
// A slot comes into use, or its session is gone. n_used: no slot from there on is in use.
void budget_page_clear(struct budget_page *page, size_t slot, size_t n_used);
// What a slot has that is of no session, but the caller's.
void budget_page_put(struct budget_page *page, size_t slot, const uint64_t used[BUDGET_COUNT]);
// Of sessions that join later.
void budget_page_set_limits(struct budget_page *page, const struct budget_limits *limits);
uint64_t budget_page_used(const struct budget_page *page, enum budget_kind kind);

// For people: a title, then a line for each kind with what is used, the peak and the limit.
void budget_print(FILE *out, const char *title, const struct budget *budget);
void budget_page_print(FILE *out, const char *title, const struct budget_page *page);

#endif
