// node check_task.mjs URL PICTURES: run a lab up to the cell that checks a task, and read what stands below it.

import { atNotebook, scrollTo } from "./jupyterlab.mjs";

const [url, pictures] = process.argv.slice(2);

await atNotebook(url, pictures, async (page, tell) => {
  const cell = page.locator(".jp-CodeCell").filter({ hasText: 'check("start")' });
  const card = cell.locator(".cnlab-check");
  async function checked() {
    await card.getByText("These are the checks that you can see").waitFor({ timeout: 60_000 });
    return { said: await card.innerText() };
  }

  await scrollTo(page, cell);
  await cell.locator(".cm-content").click();
  await page.getByRole("menuitem", { name: "Run", exact: true }).click();
  await page.getByRole("menuitem", { name: "Run All Above Selected Cell" }).click();
  await page.getByText("Cloud Native Lab | Idle").waitFor({ timeout: 60_000 });
  await cell.locator(".cm-content").click();
  await page.keyboard.press("Control+Enter");
  await tell("check-failed", await checked());

  await cell.locator(".cm-content").click();
  await page.keyboard.press("Control+Enter");
  await card.getByText("checking").waitFor({ timeout: 60_000 });
  await tell("check-passed", await checked());

  await page.evaluate(() =>
    window.jupyterapp.commands.execute("apputils:change-theme", { theme: "JupyterLab Dark" }),
  );
  await page.locator("body[data-jp-theme-light=false]").waitFor({ state: "attached" });
  await scrollTo(page, card);
  await tell("check-dark", await checked());
});
