/* What the C services share: an HTTP/1.1 server that can be told to be ill, and that ends politely.
 *
 * Interface: a service defines `answer`, which fills in a reply, and is compiled alone: gcc ratings.c -lpthread.
 * Its surroundings come as environment variables: SERVICE_NAME, SERVICE_VERSION, LISTEN (host:port), CALLS, and
 * those of client.h. One thread serves one connection. What does not fit the limits below is refused, not cut.
 */
#ifndef SERVICE_H
#define SERVICE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX (16 << 10)
#define BODY_MAX (64 << 10)
#define CALLERS_MAX 32
#define GOODBYE_MS 10000

struct request {
	char method[16], path[256], query[256];
	const char *headers; /* all header lines, each ending in \r\n, then a zero byte */
};

struct reply {
	int status;
	char body[8192];
	char retry_after[16];
};

void answer(const struct request *request, struct reply *reply);

static struct {
	pthread_mutex_t lock;
	double fail_rate, slow_s;
	int fail_status;
	bool forgets; /* what the callers' headers say, so that a trace ends here */
	char retry_after[16];
	long requests;
	struct { char name[64]; long requests, failures; } callers[CALLERS_MAX];
} health = { .lock = PTHREAD_MUTEX_INITIALIZER, .fail_status = 503 };

static atomic_int unanswered;
static volatile sig_atomic_t is_stopping;
static const char *service_name, *service_version;

/* Copy the value of header `name` to `value`, "" if there is none; names are compared without case. */
static inline void header(const char *headers, const char *name, char *value, size_t size)
{
	size_t length = strlen(name);

	value[0] = 0;
	for (const char *line = headers, *end; (end = strstr(line, "\r\n")); line = end + 2) {
		if (strncasecmp(line, name, length) || line[length] != ':')
			continue;
		line += length + 1;
		line += strspn(line, " \t");
		snprintf(value, size, "%.*s", end > line ? (int)(end - line) : 0, line);
		return;
	}
}

static inline bool may_call(const char *service)
{
	char list[1024], *rest, *name;

	snprintf(list, sizeof list, "%s", getenv("CALLS") ? getenv("CALLS") : "");
	for (name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
		if (!strcmp(name, service))
			return true;
	return false;
}

static inline void respond(struct reply *reply, int status, const char *format, ...)
{
	va_list arguments;

	reply->status = status;
	va_start(arguments, format);
	vsnprintf(reply->body, sizeof reply->body, format, arguments);
	va_end(arguments);
}

static inline void pause_s(double seconds)
{
	struct timespec rest = { (time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9) };

	while (nanosleep(&rest, &rest) && errno == EINTR)
		;
}

/* Read a number of the query ("rate=0.5&status=503"); `fallback` if there is none. */
static inline double query_number(const char *query, const char *key, double fallback)
{
	size_t length = strlen(key);

	for (const char *part = query; part && *part; part = strchr(part, '&') ? strchr(part, '&') + 1 : NULL)
		if (!strncmp(part, key, length) && part[length] == '=') {
			double value = strtod(part + length + 1, NULL);
			return value >= 0 && value < 1e6 ? value : fallback;
		}
	return fallback;
}

static int tell_callers(char *text, size_t size, bool failures)
{
	int used = 0;

	for (int i = 0; i < CALLERS_MAX && health.callers[i].requests; i++)
		used += snprintf(text + used, size - used, "%s\"%s\": %ld", i ? ", " : "", health.callers[i].name,
				 failures ? health.callers[i].failures : health.callers[i].requests);
	return used;
}

static void tell_count(struct reply *reply)
{
	char by[CALLERS_MAX * 100] = "", failed[CALLERS_MAX * 100] = "";

	tell_callers(by, sizeof by, false);
	tell_callers(failed, sizeof failed, true);
	respond(reply, 200, "{\"requests\": %ld, \"by\": {%s}, \"failed\": {%s}}", health.requests, by, failed);
}

static void administer(const struct request *request, struct reply *reply)
{
	respond(reply, 200, "{\"status\": \"ok\"}");
	pthread_mutex_lock(&health.lock);
	if (!strcmp(request->path, "/_fail")) {
		double seconds = query_number(request->query, "retry_after", -1);
		health.fail_rate = query_number(request->query, "rate", 0);
		health.fail_status = (int)query_number(request->query, "status", 503);
		health.retry_after[0] = 0;
		if (seconds >= 0)
			snprintf(health.retry_after, sizeof health.retry_after, "%.0f", seconds);
	} else if (!strcmp(request->path, "/_slow")) {
		health.slow_s = query_number(request->query, "seconds", 0);
	} else if (!strcmp(request->path, "/_forget")) {
		health.forgets = true;
	} else if (!strcmp(request->path, "/_reset")) {
		health.fail_rate = health.slow_s = 0;
		health.forgets = false;
		health.requests = 0;
		memset(health.callers, 0, sizeof health.callers);
	} else if (!strcmp(request->path, "/_count")) {
		tell_count(reply);
	} else if (strcmp(request->path, "/health")) {
		respond(reply, 404, "{\"error\": \"not here\"}");
	}
	pthread_mutex_unlock(&health.lock);
}

/* Count a request and who sent it; what is no plain text of a name is not repeated to anybody. */
static int count(const char *headers)
{
	char caller[64];
	int i = 0;

	header(headers, "user-agent", caller, sizeof caller);
	for (char *c = caller; *c; c++)
		if (*c < ' ' || *c == '"' || *c == '\\' || *c == 127)
			*c = '?';
	pthread_mutex_lock(&health.lock);
	health.requests++;
	while (i < CALLERS_MAX - 1 && health.callers[i].requests && strcmp(health.callers[i].name, caller))
		i++;
	snprintf(health.callers[i].name, sizeof health.callers[i].name, "%s", caller[0] ? caller : "unknown");
	health.callers[i].requests++;
	pthread_mutex_unlock(&health.lock);
	return i;
}

static void count_failure(int caller)
{
	pthread_mutex_lock(&health.lock);
	health.callers[caller].failures++;
	pthread_mutex_unlock(&health.lock);
}

/* Answer one request; false if the connection is to be closed without an answer. */
static bool handle(struct request *request, struct reply *reply)
{
	double slow_s, fail_rate;
	int fail_status, caller;

	if (!strcmp(request->path, "/health") || !strncmp(request->path, "/_", 2)) {
		administer(request, reply);
		return true;
	}
	caller = count(request->headers);
	pthread_mutex_lock(&health.lock);
	slow_s = health.slow_s;
	fail_rate = health.fail_rate;
	if (health.forgets)
		request->headers = "";
	fail_status = health.fail_status;
	snprintf(reply->retry_after, sizeof reply->retry_after, "%s", health.retry_after);
	pthread_mutex_unlock(&health.lock);
	if (slow_s > 0)
		pause_s(slow_s);
	if (random() / (RAND_MAX + 1.0) < fail_rate) {
		respond(reply, fail_status, "{\"error\": \"%s is ill\"}", service_name);
	} else {
		reply->retry_after[0] = 0;
		answer(request, reply);
	}
	if (!reply->status || reply->status >= 500)
		count_failure(caller);
	return reply->status != 0;
}

static bool send_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		data += sent;
		size -= (size_t)sent;
	}
	return true;
}

