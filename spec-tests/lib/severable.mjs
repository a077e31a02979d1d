// A TCP port in front of a real server that a test can take away and give back: refused, or hanging.

import { once } from 'node:events';
import net from 'node:net';

/** Forwards to host:port of `url`. {port, url, cut(), hang(), restore(), close()} */
export async function severable(url) {
  const target = new URL(url);
  const open = new Set();
  let hanging = false;
  const server = net.createServer((near) => {
    near.on('error', () => {});
    open.add(near);
    near.on('close', () => open.delete(near));
    if (hanging) return;
    const far = net.connect(Number(target.port), target.hostname);
    far.on('error', () => near.destroy());
    near.on('close', () => far.destroy());
    far.on('close', () => near.destroy());
    near.pipe(far);
    far.pipe(near);
  });
  const listen = async (port) => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  await listen(0);
  const { port } = server.address();
  const front = new URL(url);
  front.port = String(port);
  front.hostname = '127.0.0.1';
  const drop = () => { for (const socket of open) socket.destroy(); };
  const close = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    drop();
    await closed;
  };
  return {
    port,
    url: front.href.replace(/\/$/, ''),
    /** New connections are refused, the old ones are reset. */
    cut: close,
    /** New connections are taken and get no answer, the old ones are reset. */
    hang() {
      hanging = true;
      drop();
    },
    async restore() {
      hanging = false;
      if (!server.listening) await listen(port);
    },
    close,
  };
}
