// @ts-check
/** The log for the author of a document, as the command writes it: added to, never through a link, never waiting. */

import { closeSync, constants, openSync, writeSync } from 'node:fs';

const FLAGS =
  constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK | constants.O_NOFOLLOW | constants.O_NOCTTY;

/** What would do something to a terminal; how it is shown instead, only the command knows. */
const CONTROL = /[\x00-\x1f\x7f-\x9f]/;

/**
 * Add what there is to say of a hit to a log.
 *
 * @param {string} path
 * @param {string} requirements as the caller named the file
 * @param {string} python
 * @param {number} packages
 * @throws {Error} it cannot be opened, or only the command knows the words: it has to be asked
 */
export function sayHit(path, requirements, python, packages) {
  if (path.startsWith('/dev/') || CONTROL.test(requirements + python)) throw new TypeError('not for us to write');
  const descriptor = openSync(path, FLAGS, 0o644);
  const lines = [
    `linking ${requirements}`,
    `using cached environment (${packages} ${packages === 1 ? 'package' : 'packages'})`,
    `python: ${python}`,
  ];
  try {
    writeSync(descriptor, `${lines.join('\n')}\n`);
  } catch {
    // A full disk, or a reader who has gone: that costs lines, never the answer.
  } finally {
    closeSync(descriptor);
  }
}
