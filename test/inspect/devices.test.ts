// Device states by the description behind them: believed where the bytes bear it out, and nowhere else.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { deviceStates } from '#src/inspect/devices.js';

const FOOTERS = { offset: 1000, behindEnd: false, footers: true };

function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function section(id: number, name: string, data: Buffer, { footer = true, instance = 0, version = 1 } = {}): Buffer {
  return Buffer.concat([
    Buffer.from([4]),
    be32(id),
    Buffer.from([name.length]),
    Buffer.from(name),
    be32(instance),
    be32(version),
    data,
    ...(footer ? [Buffer.from([0x7e]), be32(id)] : []),
  ]);
}

function end(description: unknown): Buffer {
  const text = Buffer.from(typeof description === 'string' ? description : JSON.stringify(description));
  return Buffer.concat([Buffer.from([0, 6]), be32(text.length), text]);
}

/** A list's fields in three forms, and a subsection with one of its own in it. */
const TIMER = section(3, 'timer', Buffer.alloc(4 + 3 * 8 + (6 + 9) + 2 + (6 + 11) + 1, 0x5a), { version: 2 });
const VGA = section(4, '0000:00:01.0/vga', Buffer.alloc(70, 4), { instance: 1 });
const DESCRIPTION = {
  page_size: 4096,
  devices: [
    {
      name: 'timer',
      instance_id: 0,
      version: 2,
      fields: [
        { name: 'a', type: 'uint32', size: 4 },
        { name: 'b', array_len: 3, type: 'struct', struct: { fields: [] }, size: 8 },
      ],
      subsections: [
        {
          vmsd_name: 'timer/sub',
          version: 1,
          fields: [{ name: 'c', size: 2 }],
          subsections: [{ vmsd_name: 'timer/inner', version: 1, fields: [{ name: 'd', size: 1 }] }],
        },
      ],
    },
    { name: '0000:00:01.0/vga', instance_id: 1, fields: [{ name: 'data', size: 70, type: 'buffer' }] },
  ],
};
const COMMAND = Buffer.from([8, 0, 2, 0, 4, 1, 2, 3, 4]);

describe('device states', () => {
  it('are told by the description', () => {
    const bytes = Buffer.concat([TIMER, COMMAND, VGA, end(DESCRIPTION)]);
    const states = deviceStates(bytes, FOOTERS);
    const at = TIMER.length + COMMAND.length;
    assert.deepEqual(states.devices, [
      { name: 'timer', id: 3, instance: 0, version: 2, offset: 1000, bytes: TIMER.length },
      { name: '0000:00:01.0/vga', id: 4, instance: 1, version: 1, offset: 1000 + at, bytes: VGA.length },
    ]);
    const description = { offset: 1001 + at + VGA.length, bytes: bytes.length - at - VGA.length - 1 };
    assert.deepEqual({ ...states, devices: [] }, { devices: [], opaque: undefined, description, isWhole: true });
  });

  it('are told without footers too', () => {
    const sections = [
      section(3, 'a', Buffer.alloc(9), { footer: false }),
      section(4, 'b', Buffer.alloc(0), { footer: false }),
    ];
    const devices = [
      { name: 'a', instance_id: 0, fields: [{ size: 9 }] },
      { name: 'b', instance_id: 0 },
    ];
    const states = deviceStates(Buffer.concat([...sections, end({ devices })]), { ...FOOTERS, footers: false });
    assert.deepEqual([states.devices.length, states.opaque], [2, undefined]);
  });

  it('stay opaque from where the description does not fit', () => {
    for (const [damage, count] of [
      [(bytes: Buffer) => bytes.writeUInt8(5, 0), 0], // no section
      [(bytes: Buffer) => bytes.writeUInt8(0x58, 7), 0], // another name
      [(bytes: Buffer) => bytes.writeUInt8(9, TIMER.length - 1), 0], // another footer
      [(bytes: Buffer) => bytes.writeUInt8(9, TIMER.length + 6 + 16 + 3), 1], // another instance
    ] as const) {
      const bytes = Buffer.concat([TIMER, VGA, end(DESCRIPTION)]);
      damage(bytes);
      const { devices, opaque, isWhole } = deviceStates(bytes, FOOTERS);
      const from = count * TIMER.length;
      const left = { offset: 1000 + from, bytes: TIMER.length + VGA.length - from };
      assert.deepEqual([devices.length, opaque, isWhole], [count, left, true]);
    }
  });

  it('without a description are one opaque range, and whole where the last footer and the end mark stand', () => {
    const bytes = Buffer.concat([TIMER, VGA, Buffer.from([0])]);
    const opaque = { offset: 1000, bytes: bytes.length };
    const whole = { devices: [], opaque, description: undefined, isWhole: true };
    assert.deepEqual(deviceStates(bytes, FOOTERS), whole);
    assert.equal(deviceStates(bytes, { ...FOOTERS, footers: false }).isWhole, undefined);
    assert.equal(deviceStates(bytes.subarray(0, -1), FOOTERS).isWhole, false);
    assert.equal(deviceStates(bytes.subarray(0, -1), { ...FOOTERS, footers: false }).isWhole, false);
  });

  it('are cut off wherever they end before the description does', () => {
    const bytes = Buffer.concat([TIMER, VGA, end(DESCRIPTION)]);
    for (let length = 1; length < bytes.length; length++) {
      const { isWhole, devices } = deviceStates(bytes.subarray(0, length), FOOTERS);
      // Behind the end mark it is a whole stream without a description.
      assert.equal(isWhole, length === TIMER.length + VGA.length + 1, `${length} bytes`);
      assert.deepEqual(devices, []);
    }
  });

  it('may be none: a description alone, or nothing, behind the end mark', () => {
    const behind = { ...FOOTERS, behindEnd: true };
    const { description, isWhole } = deviceStates(end({ devices: [] }).subarray(1), behind);
    assert.deepEqual([description?.offset, isWhole], [1000, true]);
    assert.equal(deviceStates(Buffer.alloc(0), behind).isWhole, true);
    assert.equal(deviceStates(Buffer.from('more'), behind).isWhole, false);
  });

  it('are not believed where the description is hostile', () => {
    const huge = { devices: [{ name: 'timer', instance_id: 0, fields: [{ size: 2 ** 50, array_len: 2 ** 50 }] }] };
    const negative = { devices: [{ name: 'timer', instance_id: 0, fields: [{ size: -1 }] }] };
    const deep = `{"devices":${'['.repeat(100_000)}`;
    const nested = `${'{"fields":[],"vmsd_name":"x","subsections":['.repeat(20_000)}${']}'.repeat(20_000)}`;
    const wellFormed = `{"devices":[{"name":"timer","instance_id":0,"subsections":[${nested}]}]}`;
    for (const description of [
      huge,
      negative,
      deep,
      wellFormed,
      '',
      '[]',
      'null',
      '{"devices":7}',
      '{"devices":[null]}',
    ]) {
      const { devices } = deviceStates(Buffer.concat([TIMER, end(description)]), FOOTERS);
      assert.deepEqual(devices, []);
    }
  });
});
