// node play_course.mjs ADDRESS PICTURES: one assignment at the hub, from release to feedback, as people click it.
//
// The first line of standard input is JSON: who teaches and learns, by which passwords, the answers, the command that
// grades. Prints a line of JSON after each act and waits for a line, while the caller looks at the machine.

import { createInterface } from "node:readline";
import { withBrowser } from "../browser/chromium.mjs";

const [address, pictures] = process.argv.slice(2);
const caller = createInterface({ input: process.stdin });
const lines = caller[Symbol.asyncIterator]();
const { assignment, teacher, students, passwords, answers, due, grading } = JSON.parse((await lines.next()).value);
const complaints = [];

async function tell(act, facts, pages) {
  for (const [name, page] of Object.entries(pages)) {
    const role = name === "teacher" ? name : `student${students.indexOf(name) + 1}`;
    await page.screenshot({ path: `${pictures}/hub-${act}-${role}.png` });
  }
  console.log(JSON.stringify({ act, complaints, ...facts }));
  await lines.next();
}

// nbgrader's feedback page names a MathJax far away, and does without it.
function isForeign(url) {
  return !/^(blob|data):|\/mathjax\//.test(url) && new URL(url).origin !== address;
}

async function enter(browser, name) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(Number(process.env.PATIENCE_MS ?? 180_000));
  page.on("pageerror", (error) => complaints.push(`${name}: ${error}`));
  page.on("request", (request) => isForeign(request.url()) && complaints.push(request.url()));
  await page.goto(address);
  await page.getByLabel("Username").fill(name);
  await page.getByLabel("Password:").fill(passwords[name]);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("menuitem", { name: "Nbgrader", exact: true }).waitFor();
  return page;
}

async function choose(page, menu, item) {
  await page.getByRole("menuitem", { name: menu, exact: true }).click();
  await page.getByRole("menuitem", { name: item, exact: true }).click();
}

// formgrader: a table in a frame, a dialog after each act

function formgrader(page) {
  const frame = page.frameLocator("iframe").last();
  return { frame, row: frame.locator("tbody tr").filter({ hasText: assignment }) };
}

async function press(page, column) {
  const { frame, row } = formgrader(page);
  await row.locator(`.${column} a`).first().click();
  const dialog = frame.locator(".modal.in");
  const said = await dialog.locator(".modal-body p").first().innerText();
  await dialog.getByText("OK", { exact: true }).click();
  await dialog.waitFor({ state: "detached" });
  return said;
}

async function setDueDate(page) {
  const { frame, row } = formgrader(page);
  await row.locator(".edit a").click();
  const dialog = frame.locator(".modal.in");
  await dialog.locator("input[type='datetime-local']").fill(due);
  await dialog.getByText("Save", { exact: true }).click();
  await dialog.waitFor({ state: "detached" });
}

// a student's assignment list and notebook

function inList(page, list) {
  return page.locator(`#${list}_assignments_list > .list_item`).filter({ hasText: assignment });
}

async function fetchAssignment(page) {
  await choose(page, "Nbgrader", "Assignment List");
  const row = inList(page, "released");
  const due = await row.locator(".cnlab-due").innerText();
  await row.getByRole("button", { name: "Fetch", exact: true }).click();
  await inList(page, "fetched").waitFor();
  return due.trim();
}

async function work(page, answer) {
  const row = inList(page, "fetched");
  await row.locator(".assignment-notebooks-link").click();
  await row.locator(".nested_list_item a").first().click();
  const notebook = page.locator(".jp-NotebookPanel:visible");
  const editor = notebook.locator(".jp-CodeCell .cm-content").first();
  await editor.click();
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(answer);
  await notebook.getByRole("button", { name: "Validate" }).click();
  const dialog = page.locator(".jp-Dialog");
  await dialog.waitFor();
  const said = await dialog.innerText();
  await page.screenshot({ path: `${pictures}/hub-validated-${said.includes("Success") ? "right" : "wrong"}.png` });
  await dialog.getByRole("button").last().click();
  return said;
}

async function submit(page) {
  await page.locator(".lm-TabBar-tab").filter({ hasText: "Assignments" }).click();
  await inList(page, "fetched").getByRole("button", { name: "Submit", exact: true }).click();
  await inList(page, "submitted").waitFor();
}

async function fetchFeedback(page) {
  await page.locator("#refresh_assignments_list").click();
  const row = inList(page, "submitted");
  await row.getByRole("button", { name: "Fetch Feedback", exact: true }).click();
  await row.getByText("(view feedback)").click();
  await page.locator(".jp-DirListing-item").filter({ hasText: `${assignment}.html` }).dblclick();
  const shown = page.locator(".jp-HTMLViewer:visible iframe").contentFrame();
  await shown.getByText("Score:").first().waitFor(); // the frame is there before the page in it
  return shown.locator("body").innerText();
}

async function typeInTerminal(page, command) {
  await page.getByRole("menuitem", { name: "File", exact: true }).click();
  await page.locator(".lm-Menu-itemLabel").getByText("New", { exact: true }).click();
  await page.getByRole("menuitem", { name: "Terminal", exact: true }).click();
  await page.locator(".jp-Terminal .xterm-screen").click();
  await page.keyboard.type(`${command}\n`);
}

async function play(browser) {
  const desk = await enter(browser, teacher);
  const arriving = Promise.all(students.map((name) => enter(browser, name))); // while the teacher prepares
  await choose(desk, "Nbgrader", "Course List");
  const courses = await desk.locator(".list_item").first().innerText();
  await choose(desk, "Nbgrader", "Formgrader");
  await formgrader(desk).row.waitFor();
  await setDueDate(desk);
  const generated = await press(desk, "assign");
  const released = await press(desk, "release");
  await tell("released", { courses, generated, released }, { teacher: desk });

  const seats = await arriving;
  const pages = Object.fromEntries(students.map((name, index) => [name, seats[index]]));
  const atSeats = async (act) => Object.fromEntries(await Promise.all(students.map(async (name) => [name, await act(pages[name], name)])));
  await tell("fetched", { due: await atSeats(fetchAssignment) }, pages);
  await tell("validated", { said: await atSeats((page, name) => work(page, answers[name])) }, pages);
  await atSeats(submit);
  await tell("submitted", {}, pages);

  const collected = await press(desk, "collect");
  await tell("collected", { collected }, { teacher: desk });
  await typeInTerminal(desk, grading);
  await tell("autograding", {}, { teacher: desk });
  await desk.screenshot({ path: `${pictures}/hub-autograded-teacher.png` });
  await desk.locator(".lm-TabBar-tab").filter({ hasText: "Formgrader" }).click();
  const feedback = await press(desk, "generate-feedback");
  const handedBack = await press(desk, "release-feedback");
  await tell("handed-back", { feedback, handedBack }, { teacher: desk });
  await tell("read", { feedback: await atSeats(fetchFeedback) }, pages);
}

await withBrowser(async (browser) => {
  try {
    await play(browser);
  } catch (error) {
    const pages = browser.contexts().flatMap((context) => context.pages());
    await Promise.all(pages.map((page, index) => page.screenshot({ path: `${pictures}/hub-stuck-${index}.png` })));
    throw error;
  }
});
caller.close();
