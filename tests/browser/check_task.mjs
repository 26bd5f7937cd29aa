// node check_task.mjs URL PICTURES: run a lab up to the cell that checks a task, and read what stands below it.

import { atNotebook, scrollTo } from "./jupyterlab.mjs";

const [url, pictures] = process.argv.slice(2);

// The number that JupyterLab shows before the cell, when it has ended. Runs in the page.
function timesRun() {
  const { widgets } = window.jupyterapp.shell.currentWidget.content;
  const cells = widgets.map((widget) => widget.model.sharedModel).filter((cell) => cell.cell_type === "code");
  return cells.find((cell) => cell.source.endsWith('check("start")')).execution_count ?? 0;
}

await atNotebook(url, pictures, async (page, tell) => {
  const cell = page.locator(".jp-CodeCell").filter({ hasText: 'check("start")' });
  const card = cell.locator(".cnlab-check");
  async function checked() {
    await card.getByText("These are the checks that you can see").waitFor();
    return { said: await card.innerText() };
  }

  async function runCheck() {
    await cell.locator(".cm-content").click();
    const before = await page.evaluate(timesRun);
    await page.keyboard.press("Control+Enter");
    await page.waitForFunction(`(${timesRun})() > ${before}`);
    return checked();
  }

  await scrollTo(page, cell);
  await cell.locator(".cm-content").click();
  await page.getByRole("menuitem", { name: "Run", exact: true }).click();
  await page.getByRole("menuitem", { name: "Run All Above Selected Cell" }).click();
  await tell("check-failed", await runCheck());
  await tell("check-passed", await runCheck());

  await page.evaluate(() =>
    window.jupyterapp.commands.execute("apputils:change-theme", { theme: "JupyterLab Dark" }),
  );
  await page.locator("body[data-jp-theme-light=false]").waitFor({ state: "attached" });
  await scrollTo(page, card);
  await tell("check-dark", await checked());
});
