// The facts about a book, with price and stock if somebody knows them.
"use strict";

const { calls, serve } = require("./service.js");
const { call } = require("./client.js");

const DETAILS = {
  author: "William Shakespeare",
  year: 1595,
  type: "paperback",
  pages: 200,
  publisher: "PublisherA",
  language: "English",
};

serve(async (request) => {
  if (!request.path.startsWith("/details")) return [404, { error: `no ${request.path} here` }];
  const details = { id: 0, ...DETAILS };
  const errors = {};
  for (const [service, key] of [["prices", "cents"], ["stock", "copies"]]) {
    if (!calls.includes(service)) continue;
    try {
      details[key] = (await call(service, `/${service}/0`, request))[key];
    } catch (error) {
      errors[service] = error.message;
    }
  }
  return [200, Object.keys(errors).length ? { ...details, errors } : details];
});
