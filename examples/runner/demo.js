// @ts-check
/**
 * Show what a service that renders documents meets, and how long each of it takes.
 *
 * usage: node demo.js OPTIONS     (make runner-demo)
 *
 *   --store DIRECTORY     where the store is; an empty one shows most
 *   --python PATH         the base interpreter
 *   --command PATH        vrfstore
 *   --projects DIRECTORY  the projects that are rendered; by default those beside this file
 *   --json                print what was found as JSON, and no table
 */

import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { compile } from './runner.js';

/** @import { Compiled } from './runner.js' */
/** @import { LinkOptions } from '../../clients/node/index.js' */

const AT_ONCE = 8;

/** Nobody listens there. */
const DOWN = 'http://127.0.0.1:9/simple/';

const { values } = parseArgs({
  options: {
    store: { type: 'string' },
    python: { type: 'string' },
    command: { type: 'string', default: 'vrfstore' },
    projects: { type: 'string', default: fileURLToPath(new URL('projects', import.meta.url)) },
    json: { type: 'boolean', default: false },
  },
});

/** What a service decides for all its projects. @type {LinkOptions} */
const USUAL = {
  command: [values.command.includes('/') ? resolve(values.command) : values.command],
  store: values.store === undefined ? undefined : resolve(values.store),
  python: values.python,
  timeout: 300,
  maxPackages: 200,
};

/**
 * @param {string} name
 * @param {LinkOptions} [options]
 * @param {Parameters<typeof compile>[2]} [more]
 */
function render(name, options = {}, more = {}) {
  return compile(resolve(values.projects, name), { name, link: { ...USUAL, ...options } }, more);
}

/** Stop a compile as soon as something is on its way; and say whether it was. */
async function stopped() {
  const controller = new AbortController();
  /** @type {string} */
  let log = '';
  const rendering = render('stopped', {}, { signal: controller.signal, onStart: (path) => (log = path) });
  const over = rendering.then(() => true);
  while (!/^fetched /m.test(await readFile(log, 'utf8').catch(() => ''))) {
    if (await Promise.race([over, sleep(10, false)])) throw new Error('it was over before it could be stopped');
  }
  controller.abort();
  return rendering;
}

/** @type {[string, () => Promise<Compiled | Compiled[]>][]} */
const CASES = [
  ['miss', () => render('report')],
  ['hit', () => render('report')],
  ['eight at once', () => Promise.all(Array.from({ length: AT_ONCE }, () => render('eight')))],
  ['not permitted', () => render('refused', { install: false })],
  ['permitted without', () => render('report', { install: false })],
  ['typo', () => render('typo')],
  ['missing module', () => render('missing')],
  ['stop in mid-build', stopped],
  ['the next try', () => render('stopped')],
  ['index down', () => render('down', { indexUrl: DOWN })],
  ['index down, fallback', () => render('down', { indexUrl: DOWN, fallback: true })],
];

/** @param {string} name @param {Compiled} compiled */
function row(name, { code, rendered, milliseconds }) {
  const { link, execute } = rendered?.milliseconds ?? { link: 0, execute: 0 };
  const words = rendered === null ? 'killed' : rendered.problem ?? rendered.outputs.join(' ');
  const times = [link, execute, milliseconds].map((time) => (time > 0 ? time.toFixed(time < 10 ? 2 : 0) : ''));
  return [name, String(code ?? ''), rendered?.status ?? '', ...times, words.split('\n')[0].slice(0, 60)];
}

/** @param {string[][]} rows */
function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((cells) => cells[column].length)));
  const isNumber = (/** @type {number} */ column) => column >= 3 && column <= 5;
  return rows.map((cells) =>
    cells.map((cell, at) => (isNumber(at) ? cell.padStart(widths[at]) : cell.padEnd(widths[at]))).join('  ').trimEnd(),
  );
}

const rows = [['case', 'code', 'status', 'link ms', 'execute', 'whole', 'what the author is told']];
/** @type {Record<string, Compiled[]>} */
const found = {};
for (const [name, run] of CASES) {
  if (!values.json) console.error(`${name} …`);
  found[name] = [await run()].flat();
  for (const compiled of found[name]) rows.push(row(name, compiled));
}
console.log(values.json ? JSON.stringify(found) : table(rows).join('\n'));
if (!values.json) {
  for (const name of ['hit', 'typo', 'missing module', 'index down, fallback']) {
    console.log(`\nThe log of “${name}”:\n${found[name][0].log.trimEnd().replace(/^/gm, '  ')}`);
  }
}
