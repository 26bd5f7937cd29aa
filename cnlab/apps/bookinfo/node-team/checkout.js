// What there is to pay, and paying: POST has the order shipped.
"use strict";

const { calls, serve } = require("./service.js");
const { call } = require("./client.js");

let orders = 0;

serve(async (request) => {
  if (!request.path.startsWith("/checkout")) return [404, { error: `no ${request.path} here` }];
  let postage = 0;
  let total;
  try {
    ({ total } = await call("cart", "/cart/0", request));
    if (calls.includes("shipping")) {
      ({ postage } = await call("shipping", "/shipping/0", request, request.method));
    }
  } catch (error) {
    return [503, { error: error.message }];
  }
  if (request.method !== "POST") return [200, { id: 0, total: total + postage }];
  orders += 1;
  return [200, { id: 0, total: total + postage, order: orders }];
});
