// @ts-check
/**
 * The python of a requirements file, from Node.js.
 *
 *     const { python, env, lease } = await link('requirements.vrf', { python: '/usr/bin/python3' });
 *
 * An environment that stands is found by some stats and reads, in a fraction of a millisecond and without a process
 * (docs/on-disk-contract.md); in every other case `vrfstore link --json` is started. Both give the same answer.
 */

import { answerOf } from './lib/answer.js';
import { LinkError, run } from './lib/command.js';
import { lookUp } from './lib/hit.js';
import { leaseTaken } from './lib/lease.js';
import { checkOptions, questionOf, wordsOf } from './lib/question.js';

export { LinkError };

/**
 * @typedef {object} LinkOptions
 * @property {string} [python] the base interpreter: a path, or a version or command on PATH. Only with a path, here or in
 *   `VRFSTORE_PYTHON`, is there an answer without a process: which interpreter is meant otherwise, only the command knows
 * @property {string} [store] where the store is
 * @property {string[]} [command] the program, and words that come first; `['vrfstore']` by default
 * @property {Record<string, string | undefined>} [variables] environment variables; those of this process by default
 * @property {boolean} [isolated]
 * @property {boolean} [userSite]
 * @property {boolean} [allowCollisions]
 * @property {string[]} [materialize]
 * @property {string} [prompt]
 * @property {string} [indexUrl]
 * @property {boolean} [allowBuilds]
 * @property {string[]} [protect]
 * @property {number} [staleAfter] seconds
 * @property {number} [maxPackages]
 * @property {number} [maxBytes]
 * @property {number} [maxUnpacked] bytes
 * @property {number} [timeout] seconds for all of it
 * @property {boolean} [install] false: only what is there is served, else the answer is an error of code 12
 * @property {boolean} [fallback] true: every failure but one of usage answers with the base interpreter
 * @property {boolean} [wait] false: where somebody else builds, the answer is an error of code 15
 * @property {string} [root] keep the environment as the newest of a project of this name
 * @property {number} [lease] seconds that the environment is kept from gc; 900 by default, 0 for not at all
 * @property {string} [log] a file for authors to read
 * @property {string[]} [arguments] further words for the command, which is then always asked
 * @property {(line: string) => void} [onLine] is told what the command says on stderr
 * @property {AbortSignal} [signal] ends what was started
 */

/**
 * @typedef {object} Package
 * @property {string} name
 * @property {string} version
 * @property {string} digest SHA-256 of its wheel
 * @property {boolean} reused
 */

/** @import { Lease } from './lib/lease.js' */

/**
 * @typedef {object} Failure
 * @property {number} code what the command would have exited with
 * @property {string} kind
 * @property {string} message
 * @property {number | null} line
 * @property {string | null} hint
 * @property {string | null} log
 * @property {string | null} path
 * @property {string | null} member
 */

/**
 * @typedef {object} Answer what `vrfstore link --json` prints (docs/link.schema.json)
 * @property {number} schema_version
 * @property {'hit' | 'linked' | 'built' | 'fallback' | 'error'} status
 * @property {string} [python]
 * @property {string} [environment]
 * @property {string} [lock]
 * @property {Record<string, string>} [env] what to set for whatever runs in it
 * @property {Lease | null} [lease]
 * @property {Package[]} [packages]
 * @property {Record<string, number>} [bytes]
 * @property {Record<string, number>} [timings_ms]
 * @property {string | null} [resolved_at]
 * @property {string[]} [warnings]
 * @property {Failure | null} [error]
 */

/**
 * Make the environment of a requirements file exist, and say where it is.
 *
 * @param {string} requirements the path of the file
 * @param {LinkOptions} [options]
 * @returns {Promise<Answer>} errors of the command too, with status `error`
 * @throws {TypeError} an option is unknown, or is not what it has to be
 * @throws {LinkError} there is no answer: it was aborted, took too long, or the command cannot be started
 */
export async function link(requirements, options = {}) {
  checkOptions(options);
  const began = performance.now();
  const question = questionOf(requirements, options);
  const found = question === null || options.signal?.aborted ? null : lookUp(question);
  if (question !== null && found !== null) return answerOf(found, question, performance.now() - began);
  const variables = options.variables ?? process.env;
  const answer = await run(options.command ?? ['vrfstore'], wordsOf(requirements, options), { ...options, variables });
  return /** @type {Answer} */ (answer.lease ? { ...answer, lease: leaseTaken(answer) } : answer);
}
