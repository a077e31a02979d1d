// The same relay on Node's Socket.IO server, as little as it can be: the yardstick of relay.mjs.
// It prints its port, believes every token, and keeps nothing.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const http = createServer();
const io = new Server(http, { transports: ['websocket'], serveClient: false });
const rooms = new Map(); // of calls

io.use((socket, next) => {
  socket.data.userId = socket.handshake.auth.token;
  next(socket.data.userId ? undefined : new Error('no token'));
});

io.on('connection', (socket) => {
  const { userId } = socket.data;

  socket.on('call-initiate', ({ roomId }, ack) => {
    const callId = randomUUID();
    rooms.set(callId, roomId);
    socket.join(callId);
    ack({ ok: true, callId });
  });
  socket.on('call-answer', ({ callId }, ack) => {
    if (!rooms.has(callId)) {
      ack({ ok: false });
      return;
    }
    socket.join(callId);
    ack({ ok: true, callId });
  });
  socket.on('ice-candidate', ({ callId, candidate }) => {
    if (socket.rooms.has(callId) && typeof candidate?.candidate === 'string') {
      socket.to(callId).emit('ice-candidate', { callId, candidate, from: userId });
    }
  });
});

process.on('SIGTERM', () => process.exit(0));
http.listen(0, '127.0.0.1', () => console.log(http.address().port));
