// @ts-check
/** What is asked, in the two forms that it takes: as the path of a hit looks it up, and as words of the command. Pure. */

import { basename, resolve } from 'node:path';

import { Seconds, decidingVariables } from './canonical.js';

/** @import { LinkOptions } from '../index.js' */

/**
 * @typedef {object} Question
 * @property {string} requirements the file as the caller named it
 * @property {string} path the same, absolute
 * @property {string} python absolute path of the interpreter, or of a venv's directory
 * @property {string} store absolute path
 * @property {Record<string, string>} variables those that decide
 * @property {Record<string, unknown>} options those that are not as usual, as an input digest covers them
 * @property {number} lease seconds; 0 for none
 * @property {string | null} log the file for authors, absolute
 * @property {boolean} closed whether there is no leave to install
 */

/** Seconds that an environment is kept from gc if nothing else is said: long enough for a render. */
export const LEASE = 15 * 60;

const NAME = /^[A-Z0-9]([A-Z0-9._-]*[A-Z0-9])?$/i;

/** What a client says about itself or about the process, and not about what is asked. */
const OURS = new Set(['command', 'variables', 'signal', 'onLine', 'log', 'timeout', 'maxBytes', 'maxUnpacked']);

/** What an answer does not depend on where an environment stands: see `lookUp`. */
const HARMLESS = new Set(['install', 'fallback', 'wait']);

/**
 * What the path of a hit has to know, each with its form in an input digest. What is empty is as usual, and left away.
 *
 * @type {Record<string, (value: any) => [string, unknown] | null>}
 */
const DECIDING = {
  isolated: (value) => (value ? ['isolated', true] : null),
  userSite: (value) => (value ? ['user_site', true] : null),
  allowCollisions: (value) => (value ? ['allow_collisions', true] : null),
  allowBuilds: (value) => (value ? ['allow_builds', true] : null),
  materialize: (value) => {
    const names = normalised(value);
    return names.length > 0 ? ['materialize', names.includes('all') ? ['*'] : names] : null;
  },
  protect: (value) => {
    const names = normalised(value);
    return names.length > 0 ? ['protect', names] : null;
  },
  prompt: (value) => (value ? ['prompt', value] : null),
  indexUrl: (value) => (value ? ['index_url', value] : null),
  sharedStore: (value) => ['shared_store', value && absolute(value)],
  maxPackages: (value) => ['max_packages', [value]],
  staleAfter: (value) => ['stale_after', [new Seconds(value)]],
};

/** How each option is said to the command. @type {Record<string, (value: any) => string[]>} */
const WORDS = {
  store: (value) => ['--store', resolve(value)],
  sharedStore: (value) => (value ? ['--shared-store', resolve(value)] : ['--no-shared-store']),
  python: (value) => ['--python', value],
  isolated: flag('--isolated'),
  userSite: flag('--user-site'),
  allowCollisions: flag('--allow-collisions'),
  allowBuilds: flag('--allow-builds'),
  materialize: (value) => value.flatMap((/** @type {string} */ name) => ['--materialize', name]),
  protect: (value) => value.flatMap((/** @type {string} */ name) => ['--protect', name]),
  prompt: (value) => (value ? ['--prompt', value] : []),
  indexUrl: (value) => (value ? ['--index-url', value] : []),
  maxPackages: (value) => ['--max-packages', String(value)],
  maxBytes: (value) => ['--max-bytes', String(value)],
  maxUnpacked: (value) => ['--max-unpacked', String(value)],
  staleAfter: (value) => ['--stale-after', `${value}s`],
  timeout: (value) => ['--timeout', `${value}s`],
  install: (value) => [value ? '--install' : '--no-install'],
  wait: (value) => (value ? [] : ['--no-wait']),
  fallback: flag('--fallback'),
  root: (value) => ['--root', value],
  log: (value) => ['--log', resolve(value)],
  lease: (value) => (value > 0 ? ['--lease-ttl', `${value}s`] : []),
  arguments: (value) => value,
};

/** @param {unknown} value */
function isGiven(value) {
  return value !== undefined && value !== null;
}

/** @param {string} word */
function flag(word) {
  return (/** @type {boolean} */ value) => (value ? [word] : []);
}

