// Session descriptions and candidates for tests without a browser: small, well formed, and different for each name.

const fingerprint = Array.from({ length: 32 }, (_, index) =>
  (index * 7 % 256).toString(16).padStart(2, '0').toUpperCase()).join(':');

const media = (kind, mid, port, name, codec) => [
  `m=${kind} ${port} UDP/TLS/RTP/SAVPF ${codec.number}`, 'c=IN IP4 0.0.0.0', 'a=rtcp:9 IN IP4 0.0.0.0',
  `a=ice-ufrag:${name.slice(0, 4).padEnd(4, 'x')}`, `a=ice-pwd:${name.padEnd(24, 'p').slice(0, 24)}`,
  `a=fingerprint:sha-256 ${fingerprint}`,
  'a=setup:actpass', `a=mid:${mid}`, 'a=sendrecv', `a=msid:stream-${name} ${kind}-${name}`, 'a=rtcp-mux',
  `a=rtpmap:${codec.number} ${codec.name}`,
];

function sdp(name, video) {
  return [
    'v=0', 'o=- 4611731400430051336 2 IN IP4 127.0.0.1', 's=-', 't=0 0', `a=group:BUNDLE 0${video ? ' 1' : ''}`,
    `a=msid-semantic: WMS stream-${name}`,
    ...media('audio', 0, 9, name, { number: 111, name: 'opus/48000/2' }),
    ...(video ? media('video', 1, 9, name, { number: 96, name: 'VP8/90000' }) : []), '',
  ].join('\r\n');
}

export const offerOf = (name, { video = true } = {}) => ({ type: 'offer', sdp: sdp(name, video) });
export const answerOf = (name, { video = true } = {}) => ({ type: 'answer', sdp: sdp(name, video) });

export function candidateOf(number) {
  return {
    candidate: `candidate:${number} 1 udp 2122260223 192.0.2.${number % 250 + 1} ${50000 + number} typ host` +
      ' generation 0',
    sdpMid: '0', sdpMLineIndex: 0,
  };
}
