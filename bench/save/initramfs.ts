// The file system that the guests run from: a Debian userland with their software, and what bench/save/guest adds.
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { cache, fetchMissing } from '../../test/e2e/harness/qemus.js';
import { root } from '../../test/e2e/harness/repository.js';

const userland = join(cache, 'userland/root');
const sources = join(root, 'bench/save/guest');

/** A file of the archive; `data` of a symbolic link is where it points. */
interface Entry {
  readonly name: string;
  readonly mode: number;
  readonly data: Buffer;
}

const EMPTY = Buffer.alloc(0);

/** What a guest would not read: left out, because all of it would stand in its memory. */
const UNREAD = ['usr/share/locale', 'usr/lib/x86_64-linux-gnu/perl/5.36.0/CORE'];

/** All that stands under a folder, folders before what is in them. */
function* entriesOf(folder: string, under = ''): Generator<Entry> {
  for (const file of readdirSync(folder).sort()) {
    const [path, name] = [join(folder, file), join(under, file)];
    if (UNREAD.includes(name)) continue;
    const status = lstatSync(path);
    if (status.isFile()) yield { name, mode: status.mode, data: readFileSync(path) };
    if (status.isSymbolicLink()) yield { name, mode: status.mode, data: Buffer.from(readlinkSync(path)) };
    if (status.isDirectory()) {
      yield { name, mode: status.mode, data: EMPTY };
      yield* entriesOf(path, name);
    }
  }
}

/** An archive of the kind that Linux unpacks at boot (cpio, "newc"). */
function archive(entries: Iterable<Entry>): Buffer {
  const parts: Buffer[] = [];
  const pad = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4);
  let inode = 0;
  const add = ({ name, mode, data }: Entry): void => {
    const path = Buffer.from(`${name}\0`);
    const fields = [(inode += 1), mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, path.length, 0];
    const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
    parts.push(header, path, pad(header.length + path.length), data, pad(data.length));
  };
  for (const entry of entries) add(entry);
  add({ name: 'TRAILER!!!', mode: 0, data: EMPTY });
  return Buffer.concat(parts);
}

/** What the guests need and this machine lacks, in words, or undefined. */
export function userlandLacks(): string | undefined {
  fetchMissing('userland');
  return existsSync(userland) ? undefined : 'no userland: run scripts/qemu/setup.sh userland (no root, some 60 MB)';
}

/** The userland as an archive, made once and kept in the cache. */
function packedUserland(): string {
  const file = join(cache, 'bench/save/userland.cpio.gz');
  if (existsSync(file)) return file;
  mkdirSync(dirname(file), { recursive: true });
  const unfinished = `${file}.${process.pid}`;
  writeFileSync(unfinished, gzipSync(archive(entriesOf(userland))));
  renameSync(unfinished, file);
  return file;
}

/** Writes the initramfs: the userland, and behind it what Linux unpacks over it. */
export function writeInitramfs(file: string): void {
  const [source, program] = [join(sources, 'records.c'), `${file}.records`];
  const compiled = spawnSync('cc', ['-O2', '-Wall', '-static', '-s', '-o', program, source, '-lm'], {
    encoding: 'utf8',
  });
  if (compiled.status !== 0) throw new Error(`cannot compile ${source}: ${compiled.stderr}`);
  const ours: Entry[] = [
    { name: 'init', mode: 0o100755, data: readFileSync(join(sources, 'init')) },
    { name: 'usr/bin/records', mode: 0o100755, data: readFileSync(program) },
  ];
  copyFileSync(packedUserland(), file);
  appendFileSync(file, gzipSync(archive(ours)));
}
