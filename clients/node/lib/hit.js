// @ts-check
/**
 * The path of a hit: from a requirements file to an environment by one memo and some stats; docs/on-disk-contract.md.
 *
 * Whatever is not fully understood is left to the command, by returning null. All calls are synchronous: there are
 * some thirty of a few microseconds each, on a local disk, and handing each to another thread would take ten times as long.
 */

import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, statSync, utimesSync } from 'node:fs';

import { condemnedNames, inputDigest, pathOf, tokenOf } from './canonical.js';
import { takeLease } from './lease.js';

/** @import { Package } from '../index.js' */
/** @import { Lease } from './lease.js' */
/** @import { Question } from './question.js' */

const MEMO_SCHEMA = 2;
const RECORD_SCHEMA = 2;
const LARGEST = 1 << 20;
const ENVIRONMENT = /^([0-9a-f]{32})(\.[1-9][0-9]*)?$/;
const LOCK = /^[0-9a-f]{64}$/;
const UNREADABLE = new Set(['EACCES', 'EPERM', 'EROFS']);

/**
 * @typedef {object} Hit
 * @property {string} environment absolute path
 * @property {string} lock absolute path
 * @property {Package[]} packages
 * @property {Lease | null} lease
 */

/**
 * Return the environment that stands for a question; null where the command has to be asked.
 *
 * @param {Question} question
 * @returns {Hit | null}
 */
export function lookUp(question) {
  /** @type {Lease | null} */
  let lease = null;
  try {
    const python = interpreterOf(question.python);
    const data = contentOf(question.requirements);
    if (python === null || data === null) return null;
    const { variables, options, store } = question;
    const digest = inputDigest(data, { python, variables, options });
    const memo = JSON.parse(readFileSync(`${store}/inputs/${digest}.json`, 'utf8'));
    if (memo.schema !== MEMO_SCHEMA || (memo.until > 0 && memo.until <= Date.now() / 1000)) return null;
    const key = ENVIRONMENT.exec(memo.environment)?.[1];
    if (key === undefined || !LOCK.test(memo.lock)) return null;
    const root = `${store}/environments/${memo.environment}`;

    // In this order: what is stamped and leased before the list is read is seen by whoever wrote the list.
    stamp(`${root}/vrfstore.json`);
    if (question.lease > 0) lease = takeLease(store, key, question.lease);
    if (isCondemned(store, memo.environment) || !isAsItWas(root, memo)) {
      lease?.release();
      return null;
    }
    return { environment: root, lock: `${store}/locks/${memo.lock}.toml`, packages: packagesOf(root), lease };
  } catch {
    // No memo, or something that cannot be read: the command meets it too, and says what it is.
    lease?.release();
    return null;
  }
}

/**
 * @param {string} path
 * @returns {string | null} what an input digest is over; a venv may be named by its directory
 */
function interpreterOf(path) {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return null;
  return found.isDirectory() ? `${path.replace(/\/$/, '')}/bin/python` : path;
}

/**
 * Return the bytes of a regular file; null for anything else. Never waits, as opening a FIFO would.
 *
 * @param {string} path
 */
function contentOf(path) {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const found = fstatSync(descriptor);
    if (!found.isFile() || found.size > LARGEST) return null;
    const data = Buffer.allocUnsafe(found.size + 1);
    const length = readSync(descriptor, data);
    // A file that grows meanwhile is being written.
    return length === found.size ? data.subarray(0, length) : null;
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Set the last use of an environment to now. Where it may not be changed, it can be used all the same.
 *
 * @param {string} record
 */
function stamp(record) {
  // Rounded up: numbers of Date are whole milliseconds, and a stamp must not be older than the call that made it.
  const now = (Date.now() + 1) / 1000;
  try {
    utimesSync(record, now, now);
  } catch (error) {
    if (!UNREADABLE.has(/** @type {NodeJS.ErrnoException} */ (error).code ?? '')) throw error;
  }
}

/**
 * @param {string} store
 * @param {string} environment
 */
function isCondemned(store, environment) {
  try {
    return condemnedNames(readFileSync(`${store}/gc/condemned`)).has(`environments/${environment}`);
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT') return false;
    throw error;
  }
}

/**
 * @param {string} root
 * @param {{ own: Record<string, string>, stats: Record<string, string> }} memo
 */
function isAsItWas(root, { own, stats }) {
  return (
    Object.entries(own).every(([path, token]) => statToken(pathOf(`${root}/${path}`)) === token) &&
    Object.entries(stats).every(([path, token]) => statToken(pathOf(path)) === token)
  );
}

/** @param {string | Buffer} path */
function statToken(path) {
  try {
    const found = statSync(path, { bigint: true, throwIfNoEntry: false });
    return found === undefined ? '-' : tokenOf(found);
  } catch (error) {
    const { errno } = /** @type {NodeJS.ErrnoException} */ (error);
    if (errno === undefined) throw error;
    return `!${-errno}`;
  }
}

/**
 * @param {string} root
 * @returns {Package[]}
 */
function packagesOf(root) {
  const record = JSON.parse(readFileSync(`${root}/vrfstore.json`, 'utf8'));
  if (record.schema !== RECORD_SCHEMA) throw new TypeError('a record of another schema');
  return record.wheels.map((/** @type {string[]} */ [digest, name, version]) => ({
    name, version, digest, reused: true,
  }));
}
