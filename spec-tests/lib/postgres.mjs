// An empty PostgreSQL of a test's own, by pg-run.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

const pgRun = new URL('pg-run', import.meta.url).pathname;

/** Starts one: {url, stop()}. It ends with the test process, too. */
export async function startPostgres() {
  const child = spawn(pgRun, ['bash', '-c', 'echo "$CALLD_TEST_DATABASE_URL"; cat <&3 >/dev/null'],
    { stdio: ['ignore', 'pipe', 'inherit', 'pipe'] });
  const exited = once(child, 'exit');
  const failed = exited.then(([code]) => { throw new Error(`pg-run ended with ${code}`); });
  failed.catch(() => {});
  const [url] = await Promise.race([once(createInterface({ input: child.stdout }), 'line'), failed]);
  return {
    url,
    async stop() {
      child.stdio[3].end();
      await exited;
    },
  };
}
