// Endpoints as users write them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  checkPlain,
  type Endpoint,
  endpointText,
  fillTemplate,
  isGuestName,
  isLocal,
  nativeAddress,
  parseEndpoint,
} from '#src/transport/endpoint.js';

const good: [text: string, endpoint: Endpoint][] = [
  ['unix:/run/pagewire/vm1.sock', { kind: 'unix', path: '/run/pagewire/vm1.sock' }],
  ['unix:a:b', { kind: 'unix', path: 'a:b' }],
  ['tcp:dst.example:7777', { kind: 'tcp', host: 'dst.example', port: 7777 }],
  ['tls:0.0.0.0:0', { kind: 'tls', host: '0.0.0.0', port: 0 }],
  ['tls:[::1]:65535', { kind: 'tls', host: '::1', port: 65535 }],
  ['tcp:[fe80::1%eth0.7]:1', { kind: 'tcp', host: 'fe80::1%eth0.7', port: 1 }],
  ['tcp:[::ffff:192.0.2.1]:1', { kind: 'tcp', host: '::ffff:192.0.2.1', port: 1 }],
  ['tls:my_host-2:80', { kind: 'tls', host: 'my_host-2', port: 80 }],
  ['fd:0', { kind: 'fd', fd: 0 }],
  ['fd:17', { kind: 'fd', fd: 17 }],
  ['stdio', { kind: 'stdio' }],
  ['exec:ssh dst pagewire proxy', { kind: 'exec', command: 'ssh dst pagewire proxy' }],
];

const bad: [text: string, why: RegExp][] = [
  ['', /an endpoint is unix:PATH, tcp:HOST:PORT/],
  ['/run/x.sock', /an endpoint is/],
  ['dst.example:7777', /an endpoint is/],
  ['udp:dst:1', /an endpoint is/],
  ['TLS:dst:1', /an endpoint is/],
  ['unix:', /a path is missing/],
  [`unix:/${'x'.repeat(107)}`, /at most 107 bytes/],
  [`unix:/${'é'.repeat(54)}`, /at most 107 bytes/],
  ['unix:/a\0b', /a socket's path/],
  ['tcp:dst', /HOST:PORT is needed/],
  ['tcp:dst:', /HOST:PORT is needed/],
  ['tcp::7777', /a host is missing/],
  ['tcp:dst:65536', /at most 65535/],
  ['tcp:dst:-1', /HOST:PORT is needed/],
  ['tcp:dst:0x50', /HOST:PORT is needed/],
  ['tls:::1:7777', /IPv6 address stands in brackets/],
  ['tls:2001:db8::7:7777', /IPv6 address stands in brackets/],
  ['tls:[]:7777', /is no IPv6 address/],
  ['tls:[dst]:7777', /is no IPv6 address/],
  ['tls:[::1]7777', /HOST:PORT is needed/],
  ['tls:a b:1', /strange name/],
  ['fd:', /number of a descriptor/],
  ['fd:-1', /number of a descriptor/],
  ['fd:3x', /number of a descriptor/],
  ['exec: ', /a command is missing/],
];

describe('endpoints', () => {
  for (const [text, endpoint] of good) {
    it(`${text} is one, and is written so`, () => {
      assert.deepEqual(parseEndpoint(text), endpoint);
      assert.equal(endpointText(endpoint), text);
    });
  }

  for (const [text, why] of bad) {
    it(`${JSON.stringify(text.slice(0, 40))} is none`, () => {
      const expected = { code: 'BAD_OPTION', message: why };
      assert.throws(() => parseEndpoint(text), expected);
      assert.throws(
        () => parseEndpoint(text),
        (error: Error) => error.message.startsWith(`${text}: `),
      );
    });
  }

  it('are addresses for the core where they are some', () => {
    const address = (text: string): unknown => nativeAddress(parseEndpoint(text));
    assert.deepEqual(address('unix:/x'), { kind: 'unix', path: '/x' });
    assert.deepEqual(address('tls:[::1]:7'), { kind: 'tcp', host: '::1', port: 7 });
    for (const text of ['fd:3', 'stdio', 'exec:true']) assert.equal(address(text), undefined);
  });

  it('without encryption stay on this host, unless that is wanted', () => {
    const local = [
      'tcp:127.0.0.1:1',
      'tcp:127.1.2.3:1',
      'tcp:[::1]:1',
      'tcp:localhost:1',
      'tcp:LOCALHOST:1',
      'tcp:[::ffff:127.0.0.1]:1',
    ];
    for (const text of [...local, 'unix:/x', 'fd:3', 'stdio', 'exec:ssh dst', 'tls:dst:1', 'tls:0.0.0.0:1']) {
      checkPlain(parseEndpoint(text), false);
    }
    for (const text of local) assert.ok(isLocal(parseEndpoint(text)), text);
    for (const host of ['0.0.0.0', '[::]', '192.0.2.1', 'dst', '127.example', 'localhost.example', '[::2]']) {
      const endpoint = parseEndpoint(`tcp:${host}:7777`);
      assert.throws(
        () => {
          checkPlain(endpoint, false);
        },
        { code: 'BAD_OPTION', message: new RegExp(`take tls:.*:7777, or say --insecure$`) },
        host,
      );
      checkPlain(endpoint, true);
    }
  });

  it('have guests in them whose names make no other path', () => {
    for (const name of ['vm1', 'A.b_c-9', '.hidden', 'x'.repeat(64)]) assert.ok(isGuestName(name), name);
    for (const name of ['', '.', '..', '...', 'a/b', 'a b', 'é', 'a\n', 'x'.repeat(65)])
      assert.ok(!isGuestName(name), name);
  });

  it('get a guest in their templates', () => {
    assert.equal(fillTemplate('unix:/run/{name}/{name}.sock', 'vm.1', undefined), 'unix:/run/vm.1/vm.1.sock');
    assert.equal(fillTemplate('tcp:[::1]:{port}', 'vm1', 49152), 'tcp:[::1]:49152');
    assert.throws(() => fillTemplate('unix:/run/{name}/x', '..', undefined), {
      code: 'BAD_OPTION',
      message: /guest's name/,
    });
    assert.throws(() => fillTemplate('tcp:[::1]:{port}', 'vm1', undefined), { code: 'BAD_OPTION', message: /--port/ });
  });
});
