// What stands between two QEMUs: the filters, and the transports by which QEMU speaks to them.
//
//            exec                                 fd                                unix
//   source   exec:pagewire encode >wire           pipe -> encode -i fd:3 -o fd:4    socket -> encode
//   wire     fifo                                 pipe                              pipe
//   dest.    exec:pagewire decode <wire           decode -i fd:3 -o fd:4 -> pipe    decode -> socket
//
// With `stock` there is no decode: the destination QEMU is given what encode writes. Without a filter `cat` stands in
// encode's place. A file can stand in either QEMU's place: a stream that was captured, or is to be.
import { existsSync, readFileSync } from 'node:fs';
import { Qemu } from './qemu.js';
import type { Machine, Role } from './qemu.js';
import { pagewire, shellCommand, shellWord } from './repository.js';
import type { Endpoint, Running, Stage } from './stage.js';
import { until, within } from '#src/demo/time.js';

export type Transport = 'exec' | 'fd' | 'unix';

export interface Filter {
  /** The destination gets encode's output as it is. */
  readonly stock: boolean;
  readonly options: readonly string[];
}

/** A QEMU that waits for a stream, and how the stream gets into it. */
export interface Destination {
  readonly qemu: Qemu;
  readonly transport: Transport;
  /** With `fd`: the other end of the pipe that QEMU reads. */
  readonly inlet?: number;
}

export async function startDestination(
  stage: Stage,
  machine: Machine,
  role: Role,
  transport: Transport,
): Promise<Destination> {
  if (transport !== 'fd') return { qemu: await Qemu.start(stage, machine, { ...role, incoming: true }), transport };
  const inlet = stage.pipe('inlet');
  const qemu = await Qemu.start(stage, machine, { ...role, incoming: true, fds: [inlet.read] });
  stage.close(inlet.read);
  return { qemu, transport, inlet: inlet.write };
}

/** A stream on its way. */
export class Carriage {
  /** Started by us, or by a QEMU that does not tell how they ended: then a shell leaves the exit code in a file. */
  readonly filters: (Running | { name: string; statusFile: string; complaint: () => string })[] = [];

  constructor(private readonly statsFile: string | undefined) {}

  async exitCodes(seconds = 30): Promise<{ name: string; code: number; complaint: string }[]> {
    const codes = [];
    for (const filter of this.filters) {
      const code =
        'statusFile' in filter
          ? await until(
              () => {
                const text = existsSync(filter.statusFile) ? readFileSync(filter.statusFile, 'utf8') : '';
                return text.endsWith('\n') ? { code: Number(text) } : undefined;
              },
              seconds,
              () => `${filter.name} has not ended: ${filter.complaint()}`,
            ).then((found) => found.code)
          : await filter.exitCode(seconds);
      codes.push({ name: filter.name, code, complaint: filter.complaint() });
    }
    return codes;
  }

  /** Waits for the filters and fails unless all ended well. */
  async endsWell(): Promise<void> {
    for (const { name, code, complaint } of await this.exitCodes()) {
      if (code !== 0) throw new Error(`${name} ended with exit code ${code}: ${complaint}`);
    }
  }

  /** What encode --stats wrote. */
  stats(): unknown {
    if (this.statsFile === undefined) throw new Error('no filter, no stats');
    return JSON.parse(readFileSync(this.statsFile, 'utf8'));
  }
}

/** Where encode writes to. */
type Output = { readonly path: string } | { readonly endpoint: Endpoint };

/**
 * Lays the way from a QEMU (or a file) to a waiting one (or a file), and orders the migration. It is under way when
 * this answers; the caller sees to its end.
 */
export async function carry(
  stage: Stage,
  from: Qemu | string,
  to: Destination | string,
  transport: Transport,
  filter?: Filter,
): Promise<Carriage> {
  const stats = filter === undefined ? undefined : stage.fresh('stats.json');
  const carriage = new Carriage(stats);
  const encode =
    filter === undefined || stats === undefined
      ? ['cat']
      : [pagewire, 'encode', ...(filter.stock ? ['--stock'] : []), ...filter.options, '--stats', stats];
  const decode = filter === undefined || filter.stock ? undefined : [pagewire, 'decode'];

  /** A filter that we start. */
  function start(command: readonly string[], input: Endpoint, output: Endpoint): void {
    const name = command[1] ?? 'cat';
    // pagewire's own way to name descriptors, where QEMU too has the stream in one
    const running =
      transport === 'fd' && command[0] === pagewire
        ? stage.start(name, [...command, '-i', 'fd:3', '-o', 'fd:4'], [undefined, undefined, input, output])
        : stage.start(name, command, [input, output]);
    carriage.filters.push(running);
    stage.close(input, output);
  }

  /** A filter that a QEMU starts. */
  function execUri(command: readonly string[], redirection: string, qemu: Qemu): string {
    const statusFile = stage.fresh('status');
    carriage.filters.push({ name: command[1] ?? 'cat', statusFile, complaint: () => qemu.complaint() });
    return `exec:{ ${shellCommand(...command)}; echo $? >${shellWord(statusFile)}; } ${redirection}`;
  }

  /** The way from the wire into the destination; answers where encode is to write. */
  async function far(): Promise<Output> {
    if (typeof to !== 'string' && to.transport === 'exec') {
      const path = stage.fifo('wire');
      await to.qemu.qmp.execute('migrate-incoming', {
        uri: execUri(decode ?? ['cat'], `<${shellWord(path)}`, to.qemu),
      });
      return { path };
    }
    if (typeof to === 'string' && decode === undefined) return { path: to };
    const endpoint = await farEndpoint();
    if (decode === undefined) return { endpoint };
    const wire = stage.pipe('wire');
    start(decode, wire.read, endpoint);
    return { endpoint: wire.write };
  }

  async function farEndpoint(): Promise<Endpoint> {
    if (typeof to === 'string') return stage.file(to, 'w');
    if (to.transport === 'fd') {
      if (to.inlet === undefined) throw new Error('a destination by fd has an inlet');
      await to.qemu.qmp.execute('migrate-incoming', { uri: 'fd:3' });
      return to.inlet;
    }
    const path = stage.fresh('in.sock');
    await to.qemu.qmp.execute('migrate-incoming', { uri: `unix:${path}` });
    return stage.connect(path);
  }

  /** The way from the source to where encode writes. */
  async function near(output: Output): Promise<void> {
    if (from instanceof Qemu && transport === 'exec') {
      if (!('path' in output)) throw new Error('exec at the source needs exec or a file at the destination');
      await from.qmp.execute('migrate', { uri: execUri(encode, `>${shellWord(output.path)}`, from) });
      return;
    }
    const endpoint = 'path' in output ? stage.file(output.path, 'w') : output.endpoint;
    if (!(from instanceof Qemu)) {
      start(encode, stage.file(from, 'r'), endpoint);
    } else if (transport === 'fd') {
      const outlet = stage.pipe('outlet');
      start(encode, outlet.read, endpoint);
      await from.migrateToFd(outlet.write);
      stage.close(outlet.write);
    } else {
      const path = stage.fresh('out.sock');
      const accepted = new Promise<void>((done) => {
        void stage.listen(path, (socket) => {
          start(encode, socket, endpoint);
          done();
        });
      });
      await until(() => existsSync(path), 5, 'our own socket');
      await from.qmp.execute('migrate', { uri: `unix:${path}` });
      await within(accepted, 20, () => `QEMU does not connect: ${from.complaint()}`);
    }
  }

  await near(await far());
  return carriage;
}
