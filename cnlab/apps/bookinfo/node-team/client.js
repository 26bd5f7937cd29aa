// The client library of the Node.js teams: calls to other services with timeout, retries, load balancing.
//
// It was written in a week of incidents: whatever fails is sent again at once, up to three times, to an address
// drawn by lot. CLIENT=plain switches all that off, for where something else takes care of it; the headers of a
// trace are passed on in any case, as nothing else can.
"use strict";

const http = require("http");
const { name, version } = require("./service.js");

const TRIES = 4;
const TIMEOUT_MS = 750;
const PROPAGATED = new Set(["traceparent", "tracestate", "x-request-id", "end-user"]);

const isPlain = process.env.CLIENT === "plain";
const PLAIN_TIMEOUT_MS = 15000;

const isRetryable = (status) => status >= 500 || status === 429;

function someAddress(service) {
  const variable = `${service.toUpperCase().replace(/-/g, "_")}_ADDR`;
  const addresses = (process.env[variable] || "").split(",").filter(Boolean);
  if (addresses.length === 0) throw new Error(`${service}: no address, ${variable} is not set`);
  return addresses[Math.floor(Math.random() * addresses.length)].split(":");
}

function headersFor(service, request) {
  const headers = { host: service, "user-agent": `${name}/${version}` };
  for (const [key, text] of Object.entries(request.headers)) {
    if (PROPAGATED.has(key) || key.startsWith("x-b3-")) headers[key] = text;
  }
  return headers;
}

function exchange(service, path, method, headers) {
  const [host, port] = someAddress(service);
  return new Promise((resolve, reject) => {
    const outgoing = http.request({ host, port, path, method, headers, agent: false }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode, body: Buffer.concat(chunks).toString() }));
    });
    const limit = setTimeout(() => outgoing.destroy(new Error("timeout")), isPlain ? PLAIN_TIMEOUT_MS : TIMEOUT_MS);
    outgoing.on("error", reject);
    outgoing.on("close", () => {
      clearTimeout(limit);
      reject(new Error("closed")); // of no effect once there is an answer
    });
    outgoing.end();
  });
}

/** Ask another service on behalf of `request` and give the JSON value that it answers; throws if there is none. */
async function call(service, path, request, method = "GET") {
  const headers = headersFor(service, request);
  let reason = "";
  for (let attempt = 0; attempt < (isPlain ? 1 : TRIES); attempt += 1) {
    try {
      const { status, body } = await exchange(service, path, method, headers);
      if (status < 400) return JSON.parse(body);
      reason = `${service} answered ${status}`;
      if (!isRetryable(status)) break;
    } catch (error) {
      reason = `${service}: ${error.code || error.message}`;
    }
  }
  throw new Error(reason);
}

module.exports = { call };
