#ifndef HOST_PROXY_ADMISSION_H
#define HOST_PROXY_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct worker_peer;

/**
 * Who may connect, as far as the connection itself tells: a VM's CID and port, a local user. What a
 * peer says is not looked at.
 */

#define LAST_PRIVILEGED_PORT 1023 // of a guest: it needs CAP_NET_BIND_SERVICE there
#define ADMISSION_MAX        64

struct admission {
	uint32_t cids[ADMISSION_MAX]; // none: any
	size_t n_cids;
	uid_t uids[ADMISSION_MAX]; // besides our own and root
	size_t n_uids;
	bool privileged_port;
};

// NULL, or in one static phrase what is wrong with the value.
const char *admission_allow_cid(struct admission *admission, const char *value);
const char *admission_allow_uid(struct admission *admission, const char *value);

// Whether a local program that has connected is of a user who may. If not, that has been logged.
bool admission_check_user(const struct admission *admission, int fd);
// Whether a guest may have a session. peer is as the vsock device has said, or filled in. If not,
// that has been logged.
bool admission_check(const struct admission *admission, int fd, struct worker_peer *peer);

#endif