static bool send_reply(int fd, const struct reply *reply, bool with_body, bool is_last)
{
	char message[sizeof reply->body + 512], retry[64] = "";
	int used;

	if (reply->retry_after[0])
		snprintf(retry, sizeof retry, "retry-after: %s\r\n", reply->retry_after);
	used = snprintf(message, sizeof message,
			"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n"
			"x-served-by: %.100s-%.30s\r\n%s%s\r\n%s",
			reply->status, reply->status < 400 ? "OK" : "Error", strlen(reply->body), service_name,
			service_version, retry, is_last ? "connection: close\r\n" : "", with_body ? reply->body : "");
	return used > 0 && (size_t)used < sizeof message && send_all(fd, message, (size_t)used);
}

/* Take a request's head apart; the status with which to refuse it, or 0. `length` is that of its body. */
static int parse(const char *head, size_t size, struct request *request, long *length)
{
	char target[512], version[16], value[32], *query;

	if (strlen(head) != size) /* a zero byte within */
		return 400;
	if (sscanf(head, "%15s %511s %15[^\r\n]", request->method, target, version) != 3)
		return 400;
	query = strchr(target, '?');
	if (query)
		*query++ = 0;
	if (strlen(target) >= sizeof request->path || (query && strlen(query) >= sizeof request->query))
		return 414;
	if (strncmp(version, "HTTP/1.", 7))
		return 505;
	strcpy(request->path, target);
	strcpy(request->query, query ? query : "");
	request->headers = strstr(head, "\r\n") + 2;
	header(request->headers, "transfer-encoding", value, sizeof value);
	if (value[0])
		return 501;
	header(request->headers, "content-length", value, sizeof value);
	if (value[strspn(value, "0123456789")])
		return 400;
	*length = strtol(value, NULL, 10);
	return *length > BODY_MAX ? 413 : 0;
}

