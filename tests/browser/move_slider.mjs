// node move_slider.mjs URL PICTURES: run notebook 02, start its panel, move the slider cpu.max to a third.

import { atNotebook, drag, runAllCells, scrollTo, sliderCalled } from "./jupyterlab.mjs";

const [url, pictures] = process.argv.slice(2);

await atNotebook(url, pictures, async (page, tell) => {
  await tell("opened");
  await runAllCells(page);
  const slider = sliderCalled(page, "cpu.max");
  const readout = slider.locator(".widget-readout");
  await scrollTo(page, slider);
  await page.getByRole("button", { name: "start", exact: true }).click();
  await tell("started", { readout: await readout.innerText() });
  await drag(page, slider, 1 / 3);
  await page.waitForTimeout(3_000); // so that the picture shows what the job makes of it
  await tell("moved", { readout: await readout.innerText() });
});
