import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  type Hello,
  isRefusal,
  type OpenHello,
  PROTOCOL,
  readHello,
  readJoinWelcome,
  readOpenWelcome,
  versionMismatch,
  writeMessage,
} from '#src/session/hello.js';
import { type End, agree, choose, refusal } from '#src/session/negotiate.js';

const TOKEN = 'ab'.repeat(32);

const END: End = {
  program: '1.2.3',
  capabilities: { codecs: ['none', 'lz4', 'zlib', 'zstd'], delta: true, formats: [1] },
  parameters: { silenceMs: 5000, frameSize: 4 << 20 },
  require: [],
};

const OPEN: OpenHello = {
  kind: 'open',
  protocol: PROTOCOL,
  program: '1.2.3',
  token: TOKEN,
  name: 'vm1',
  capabilities: END.capabilities,
  parameters: END.parameters,
  require: [],
};

const JOIN: Hello = { kind: 'join', protocol: PROTOCOL, program: '1.2.3', token: TOKEN, channel: 3, received: 17 };

const bytes = (said: unknown): Buffer => Buffer.from(JSON.stringify(said));

describe('HELLO', () => {
  for (const hello of [OPEN, { ...OPEN, port: 49152 }, JOIN]) {
    it(`comes out as it went in: ${hello.kind}`, () => {
      assert.deepEqual(readHello(writeMessage(hello), '1.2.3'), hello);
    });
  }

  it('may have fields that a later pagewire knows', () => {
    const read = readHello(bytes({ ...OPEN, mood: 'good', parameters: { ...OPEN.parameters, colour: 1 } }), '1');
    assert.deepEqual(read, OPEN);
  });

  it('may name codecs that this one does not know', () => {
    const capabilities = { ...OPEN.capabilities, codecs: ['none', 'brotli'] };
    const read = readHello(bytes({ ...OPEN, capabilities }), '1');
    assert.ok(!isRefusal(read) && read.kind === 'open');
    assert.deepEqual(agree(read, END).codecs, ['none']);
  });

  const wrong: [what: string, said: unknown][] = [
    ['no JSON', undefined],
    ['a number', 7],
    ['another kind', { ...OPEN, kind: 'dance' }],
    ['no token', { ...OPEN, token: undefined }],
    ['a short token', { ...OPEN, token: 'ab' }],
    ['a name with a slash', { ...OPEN, name: '../vm1' }],
    ['a name that leads up', { ...OPEN, name: '..' }],
    ['an empty name', { ...OPEN, name: '' }],
    ['a name of 65 letters', { ...OPEN, name: 'v'.repeat(65) }],
    ['a port beyond', { ...OPEN, port: 65536 }],
    ['a silence of no time', { ...OPEN, parameters: { ...OPEN.parameters, silenceMs: 0 } }],
    ['frames that are too large', { ...OPEN, parameters: { ...OPEN.parameters, frameSize: 1 << 30 } }],
    ['a thousand codecs', { ...OPEN, capabilities: { ...OPEN.capabilities, codecs: Array(1000).fill('zstd') } }],
    ['a version with control characters', { ...OPEN, program: '\u001b[2J' }],
    ['a negative channel', { ...JOIN, channel: -1 }],
    ['half a frame', { ...JOIN, received: 0.5 }],
  ];
  for (const [what, said] of wrong) {
    it(`is refused with ${what}`, () => {
      const read = readHello(said === undefined ? Buffer.from('{') : bytes(said), '1');
      assert.ok(isRefusal(read));
      assert.equal(read.code, 'BAD_HELLO');
      // What was said may be anything: it is not repeated.
      for (const part of ['\u001b', '../']) assert.ok(!read.message.includes(part));
    });
  }

  it('of another protocol is refused by naming both versions, before the rest is looked at', () => {
    const read = readHello(bytes({ protocol: { oldest: 7, newest: 9 }, program: '9.0.0', tune: 'unknown' }), '1.2.3');
    assert.deepEqual(read, {
      code: 'VERSION',
      message:
        'pagewire 9.0.0 speaks session protocols 7 to 9 and pagewire 1.2.3 session protocol 1, ' +
        'which have no version in common: update pagewire 1.2.3',
    });
  });
});

describe('versions', () => {
  const of = (program: string, oldest: number, newest: number) => ({ program, protocol: { oldest, newest } });
  it('overlap', () => {
    assert.equal(versionMismatch(of('a', 1, 3), of('b', 3, 5)), undefined);
    assert.equal(versionMismatch(of('a', 2, 2), of('b', 1, 4)), undefined);
  });
  it('do not, and the older one is to be updated, whoever says so', () => {
    const [a, b] = [of('1.0', 1, 2), of('2.0', 3, 4)];
    for (const text of [versionMismatch(a, b), versionMismatch(b, a)]) {
      assert.match(text ?? '', /1\.0 (speaks )?session protocols 1 to 2/);
      assert.match(text ?? '', /2\.0 (speaks )?session protocols 3 to 4/);
      assert.match(text ?? '', /update pagewire 1\.0$/);
    }
  });
});

describe('WELCOME', () => {
  it('is read', () => {
    const welcome = { protocol: PROTOCOL, program: '1', capabilities: END.capabilities, parameters: END.parameters };
    assert.deepEqual(readOpenWelcome(writeMessage(welcome)), welcome);
    const join = { protocol: PROTOCOL, program: '1', received: 4 };
    assert.deepEqual(readJoinWelcome(writeMessage(join)), join);
  });
  it('that is none is an error', () => {
    assert.throws(() => readJoinWelcome(bytes({ received: -1 })), { code: 'INCOMPATIBLE' });
  });
});

