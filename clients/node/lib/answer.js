// @ts-check
/** What is answered on a hit, as `vrfstore link --json` would answer (docs/link.schema.json). Pure. */

/** @import { Answer } from '../index.js' */
/** @import { Hit } from './hit.js' */
/** @import { Question } from './question.js' */

const SCHEMA_VERSION = 1;

/**
 * @param {Hit} found
 * @param {Question} question
 * @param {number} milliseconds that it took
 * @returns {Answer}
 */
export function answerOf({ environment, lock, packages, lease }, { variables, options }, milliseconds) {
  const python = `${environment}/bin/python`;
  return {
    schema_version: SCHEMA_VERSION,
    status: 'hit',
    python,
    environment,
    lock,
    packages,
    lease,
    by_hand: [],
    bytes: { downloaded: 0 },
    timings_ms: { total: milliseconds },
    warnings: [],
  };
}
