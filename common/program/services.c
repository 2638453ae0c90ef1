#include "program/services.h"

#include <string.h>

#define NAME_CHARS   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
#define WAYLAND      SERVICE_WAYLAND "="
#define WAYLAND_UNIX WAYLAND "unix:"

bool service_name_is_valid(const char *name)
{
	size_t len = strlen(name);
	return len >= 1 && len <= HANDSHAKE_SERVICE_MAX && strspn(name, NAME_CHARS) == len;
}

const char *services_add(
	struct services *services, const char *name, const struct transport *address)
{
	if (!service_name_is_valid(name)) {
		return "the name must be 1 to 64 of A-Z a-z 0-9 . _ -";
	}
	if (services_find(services, name) != NULL) {
		return "the service is named already";
	}
	if (services->count == SERVICES_MAX) {
		return "too many services";
	}
	struct service *service = &services->list[services->count++];
	*service = (struct service){.address = *address};
	strcpy(service->name, name);
	return NULL;
}

const char *services_parse(struct services *services, const char *text)
{
	char name[HANDSHAKE_SERVICE_MAX + 2]; // one more, which is too long
	struct transport address;
	const char *equals = strchr(text, '=');
	if (equals == NULL) {
		return "must be NAME=unix:PATH or NAME=seqpacket:PATH";
	}
	size_t len = (size_t)(equals - text);
	len = len < sizeof(name) ? len : sizeof(name) - 1;
	memcpy(name, text, len);
	name[len] = '\0';
	const char *wrong = transport_parse_service(equals + 1, &address);
	return wrong != NULL ? wrong : services_add(services, name, &address);
}

const struct service *services_find(const struct services *services, const char *name)
{
	for (size_t i = 0; i < services->count; i++) {
		if (strcmp(services->list[i].name, name) == 0) {
			return &services->list[i];
		}
	}
	return NULL;
}

bool services_collide(const struct services *services)
{
	for (size_t i = 0; i < services->count; i++) {
		for (size_t j = 0; j < i; j++) {
			if (strcmp(services->list[i].address.path,
				    services->list[j].address.path) == 0) {
				return true;
			}
		}
	}
	return false;
}

bool service_is_wayland(const struct service *service)
{
	return strcmp(service->name, SERVICE_WAYLAND) == 0;
}

bool service_parse_wayland(const char *text, const char **path)
{
	bool absolute = strncmp(text, WAYLAND_UNIX "/", strlen(WAYLAND_UNIX "/")) == 0;
	*path = absolute ? text + strlen(WAYLAND_UNIX) : NULL;
	return strncmp(text, WAYLAND, strlen(WAYLAND)) == 0;
}
