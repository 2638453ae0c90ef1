#include "host-proxy/admission.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "channel/transport.h"
#include "program/options.h"
#include "program/worker.h"

const char *admission_allow_cid(struct admission *admission, const char *value)
{
	unsigned long number;
	const char *wrong = options_number(value, 1, UINT32_MAX - 1, &number);
	if (wrong == NULL && admission->n_cids == ADMISSION_MAX) {
		wrong = "too many";
	}
	if (wrong == NULL) {
		admission->cids[admission->n_cids++] = (uint32_t)number;
	}
	return wrong;
}

const char *admission_allow_uid(struct admission *admission, const char *value)
{
	unsigned long number;
	const char *wrong = options_number(value, 0, UINT32_MAX - 1, &number);
	if (wrong == NULL && admission->n_uids == ADMISSION_MAX) {
		wrong = "too many";
	}
	if (wrong == NULL) {
		admission->uids[admission->n_uids++] = (uid_t)number;
	}
	return wrong;
}

static bool is_allowed_user(const struct admission *admission, uid_t uid)
{
	bool allowed = uid == geteuid() || uid == 0;
	for (size_t i = 0; i < admission->n_uids; i++) {
		allowed |= admission->uids[i] == uid;
	}
	return allowed;
}

static bool is_allowed_cid(const struct admission *admission, uint32_t cid)
{
	bool allowed = admission->n_cids == 0;
	for (size_t i = 0; i < admission->n_cids; i++) {
		allowed |= admission->cids[i] == cid;
	}
	return allowed;
}

static bool check_vm(const struct admission *admission, const struct worker_peer *peer)
{
	if (!is_allowed_cid(admission, peer->cid)) {
		log_limited(LOG_WARN, "vsock cid %u was turned away (--allow-cid)", peer->cid);
		return false;
	}
	if (admission->privileged_port && peer->port > LAST_PRIVILEGED_PORT) {
		log_limited(LOG_WARN,
			"vsock cid %u port %u was turned away (--require-privileged-port)",
			peer->cid, peer->port);
		return false;
	}
	return true;
}

static bool check_user(const struct admission *admission, const struct transport_peer *from)
{
	bool allowed = is_allowed_user(admission, from->uid);
	if (!allowed) {
		log_limited(LOG_WARN, "a program of uid %u was turned away (--allow-uid)",
			(unsigned int)from->uid);
	}
	return allowed;
}

static bool find_peer(int fd, struct transport_peer *from)
{
	int error = transport_peer_of(fd, from);
	if (error < 0) {
		log_limited(LOG_WARN,
			"a connection was turned away: cannot tell who it is from: %s",
			strerror(-error));
	}
	return error == 0;
}

bool admission_check_user(const struct admission *admission, int fd)
{
	struct transport_peer from;
	return find_peer(fd, &from) && !from.vsock && check_user(admission, &from);
}

bool admission_check(const struct admission *admission, int fd, struct worker_peer *peer)
{
	struct transport_peer from;
	if (peer->by_device) {
		return check_vm(admission, peer);
	}
	if (!find_peer(fd, &from)) {
		return false;
	}
	if (from.vsock) {
		*peer = (struct worker_peer){.cid = from.cid, .port = from.port};
		return check_vm(admission, peer);
	}
	if (admission->n_cids > 0 || admission->privileged_port) {
		log_limited(LOG_WARN,
			"a local program was turned away: only virtual machines are allowed");
		return false;
	}
	return check_user(admission, &from);
}
