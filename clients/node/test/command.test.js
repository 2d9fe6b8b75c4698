// @ts-check
/** Starting the command: what it is told, what is made of what it says, and how it is ended. */

import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { LinkError, link } from '../index.js';

const scratch = mkdtempSync(join(tmpdir(), 'vrfstore-client-'));
after(() => rmSync(scratch, { recursive: true }));
const requirements = join(scratch, 'requirements.vrf');
writeFileSync(requirements, 'pandas\n');

/**
 * Return options with a shell script as the command.
 *
 * @param {string} name
 * @param {string} body
 */
function script(name, body) {
  const path = join(scratch, name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return { command: [path], store: join(scratch, 'store') };
}

/** @param {number} pid */
function runs(pid) {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/**
 * Wait for the end of a process; what it had open is closed a little earlier.
 *
 * @param {number} pid
 */
async function gone(pid) {
  const deadline = performance.now() + 10_000;
  while (runs(pid)) {
    assert(performance.now() < deadline, `${pid} still runs`);
    await sleep(5);
  }
}

test('every option is said to the command', async () => {
  const words = join(scratch, 'words');
  const options = script('say', `printf '%s\\n' "$@" >${words}; echo '{"status": "error"}'`);
  await link(requirements, {
    ...options, python: '3.12', isolated: true, userSite: true, allowCollisions: true, allowBuilds: true,
    materialize: ['a', 'b'], protect: ['c'], prompt: 'p', indexUrl: 'https://index.example/', maxPackages: 1,
    maxBytes: 2, maxUnpacked: 3, staleAfter: 4, timeout: 5, install: false, wait: false, fallback: true, root: 'r',
    log: '/l', lease: 6, sharedStore: '/s', arguments: ['--more'],
  });
  assert.deepEqual(readFileSync(words, 'utf8').trim().split('\n'), [
    'link', '--json', '--store', join(scratch, 'store'), '--python', '3.12', '--isolated',
    '--user-site', '--allow-collisions', '--allow-builds', '--materialize', 'a', '--materialize', 'b', '--protect', 'c',
    '--prompt', 'p', '--index-url', 'https://index.example/', '--max-packages', '1', '--max-bytes', '2',
    '--max-unpacked', '3', '--stale-after', '4s', '--timeout', '5s', '--no-install', '--no-wait', '--fallback',
    '--root', 'r', '--log', '/l', '--lease-ttl', '6s', '--shared-store', '/s', '--more', '--', requirements,
  ]);
  await link(requirements, { ...options, wait: true, fallback: false, lease: 0, sharedStore: '' });
  assert.deepEqual(readFileSync(words, 'utf8').trim().split('\n').slice(2, -2), [
    '--store', join(scratch, 'store'), '--no-shared-store',
  ]);
});

test('an option that nobody knows is refused, not passed over', async () => {
  for (const options of [{ noInstall: true }, { constructor: 1 }, { lease: -1 }, { timeout: NaN }, { maxBytes: '1' }]) {
    await assert.rejects(link(requirements, /** @type {any} */ (options)), TypeError);
  }
});

test('an answer is an answer, whatever the exit code; what is said meanwhile comes line by line', async () => {
  const body = `echo one >&2; echo two >&2; echo '{"status": "error", "error": {"code": 12}}'; exit 12`;
  /** @type {string[]} */
  const lines = [];
  const answer = await link(requirements, { ...script('refuse', body), onLine: (line) => lines.push(line) });
  assert.deepEqual(answer, { status: 'error', error: { code: 12 } });
  assert.deepEqual(lines, ['one', 'two']);
});

test('no answer is an error that says how it ended, and the last that was said', async () => {
  for (const [name, body, message] of [
    ['silent', 'echo why >&2; exit 3', /exit code 3: why$/],
    ['killed', 'kill -9 $$', /SIGKILL/],
    ['garbled', 'echo "{"', /exit code 0/],
    ['another', 'echo "[]"', /exit code 0/],
  ]) {
    await assert.rejects(link(requirements, script(String(name), String(body))), (error) => {
      assert(error instanceof LinkError);
      assert.equal(error.kind, 'no-answer');
      assert.match(error.message, /** @type {RegExp} */ (message));
      return true;
    });
  }
});

test('a command that is not there is said', async () => {
  const options = { command: [join(scratch, 'nowhere')] };
  await assert.rejects(link(requirements, options), { kind: 'no-command', message: /nowhere cannot be started/ });
});

test('abort ends all that was started, and says so', async () => {
  const pids = join(scratch, 'pids');
  const body = `sleep 60 & echo $! >${pids}; echo $$ >>${pids}; echo ready >&2; wait`;
  const controller = new AbortController();
  const asked = link(requirements, {
    ...script('slow', body), signal: controller.signal, onLine: () => controller.abort(new Error('stop')),
  });
  await assert.rejects(asked, (error) => {
    assert(error instanceof LinkError);
    assert.equal(error.kind, 'aborted');
    assert.match(error.message, /process group \d+, was ended/);
    assert.equal(/** @type {Error} */ (error.cause).message, 'stop');
    return true;
  });
  for (const pid of readFileSync(pids, 'utf8').trim().split('\n')) await gone(Number(pid));
});

test('what does not end when it is asked to is killed', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const body = `trap 'echo asked >&2' TERM; echo ready >&2; while :; do sleep 0.05; done`;
  const controller = new AbortController();
  const asked = link(requirements, {
    ...script('stubborn', body),
    signal: controller.signal,
    onLine: (line) => (line === 'ready' ? controller.abort() : context.mock.timers.tick(5_000)),
  });
  await assert.rejects(asked, { kind: 'aborted' });
});

test('what does not keep to its time is ended ten seconds later', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  /** @type {string[]} */
  const early = [];
  const body = `trap 'echo early >&2' TERM; echo ready >&2; sleep 0.2; trap - TERM; echo still >&2; exec sleep 60`;
  const asked = link(requirements, {
    ...script('late', body),
    timeout: 30,
    onLine: (line) => {
      early.push(line);
      context.mock.timers.tick(line === 'ready' ? 39_999 : 1);
    },
  });
  await assert.rejects(asked, { kind: 'timeout', message: /no answer 40 seconds after the start; .* was ended/ });
  assert.deepEqual(early.slice(0, 2), ['ready', 'still']);
});

test('what was left behind in a session of its own is not waited for', async () => {
  const pid = join(scratch, 'left');
  const body = `setsid sh -c 'echo $$ >${pid}; echo ready >&2; exec sleep 30' & wait`;
  const controller = new AbortController();
  const began = performance.now();
  const options = { ...script('leaving', body), signal: controller.signal, onLine: () => controller.abort() };
  await assert.rejects(link(requirements, options), { kind: 'aborted' });
  assert(performance.now() - began < 20_000);
  process.kill(Number(readFileSync(pid, 'utf8')));
});

test('what was aborted before is not started', async () => {
  const trace = join(scratch, 'started');
  const options = { ...script('start', `touch ${trace}`), signal: AbortSignal.abort() };
  await assert.rejects(link(requirements, options), { kind: 'aborted' });
  await sleep(50);
  assert(!existsSync(trace));
});

test('the command has a process group of its own', async () => {
  const options = script('group', `echo "{\\"status\\": \\"$(ps -o pgid= -p $$ | tr -d ' ') $$\\"}"`);
  const [group, pid] = (await link(requirements, options)).status.split(' ');
  assert.equal(group, pid);
});
