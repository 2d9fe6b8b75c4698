// @ts-check
/**
 * A compile service in small: it takes a project, renders its document in a directory of its own, and forgets the directory.
 *
 * It knows nothing of Python or of vrfstore. What it does to the command that renders is what such services do:
 *
 * - stderr is thrown away; of exit code 1 so is stdout;
 * - it waits for as long as the command takes, and kills its process group when the user stops the compile;
 * - the compile directory is swept afterwards, whatever is in it.
 */

import { spawn } from 'node:child_process';
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const COMMAND = fileURLToPath(new URL('compile.js', import.meta.url));

/** @import { Rendered, Request } from './compile.js' */

/**
 * @typedef {object} Compiled
 * @property {number | null} code exit code of the command; null where it was killed
 * @property {Rendered | null} rendered what it printed; null where that was lost
 * @property {string} log what the author reads
 * @property {number} milliseconds
 */

/**
 * Render the document of a project.
 *
 * @param {string} project a directory with a document and a requirements file
 * @param {Omit<Request, 'directory'>} request
 * @param {object} [options]
 * @param {AbortSignal} [options.signal] the user stops the compile
 * @param {(log: string) => void} [options.onStart] is told where the log will be
 * @returns {Promise<Compiled>}
 */
export async function compile(project, request, { signal, onStart } = {}) {
  const began = performance.now();
  const directory = await mkdtemp(join(tmpdir(), 'compile-'));
  try {
    await cp(project, directory, { recursive: true });
    const log = join(directory, 'compile.log');
    onStart?.(log);
    const { code, stdout } = await execute({ ...request, directory }, signal);
    return {
      code,
      rendered: stdout === '' || code === 1 ? null : JSON.parse(stdout),
      log: await readFile(log, 'utf8').catch(() => ''),
      milliseconds: performance.now() - began,
    };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * @param {Request} request
 * @param {AbortSignal} [signal]
 * @returns {Promise<{ code: number | null, stdout: string }>}
 */
function execute(request, signal) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [COMMAND, JSON.stringify(request)], {
      cwd: request.directory, detached: true, stdio: ['ignore', 'pipe', 'ignore'],
    });
    const stop = () => {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    };
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop, { once: true });
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
    child.on('error', reject);
    child.on('close', (code) => {
      signal?.removeEventListener('abort', stop);
      resolve({ code, stdout });
    });
  });
}
