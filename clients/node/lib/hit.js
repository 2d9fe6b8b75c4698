// @ts-check
/**
 * The path of a hit: from a requirements file to an environment by one memo and some stats; docs/on-disk-contract.md.
 *
 * Whatever is not fully understood is left to the command, by returning null. All calls are synchronous: there are
 * some fifty of a few microseconds each, on a local disk, and handing each to another thread would take ten times as long.
 */

import { createHash } from 'node:crypto';
import {
  closeSync, constants, fstatSync, openSync, readFileSync, readSync, readdirSync, statSync, utimesSync, writeSync,
} from 'node:fs';

import { canonical, condemnedNames, inputDigest, pathOf, tokenOf } from './canonical.js';
import { sayHit } from './author.js';
import { moment, takeLease } from './lease.js';

/** @import { Lease } from './lease.js' */
/** @import { Question } from './question.js' */

const MEMO_SCHEMA = 2;
const RECORD_SCHEMA = 2;
const LARGEST = 1 << 20;
const ENVIRONMENT = /^([0-9a-f]{32})(\.[1-9][0-9]*)?$/;
const LOCK = /^[0-9a-f]{64}$/;
const NOT_OURS = new Set(['EACCES', 'EPERM', 'EROFS']);

/**
 * @typedef {object} Memo
 * @property {number} schema
 * @property {string} environment
 * @property {string} lock
 * @property {Record<string, string>} own
 * @property {Record<string, string>} stats
 * @property {number} until
 * @property {number} [size]
 * @property {number} [resolved_at]
 */

/**
 * @typedef {object} EnvironmentRecord
 * @property {number} schema
 * @property {[digest: string, name: string, version: string, entry: string][]} wheels
 * @property {[digest: string, name: string, version: string, entry: string][]} composites
 * @property {string[]} [shared] those entries whose files are in a shared store
 * @property {{ user_site: boolean }} options
 * @property {{ cache_tag: string }} interpreter
 */

/**
 * @typedef {object} Hit
 * @property {string} environment absolute path
 * @property {string} lock absolute path
 * @property {Memo} memo
 * @property {EnvironmentRecord} record
 * @property {boolean} compiled whether all bytecode is there, where that is of interest
 * @property {Lease | null} lease
 */

/**
 * Return the environment that stands for a question; null where the command has to be asked.
 *
 * @param {Question} question
 * @returns {Hit | null}
 */
export function lookUp(question) {
  try {
    const python = interpreterOf(question.python);
    const data = contentOf(question.path);
    if (python === null || data === null) return null;
    const { variables, options, closed } = question;
    const memo = (/** @type {Record<string, unknown>} */ given) => inputDigest(data, { python, variables, options: given });
    // Where the configuration closes the gate, memos have another name, which only those look for who write down what
    // passes.
    return (
      standing(question, data, memo(options)) ??
      (closed ? standing(question, data, memo({ ...options, gate: 'closed' })) : null)
    );
  } catch {
    return null; // the command cannot read it either, and says so
  }
}

/**
 * Return the environment that a memo leads to, if everything that decided is as it was.
 *
 * @param {Question} question
 * @param {Buffer} data
 * @param {string} digest
 * @returns {Hit | null}
 */
function standing(question, data, digest) {
  const { store } = question;
  /** @type {Lease | null} */
  let lease = null;
  try {
    const text = readFileSync(`${store}/inputs/${digest}.json`, 'utf8');
    /** @type {Memo} */
    const memo = JSON.parse(text);
    if (memo.schema !== MEMO_SCHEMA || (memo.until > 0 && memo.until <= Date.now() / 1000)) return null;
    const key = ENVIRONMENT.exec(memo.environment)?.[1];
    if (key === undefined || !LOCK.test(memo.lock)) return null;
    const environment = `${store}/environments/${memo.environment}`;

    // In this order: what is stamped and leased before the list is read is seen by whoever wrote the list.
    stamp(`${environment}/vrfstore.json`);
    if (question.lease > 0) lease = takeLease(store, key, question.lease);
    if (isCondemned(store, memo.environment) || !isAsItWas(environment, memo)) throw new TypeError('not as it was');

    const record = recordOf(environment);
    const compiled = isCompiled(store, text, record);
    if (question.log !== null) {
      sayHit(question.log, question.requirements, `${environment}/bin/python`, record.wheels.length);
    }
    if (question.closed) audit(question, data, environment);
    return { environment, lock: `${store}/locks/${memo.lock}.toml`, memo, record, compiled, lease };
  } catch {
    // No memo, or something that is not as it has to be: the command meets it too, and says what it is.
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
    if (!NOT_OURS.has(/** @type {NodeJS.ErrnoException} */ (error).code ?? '')) throw error;
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
 * @param {string} environment
 * @param {Memo} memo
 */
function isAsItWas(environment, { own, stats }) {
  return (
    Object.entries(own).every(([path, token]) => statToken(pathOf(`${environment}/${path}`)) === token) &&
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
 * @param {string} environment
 * @returns {EnvironmentRecord}
 */
function recordOf(environment) {
  const record = JSON.parse(readFileSync(`${environment}/vrfstore.json`, 'utf8'));
  if (record.schema !== RECORD_SCHEMA) throw new TypeError('a record of another schema');
  return record;
}

/** Memos of environments whose bytecode was there: it does not go, unless a repair changes the memo as well. */
const compiledOnes = new Set();
const MOST_COMPILED = 1000;

/**
 * Whether all bytecode of an environment is there. Of interest to root only, who could write some into sealed entries.
 *
 * @param {string} store
 * @param {string} memo
 * @param {EnvironmentRecord} record
 */
function isCompiled(store, memo, { wheels, composites, interpreter: { cache_tag: tag } }) {
  if (process.geteuid?.() !== 0 || compiledOnes.has(memo)) return true;
  if (composites.length > 0) throw new TypeError('which entries are merged, the command knows');
  const compiled = wheels.every(([, , , entry]) =>
    readdirSync(`${store}/entries/${entry}/bytecode`).some(
      (name) => name.endsWith('.json') && name.slice(0, name.lastIndexOf('-')) === tag,
    ),
  );
  if (compiled && compiledOnes.size < MOST_COMPILED) compiledOnes.add(memo);
  return compiled;
}

/**
 * Write down what a closed gate lets through: one line, in one write(2), so that lines of many do not mix.
 *
 * @param {Question} question
 * @param {Buffer} data
 * @param {string} environment
 */
function audit({ store, path }, data, environment) {
  const line = canonical({
    at: moment(Date.now() / 1000),
    uid: process.getuid?.(),
    pid: process.pid,
    parent: process.ppid,
    files: [{ path, sha256: createHash('sha256').update(data).digest('hex') }],
    decision: 'served',
    status: 'hit',
    environment,
  });
  const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const descriptor = openSync(`${store}/logs/audit.log`, flags, 0o640);
  try {
    if (writeSync(descriptor, line) < line.length) throw new TypeError('no room for all of the line');
  } finally {
    closeSync(descriptor);
  }
}
