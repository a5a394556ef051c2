// Certificates for the tests, made by openssl: an implementation that is not ours.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Certificate {
  /** Paths. */
  readonly certificate: string;
  readonly key: string;
}

/** An authority in a folder of its own. */
export class Authority {
  readonly #folder: string;
  readonly certificate: string;

  constructor(folder: string, name = 'authority') {
    this.#folder = folder;
    this.certificate = join(folder, `${name}.pem`);
    mkdirSync(folder, { recursive: true });
    this.#openssl(
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30', '-subj', `/O=pagewire's tests/CN=${name}`],
      ...['-addext', 'basicConstraints=critical,CA:true', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
      ...['-keyout', join(folder, 'authority.key'), '-out', this.certificate],
    );
  }

  /** A certificate and key for a host or a client, as QEMU's documentation has them made. */
  issue(name: string, { hosts = [], usage }: { hosts?: string[]; usage: 'serverAuth' | 'clientAuth' }): Certificate {
    const path = (suffix: string): string => join(this.#folder, `${name}${suffix}`);
    const names = hosts.map((host) => (/^[\d.]+$/.test(host) ? `IP:${host}` : `DNS:${host}`));
    writeFileSync(
      path('.ext'),
      [
        'basicConstraints=critical,CA:false',
        'keyUsage=critical,digitalSignature,keyEncipherment',
        `extendedKeyUsage=${usage}`,
        ...(names.length > 0 ? [`subjectAltName=${names.join(',')}`] : []),
      ].join('\n'),
    );
    this.#openssl(
      ...['req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', `/CN=${name}`],
      ...['-keyout', path('.key'), '-out', path('.csr')],
    );
    this.#openssl(
      ...['x509', '-req', '-in', path('.csr'), '-CA', this.certificate, '-CAkey', join(this.#folder, 'authority.key')],
      ...['-CAcreateserial', '-days', '30', '-extfile', path('.ext'), '-out', path('.pem')],
    );
    return { certificate: path('.pem'), key: path('.key') };
  }

  #openssl(...args: string[]): void {
    try {
      execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
        throw new Error('this test needs openssl (Debian: apt install openssl)', { cause: error });
      }
      throw error;
    }
  }
}

export function text({ certificate, key }: Certificate): { certificate: string; key: string } {
  return { certificate: readFileSync(certificate, 'utf8'), key: readFileSync(key, 'utf8') };
}