describe('the agreement', () => {
  it('is the same at both ends', () => {
    const theirs = {
      capabilities: { codecs: ['none', 'lz4'], delta: false, formats: [1] },
      parameters: { silenceMs: 20_000, frameSize: 1 << 20 },
    };
    const expected = {
      ...{ codecs: ['none', 'lz4'], delta: false, silenceMs: 20_000, heartbeatMs: 4000, frameSize: 1 << 20, match: 0 },
    };
    assert.deepEqual(agree(theirs, END), expected);
    assert.deepEqual(agree(END, theirs), expected);
  });
});

describe('how far back references lead', () => {
  const end = (match?: number): Pick<End, 'capabilities' | 'parameters'> => ({
    ...END,
    parameters: { ...END.parameters, ...(match !== undefined && { match }) },
  });
  it('is what both want, and nothing where one is older or has next to no room', () => {
    const cases: [source: number | undefined, destination: number | undefined, agreed: number][] = [
      [128 << 20, 512 << 20, 128 << 20],
      [128 << 20, 64 << 20, 64 << 20],
      [128 << 20, undefined, 0],
      [undefined, 128 << 20, 0],
      [128 << 20, 1000, 0],
    ];
    for (const [source, destination, agreed] of cases) {
      assert.equal(agree(end(source), end(destination)).match, agreed);
      assert.equal(agree(end(destination), end(source)).match, agreed);
    }
  });
  it('is told where it is less than was wanted', () => {
    const noted = (match: number): string =>
      choose({ codec: 'zstd', delta: true, match: 128 << 20 }, { ...agree(END, END), match }, '0.9').notes.join();
    assert.equal(noted(128 << 20), '');
    assert.match(noted(64 << 20), /0\.9 at the destination has no room for a match of 128 MiB.*back 64\.0 MiB/);
    assert.match(noted(0), /frames have no references/);
  });
});

describe('what is wanted and cannot be', () => {
  const all = agree(END, END);
  it('is nothing between equals', () => {
    assert.deepEqual(choose({ codec: 'zstd', delta: true, match: 0 }, all, '1'), {
      codec: 'zstd',
      delta: true,
      notes: [],
    });
  });
  it('is told, and replaced by what both have', () => {
    const { codec, delta, notes } = choose(
      { codec: 'zstd', delta: true, match: 0 },
      { ...all, codecs: ['none', 'lz4', 'zlib'], delta: false },
      '0.9',
    );
    assert.deepEqual([codec, delta], ['lz4', false]);
    assert.match(notes.join('\n'), /0\.9 at the destination lacks zstd: frames are packed with lz4\n.*no delta/);
  });
  it('leaves frames unpacked where nothing else is left', () => {
    assert.equal(choose({ codec: 'zstd', delta: false, match: 0 }, { ...all, codecs: ['none'] }, '1').codec, 'none');
    assert.equal(choose({ codec: 'zstd', delta: false, match: 0 }, { ...all, codecs: [] }, '1').codec, 'none');
  });
});

describe('a refusal', () => {
  const poor: End = { ...END, program: '0.9', capabilities: { codecs: ['none', 'lz4'], delta: false, formats: [1] } };
  it('is none without a reason', () => {
    assert.equal(refusal(OPEN, END), undefined);
    assert.equal(refusal({ ...OPEN, require: ['delta', 'zstd'] }, END), undefined);
    assert.equal(refusal(OPEN, poor), undefined);
  });
  it('names what the destination lacks', () => {
    const { code, message } = refusal({ ...OPEN, require: ['delta', 'lz4', 'zstd'] }, poor) ?? {};
    assert.equal(code, 'REQUIRED');
    assert.match(message ?? '', /the source requires what pagewire 0\.9 at the destination lacks.*: delta, zstd/);
  });
  it('names what the source lacks', () => {
    const { message } = refusal({ ...OPEN, capabilities: poor.capabilities }, { ...END, require: ['zstd'] }) ?? {};
    assert.match(message ?? '', /the destination requires what pagewire 1\.2\.3 at the source lacks.*: zstd/);
  });
  it("a source for libvirt's tunnel and a destination for QEMUs refuse each other, and the other way round", () => {
    const libvirts = { ...END, capabilities: { ...END.capabilities, libvirt: true } };
    for (const [theirs, mine] of [
      [END, libvirts],
      [libvirts, END],
    ] as const) {
      const { code, message } = refusal({ ...OPEN, capabilities: theirs.capabilities }, mine) ?? {};
      assert.equal(code, 'REQUIRED');
      assert.match(message ?? '', /give --libvirt to both proxies or none/);
    }
    assert.equal(refusal({ ...OPEN, capabilities: libvirts.capabilities }, libvirts), undefined);
  });

  it('names formats that have nothing in common', () => {
    const capabilities = { ...END.capabilities, formats: [2, 3] };
    const { code, message } = refusal({ ...OPEN, program: '9', capabilities }, END) ?? {};
    assert.equal(code, 'VERSION');
    assert.match(message ?? '', /pagewire 9 at the source writes frame format 2, 3 and pagewire 1\.2\.3 .* reads 1/);
  });
});
