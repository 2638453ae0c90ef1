#ifndef BASE_FLIGHT_H
#define BASE_FLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct budget;
struct charge;
struct event_base;
struct fdlist;
struct iovec;

/**
 * Fds on their way to a local peer. The kernel keeps what was written into a UNIX socket until its
 * reader has taken it, also when nobody else has these fds any more. So they, and the memory behind
 * them, are charged to the session until then.
 *
 * The kernel lets a program that is not root's pass fds only while all programs of its user have fewer in
 * flight than it may have files open, mostly 1024: who has a thousand in flight stops the user's desktop.
 *
 * A parcel is the fds that go together. It is made before they are written; when they are, the
 * socket's flight takes it. The kernel tells how much in a socket is unread, which is in order: a
 * parcel has been taken when that is not more than was written after it.
 */

// Fds that the user may have in flight when a message with fds is sent; with it, it may be more.
#define FLIGHT_USER_MAX 512
// Where it is more, this less four times what the session's VM has in flight with that message.
#define FLIGHT_USER_ALL 896

struct flights; // of a session
struct flight;  // of a socket
struct parcel;

// Looks from time to time, and whenever the budget would be exceeded, what has been taken. base and
// budget are borrowed. NULL on ENOMEM.
struct flights *flights_create(struct event_base *base, struct budget *budget);
// Sockets that flight_close has not closed yet are, as by flight_destroy. NULL is fine.
void flights_destroy(struct flights *flights);

// Of no fds yet. NULL on ENOMEM.
struct parcel *parcel_create(struct budget *budget);
// Charges one more fd, and keeps memory charged, which may be NULL. False: over the budget, or ENOMEM;
// the parcel is as it was.
bool parcel_add(struct parcel *parcel, struct charge *memory);
// Gives back what was charged. NULL is fine.
void parcel_destroy(struct parcel *parcel);

// fd, a UNIX socket, is borrowed. buffer is charged for what the kernel keeps for the socket, and kept
// charged; it may be NULL. flights may be NULL: nobody looks by itself. NULL on ENOMEM.
struct flight *flight_create(struct flights *flights, int fd, struct charge *buffer);
// Nothing will be known of the socket: gives back what was charged, to budget->leave what is not taken.
// NULL is fine.
void flight_destroy(struct flight *flight);
// Takes fd, too, and closes it as soon as all parcels have been taken. If nobody else has that end of
// the socket (alone), all that was written has to be, and the peer sees no difference; else the peer
// sees the end that much later.
void flight_close(struct flight *flight, bool alone);
// As scm_send. -ETOOMANYREFS, which the kernel gives, too: as many fds are in flight as may be, by
// BUDGET_FLIGHT or of all that the user's programs have (FLIGHT_USER_MAX). To be tried again later.
ssize_t flight_send(struct flight *flight, const struct iovec *iov, size_t n_iov,
	const struct fdlist *fds, size_t n_fds);
// The last of its fds have just been sent. Takes parcel; NULL is fine.
void flight_add(struct flight *flight, struct parcel *parcel);

#endif
