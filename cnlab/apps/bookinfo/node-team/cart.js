// What is in the cart and what it costs; without a price there is no cart.
"use strict";

const { calls, serve } = require("./service.js");
const { call } = require("./client.js");

const DEFAULTS = { prices: ["cents", 0], stock: ["copies", 1], users: ["name", "guest"] };

serve(async (request) => {
  if (!request.path.startsWith("/cart")) return [404, { error: `no ${request.path} here` }];
  const known = {};
  try {
    for (const [service, [key, fallback]] of Object.entries(DEFAULTS)) {
      known[key] = calls.includes(service) ? (await call(service, `/${service}/0`, request))[key] : fallback;
    }
  } catch (error) {
    return [503, { error: error.message }];
  }
  const items = Math.min(2, known.copies);
  return [200, { id: 0, of: known.name, items, total: items * known.cents }];
});
