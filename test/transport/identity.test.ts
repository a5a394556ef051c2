// Where certificates and keys are found, and what is said where they are not.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { native } from '#src/native.js';
import { type Identity, type IdentityOptions, loadIdentity } from '#src/transport/identity.js';
import { folder } from '../cli/command.js';

const PIN = `SHA256:${'A'.repeat(43)}`;

/** A folder with these files, each of which holds its own name. */
function files(t: TestContext, ...names: string[]): string {
  const path = folder(t);
  for (const name of names) {
    mkdirSync(dirname(path(name)), { recursive: true });
    writeFileSync(path(name), name);
  }
  return path('');
}

const QEMU = ['ca-cert.pem', 'server-cert.pem', 'server-key.pem', 'client-cert.pem', 'client-key.pem'];
const LIBVIRT = [
  ...['CA/cacert.pem', 'libvirt/servercert.pem', 'libvirt/private/serverkey.pem'],
  ...['libvirt/clientcert.pem', 'libvirt/private/clientkey.pem'],
];

function load(options: Partial<IdentityOptions> & { dir?: string; key?: string }): Identity {
  return loadIdentity({ role: 'source', pins: [], names: [], ...options });
}

describe('identity', () => {
  it("is QEMU's certificate for this end", (t) => {
    const dir = files(t, ...QEMU);
    assert.deepEqual(load({ dir }), {
      tls: { certificate: 'client-cert.pem', key: 'client-key.pem', authorities: 'ca-cert.pem', pins: [], names: [] },
      files: [join(dir, 'ca-cert.pem'), join(dir, 'client-cert.pem')],
    });
    const { tls } = load({ dir, role: 'destination', names: ['src'], pins: [PIN] });
    const own = { certificate: 'server-cert.pem', key: 'server-key.pem' };
    assert.deepEqual(tls, { ...own, authorities: 'ca-cert.pem', pins: [PIN], names: ['src'] });
  });

  it("is libvirt's, in its own places", (t) => {
    const dir = files(t, ...LIBVIRT);
    const { tls } = load({ dir });
    assert.equal(tls.certificate, 'libvirt/clientcert.pem');
    assert.equal(tls.key, 'libvirt/private/clientkey.pem');
    assert.equal(tls.authorities, 'CA/cacert.pem');
    assert.equal(load({ dir, role: 'destination', names: ['*'] }).tls.key, 'libvirt/private/serverkey.pem');
  });

  it("is the host's certificate, for a source that has no other", (t) => {
    const dir = files(t, ...QEMU.slice(0, 3));
    assert.equal(load({ dir }).tls.certificate, 'server-cert.pem');
    // The other way round would be refused by every source.
    const clientOnly = files(t, 'ca-cert.pem', 'client-cert.pem', 'client-key.pem');
    assert.throws(() => load({ dir: clientOnly, role: 'destination', names: ['*'] }), { code: 'BAD_IDENTITY' });
  });

  it('comes with what the authority took back', (t) => {
    const dir = files(t, ...QEMU, 'ca-crl.pem');
    const { tls, files: found } = load({ dir });
    assert.equal(tls.revocations, 'ca-crl.pem');
    assert.ok(found.includes(join(dir, 'ca-crl.pem')));
  });

  it('is a key alone where all peers are pinned', (t) => {
    const dir = files(t, ...QEMU, 'pagewire.pem');
    assert.deepEqual(load({ dir, pins: [PIN] }), {
      tls: { certificate: 'pagewire.pem', key: 'pagewire.pem', pins: [PIN], names: [] },
      files: [join(dir, 'pagewire.pem')],
    });
    // A certificate does as well: it has a key, too.
    const { tls } = load({ dir: files(t, ...QEMU), pins: [PIN] });
    assert.deepEqual(tls, { certificate: 'client-cert.pem', key: 'client-key.pem', pins: [PIN], names: [] });
  });

  it('is the key that was named', (t) => {
    const dir = files(t, ...QEMU, 'pagewire.pem', 'mine.pem');
    const key = join(dir, 'mine.pem');
    assert.deepEqual(load({ dir, key, pins: [PIN] }).files, [key]);
    const { tls } = load({ dir, key, names: ['dst'] });
    assert.deepEqual(tls, {
      certificate: 'mine.pem',
      key: 'mine.pem',
      authorities: 'ca-cert.pem',
      pins: [],
      names: ['dst'],
    });
    assert.throws(() => load({ dir, key: join(dir, 'other.pem') }), {
      code: 'BAD_IDENTITY',
      message: /no such file.*keygen/,
    });
  });

  it('of a destination is no use without peers', (t) => {
    const dir = files(t, ...QEMU, 'pagewire.pem');
    assert.throws(() => load({ dir, role: 'destination' }), {
      code: 'BAD_OPTION',
      message: /nobody is let in: give --peer/,
    });
  });

  it('that is missing is named with the remedy', (t) => {
    const dir = files(t);
    assert.throws(() => load({ dir }), {
      code: 'BAD_IDENTITY',
      message: /ca-cert\.pem, client-cert\.pem and client-key\.pem.*keygen.*--peer SHA256/,
    });
    assert.throws(() => load({ dir, pins: [PIN] }), { code: 'BAD_IDENTITY', message: /pagewire keygen makes one/ });
    assert.throws(() => load({ dir: files(t, 'ca-cert.pem'), role: 'destination', names: ['a'] }), {
      message: /server-cert\.pem and server-key\.pem/,
    });
  });

  it('that may not be read is said to be there', { skip: process.getuid?.() === 0 && 'root may read all' }, (t) => {
    const dir = files(t, ...QEMU);
    chmodSync(join(dir, 'client-key.pem'), 0);
    chmodSync(join(dir, 'server-key.pem'), 0);
    assert.throws(() => load({ dir }), { message: /may not be read: .*client-key\.pem/ });
  });

  it('is looked for where systemd puts credentials, then in the usual places', (t) => {
    const dir = files(t, 'pagewire.pem');
    process.env['CREDENTIALS_DIRECTORY'] = dir;
    t.after(() => {
      delete process.env['CREDENTIALS_DIRECTORY'];
    });
    assert.deepEqual(load({ pins: [PIN] }).files, [join(dir, 'pagewire.pem')]);
  });

  it('is what keygen makes', (t) => {
    const made = native.keygen('host.example');
    const dir = files(t);
    writeFileSync(join(dir, 'pagewire.pem'), made.key + made.certificate);
    const { tls } = load({ dir, pins: [PIN] });
    assert.equal(native.fingerprintOf(tls.certificate), made.fingerprint);
    assert.match(made.fingerprint, /^SHA256:[A-Za-z0-9+/]{43}$/);
  });
});