/* Read one request's head into `buffer`, which may hold the beginning already; its size, 0 at the end, -1 too large. */
static long read_head(int fd, char *buffer, size_t *filled)
{
	for (;;) {
		char *end = memmem(buffer, *filled, "\r\n\r\n", 4);
		ssize_t got;

		if (end)
			return end + 4 - buffer;
		if (*filled == HEAD_MAX)
			return -1;
		got = recv(fd, buffer + *filled, HEAD_MAX - *filled, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return 0;
		*filled += (size_t)got;
	}
}

/* Throw a body away: no service here reads one. What follows it moves to the front of `buffer`. */
static bool skip(int fd, char *buffer, size_t *filled, size_t size)
{
	char rest[4096];

	if (*filled >= size) {
		memmove(buffer, buffer + size, *filled - size);
		*filled -= size;
		return true;
	}
	for (size -= *filled, *filled = 0; size;) {
		ssize_t got = recv(fd, rest, size < sizeof rest ? size : sizeof rest, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		size -= (size_t)got;
	}
	return true;
}

/* Read and answer one request; false when the connection is at its end. */
static bool serve_one(int fd, char *buffer, size_t *filled)
{
	char head[HEAD_MAX + 1], connection[32];
	struct request request;
	struct reply reply = { .status = 0 };
	long length = 0, size = read_head(fd, buffer, filled);
	bool is_last, is_sent;
	int refusal;

	if (!size)
		return false;
	unanswered++;
	memcpy(head, buffer, size > 0 ? (size_t)size : 0);
	head[size > 0 ? size : 0] = 0;
	refusal = size < 0 ? 431 : parse(head, (size_t)size, &request, &length);
	if (refusal) {
		respond(&reply, refusal, "{\"error\": \"refused\"}");
		send_reply(fd, &reply, true, true);
		unanswered--;
		return false;
	}
	header(request.headers, "connection", connection, sizeof connection);
	is_last = !strcasecmp(connection, "close") || strstr(head, " HTTP/1.0\r\n");
	is_sent = skip(fd, buffer, filled, (size_t)(size + length)) && handle(&request, &reply) &&
		  send_reply(fd, &reply, strcmp(request.method, "HEAD"), is_last || is_stopping);
	unanswered--;
	return is_sent && !is_last && !is_stopping;
}

static void *serve_connection(void *argument)
{
	int fd = (int)(long)argument, yes = 1;
	char *buffer = malloc(HEAD_MAX);
	size_t filled = 0;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	while (buffer && serve_one(fd, buffer, &filled))
		;
	free(buffer);
	shutdown(fd, SHUT_RDWR);
	close(fd);
	return NULL;
}

static void leave(int number)
{
	(void)number;
	is_stopping = 1;
}

static int listen_at(const char *address)
{
	struct sockaddr_in place = { .sin_family = AF_INET };
	char host[64];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port, yes = 1;

	if (sscanf(address, "%63[^:]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &place.sin_addr) != 1 ||
	    port < 0 || port > 65535)
		errno = EINVAL;
	else {
		place.sin_port = htons((unsigned short)port);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
		if (!bind(fd, (struct sockaddr *)&place, sizeof place) && !listen(fd, 256))
			return fd;
	}
	fprintf(stderr, "%s-%s: cannot listen on %s: %s\n", service_name, service_version, address, strerror(errno));
	exit(1);
}

/* Take connections until SIGTERM comes, which can be felt only while we wait for one. */
static void take_connections(int listener, const sigset_t *while_waiting)
{
	struct pollfd waiting = { .fd = listener, .events = POLLIN };
	pthread_attr_t detached;

	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&detached, 256 << 10);
	while (!is_stopping) {
		pthread_t thread;
		int fd;

		if (ppoll(&waiting, 1, NULL, while_waiting) < 0)
			continue;
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0 && pthread_create(&thread, &detached, serve_connection, (void *)(long)fd))
			close(fd);
		else if (fd < 0 && (errno == EMFILE || errno == ENFILE))
			pause_s(0.01);
	}
}

int main(void)
{
	const char *address = getenv("LISTEN") ? getenv("LISTEN") : "127.0.0.1:9080";
	struct sigaction action = { .sa_handler = leave };
	sigset_t blocked, before;
	int listener;

	service_name = getenv("SERVICE_NAME") ? getenv("SERVICE_NAME") : "unnamed";
	service_version = getenv("SERVICE_VERSION") ? getenv("SERVICE_VERSION") : "v1";
	prctl(PR_SET_NAME, service_name);
	srandom((unsigned)time(NULL) ^ (unsigned)getpid());
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	listener = listen_at(address);
	printf("%s-%s serves %s\n", service_name, service_version, address);
	fflush(stdout);
	sigdelset(&before, SIGTERM);
	sigdelset(&before, SIGINT);
	take_connections(listener, &before);
	close(listener);
	for (int waited_ms = 0; unanswered && waited_ms < GOODBYE_MS; waited_ms += 5)
		pause_s(0.005);
	return 0;
}

#endif
