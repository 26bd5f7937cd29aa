// node read_book.mjs PICTURES PAGE...: open each page of the book in the light and the dark theme, as a reader would.
//
// Prints a JSON list, one object a page and theme: what it asked for, what it complained about, and what a
// reader would see broken. Leaves a picture of each in PICTURES.

import { basename } from "node:path";
import { pathToFileURL } from "node:url";
import { withBrowser } from "./chromium.mjs";

const [pictures, ...pages] = process.argv.slice(2);

// Runs in the page.
function lookForDamage() {
  const images = [...document.images];
  return {
    broken: images.filter((image) => image.complete && image.naturalWidth === 0).map((image) => image.src.slice(0, 80)),
    undescribed: images.filter((image) => !image.alt.trim()).map((image) => image.src.slice(0, 80)),
    overflow: Math.max(0, document.documentElement.scrollWidth - window.innerWidth),
  };
}

async function read(browser, path, colorScheme) {
  const page = await browser.newPage({ colorScheme, viewport: { width: 1280, height: 900 } });
  const requests = [];
  const complaints = [];
  page.on("request", (request) => requests.push(request.url().slice(0, 200)));
  page.on("requestfailed", (request) => complaints.push(`not loaded: ${request.url().slice(0, 200)}`));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  await page.goto(pathToFileURL(path).href, { waitUntil: "load" });
  const damage = await page.evaluate(lookForDamage);
  const theme = await page.evaluate(() => document.documentElement.dataset.theme);
  const picture = `${pictures}/${basename(path, ".html")}-${colorScheme}.png`;
  await page.screenshot({ path: picture, fullPage: true });
  await page.close();
  return { path, colorScheme, theme, requests, complaints, ...damage, picture };
}

const readings = await withBrowser(async (browser) => {
  const done = [];
  for (const path of pages) {
    for (const colorScheme of ["light", "dark"]) done.push(await read(browser, path, colorScheme));
  }
  return done;
});
console.log(JSON.stringify(readings));
