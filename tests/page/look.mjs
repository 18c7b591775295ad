// tests/page/look.mjs - opens the demo's page and looks at it as people with telephones and wide screens do.
//
//   node look.mjs PAGE JSON     environment: exec_path (the browser), pictures (a folder, or empty)
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const [pageFile, jsonFile] = process.argv.slice(2);
const found = JSON.parse(readFileSync(jsonFile, 'utf8'));
let passed = 0, failed = 0;
const check = (sentence, holds) => {
  if (holds) return ++passed;
  ++failed;
  console.log(`not so: ${sentence}`);
};

const browser = await chromium.launch({
  executablePath: process.env.exec_path,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run'],
});

async function open(width, scheme) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme });
  page.on('pageerror', error => check(`no script fails: ${error}`, false));
  page.on('request', request => check(`nothing is fetched: ${request.url()}`, request.url().startsWith('file:')));
  await page.goto(pathToFileURL(resolve(pageFile)).href);
  return page;
}

// ---- the numbers ----
{
  const page = await open(1000, 'light');
  const figures = await page.$$eval('[data-of]', all => all.map(e => [e.dataset.of, e.dataset.value ?? e.textContent]));
  check('there are figures', figures.length > 15);
  for (const [path, shown] of figures) {
    const value = path.split('.').reduce((inside, name) => inside?.[name], found);
    check(`${path} is ${value}, the page says ${shown}`, String(value) === shown);
  }
  const flows = await page.$$eval('tr.flow', rows => rows.map(r => [...r.cells].map(c => c.textContent)));
  check('every conversation has a row', flows.length === found.flows.length);
  found.flows.forEach((f, i) =>
    check(`row ${i} is ${f.low}`, JSON.stringify(flows[i]) === JSON.stringify([f.protocol, f.low, f.high, String(f.packets), String(f.bytes)])));
  check('both maps are drawn in one scale', (await page.$$eval('svg', all => new Set(all.map(s => s.getAttribute('viewBox'))).size)) === 1);
  check('what is the dead\'s is outlined after the kill only', JSON.stringify(await page.$$eval('svg', all => all.map(s => s.querySelectorAll('.dead').length > 0))) === '[false,true]');
  await page.close();
}

// ---- every width ----
for (const width of [360, 480, 599, 600, 760, 800, 999, 1000, 1280, 1600]) {
  const page = await open(width, 'light');
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  check(`nothing is wider than ${width}: ${wide}`, wide <= width);
  const rows = await page.$$eval('.card', cards => {
    const tops = new Map();
    for (const c of cards) tops.set(c.offsetTop, (tops.get(c.offsetTop) ?? 0) + 1);
    return [...tops.values()];
  });
  check(`rows of cards are full at ${width}: ${rows}`, new Set(rows).size === 1);
  const cell = await page.$eval('svg g rect', r => r.getBoundingClientRect().width);
  check(`cells can be pointed at, at ${width}: ${cell}`, cell >= 7);
  await page.close();
}

// ---- what a cell is ----
for (const act of ['hover', 'click']) {
  const page = await open(800, 'light');
  const cell = page.locator('figure').nth(1).locator('g').nth(40);
  const title = await cell.locator('title').textContent();
  await cell[act]();
  check(`${act} says what a cell is`, (await page.locator('figure output').nth(1).textContent()) === title && /KiB|MiB/.test(title));
  await page.close();
}

// ---- light and dark ----
const papers = [];
for (const scheme of ['light', 'dark']) {
  for (const width of [360, 800, 1600]) {
    const page = await open(width, scheme);
    if (width === 800) papers.push(await page.$eval('body', b => getComputedStyle(b).backgroundColor));
    if (process.env.pictures) await page.screenshot({ path: `${process.env.pictures}/${scheme}-${width}.png`, fullPage: true });
    await page.close();
  }
}
check('light and dark differ', papers[0] !== papers[1]);

await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