/** @param {string[]} names */
function normalised(names) {
  if (!names.every((name) => NAME.test(name))) throw new TypeError('a name of a package is none');
  return [...new Set(names.map((name) => name.replace(/[-_.]+/g, '-').toLowerCase()))].sort();
}

/**
 * Refuse options that nobody knows: a `noInstall` that is passed over would install.
 *
 * @param {LinkOptions} options
 * @throws {TypeError}
 */
export function checkOptions(options) {
  const unknown = Object.keys(options).filter((name) => !Object.hasOwn(WORDS, name) && !OURS.has(name));
  if (unknown.length > 0) throw new TypeError(`unknown options: ${unknown.join(', ')}`);
  for (const name of /** @type {const} */ (['lease', 'timeout', 'staleAfter', 'maxPackages', 'maxBytes', 'maxUnpacked'])) {
    const value = options[name];
    if (isGiven(value) && !(typeof value === 'number' && value >= 0 && Number.isFinite(value))) {
      throw new TypeError(`${name} has to be a number that is not negative`);
    }
  }
}

/**
 * Return the words with which the command is started.
 *
 * @param {string} requirements
 * @param {LinkOptions} options
 * @returns {string[]}
 */
export function wordsOf(requirements, options) {
  const given = Object.entries({ ...options, lease: options.lease ?? LEASE }).filter(([, value]) => isGiven(value));
  const words = given.flatMap(([name, value]) => WORDS[name]?.(value) ?? []);
  return ['link', '--json', ...words, '--', requirements];
}

/**
 * Return what the path of a hit looks up; null where only the command knows what is meant.
 *
 * @param {string} requirements
 * @param {LinkOptions} options
 * @returns {Question | null}
 */
export function questionOf(requirements, options) {
  const variables = options.variables ?? process.env;
  const python = pathIn(options.python ?? variables.VRFSTORE_PYTHON);
  const store = pathIn(options.store ?? (variables.VRFSTORE_HOME || defaultStore(variables)));
  const mode = variables.VRFSTORE_COMPILE ?? '';
  if (python === null || store === null || !['', 'background', 'off'].includes(mode)) return null;
  // A script, a project or a lock: its bytes may be those of a requirements text, and mean something else.
  if (/\.(py|toml)$/.test(basename(requirements))) return null;
  const decide = decidingVariables(variables);
  // Bytes that are no UTF-8 reach JavaScript as this character, and are lost.
  const shared = options.sharedStore ?? (variables.VRFSTORE_SHARED_STORE || undefined);
  const seen = [...Object.entries(decide).flat(), variables.PATH, variables.JUPYTERCACHE, shared];
  if (seen.some((text) => text?.includes('\ufffd'))) return null;

  /** @type {Record<string, unknown>} */
  const deciding = {};
  for (const [name, value] of Object.entries({ ...options, sharedStore: shared })) {
    if (!isGiven(value) || OURS.has(name) || HARMLESS.has(name)) continue;
    if (name === 'python' || name === 'store' || name === 'lease') continue;
    const form = DECIDING[name];
    if (form === undefined) return null;
    try {
      const said = form(value);
      if (said !== null) deciding[said[0]] = said[1];
    } catch {
      return null; // the command says what is wrong with it
    }
  }
  return {
    requirements,
    path: resolve(requirements),
    python,
    store,
    variables: decide,
    options: deciding,
    lease: options.lease ?? LEASE,
    log: options.log ? resolve(options.log) : null,
    closed: options.install === false,
  };
}

/**
 * Return a path as Python's os.path.abspath() makes it; null for what is none, or means two things.
 *
 * @param {string | undefined | null} text
 */
function pathIn(text) {
  // POSIX leaves open what two slashes at the beginning mean: Python keeps them, Node does not.
  return text && text.includes('/') && !text.startsWith('//') ? resolve(text) : null;
}

/** @param {string} text */
function absolute(text) {
  const path = pathIn(text);
  if (path === null) throw new TypeError('only the command knows which path is meant');
  return path;
}

/**
 * @param {Record<string, string | undefined>} variables
 */
function defaultStore({ XDG_DATA_HOME = '', HOME }) {
  const data = XDG_DATA_HOME.trim();
  if (data.startsWith('/')) return `${data}/vrfstore`;
  return HOME === undefined ? null : `${HOME.replace(/\/+$/, '')}/.local/share/vrfstore`;
}
