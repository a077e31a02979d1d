// What the load programs need, looked for before anything is started.

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

const top = new URL('../../', import.meta.url).pathname;

/** Something is not built or not installed; the message says what to do. */
export class Missing extends Error {}

/** @returns {string} the daemon: what was asked for, or $MATRIX_CALLD, or what build/ holds */
export function daemonAt(asked) {
  const path = asked ?? process.env.MATRIX_CALLD ?? join(top, 'build/matrix-calld');
  if (!existsSync(path)) {
    throw new Missing(`there is no ${path}: build it (contrib/HACKING.md, Build), or name another by MATRIX_CALLD`);
  }
  return path;
}

/** @returns {string} a program of the tests: $variable, or what stands beside the daemon, or what build/ holds */
export function generatorAt(name, variable, daemon) {
  const beside = join(dirname(daemon), 'spec-tests/load', name);
  const found = [process.env[variable], beside, join(top, 'build/spec-tests/load', name)]
    .find((path) => path && existsSync(path));
  if (found) return found;
  throw new Missing(`${name} is not built: make -C ${dirname(daemon)} spec-tests/load/${name} (or name it by ${variable})`);
}
