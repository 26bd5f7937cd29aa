/* The client library of the C teams: calls to other services with a timeout and one more try.
 *
 * It thinks in connections: what could not be delivered is delivered again, to the next address; what was answered
 * is an answer, whatever it says. Addresses are taken in the order in which they stand, as with getaddrinfo(3).
 * CLIENT=plain switches the second try and the short timeout off; the headers of a trace are passed on in any case.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "service.h"
#include <ctype.h>

#define TRIES 2
#define TIMEOUT_S 3
#define PLAIN_TIMEOUT_S 15
#define REPLY_MAX 8192

static const char *const propagated[] = { "traceparent", "tracestate", "x-request-id", "end-user", "x-b3-traceid",
					  "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", NULL };

static bool is_plain(void)
{
	return getenv("CLIENT") && !strcmp(getenv("CLIENT"), "plain");
}

/* Copy the address for a service's `attempt`-th try to `host` and `port`: the next, the first again after the last. */
static bool address_of(const char *service, int attempt, char *host, size_t size, int *port)
{
	char variable[80], list[1024], *addresses[16], *rest, *colon;
	int length = snprintf(variable, sizeof variable, "%.70s_ADDR", service), count = 0;

	for (int i = 0; i < length; i++)
		variable[i] = variable[i] == '-' ? '_' : (char)toupper((unsigned char)variable[i]);
	snprintf(list, sizeof list, "%s", getenv(variable) ? getenv(variable) : "");
	for (char *one = strtok_r(list, ",", &rest); one && count < 16; one = strtok_r(NULL, ",", &rest))
		addresses[count++] = one;
	if (!count || !(colon = strrchr(addresses[attempt % count], ':')))
		return false;
	snprintf(host, size, "%.*s", (int)(colon - addresses[attempt % count]), addresses[attempt % count]);
	*port = atoi(colon + 1);
	return true;
}

static int connect_to(const char *host, int port)
{
	struct timeval limit = { is_plain() ? PLAIN_TIMEOUT_S : TIMEOUT_S, 0 };
	struct sockaddr_in place = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	int fd, yes = 1;

	if (inet_pton(AF_INET, host, &place.sin_addr) != 1)
		return -1;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&place, sizeof place)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Write a request; 0 if it does not fit. */
static size_t compose(char *message, size_t size, const char *method, const char *service, const char *path,
		      const struct request *caller)
{
	size_t used = (size_t)snprintf(message, size,
				       "%s %s HTTP/1.1\r\nhost: %s\r\nuser-agent: %s/%s\r\nconnection: close\r\n"
				       "content-length: 0\r\n",
				       method, path, service, service_name, service_version);

	for (int i = 0; propagated[i] && used < size; i++) {
		char value[512];

		header(caller->headers, propagated[i], value, sizeof value);
		if (value[0])
			used += (size_t)snprintf(message + used, size - used, "%s: %s\r\n", propagated[i], value);
	}
	if (used + 3 > size)
		return 0;
	strcpy(message + used, "\r\n");
	return used + 2;
}

/* Send one request and read all that comes, for the server closes; its status, 0 if nothing useful came. */
static int exchange(int fd, const char *message, size_t size, char *reply)
{
	size_t filled = 0;
	int status = 0;
	ssize_t got = 0;

	if (send_all(fd, message, size))
		while (filled < REPLY_MAX - 1 && (got = recv(fd, reply + filled, REPLY_MAX - 1 - filled, 0)) > 0)
			filled += (size_t)got;
	reply[filled] = 0;
	if (got < 0 || sscanf(reply, "HTTP/1.%*d %d ", &status) != 1)
		return 0;
	return status;
}

/* Ask another service; its status, 0 if there was no answer. `body` is made to point into `reply` (REPLY_MAX). */
static int call(const char *method, const char *service, const char *path, const struct request *caller, char *reply,
		const char **body)
{
	char message[6144], host[64];
	size_t size = compose(message, sizeof message, method, service, path, caller);
	int status = 0, port;

	for (int attempt = 0; size && !status && attempt < (is_plain() ? 1 : TRIES); attempt++) {
		int fd;

		if (!address_of(service, attempt, host, sizeof host, &port))
			return 0;
		fd = connect_to(host, port);
		if (fd < 0)
			continue;
		status = exchange(fd, message, size, reply);
		close(fd);
	}
	*body = status ? strstr(reply, "\r\n\r\n") : NULL;
	return *body ? status : 0;
}

/* Find the number that stands under a key of a JSON object. */
static bool json_number(const char *json, const char *key, long *number)
{
	char quoted[64];
	const char *found;

	snprintf(quoted, sizeof quoted, "\"%s\":", key);
	found = strstr(json, quoted);
	return found && sscanf(found + strlen(quoted), " %ld", number) == 1;
}

#endif
