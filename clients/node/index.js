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

const COMMAND = ['vrfstore'];

/**
 * @typedef {object} LinkOptions
 * @property {string} [python] the base interpreter: a path, or a version or command on PATH. Only with a path, here or in
 *   `VRFSTORE_PYTHON`, is there an answer without a process: which interpreter is meant otherwise, only the command knows
 * @property {string} [store] where the store is
 * @property {string} [sharedStore] another store, which is only read, and lends what it has; '' for none
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
 * @property {'own' | 'shared'} store whose files they are
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
 * @typedef {object} Answer what `vrfstore link --json` prints (docs/link.schema.json), with a lease that can be released
 * @property {number} schema_version
 * @property {'hit' | 'linked' | 'built' | 'fallback' | 'error'} status
 * @property {string | null} python the python to use
 * @property {string | null} environment
 * @property {string | null} lock
 * @property {Record<string, string>} env what to set for a command that runs there, beside what the caller has
 * @property {Lease | null} lease
 * @property {Package[]} packages
 * @property {{ name: string, version: string }[]} by_hand
 * @property {{ downloaded: number, unpacked: number, shared: number }} bytes
 * @property {Record<string, number>} timings_ms
 * @property {string | null} resolved_at
 * @property {string[]} warnings
 * @property {Failure | null} error why there is no environment
 */

/**
 * @typedef {object} Hint what `vrfstore hint --json` says of an import that failed (docs/hints.md)
 * @property {string} kind
 * @property {string} module
 * @property {string} message what is the matter
 * @property {string | null} advice what to do about it
 * @property {string[]} distributions who may provide the module, the likeliest first
 * @property {string | null} requirements the file to edit
 * @property {string | null} line what to add to it
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
  const variables = options.variables ?? process.env;
  if (found !== null) return answerOf(found, variables, performance.now() - began);
  const answer = await run(options.command ?? COMMAND, wordsOf(requirements, options), { ...options, variables });
  return /** @type {Answer} */ (answer.lease ? { ...answer, lease: leaseTaken(answer) } : answer);
}

/**
 * Say which package is missing where something could not be imported.
 *
 * @param {string} traceback what was said of the failure, all of it
 * @param {object} [options]
 * @param {string} [options.requirements] the file to edit
 * @param {string} [options.directory] that of the project
 * @param {string} [options.python] see `LinkOptions`, as the rest
 * @param {string} [options.store]
 * @param {string[]} [options.command]
 * @param {Record<string, string | undefined>} [options.variables]
 * @param {AbortSignal} [options.signal]
 * @returns {Promise<Hint | null>} null where no import has failed, or nobody knows
 * @throws {LinkError} there is no answer
 */
export async function hint(traceback, options = {}) {
  const { command = COMMAND, variables = process.env, requirements, python, store, directory, signal } = options;
  const words = Object.entries({ requirements, python, store })
    .filter(([, value]) => value !== undefined)
    .flatMap(([name, value]) => [`--${name}`, String(value)]);
  const asked = ['hint', '--json', '--traceback', '-', ...words];
  const answer = await run(command, asked, { variables, directory, signal, input: traceback });
  if (answer.error) throw new LinkError('no-answer', `there is no hint: ${answer.error.message}`);
  return answer.hint ?? null;
}
