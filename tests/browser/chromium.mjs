// Starts the Chromium of this machine; whoever calls it closes it. TMPDIR holds its profile.

import { chromium } from "playwright-core";

const QUIET = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-gpu",
  "--disable-quic",
  "--disable-sync",
  "--no-first-run",
  "--no-sandbox", // its own sandbox needs user namespaces, which containers and root do not give it
];

export async function withBrowser(use) {
  const executablePath = process.env.CNLAB_CHROMIUM ?? "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, args: QUIET });
  try {
    return await use(browser);
  } finally {
    await browser.close();
  }
}
