// @ts-check
/** Starting the command `vrfstore link … --json`, and ending it with all that it has started. */

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** Milliseconds between asking a process group to end and killing it. */
const PATIENCE = 5_000;

/** Milliseconds that what it has started may take to end after it. */
const FAREWELL = 1_000;

/** Seconds that the command may take beyond its own time limit, which it keeps by itself. */
const GRACE = 10;

const LARGEST = 1 << 26;
const LAST_LINES = 5;

/** There is no answer: why, and what became of the command. */
export class LinkError extends Error {
  name = 'LinkError';

  /**
   * @param {'aborted' | 'timeout' | 'no-command' | 'no-answer'} kind
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(kind, message, options) {
    super(message, options);
    this.kind = kind;
  }
}

/**
 * Run the command and return what it printed.
 *
 * It has a process group of its own: what ends the caller's group does not end a build that others wait for, too.
 *
 * @param {string[]} command the program and its first words
 * @param {string[]} words
 * @param {object} options
 * @param {Record<string, string | undefined>} options.variables
 * @param {number} [options.timeout] seconds
 * @param {AbortSignal} [options.signal]
 * @param {(line: string) => void} [options.onLine] is told each line of stderr
 * @param {string} [options.input] what it reads on stdin
 * @param {string} [options.directory] where it runs
 * @returns {Promise<Record<string, any>>}
 * @throws {LinkError}
 */
export async function run(command, words, { variables, timeout, signal, onLine, input, directory }) {
  if (signal?.aborted) throw new LinkError('aborted', 'aborted before anything was started', { cause: signal.reason });
  const [program, ...first] = command;
  const child = spawn(program, [...first, ...words], {
    env: variables, cwd: directory, stdio: ['pipe', 'pipe', 'pipe'], detached: true,
  });
  child.stdin.on('error', () => {}); // it need not read to the end
  child.stdin.end(input ?? '');

  /** @type {LinkError | null} */
  let ended = null;
  /** @type {NodeJS.Timeout | undefined} */
  let harder;
  /** @type {NodeJS.Timeout | undefined} */
  let closing;
  /** @param {'aborted' | 'timeout' | 'no-answer'} kind @param {string} why @param {unknown} [cause] */
  const end = (kind, why, cause) => {
    if (ended !== null) return;
    ended = new LinkError(kind, `${why}; vrfstore, process group ${child.pid}, was ended`, { cause });
    killGroup(child.pid, 'SIGTERM');
    harder = setTimeout(() => killGroup(child.pid, 'SIGKILL'), PATIENCE);
  };
  const onAbort = () => end('aborted', 'aborted', signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  const limit =
    timeout === undefined
      ? undefined
      : setTimeout(() => end('timeout', `no answer ${timeout + GRACE} seconds after the start`), (timeout + GRACE) * 1000);

  /** @type {string[]} */
  const lines = [];
  createInterface({ input: child.stderr, crlfDelay: Infinity }).on('line', (line) => {
    lines.push(line);
    if (lines.length > LAST_LINES) lines.shift();
    onLine?.(line);
  });
  /** @type {Buffer[]} */
  const chunks = [];
  let size = 0;
  child.stdout.on('data', (chunk) => {
    size += chunk.length;
    if (size > LARGEST) end('no-answer', 'an answer without end');
    else chunks.push(chunk);
  });

  child.on('exit', () => {
    if (ended === null) return;
    // The rest of the group is ending as well. What is in sessions of its own may hold these open for as long as it likes.
    closing = setTimeout(() => {
      child.stdout.destroy();
      child.stderr.destroy();
    }, FAREWELL);
  });

  try {
    const [code, by] = await new Promise((resolve, reject) => {
      child.on('error', (error) => {
        reject(new LinkError('no-command', `${program} cannot be started: ${error.message}`, { cause: error }));
      });
      child.on('close', (...status) => resolve(status));
    });
    if (ended !== null) throw ended;
    return parsed(Buffer.concat(chunks).toString(), `${by === null ? `exit code ${code}` : by}: ${lines.join('; ')}`);
  } finally {
    for (const timer of [limit, harder, closing]) if (timer !== undefined) clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/**
 * @param {string} text
 * @param {string} circumstances
 * @returns {Record<string, any>}
 */
function parsed(text, circumstances) {
  try {
    const answer = JSON.parse(text);
    if (typeof answer?.status === 'string') return answer;
  } catch {
    // Said below.
  }
  throw new LinkError('no-answer', `vrfstore printed no answer; ${circumstances}`);
}

/**
 * @param {number | undefined} pid
 * @param {NodeJS.Signals} signal
 */
function killGroup(pid, signal) {
  try {
    if (pid !== undefined) process.kill(-pid, signal);
  } catch {
    // It has ended.
  }
}
