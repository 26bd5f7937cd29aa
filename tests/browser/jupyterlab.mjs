// What a student does in JupyterLab, with the mouse only: run a notebook, find a control, drag a slider.

import { createInterface } from "node:readline";
import { withBrowser } from "./chromium.mjs";

// Opens a notebook and lets `use` act there. `tell` prints a line of JSON that says what can be seen, keeps a
// picture, and waits for a line from the caller, who looks at the kernel meanwhile.
export async function atNotebook(url, pictures, use) {
  const caller = createInterface({ input: process.stdin });
  const lines = caller[Symbol.asyncIterator]();
  await withBrowser(async (browser) => {
    const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
    page.setDefaultTimeout(60_000);
    const foreign = [];
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== new URL(url).origin) foreign.push(request.url().slice(0, 100));
    });
    async function tell(step, facts) {
      await page.screenshot({ path: `${pictures}/lab-${step}.png` });
      console.log(JSON.stringify({ step, foreign, ...facts }));
      await lines.next();
    }

    await page.goto(url);
    await page.getByText("Cloud Native Lab | Idle").waitFor();
    await use(page, tell);
  });
  caller.close();
}

export async function runAllCells(page) {
  await page.getByRole("menuitem", { name: "Run", exact: true }).click();
  await page.getByRole("menuitem", { name: "Run All Cells", exact: true }).click();
  await page.waitForFunction(allHaveRun, undefined, { timeout: 180_000, polling: 200 });
}

// JupyterLab takes cells that are out of sight out of the page, so its model is asked. Runs in the page.
function allHaveRun() {
  const { widgets } = window.jupyterapp.shell.currentWidget.content;
  const cells = widgets.map((widget) => widget.model.sharedModel).filter((cell) => cell.cell_type === "code");
  for (const error of cells.flatMap((cell) => cell.getOutputs()).filter((output) => output.ename)) {
    throw new Error(`a cell ended with ${error.ename}: ${error.evalue}`); // those after it will not run
  }
  return cells.every((cell) => !cell.source.trim() || cell.execution_count !== null);
}

// Goes down the notebook from its top, again and again: a slow page may pass a cell before it is made.
export async function scrollTo(page, locator) {
  const panel = page.locator(".jp-WindowedPanel-outer").first();
  const { x, y, width, height } = await panel.boundingBox();
  await page.mouse.move(x + width - 40, y + height / 2);
  await page.mouse.wheel(0, -1_000_000);
  for (let turn = 0; turn < 1000 && !(await locator.isVisible()); turn += 1) {
    const before = await panel.evaluate((element) => element.scrollTop);
    await page.mouse.wheel(0, height / 2);
    await page.waitForTimeout(100); // the cells that come into sight are made now
    const isAtEnd = before === (await panel.evaluate((element) => element.scrollTop));
    if (isAtEnd) await page.mouse.wheel(0, -1_000_000);
  }
  await locator.scrollIntoViewIfNeeded();
}

export function sliderCalled(page, name) {
  return page.locator(".widget-hslider").filter({ has: page.getByText(name, { exact: true }) });
}

export async function drag(page, slider, share) {
  const handle = await slider.locator(".noUi-handle").boundingBox();
  const track = await slider.locator(".noUi-base").boundingBox();
  await page.mouse.move(handle.x + handle.width / 2, handle.y + handle.height / 2);
  await page.mouse.down();
  await page.mouse.move(track.x + track.width * share, handle.y + handle.height / 2, { steps: 8 });
  await page.mouse.up();
}
