// run.mjs NAME ...: runs NAME.mjs; what is not built or installed is one line that says what to do, and --help is the
// comment that NAME.mjs begins with.

import { readFileSync } from 'node:fs';
import { Missing } from './needs.mjs';

const [name] = process.argv.splice(2, 1);
const program = new URL(`${name}.mjs`, import.meta.url);
const usage = `${readFileSync(program, 'utf8').split('\n\n', 1)[0].replaceAll(/^\/\/ ?/gm, '')}\n`;

function fail(text) {
  console.error(`${name}: ${text}`);
  process.exit(2);
}

const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  process.stdout.write(usage);
  process.exit(0);
}
const known = new Set(usage.match(/--[a-z-]+/g));
const unknown = args.find((arg) => arg.startsWith('-') && !known.has(arg));
if (unknown) fail(`unknown option ${unknown}; --help lists them`);

/** A program of ours or of the machine's that could not be started. */
const notFound = (error) => error.code === 'ENOENT' && error.syscall?.startsWith('spawn') && error.path;

try {
  await import(program);
} catch (error) {
  const packageName = /^Cannot find (?:package|module) '([^'./][^']*)'/.exec(error.message)?.[1];
  if (error instanceof Missing) fail(error.message);
  if (packageName) fail(`the package ${packageName} is not installed: npm ci --prefix spec-tests`);
  if (notFound(error)) fail(`${notFound(error)} is not installed: contrib/install-deps test`);
  if (/^pg-run ended with/.test(error.message)) fail('no PostgreSQL could be started (see above): contrib/install-deps test');
  throw error;
}
