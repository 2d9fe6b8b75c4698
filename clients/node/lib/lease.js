// @ts-check
/** Leases until a time: empty files whose names say what they protect and when they end; docs/on-disk-contract.md. */

import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, readFileSync, readdirSync, unlinkSync } from 'node:fs';
import { uptime } from 'node:os';
import { dirname, join } from 'node:path';

import { leaseName } from './canonical.js';

/** What keeps an environment from gc, until it is released or its time is over. */
export class Lease {
  /** @type {string | null} */
  #path;

  /**
   * @param {string} id
   * @param {string | null} expires when it ends by itself: UTC, to the second (RFC 3339)
   * @param {string | null} path its file
   */
  constructor(id, expires, path) {
    this.id = id;
    this.expires = expires;
    this.#path = path;
  }

  /** End it now. */
  release() {
    try {
      if (this.#path !== null) unlinkSync(this.#path);
    } catch {
      // It had ended already, and was swept; or the store cannot be written, and it ends by itself.
    }
    this.#path = null;
  }

  /** For `using`. */
  [Symbol.dispose]() {
    this.release();
  }
}

/**
 * Take a lease that ends after so many seconds.
 *
 * @param {string} store
 * @param {string} key that of an environment
 * @param {number} seconds more than none
 * @returns {Lease}
 * @throws {Error} the store cannot be written, or which boot this is cannot be read
 */
export function takeLease(store, key, seconds) {
  const id = randomBytes(8).toString('hex');
  // A container may show an uptime of its own; the monotonic clock is never ahead of CLOCK_BOOTTIME. The hundredth is
  // what /proc/uptime is cut off at.
  const sinceBoot = Math.max(uptime() + 0.01, Number(process.hrtime.bigint()) / 1e9);
  const wall = Date.now() / 1000;
  const path = join(store, 'leases', leaseName({ id, key, boot: bootId(), sinceBoot, wall, seconds }));
  closeSync(openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o644));
  return new Lease(id, moment(wall + Math.ceil(sinceBoot + seconds) - sinceBoot), path);
}

/**
 * Return the lease that the command took for us.
 *
 * @param {Record<string, any>} answer in which there is one
 * @returns {Lease}
 */
export function leaseTaken({ lease, environment }) {
  const directory = join(dirname(dirname(environment)), 'leases');
  const name = readdirSync(directory).find((each) => each.split('.')[1] === lease.id);
  return new Lease(lease.id, lease.expires, name === undefined ? null : join(directory, name));
}

/**
 * Return a time in UTC, to the second (RFC 3339), as the command writes it.
 *
 * @param {number} seconds since the epoch
 */
export function moment(seconds) {
  return new Date(Math.round(seconds) * 1000).toISOString().replace('.000Z', 'Z');
}

let boot = '';

/** Return what names this boot: 32 hexadecimal digits. It stays the same for as long as we run. */
function bootId() {
  boot ||= readFileSync('/proc/sys/kernel/random/boot_id', 'ascii').trim().replaceAll('-', '');
  if (!/^[0-9a-f]{32}$/.test(boot)) throw new TypeError('this boot has no id');
  return boot;
}
