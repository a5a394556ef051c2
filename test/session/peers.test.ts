import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { identity, isSameToken, mayReach, parsePeer, parsePorts, refusesPort } from '#src/session/peers.js';

const PIN = `SHA256:${'A'.repeat(42)}8`;

describe('--peer', () => {
  it('is a key or a name, and perhaps guests', () => {
    assert.deepEqual(parsePeer(PIN), { pin: PIN, guests: [] });
    assert.deepEqual(parsePeer(`${PIN}=vm1,db-*`), { pin: PIN, guests: ['vm1', 'db-*'] });
    assert.deepEqual(parsePeer('src.example=vm1'), { name: 'src.example', guests: ['vm1'] });
    assert.deepEqual(parsePeer('*'), { name: '*', guests: [] });
  });
  for (const text of ['', 'SHA256:short', `${PIN}=`, 'a b', 'src=vm1=vm2', 'src=vm/1', `${PIN}x`]) {
    it(`is not '${text}'`, () => {
      assert.throws(() => parsePeer(text), { code: 'BAD_OPTION', message: /--peer/ });
    });
  }
});

describe('which guests a peer may reach', () => {
  const peer = { address: 'tls:a:1', fingerprint: PIN, names: ['src1.example', 'SRC1'] };
  const may = (rules: string[], guest = 'vm1'): boolean => mayReach(rules.map(parsePeer), peer, guest);
  it('all, where nothing is said of them', () => {
    assert.ok(may([]));
    assert.ok(may([PIN]));
    assert.ok(may(['src1.example']));
  });
  it('those that are named, with patterns', () => {
    assert.ok(may([`${PIN}=vm1,vm2`]));
    assert.ok(may([`${PIN}=vm*`]));
    assert.ok(may([`${PIN}=*1`]));
    assert.ok(!may([`${PIN}=vm2`]));
    assert.ok(!may([`${PIN}=vm`]));
    assert.ok(!may([`${PIN}=v.1`]));
  });
  it('those of every rule that is about it', () => {
    assert.ok(may(['other.example', `${PIN}=vm2`, '*.example=vm1']));
    assert.ok(may(['src1=vm1']));
    assert.ok(may(['*=vm1']));
  });
  it('none by a rule that is about another', () => {
    assert.ok(!may(['other.example']));
    assert.ok(!may([`SHA256:${'B'.repeat(42)}8`]));
    assert.ok(!may(['example']));
    assert.ok(!may(['*.org', '*.src1.example']));
  });
});

describe('a peer', () => {
  it('is its key', () => {
    const of = (fingerprint?: string) => identity({ address: '', names: [], ...(fingerprint && { fingerprint }) });
    assert.equal(of(PIN), of(PIN));
    assert.notEqual(of(PIN), of());
  });
});

describe('a token', () => {
  it('is the same or not', () => {
    assert.ok(isSameToken('abc', 'abc'));
    assert.ok(!isSameToken('abc', 'abd'));
    assert.ok(!isSameToken('abc', 'abcd'));
  });
});

describe('--ports', () => {
  it('is a range or one port', () => {
    assert.deepEqual(parsePorts('49152-49215'), { least: 49152, most: 49215 });
    assert.deepEqual(parsePorts('5000'), { least: 5000, most: 5000 });
  });
  for (const text of ['', '0', '70000', '5-4', '1-2-3', 'many']) {
    it(`is not '${text}'`, () => {
      assert.throws(() => parsePorts(text), { code: 'BAD_OPTION' });
    });
  }
  it('bounds what a source may name', () => {
    const ports = parsePorts('100-200');
    for (const port of [undefined, 100, 200]) assert.equal(refusesPort(port, ports), undefined);
    for (const port of [99, 201, 0]) assert.match(refusesPort(port, ports) ?? '', /port \d+ .* 100-200 \(--ports/);
  });
});
