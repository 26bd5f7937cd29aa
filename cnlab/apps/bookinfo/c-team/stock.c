/* How many copies there are. */
#include "service.h"

void answer(const struct request *request, struct reply *reply)
{
	if (strncmp(request->path, "/stock", 6))
		return respond(reply, 404, "{\"error\": \"not here\"}");
	respond(reply, 200, "{\"id\": 0, \"copies\": 7}");
}
