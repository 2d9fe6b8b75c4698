// @ts-check
/** What is answered on a hit, as `vrfstore link --json` would answer (docs/link.schema.json). Pure. */

import { basename } from 'node:path';

import { moment } from './lease.js';

/** @import { Answer } from '../index.js' */
/** @import { Hit } from './hit.js' */

const SCHEMA_VERSION = 1;

/**
 * @param {Hit} found
 * @param {Record<string, string | undefined>} variables those of the caller
 * @param {number} milliseconds that it took
 * @returns {Answer}
 */
export function answerOf(found, variables, milliseconds) {
  const { environment, lease, record, memo } = found;
  const python = `${environment}/bin/python`;
  return {
    schema_version: SCHEMA_VERSION,
    status: 'hit',
    python,
    environment,
    lock: found.lock,
    env: changedVariables(found, python, variables),
    lease,
    packages: record.wheels.map(([digest, name, version, entry]) => {
      const store = record.shared?.includes(entry) ? 'shared' : 'own';
      return { name, version, digest, reused: true, store };
    }),
    by_hand: [],
    bytes: { downloaded: 0, unpacked: 0, shared: memo.size ?? 0 },
    timings_ms: { total: milliseconds },
    resolved_at: memo.resolved_at ? moment(memo.resolved_at) : null,
    warnings: [],
    error: null,
  };
}

/**
 * Return those environment variables that a command in an environment needs otherwise than the caller has; the reasons
 * are in `vrfstore.runner.run`.
 *
 * @param {Hit} found
 * @param {string} python
 * @param {Record<string, string | undefined>} variables
 */
function changedVariables({ environment, record, compiled }, python, { PATH, PYTHONHOME, JUPYTERCACHE }) {
  /** @type {Record<string, string>} */
  const changed = {
    PATH: PATH ? `${environment}/bin:${PATH}` : `${environment}/bin`,
    QUARTO_PYTHON: python,
    JUPYTER_PREFER_ENV_PATH: '1',
    VIRTUAL_ENV: environment,
  };
  if (PYTHONHOME) changed.PYTHONHOME = '';
  if (!record.options.user_site) changed.PYTHONNOUSERSITE = '1';
  if (!compiled) changed.PYTHONDONTWRITEBYTECODE = '1';
  const name = basename(environment);
  if (JUPYTERCACHE && basename(JUPYTERCACHE) !== name) {
    changed.JUPYTERCACHE = JUPYTERCACHE.endsWith('/') ? `${JUPYTERCACHE}${name}` : `${JUPYTERCACHE}/${name}`;
  }
  return changed;
}
