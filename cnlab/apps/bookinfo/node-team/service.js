// What the Node.js services share: an HTTP server that can be told to be ill, and that ends politely.
//
// A service is an async function from a request to [status, value], given to `serve`. Its surroundings come as
// environment variables: SERVICE_NAME, SERVICE_VERSION, LISTEN (host:port), CALLS, and those of client.js.
// Written for Node.js 12 and later, which Ubuntu 22.04 still has.
"use strict";

const http = require("http");

const name = process.env.SERVICE_NAME || "unnamed";
const version = process.env.SERVICE_VERSION || "v1";
const calls = (process.env.CALLS || "").split(",").filter(Boolean);

const LONGEST_BODY = 64 * 1024;
const GOODBYE_MS = 10000;

const wellAgain = () => ({
  rate: 0,
  status: 503,
  retryAfter: "",
  slowMs: 0,
  forgets: false,
  requests: 0,
  by: new Map(),
  failed: new Map(),
});
let health = wellAgain();
let unanswered = 0;
let isStopping = false;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function send(response, status, value, headers = {}) {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": body.length,
    "x-served-by": `${name}-${version}`,
    ...(isStopping ? { connection: "close" } : {}),
    ...headers,
  });
  response.end(response.req && response.req.method === "HEAD" ? undefined : body);
}

function administer(path, query) {
  const number = (key, fallback) => {
    const value = query.has(key) ? Number(query.get(key)) : fallback;
    if (value === undefined || !(value >= 0)) throw new RangeError(`${path}: ${key} is no number`);
    return value;
  };
  switch (path) {
    case "/health":
      break;
    case "/_fail":
      health.rate = number("rate");
      health.status = number("status", 503);
      health.retryAfter = query.get("retry_after") || "";
      break;
    case "/_slow":
      health.slowMs = 1000 * number("seconds");
      break;
    case "/_forget": // what the callers' headers say, so that a trace ends here
      health.forgets = true;
      break;
    case "/_reset":
      health = wellAgain();
      break;
    case "/_count":
      return [
        200,
        {
          requests: health.requests,
          by: Object.fromEntries(health.by),
          failed: Object.fromEntries(health.failed),
        },
      ];
    default:
      return [404, { error: `no ${path} here` }];
  }
  return [200, { status: "ok" }];
}

const countOne = (counts, caller) => counts.set(caller, (counts.get(caller) || 0) + 1);

async function handle(request, response, answer) {
  const url = new URL(request.url, "http://service");
  if (url.pathname === "/health" || url.pathname.startsWith("/_")) {
    return send(response, ...administer(url.pathname, url.searchParams));
  }
  const caller = request.headers["user-agent"] || "unknown";
  health.requests += 1;
  countOne(health.by, caller);
  if (health.slowMs) await sleep(health.slowMs);
  if (Math.random() < health.rate) {
    if (health.status === 0 || health.status >= 500) countOne(health.failed, caller);
    if (health.status === 0) return request.socket.destroy();
    const headers = health.retryAfter ? { "retry-after": health.retryAfter } : {};
    return send(response, health.status, { error: `${name} is ill` }, headers);
  }
  const headers = health.forgets ? {} : request.headers;
  const [status, value] = await answer({ method: request.method, path: url.pathname, headers });
  if (status >= 500) countOne(health.failed, caller);
  return send(response, status, value);
}

function leaveWhenDone() {
  if (isStopping && unanswered === 0) process.exit(0);
}

function receive(request, response, answer) {
  unanswered += 1;
  response.on("close", () => {
    unanswered -= 1;
    leaveWhenDone();
  });
  let length = 0;
  request.on("data", (chunk) => {
    length += chunk.length;
    if (length > LONGEST_BODY) request.destroy();
  });
  request.on("end", () => {
    handle(request, response, answer).catch((error) => {
      const isTheirs = error instanceof RangeError || error.code === "ERR_INVALID_URL";
      if (!isTheirs) console.error(`${name}-${version}:`, error);
      if (!response.headersSent) send(response, isTheirs ? 400 : 500, { error: error.message });
    });
  });
}

/** Serve at LISTEN until SIGTERM comes, then finish what has been asked and end. */
function serve(answer) {
  const [host, port] = (process.env.LISTEN || "127.0.0.1:9080").split(":");
  const server = http.createServer((request, response) => receive(request, response, answer));
  server.keepAliveTimeout = 0; // whoever keeps a connection decides how long
  server.on("error", (error) => {
    const reason = error.code === "EADDRINUSE" ? "Address already in use" : error.message;
    console.error(`${name}-${version}: cannot listen on ${host}:${port}: ${reason}`);
    process.exit(1);
  });
  server.listen({ host, port: Number(port), backlog: 256 }, () => {
    console.log(`${name}-${version} serves ${host}:${port}`);
  });
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.on(signal, () => {
      isStopping = true;
      server.close();
      setTimeout(() => process.exit(0), GOODBYE_MS);
      leaveWhenDone();
    });
  }
}

module.exports = { name, version, calls, serve, sleep };
