// Bundles spec-tests/browser/sdk-page with esbuild and serves it on a free loopback port.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { build } from 'esbuild';

const folder = new URL('../browser/sdk-page/', import.meta.url).pathname;

/** @returns {Promise<{url: string, close: () => Promise<void>}>} */
export async function serveSdkPage() {
  const bundle = await build({
    entryPoints: [join(folder, 'page.js')], bundle: true, minify: true, write: false, format: 'esm',
    platform: 'browser', target: 'chrome110', logLevel: 'error',
  });
  const files = {
    '/': { type: 'text/html; charset=utf-8', body: await readFile(join(folder, 'index.html')) },
    '/page.js': { type: 'text/javascript; charset=utf-8', body: bundle.outputFiles[0].contents },
  };
  const server = createServer((request, response) => {
    const file = files[new URL(request.url, 'http://page').pathname];
    if (!file) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': file.type }).end(file.body);
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}
