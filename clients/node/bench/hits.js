// @ts-check
/**
 * Measure hits: 200 one after another, and 200 of which 16 are asked at once.
 *
 * usage: node bench/hits.js REQUIREMENTS --python PATH [--store DIRECTORY] [--command PATH] [--isolated] [--json]
 *        (make bench-node)
 *
 * With --json all times are printed, in milliseconds, and nothing else. Each takes a lease and releases it. Times are from asking to the answer, so that of 16 the last waits for the others.
 */

import { parseArgs } from 'node:util';

import { link } from '../index.js';

const HITS = 200;
const AT_ONCE = 16;

const { values, positionals } = parseArgs({
  options: {
    python: { type: 'string' },
    store: { type: 'string' },
    command: { type: 'string', default: 'vrfstore' },
    isolated: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const [requirements] = positionals;
const asked = { python: values.python, store: values.store, command: [values.command], isolated: values.isolated };

/** @returns {Promise<number>} milliseconds */
async function hit() {
  const began = performance.now();
  const { status, lease } = await link(requirements, asked);
  const took = performance.now() - began;
  if (status !== 'hit') throw new Error(`not a hit but ${status}`);
  lease?.release();
  return took;
}

/** @param {string} name @param {number[]} times */
function report(name, times) {
  const sorted = times.toSorted((one, other) => one - other);
  const at = (/** @type {number} */ part) => sorted[Math.ceil(part * sorted.length) - 1].toFixed(3);
  console.log(`${name.padEnd(12)} median ${at(0.5)} ms  p99 ${at(0.99)} ms  (${sorted.length} hits)`);
}

const { packages, status } = await link(requirements, asked);
if (!values.json) console.log(`first answer: ${status}, ${packages?.length} packages`);
const first = [await hit()];
const sequential = [];
for (let count = 0; count < HITS; count += 1) sequential.push(await hit());
/** @type {number[]} */
const together = [];
for (let count = 0; count < HITS; count += AT_ONCE) {
  together.push(...(await Promise.all(Array.from({ length: Math.min(AT_ONCE, HITS - count) }, hit))));
}
if (values.json) {
  console.log(JSON.stringify({ first, sequential, together }));
} else {
  report('first', first);
  report('sequential', sequential);
  report('16 at once', together);
}
