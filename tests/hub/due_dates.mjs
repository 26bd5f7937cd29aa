// node due_dates.mjs NOW DUE...: what stands beside an assignment that is due then, a line for each.
//
// Runs the extension as JupyterLab would, with as much of a page as it touches.

import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const [now, ...dues] = process.argv.slice(2);
const extension = new URL("../../grading/hub/share/labextensions/cnlab-duedates/static/remoteEntry.js", import.meta.url);
const dates = Object.fromEntries(dues.map((due, index) => [`lab${index}`, due]));
let addRows;

Date.now = () => Date.parse(now);
globalThis.window = {};
globalThis.document = { body: {}, createElement: () => ({ style: {} }) };
globalThis.fetch = async () => ({ ok: true, json: async () => dates });
globalThis.MutationObserver = class {
  constructor(callback) { addRows = callback; }
  observe() {}
};

function rowOf(assignment) {
  const append = (note) => console.log(note.textContent.trim());
  const name = { firstChild: { textContent: assignment }, querySelector: () => null, append };
  return { classList: { contains: () => true }, parentElement: { matches: () => true }, querySelector: () => name };
}

runInThisContext(readFileSync(extension, "utf8"));
const { default: plugin } = (await window._JUPYTERLAB["cnlab-duedates"].get())();
plugin.activate({ serviceManager: { serverSettings: { baseUrl: "/", token: "" } } });
await addRows([{ addedNodes: Object.keys(dates).map(rowOf) }]);
