#include "wire/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#define STRING_MAX 200 // bytes of a string that are printed

static void print_string(FILE *out, const char *string, uint32_t length)
{
	if (string == NULL) {
		fputs("nil", out);
		return;
	}
	fputc('"', out);
	for (uint32_t i = 0; i < length && i < STRING_MAX; i++) {
		unsigned char c = (unsigned char)string[i];
		if (c == '"' || c == '\\') {
			fprintf(out, "\\%c", c);
		} else if (c >= 0x20 && c < 0x7f) {
			fputc(c, out);
		} else {
			fprintf(out, "\\x%02x", c);
		}
	}
	fputs(length > STRING_MAX ? "\"..." : "\"", out);
}

static void print_object(FILE *out, const struct wl_interface *interface, uint32_t id)
{
	if (id == 0) {
		fputs("nil", out);
		return;
	}
	fprintf(out, "%s#%" PRIu32, interface != NULL ? interface->name : "[unknown]", id);
}

static void print_arg(FILE *out, const struct wire_arg *arg, const struct wire_arg_spec *spec)
{
	switch (spec->type) {
	case WIRE_ARG_INT:
		fprintf(out, "%" PRId32, (int32_t)arg->value);
		break;
	case WIRE_ARG_UINT:
		fprintf(out, "%" PRIu32, arg->value);
		break;
	case WIRE_ARG_FIXED:
		fprintf(out, "%.8f", wl_fixed_to_double((wl_fixed_t)arg->value));
		break;
	case WIRE_ARG_STRING:
		print_string(out, arg->string, arg->length);
		break;
	case WIRE_ARG_OBJECT:
		print_object(out, spec->interface, arg->value);
		break;
	case WIRE_ARG_NEW_ID:
		fputs("new id ", out);
		print_object(out, spec->interface, arg->value);
		break;
	case WIRE_ARG_ANY_NEW_ID:
		print_string(out, arg->string, arg->length);
		fprintf(out, ", %" PRIu32 ", new id ", arg->version);
		print_object(out, NULL, arg->value);
		break;
	case WIRE_ARG_ARRAY:
		fprintf(out, "array[%" PRIu32 "]", arg->length);
		break;
	case WIRE_ARG_FD:
		fputs("fd", out);
		break;
	}
}

static void print_time(FILE *out, enum wire_direction direction)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	fprintf(out, "[%lld.%06ld] %s ", (long long)now.tv_sec, now.tv_nsec / 1000,
		direction == WIRE_REQUEST ? "->" : "<-");
}

static void print_message(FILE *out, const char *interface, const struct wire_message *message,
	const char *const *fd_names)
{
	const struct wire_op *op = message->op;
	fprintf(out, "%s#%" PRIu32 ".%s(", interface, message->header.object, op->name);
	size_t n_fds = 0;
	for (size_t i = 0; i < op->n_args; i++) {
		fputs(i > 0 ? ", " : "", out);
		print_arg(out, &message->args[i], &op->args[i]);
		if (op->args[i].type == WIRE_ARG_FD && fd_names != NULL) {
			fprintf(out, " %s", fd_names[n_fds++]);
		}
	}
	fputs(")\n", out);
}

/* A line that is built in memory goes out in one write: those of several processes do not mix. */
struct line {
	FILE *memory;
	char *text;
	size_t len;
};

static bool begin_line(struct line *line, enum wire_direction direction)
{
	*line = (struct line){0};
	line->memory = open_memstream(&line->text, &line->len);
	if (line->memory != NULL) {
		print_time(line->memory, direction);
	}
	return line->memory != NULL;
}

static void end_line(struct line *line, FILE *out)
{
	if (fclose(line->memory) == 0) {
		fwrite(line->text, 1, line->len, out);
		fflush(out);
	}
	free(line->text);
}

void wire_trace(FILE *out, enum wire_direction direction, const char *interface,
	const struct wire_message *message, const char *const *fd_names)
{
	struct line line;
	if (begin_line(&line, direction)) {
		print_message(line.memory, interface, message, fd_names);
		end_line(&line, out);
	}
}

void wire_trace_bytes(FILE *out, enum wire_direction direction, const char *service,
	uint32_t socket, size_t len, const char *const *fd_names, size_t n_fds)
{
	struct line line;
	if (!begin_line(&line, direction)) {
		return;
	}
	fprintf(line.memory, "%s#%" PRIx32 " %zu bytes", service, socket, len);
	for (size_t i = 0; i < n_fds; i++) {
		fprintf(line.memory, "%s%s", i == 0 ? ", fds: " : ", ", fd_names[i]);
	}
	fputc('\n', line.memory);
	end_line(&line, out);
}
