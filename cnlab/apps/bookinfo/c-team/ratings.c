/* The ratings of a book: how many stars each reviewer gave. */
#include "service.h"

void answer(const struct request *request, struct reply *reply)
{
	if (strncmp(request->path, "/ratings", 8))
		return respond(reply, 404, "{\"error\": \"not here\"}");
	respond(reply, 200, "{\"id\": 0, \"ratings\": {\"Reviewer1\": 5, \"Reviewer2\": 4}}");
}
