// @ts-check
/**
 * Canonical JSON, the input digest, and how paths and stats are written: the pure part of docs/on-disk-contract.md.
 *
 * Held to tests/vectors/input-digest.json, as the Python side is.
 */

import { createHash } from 'node:crypto';

/** The store's format that this client knows; part of every input digest. */
export const FORMAT = 3;

const CONFIGURATION = new Set(['HOME', 'XDG_CONFIG_HOME', 'XDG_CONFIG_DIRS', 'VRFSTORE_CONFIG']);

const SHORT = new Map([
  ['"', '\\"'], ['\\', '\\\\'], ['\n', '\\n'], ['\r', '\\r'], ['\t', '\\t'], ['\f', '\\f'], ['\b', '\\b'],
]);

/** A number of seconds, which canonical JSON writes with a fraction even where it is whole. */
export class Seconds {
  /** @param {number} value */
  constructor(value) {
    this.value = value;
  }
}

/**
 * Return a value as one line of canonical JSON: keys in the order of code points, no white space, only ASCII.
 *
 * @param {unknown} value
 * @returns {string} with the newline at its end
 * @throws {TypeError} where it holds what has no form there
 */
export function canonical(value) {
  return `${written(value)}\n`;
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function written(value) {
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'string') return quoted(value);
  if (typeof value === 'number' && Number.isSafeInteger(value)) return String(value);
  if (value instanceof Seconds) return fraction(value.value);
  if (Array.isArray(value)) return `[${value.map(written).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const pairs = Object.entries(value).sort(([left], [right]) => byCodePoint(left, right));
    return `{${pairs.map(([name, each]) => `${quoted(name)}:${written(each)}`).join(',')}}`;
  }
  throw new TypeError(`${typeof value} has no form in canonical JSON`);
}

/** @param {string} text */
function quoted(text) {
  const escaped = text.replace(
    // Code units, not characters: what is beyond the first plane is written as its two surrogates.
    /["\\]|[^ -~]/g,
    (unit) => SHORT.get(unit) ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `"${escaped}"`;
}

/**
 * As Python's repr() writes a float, in the range in which neither language takes to exponents.
 *
 * @param {number} value
 */
function fraction(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return `${value}.0`;
  if (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e15) return String(value);
  throw new TypeError(`${value} seconds have no form in canonical JSON`);
}

/**
 * The order of code points. JavaScript compares code units, which differs beyond the first plane.
 *
 * @param {string} left
 * @param {string} right
 */
function byCodePoint(left, right) {
  const [one, other] = [Array.from(left), Array.from(right)];
  for (let place = 0; place < Math.min(one.length, other.length); place += 1) {
    const difference = Number(one[place].codePointAt(0)) - Number(other[place].codePointAt(0));
    if (difference !== 0) return difference;
  }
  return one.length - other.length;
}

/**
 * Return those environment variables that have a say in what a requirements file resolves to.
 *
 * @param {Record<string, string | undefined>} variables
 * @returns {Record<string, string>}
 */
export function decidingVariables(variables) {
  /** @type {Record<string, string>} */
  const found = {};
  // Each value of process.env is a call: only those that count are asked for.
  for (const name of Object.keys(variables)) {
    if (!name.startsWith('PIP_') && !CONFIGURATION.has(name)) continue;
    const value = variables[name];
    if (value !== undefined) found[name] = value;
  }
  return found;
}

/**
 * @typedef {object} Input
 * @property {string} python absolute path of the interpreter that is asked for, links not followed
 * @property {Record<string, string | undefined>} variables all environment variables
 * @property {Record<string, unknown>} [options] those that are not as usual
 * @property {Record<string, unknown>} [given] what was given, where it is more than one file that leads nowhere
 */

/**
 * Return the line that stands before the bytes of the file in what the input digest is over.
 *
 * @param {Input} input
 */
export function headOf({ python, variables, options = {}, given }) {
  const head = { format: FORMAT, options, python, variables: decidingVariables(variables) };
  return canonical(given === undefined ? head : { ...head, input: given });
}

/**
 * Return the input digest, which names a memo.
 *
 * @param {Uint8Array} data the raw bytes of the file
 * @param {Input} input
 * @returns {string} 64 hexadecimal digits
 */
export function inputDigest(data, input) {
  return createHash('sha256').update(headOf(input)).update(data).digest('hex');
}

/**
 * Return the bytes of a path as the store writes it: bytes that are no UTF-8 are surrogates, U+DC80 to U+DCFF (PEP 383).
 *
 * @param {string} text
 * @returns {string | Buffer} the text itself where it has none of them
 */
export function pathOf(text) {
  if (text.isWellFormed()) return text;
  /** @type {Buffer[]} */
  const parts = [];
  for (const character of text) {
    const point = Number(character.codePointAt(0));
    const isByte = point >= 0xdc80 && point <= 0xdcff;
    if (!isByte && !character.isWellFormed()) throw new TypeError('a lone surrogate that stands for no byte');
    parts.push(isByte ? Buffer.from([point - 0xdc00]) : Buffer.from(character));
  }
  return Buffer.concat(parts);
}

/**
 * Return what tells that a path is still the same: `device:inode:size:mtime:ctime`, times in nanoseconds.
 *
 * @param {{ dev: bigint, ino: bigint, size: bigint, mtimeNs: bigint, ctimeNs: bigint }} found 64 bits each, which
 *   a number of JavaScript does not hold
 */
export function tokenOf({ dev, ino, size, mtimeNs, ctimeNs }) {
  return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
}

/**
 * Return the names that are condemned. The list is preallocated and ends at its first NUL.
 *
 * @param {Buffer} list
 * @returns {Set<string>} such as `environments/<key>`; in latin1, since the names that count are ASCII
 */
export function condemnedNames(list) {
  const end = list.indexOf(0);
  const text = list.toString('latin1', 0, end < 0 ? list.length : end);
  return new Set(text.split('\n').filter((name) => name !== ''));
}

/**
 * Return the name of a lease until a time.
 *
 * @param {object} lease
 * @param {string} lease.id 16 hexadecimal digits, like no other's
 * @param {string} lease.key that of the environment, 32 hexadecimal digits
 * @param {string} lease.boot what names this boot, 32 hexadecimal digits
 * @param {number} lease.sinceBoot now, seconds of CLOCK_BOOTTIME
 * @param {number} lease.wall now, seconds since the epoch
 * @param {number} lease.seconds how long it is to last
 */
export function leaseName({ id, key, boot, sinceBoot, wall, seconds }) {
  return `until.${id}.${key}.${boot}.${Math.ceil(sinceBoot + seconds)}.${Math.ceil(wall + seconds)}`;
}
