// A host's key.
import assert from 'node:assert/strict';
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { folder, pagewire } from './command.js';

describe('keygen', () => {
  it('makes a key that is nobody else’s, and shows its fingerprint', async (t) => {
    const path = folder(t);
    const dir = path('keys');
    const made = await pagewire(t, ['keygen', '--dir', dir, '--name', 'host.example']);
    assert.equal(made.code, 0, made.stderr);
    const file = path('keys/pagewire.pem');
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const pem = readFileSync(file, 'utf8');
    const certificate = new X509Certificate(pem);
    assert.ok(certificate.checkPrivateKey(createPrivateKey(pem)));
    assert.match(certificate.subject, /CN=host\.example/);
    assert.ok(Date.parse(certificate.validTo) > Date.parse('3000-01-01'));
    const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
    const fingerprint = `SHA256:${createHash('sha256').update(spki).digest('base64').replace(/=+$/, '')}`;
    assert.equal(made.stdout.toString(), `${fingerprint}\n`);
    assert.ok(made.stderr.includes(`--peer ${fingerprint}`), made.stderr);

    // Another time it is shown, and stays.
    const again = await pagewire(t, ['keygen', '--dir', dir]);
    assert.equal(again.code, 0);
    assert.equal(again.stdout.toString(), `${fingerprint}\n`);
    assert.match(again.stderr, /is there already/);
    assert.equal(readFileSync(file, 'utf8'), pem);
  });

  it('does not touch what it cannot read, and says why', async (t) => {
    const path = folder(t);
    writeFileSync(path('pagewire.pem'), 'something else');
    const odd = await pagewire(t, ['keygen', '--dir', path('')]);
    assert.equal(odd.stdout.length, 0);
    assert.match(odd.stderr, /pagewire\.pem: cannot read the certificate/);
    assert.notEqual(odd.code, 0);
    assert.equal(readFileSync(path('pagewire.pem'), 'utf8'), 'something else');

    const nowhere = await pagewire(t, ['keygen', '--dir', path('pagewire.pem/below')]);
    assert.equal(nowhere.code, 2);
    assert.match(nowhere.stderr, /cannot .*pagewire\.pem.*--dir/);
  });
});
