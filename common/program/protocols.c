#include "program/protocols.h"

#include "base/log.h"
#include "program/options.h"
#include "wire/schema.h"

bool protocols_load(const struct program_options *options)
{
	char error[512];
	for (size_t i = 0; i < options->n_protocols; i++) {
		if (!wire_schema_load(options->protocols[i], error, sizeof(error))) {
			log_error("the protocol %s", error);
			return false;
		}
	}
	return true;
}
