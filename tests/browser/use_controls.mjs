// node use_controls.mjs URL PICTURES: run controls.ipynb, take layers off an image, plug a cable in and let its
// first end forward, give a container a capability.

import { atNotebook, drag, runAllCells, scrollTo, sliderCalled } from "./jupyterlab.mjs";

const [url, pictures] = process.argv.slice(2);

await atNotebook(url, pictures, async (page, tell) => {
  await runAllCells(page);
  await tell("start");

  const slider = sliderCalled(page, "layers");
  await scrollTo(page, slider);
  await drag(page, slider, 1 / 3);
  const count = page.getByText("1 of 3 layers stacked");
  await count.waitFor();
  await tell("layers", { said: await count.innerText() });

  const up = page.locator("button").filter({ hasText: "set up" }); // its icon is a letter of its name
  await scrollTo(page, up);
  await page.locator(".widget-dropdown select").selectOption({ label: "web: eth0" });
  await up.click();
  const message = page.getByText("ip link set eth0 up");
  await message.waitFor();
  await tell("cable", { said: await message.innerText() });
  await page.getByText("host forwards (ip_forward)").click();
  const sysctl = page.getByText("sysctl net.ipv4.ip_forward=");
  await sysctl.waitFor();
  await tell("forward", { said: await sysctl.innerText() });

  const box = page.getByText("CHOWN", { exact: true });
  await scrollTo(page, box);
  const row = page.locator("tr").filter({ hasText: "give a file away" });
  const before = await row.innerText();
  await box.click();
  await row.getByText("works").waitFor();
  await tell("attempts", { said: await row.innerText(), before });
});
