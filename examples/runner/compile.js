// @ts-check
/**
 * The command that the runner starts: the python of the project, then its document, executed by a kernel of that python.
 *
 * usage: node compile.js REQUEST     (JSON, see `Request`)
 *
 * Prints one JSON object (`Rendered`), and never ends with 1, with which the runner would drop it. What authors have to
 * know goes to compile.log in the compile directory. This file is what an integration looks like; the rest is stage.
 */

import { spawn } from 'node:child_process';
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { LinkError, hint, link } from '../../clients/node/index.js';

/** @import { Answer, LinkOptions } from '../../clients/node/index.js' */

const DOCUMENT = 'report.ipynb';
const REQUIREMENTS = 'requirements.vrf';
const EXECUTED = 'executed.ipynb';
const EXECUTE = fileURLToPath(new URL('execute.py', import.meta.url));
const FAILED = 2;
const ANSI = /\x1b\[[0-9;]*m/g;

/**
 * @typedef {object} Request
 * @property {string} directory the compile directory
 * @property {string} name of the project, which outlives its compile directories
 * @property {LinkOptions} link what the service decides: interpreter, store, who may install, how long it may take
 */

/**
 * @typedef {object} Rendered
 * @property {Answer['status'] | 'no-answer'} status what became of the environment
 * @property {string | null} python
 * @property {string[]} outputs what the cells have printed
 * @property {string | null} problem for the author; null where all went well
 * @property {number} packages
 * @property {number} downloaded bytes
 * @property {{ link: number, execute: number }} milliseconds
 */

/**
 * @param {Request} request
 * @returns {Promise<Rendered>}
 */
async function render({ directory, link: options }) {
  const log = join(directory, 'compile.log');
  const began = performance.now();
  const answer = await link(join(directory, REQUIREMENTS), { log, ...options });
  const linked = performance.now();
  /** @type {Rendered} */
  const rendered = {
    status: answer.status,
    python: answer.python,
    outputs: [],
    problem: answer.error ? told(answer.error) : null,
    packages: answer.packages.length,
    downloaded: answer.bytes.downloaded,
    milliseconds: { link: linked - began, execute: 0 },
  };
  if (answer.python === null) return rendered;
  try {
    const failed = await execute(directory, answer.python, answer.env);
    rendered.milliseconds.execute = performance.now() - linked;
    if (failed === null) return { ...rendered, outputs: await outputsOf(join(directory, EXECUTED)) };
    // In the environment that was asked for, what fails is the document, or what its requirements leave out.
    const advice = answer.status === 'fallback' ? [] : await advised(directory, failed, options);
    await appendFile(log, `${[failed, ...advice].join('\n')}\n`);
    const problem = [rendered.problem, failed.split('\n').at(-1), ...advice].filter(Boolean).join('\n');
    return { ...rendered, problem };
  } finally {
    answer.lease?.release();
  }
}

/**
 * Execute the document with a kernel of the environment.
 *
 * @param {string} directory
 * @param {string} python
 * @param {Record<string, string>} variables
 * @returns {Promise<string | null>} all that was said of the failure; null where there was none
 */
async function execute(directory, python, variables) {
  // In our process group: stopped with us, and with it the kernel.
  const child = spawn(python, [EXECUTE, DOCUMENT, EXECUTED], {
    cwd: directory, env: { ...process.env, ...variables }, stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (said += text));
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));
  return code === 0 ? null : said.replace(ANSI, '').trim();
}

/**
 * Return what an author can do about a document that failed, if a package is missing.
 *
 * @param {string} directory
 * @param {string} failure
 * @param {LinkOptions} options
 * @returns {Promise<string[]>}
 */
async function advised(directory, failure, { command, store, python, variables }) {
  const found = await hint(failure, {
    command, store, python, variables, requirements: join(directory, REQUIREMENTS), directory,
  }).catch(() => null); // a courtesy, and no reason to lose the failure itself
  return found === null ? [] : [found.message, found.advice ?? ''].filter((line) => line !== '');
}

/** @param {NonNullable<Answer['error']>} error */
function told({ message, path, line, hint: advice }) {
  const where = path === null ? '' : `${path.split('/').at(-1)}:${line === null ? '' : `${line}:`} `;
  return `${where}${message}${advice === null ? '' : `\n  hint: ${advice}`}`;
}

/** @param {string} path */
async function outputsOf(path) {
  const { cells } = JSON.parse(await readFile(path, 'utf8'));
  return cells
    .flatMap((/** @type {any} */ cell) => cell.outputs ?? [])
    .map((/** @type {any} */ output) => [output.text ?? output.data?.['text/plain'] ?? ''].flat().join('').trimEnd());
}

/** @type {Request} */
const request = JSON.parse(process.argv[2]);
try {
  const rendered = await render(request);
  console.log(JSON.stringify(rendered));
  process.exitCode = rendered.problem === null ? 0 : FAILED;
} catch (error) {
  const problem = error instanceof LinkError ? error.message : `the runner has a bug: ${error}`;
  console.log(JSON.stringify({
    status: 'no-answer', python: null, outputs: [], problem, packages: 0, downloaded: 0, milliseconds: { link: 0, execute: 0 },
  }));
  process.exitCode = FAILED;
}
