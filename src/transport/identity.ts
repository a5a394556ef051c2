/** Who we are over TLS, and whom we let in: certificates of a PKI where QEMU and libvirt keep theirs, or a key of our own. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { codeOf, PagewireError } from '../errors.js';
import type { NativeTls } from '../native.js';

/** What `pagewire keygen` makes: a private key and its certificate in one file. */
export const KEY_FILE = 'pagewire.pem';

export interface IdentityOptions {
  readonly role: 'source' | 'destination';
  /** `SHA256:…` of the keys that may be at the other end. */
  readonly pins: readonly string[];
  /** Names that its certificate may bear; a source that is given neither asks for the host that it dials. */
  readonly names: readonly string[];
  /** The folder to look in, instead of the usual ones. */
  readonly dir?: string | undefined;
  /** A file with a private key and its certificate. */
  readonly key?: string | undefined;
}

export interface Identity {
  readonly tls: NativeTls;
  /** The files that were taken, for the log. */
  readonly files: readonly string[];
}

/** The files of a PKI for one end. */
interface Pki {
  readonly authorities: string;
  readonly revocations: string;
  readonly certificate: string;
  readonly key: string;
}

/** Where a key is looked for and made: root's, or the user's own. */
export function keyFolder(): string {
  if (process.getuid?.() === 0) return '/etc/pagewire';
  return join(process.env['XDG_CONFIG_HOME'] ?? join(homedir(), '.config'), 'pagewire');
}

/** Finds the files, and reads them. Certificates are taken where a name is to be vouched for; where all peers are pinned, a key is enough. */
export function loadIdentity({ role, pins, names, dir, key }: IdentityOptions): Identity {
  const byName = names.length > 0 || pins.length === 0;
  if (byName && names.length === 0 && role === 'destination') {
    throw new PagewireError(
      'BAD_OPTION',
      "nobody is let in: give --peer with the name in the source's certificate, or with SHA256:… of its key (pagewire " +
        "keygen shows it there), or --peer '*' for every certificate of the authority",
    );
  }
  const search = new Search();
  const own = key === undefined ? undefined : search.require(key);
  const folders = dir === undefined ? usualFolders() : [dir];
  const rest = { pins: [...pins], names: [...names] };
  for (const folder of folders) {
    if (!byName) {
      const file = own === undefined ? join(folder, KEY_FILE) : undefined;
      const pem = own ?? (file === undefined ? undefined : search.read(file));
      if (pem !== undefined) return { tls: { certificate: pem, key: pem, ...rest }, files: [key ?? file ?? ''] };
    }
    for (const pki of layouts(folder, role)) {
      const authorities = search.read(pki.authorities);
      const certificate = authorities === undefined ? undefined : (own ?? search.read(pki.certificate));
      const secret = certificate === undefined ? undefined : (own ?? search.read(pki.key));
      if (authorities === undefined || certificate === undefined || secret === undefined) continue;
      const revocations = search.read(pki.revocations);
      const tls = { certificate, key: secret, ...rest };
      if (!byName) return { tls, files: [pki.certificate] };
      return {
        tls: { ...tls, authorities, ...(revocations !== undefined && { revocations }) },
        files: [pki.authorities, key ?? pki.certificate, ...(revocations === undefined ? [] : [pki.revocations])],
      };
    }
  }
  throw notFound({ role, folders, byName, unreadable: search.unreadable });
}

/** systemd's credentials first: they were given to this service. */
function usualFolders(): string[] {
  const credentials = process.env['CREDENTIALS_DIRECTORY'];
  const folders = [keyFolder(), '/etc/pagewire', '/etc/pki/libvirt-migrate', '/etc/pki/qemu', '/etc/pki'];
  return [...new Set([...(credentials === undefined ? [] : [credentials]), ...folders])];
}

/** How QEMU and libvirt name their files. A source without a certificate of its own takes the host's. */
function layouts(folder: string, role: IdentityOptions['role']): Pki[] {
  const ends = role === 'source' ? ['client', 'server'] : ['server'];
  const qemu = ends.map((end) => ({
    authorities: join(folder, 'ca-cert.pem'),
    revocations: join(folder, 'ca-crl.pem'),
    certificate: join(folder, `${end}-cert.pem`),
    key: join(folder, `${end}-key.pem`),
  }));
  const libvirt = ends.map((end) => ({
    authorities: join(folder, 'CA', 'cacert.pem'),
    revocations: join(folder, 'CA', 'cacrl.pem'),
    certificate: join(folder, 'libvirt', `${end}cert.pem`),
    key: join(folder, 'libvirt', 'private', `${end}key.pem`),
  }));
  return [...qemu, ...libvirt];
}

/** Reads files, and keeps in mind which are there and may not be read. */
class Search {
  readonly unreadable: string[] = [];

  read(path: string): string | undefined {
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      const code = codeOf(error);
      if (code !== 'ENOENT' && code !== 'ENOTDIR') this.unreadable.push(path);
      return undefined;
    }
  }

  require(path: string): string {
    const text = this.read(path);
    if (text !== undefined) return text;
    const why = this.unreadable.includes(path) ? 'it cannot be read (whose is it?)' : 'no such file';
    throw new PagewireError('BAD_IDENTITY', `cannot use the key ${path}: ${why}; pagewire keygen makes one`);
  }
}

function notFound({
  role,
  folders,
  byName,
  unreadable,
}: {
  role: IdentityOptions['role'];
  folders: readonly string[];
  byName: boolean;
  unreadable: readonly string[];
}): PagewireError {
  const where = folders.join(', ');
  const locked = unreadable.length === 0 ? '' : `; found, but may not be read: ${unreadable.join(', ')}`;
  const end = role === 'source' ? 'client' : 'server';
  const certificates = `ca-cert.pem, ${end}-cert.pem and ${end}-key.pem`;
  return new PagewireError(
    'BAD_IDENTITY',
    byName
      ? `TLS needs certificates (${certificates}, or libvirt's) in ${where}${locked}; without a PKI make a key with ` +
          "pagewire keygen on both hosts, and name the other one's with --peer SHA256:…"
      : `TLS needs a key in ${where}${locked}; pagewire keygen makes one`,
  );
}
