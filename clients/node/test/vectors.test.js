// @ts-check
/** The rule of docs/on-disk-contract.md, held to the vectors that the Python side is held to. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import {
  FORMAT, Seconds, canonical, condemnedNames, headOf, inputDigest, leaseName, pathOf, tokenOf,
} from '../lib/canonical.js';

const VECTORS = JSON.parse(
  readFileSync(new URL('../../../tests/vectors/input-digest.json', import.meta.url), 'utf8'),
);

/** JSON.parse() makes one kind of number of both. @param {Record<string, any>} options */
function typed(options) {
  return 'stale_after' in options
    ? { ...options, stale_after: options.stale_after.map((/** @type {number} */ each) => new Seconds(each)) }
    : options;
}

test('the format is that of the vectors', () => assert.equal(FORMAT, VECTORS.format));

for (const vector of VECTORS.inputs) {
  test(`input digest: ${vector.name}`, () => {
    const { python, variables } = vector;
    const input = { python, variables, options: typed(vector.options), given: vector.given ?? undefined };
    assert.equal(headOf(input), vector.line);
    assert.equal(inputDigest(Buffer.from(vector.data, 'hex'), input), vector.digest);
  });
}

test('the digest is over the line and the bytes', () => {
  const [{ line, data, digest }] = VECTORS.inputs;
  assert.equal(createHash('sha256').update(line).update(Buffer.from(data, 'hex')).digest('hex'), digest);
});

test('stat tokens', () => {
  for (const { device, inode, size, mtime, ctime, token } of VECTORS.tokens) {
    const [dev, ino, bytes, mtimeNs, ctimeNs] = [device, inode, size, mtime, ctime].map(BigInt);
    assert.equal(tokenOf({ dev, ino, size: bytes, mtimeNs, ctimeNs }), token);
  }
});

test('paths', () => {
  for (const { text, bytes } of VECTORS.paths) {
    assert.equal(Buffer.from(pathOf(text)).toString('hex'), bytes, text);
  }
  assert.throws(() => pathOf('/\ud83d'), TypeError);
});

test('lists of condemned names', () => {
  for (const { list, names } of VECTORS.condemned) {
    assert.deepEqual([...condemnedNames(Buffer.from(list, 'hex'))].sort(), names);
  }
});

test('leases', () => {
  for (const { lease, since_boot: sinceBoot, ...rest } of VECTORS.leases) {
    assert.equal(leaseName({ sinceBoot, ...rest }), lease);
  }
});

test('what has no form is refused', () => {
  for (const value of [0.5, NaN, Infinity, 2 ** 53, 1n, undefined, () => 0, new Seconds(1e-5), new Seconds(1e15)]) {
    assert.throws(() => canonical({ value }), TypeError);
  }
});
