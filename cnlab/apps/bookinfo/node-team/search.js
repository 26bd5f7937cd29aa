// Finds the book and what goes with it; a part that is not to be had is left out.
"use strict";

const { calls, serve } = require("./service.js");
const { call } = require("./client.js");

serve(async (request) => {
  if (!request.path.startsWith("/search")) return [404, { error: `no ${request.path} here` }];
  const found = { id: 0 };
  const errors = {};
  for (const [service, key] of [["details", "author"], ["recommendations", "titles"]]) {
    if (!calls.includes(service)) continue;
    try {
      found[key] = (await call(service, `/${service}/0`, request))[key];
    } catch (error) {
      errors[service] = error.message;
    }
  }
  return [200, Object.keys(errors).length ? { ...found, errors } : found];
});
