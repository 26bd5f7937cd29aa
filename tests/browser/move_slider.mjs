// node move_slider.mjs URL PICTURES: open a notebook in JupyterLab, run it, start its panel, move the slider
// cpu.max to a third.
//
// Does what a student does, with the mouse only. After each step it prints a line of JSON that says what can be
// seen, and waits for a line from the caller, who looks at the kernel meanwhile. Keeps a picture of each step.

import { createInterface } from "node:readline";
import { withBrowser } from "./chromium.mjs";

const [url, pictures] = process.argv.slice(2);
const caller = createInterface({ input: process.stdin });
const lines = caller[Symbol.asyncIterator]();

// JupyterLab takes cells that are out of sight out of the page, so its model is asked. Runs in the page.
function allHaveRun() {
  const { widgets } = window.jupyterapp.shell.currentWidget.content;
  const cells = widgets.map((widget) => widget.model.sharedModel).filter((cell) => cell.cell_type === "code");
  return cells.every((cell) => !cell.source.trim() || cell.execution_count !== null);
}

async function scrollTo(page, locator) {
  const { x, y, width, height } = await page.locator(".jp-WindowedPanel-outer").first().boundingBox();
  await page.mouse.move(x + width - 40, y + height / 2);
  await page.mouse.wheel(0, -1_000_000);
  for (let turn = 0; turn < 200 && !(await locator.isVisible()); turn += 1) {
    await page.mouse.wheel(0, height / 2);
    await page.waitForTimeout(100); // the cells that come into sight are made now
  }
  await locator.scrollIntoViewIfNeeded();
}

async function drag(page, slider, share) {
  const handle = await slider.locator(".noUi-handle").boundingBox();
  const track = await slider.locator(".noUi-base").boundingBox();
  await page.mouse.move(handle.x + handle.width / 2, handle.y + handle.height / 2);
  await page.mouse.down();
  await page.mouse.move(track.x + track.width * share, handle.y + handle.height / 2, { steps: 8 });
  await page.mouse.up();
}

await withBrowser(async (browser) => {
  const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
  const foreign = [];
  page.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(url).host) foreign.push(request.url().slice(0, 100));
  });
  async function tell(step, facts) {
    await page.screenshot({ path: `${pictures}/lab-${step}.png` });
    console.log(JSON.stringify({ step, foreign, ...facts }));
    await lines.next();
  }

  await page.goto(url);
  await page.getByText("Cloud Native Lab | Idle").waitFor({ timeout: 60_000 });
  await tell("opened");
  await page.getByRole("menuitem", { name: "Run", exact: true }).click();
  await page.getByRole("menuitem", { name: "Run All Cells", exact: true }).click();
  await page.waitForFunction(allHaveRun, undefined, { timeout: 180_000, polling: 200 });

  const slider = page.locator(".widget-hslider").filter({ has: page.getByText("cpu.max", { exact: true }) });
  const readout = slider.locator(".widget-readout");
  await scrollTo(page, slider);
  await page.getByRole("button", { name: "start", exact: true }).click();
  await tell("started", { readout: await readout.innerText() });
  await drag(page, slider, 1 / 3);
  await page.waitForTimeout(3_000); // so that the picture shows what the job makes of it
  await tell("moved", { readout: await readout.innerText() });
});
caller.close();
