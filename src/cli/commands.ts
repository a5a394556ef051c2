/** `pagewire COMMAND …`. Each command's own code is loaded only when it runs. */
import { type Command, Option } from 'commander';
import { CODECS } from '../codecs.js';
import { PROGRAMS } from '../libvirt/programs.js';
import { WAYS } from '../libvirt/ways.js';
import type { FlattenFlags } from './archive.js';
import type { BenchFlags } from './bench.js';
import type { CheckFlags } from './check.js';
import type { DecodeFlags } from './decode.js';
import type { DemoFlags } from './demo.js';
import type { EncodeFlags } from './encode.js';
import type { InstallFlags } from './install-libvirt-filter.js';
import type { InspectFlags } from './inspect.js';
import type { KeygenFlags } from './keygen.js';
import type { SetupFlags } from './libvirt-setup.js';
import { EXIT_CODES, program } from './program.js';
import type { DestinationFlags, SourceFlags } from './proxy.js';
import { run } from './run.js';
import { cache, each, integer, list, mode, rate, seconds, size, time } from './values.js';

const ENDPOINTS = `
IN and OUT are - (standard input and output, the default), a path, or fd:N (a descriptor that was passed on).
A file gets its name only when all is well.`;

const PROXY_ENDPOINTS = `
Endpoints: unix:PATH  tcp:HOST:PORT  tls:HOST:PORT  fd:N  stdio  exec:CMD  ([::1] for IPv6; docs/proxy.md)`;

const ENCODE_EXAMPLES = `
Examples:
  (qemu) migrate "exec:pagewire encode | ssh dst pagewire decode -o fifo"
  pagewire encode --no-delta -i disk.img -o disk.pw      any bytes, exact
  pagewire encode --stock -i guest.qemu -o smaller.qemu  a QEMU stream that any QEMU loads`;

/** All of them. */
export function commands(): Command {
  const command = program();
  command
    .command('encode')
    .description('stream → frames')
    .option('-i, --input <IN>', 'where the stream comes from', '-')
    .option('-o, --output <OUT>', 'where the frames go', '-')
    .option('--delta', 'send pages of a QEMU stream as differences (default)')
    .option('--no-delta', 'carry every byte as it is')
    .addOption(new Option('-c, --codec <NAME>', 'what packs the frames (default: zstd)').choices(CODECS))
    .option('-l, --level <N>', "the codec's level; 0 is its own default (default: 1)", integer)
    .option('-T, --threads <N>', 'threads that pack (default: one for each processor, up to 8)', integer)
    .option('--cache-size <SIZE>', "page cache: bytes (512M, 2G) or percent of the guest's RAM (default: 100%)", cache)
    .option('--match <SIZE>', 'look so far back in the stream for what comes again (128M); default: not at all', size)
    .option('--memory-limit <SIZE>', 'for all of it (default: half of what is free)', size)
    .option('--stock', 'delta only: the output is a QEMU stream for a destination without pagewire', false)
    .option('--direct', 'past the page cache, where IN or OUT is a file', false)
    .option('--fsync', 'all is well only when OUT is durable', false)
    .option('--stats <FILE>', 'write a report in JSON at the end, to a file or fd:N (docs/stats.md)')
    .option('-q, --quiet', 'no progress, no notes; errors only', false)
    .addHelpText('after', `${ENDPOINTS}\n${ENCODE_EXAMPLES}\n${EXIT_CODES}`)
    .action(async (flags: EncodeFlags) => {
      const { encode } = await import('./encode.js');
      await run('encode', (signal) => encode(flags, signal));
    });

  command
    .command('decode')
    .description('frames → stream')
    .option('-i, --input <IN>', 'where the frames come from', '-')
    .option('-o, --output <OUT>', 'where the stream goes', '-')
    .option('--base <FILE>', 'a base that is not where it was; may be repeated', each)
    .option('-T, --threads <N>', 'threads that unpack (default: one for each processor, up to 8)', integer)
    .option('--memory-limit <SIZE>', 'for all of it (default: half of what is free)', size)
    .option('--direct', 'past the page cache, where IN or OUT is a file', false)
    .option('--fsync', 'all is well only when OUT is durable', false)
    .option('--stats <FILE>', 'write a report in JSON at the end, to a file or fd:N (docs/stats.md)')
    .option('-q, --quiet', 'no progress, no notes; errors only', false)
    .addHelpText('after', `${ENDPOINTS}\n${EXIT_CODES}`)
    .action(async (flags: DecodeFlags) => {
      const { decode } = await import('./decode.js');
      await run('decode', (signal) => decode(flags, signal));
    });

  command
    .command('flatten')
    .description('a file and those that it is based on → one file')
    .argument('<FILE>', 'the file that is based on others')
    .requiredOption('-o, --output <OUT>', 'where the one file goes')
    .option('--base <FILE>', 'a base that is not where it was; may be repeated', each)
    .option(
      '-T, --threads <N>',
      'threads that pack, and that unpack (default: one for each processor, up to 8)',
      integer,
    )
    .option('--memory-limit <SIZE>', 'for both together (default: half of what is free)', size)
    .option('--direct', 'past the page cache', false)
    .option('--fsync', 'all is well only when OUT is durable', false)
    .option('-f, --force', 'replace OUT', false)
    .option('-q, --quiet', 'no progress, no notes; errors only', false)
    .addHelpText('after', EXIT_CODES)
    .action(async (file: string, flags: FlattenFlags) => {
      const { flatten } = await import('./archive.js');
      await run('flatten', (signal) => flatten(file, flags, signal));
    });

  command
    .command('page')
    .description("a page of a saved guest's RAM → standard output")
    .argument('<FILE>', 'a file with an index')
    .argument('<BLOCK>', 'the RAM block, such as pc.ram (pagewire -l names them)')
    .argument('<ADDRESS>', 'where the page begins in its block, in bytes: 0x1000, 4096')
    .option('--base <FILE>', 'a base that is not where it was; may be repeated', each)
    .addHelpText('after', EXIT_CODES)
    .action(async (file: string, block: string, address: string, { base }: { base?: string[] }) => {
      const { page } = await import('./archive.js');
      await run('page', () => page(file, block, address, base));
    });

  command
    .command('inspect')
    .description('what is in a QEMU stream, and what each way to carry it would make of it')
    .argument('<FILE>', 'a stream, a file of pagewire, an image saved by libvirt; - is standard input')
    .option('--json <FILE>', 'write the report in JSON too, to a file or fd:N; - instead of the text (docs/inspect.md)')
    .option('--no-forecast', 'do not measure codecs, delta and match')
    .option('--base <FILE>', 'a base that is not where it was; may be repeated', each)
    .option('--memory-limit <SIZE>', 'for all of it (default: half of what is free)', size)
    .addHelpText('after', EXIT_CODES)
    .action(async (file: string, flags: InspectFlags) => {
      const { inspect } = await import('./inspect.js');
      await run('inspect', (signal) => inspect(file, flags, signal));
    });

  command
    .command('demo')
    .description("a guest's migration through both ends over a local link, compared with what was sent")
    .option('--qemu', 'a real guest under QEMU instead of the simulated one', false)
    .option('--json', 'the report as JSON', false)
    .addHelpText('after', EXIT_CODES)
    .action(async (flags: DemoFlags) => {
      const { demo } = await import('./demo.js');
      await run('demo', (signal) => demo(flags, signal));
    });

  command
    .command('bench')
    .description('compares codecs, deltas and chains of them on streams (docs/bench.md)')
    .argument('[STREAM...]', 'files; default: a guest under QEMU where there is one, else a simulated one')
    .option('--json <FILE>', 'write the report as JSON')
    .option('--csv <FILE>', 'write a line for each variant')
    .option('--html <FILE>', 'write a page with plots')
    .option('--svg <DIR>', 'write the plots, each to a file')
    .option('--compare <OLD>', 'tell what changed beyond the noise since this JSON report')
    .option('--filter <TEXT>', 'only variants with this in their name; may be repeated', each)
    .option('--variants <MODULE>', 'variants of your own, from a JavaScript module; may be repeated', each)
    .option('--all-levels', 'every level of every codec', false)
    .option('--list', 'only name the variants', false)
    .option('--quick', 'a small sample, short runs', false)
    .option('--runs <N>', 'measured runs of each variant (default: 3)', integer)
    .option('--seconds <S>', 'about how long a run over blocks or pages may take (default: 0.25)', seconds)
    .option('--sample <SIZE>', 'measure on so much of a stream, at the most (default: 256M)', size)
    .option('--simulate', 'without STREAM: the simulated guest, also where there is a QEMU', false)
    .option('-q, --quiet', 'no progress', false)
    .addHelpText('after', EXIT_CODES)
    .action(async (streams: string[], flags: BenchFlags) => {
      const { bench } = await import('./bench.js');
      await run('bench', (signal) => bench(streams, flags, signal));
    });
  const proxy = command
    .command('proxy')
    .description('a live migration, between two hosts')
    .addHelpText('after', EXIT_CODES);
  const source = proxy.command('source').description('beside the QEMU that sends the guest');
  source
    .option('--name <GUEST>', "the guest's name, as the destination is to know it (required, but with --libvirt)")
    .requiredOption(
      '--listen <ENDPOINT>',
      'where QEMU or libvirt connects: unix:PATH, tcp:HOST:PORT, fd:N, systemd, intercept:PORT',
    )
    .requiredOption('--connect <ENDPOINT>', 'the destination proxy, and other ways to it', each)
    .option('--port <N>', 'the port of the QEMU at the destination, where it has {port}; not with --libvirt', integer)
    .option('--libvirt', "carry libvirt's tunnel (virsh migrate --p2p --tunnelled) instead of a QEMU's stream", false)
    .addOption(new Option('--of-listener').default(false).hideHelp())
    .option('--stock', 'no proxy at the destination: connect to its QEMU', false)
    .option('--delta', 'send pages of a QEMU stream as differences (default)')
    .option('--no-delta', 'carry every byte as it is')
    .addOption(new Option('-c, --codec <NAME>', 'what packs the frames (default: zstd)').choices(CODECS))
    .option('-l, --level <N>', "the codec's level; 0 is its own default (default: 1)", integer)
    .option('--cache-size <SIZE>', "page cache: bytes (512M, 2G) or percent of the guest's RAM (default: 100%)", cache)
    .option(
      '--match <SIZE>',
      'look so far back in the stream for what comes again; 0: not at all (default: 256M)',
      size,
    )
    .option('--max-bandwidth <RATE>', 'on the wire: 200Mbit, 25MiB; 0 is no limit', rate, 0);
  proxyOptions(source)
    .addHelpText('after', `${PROXY_ENDPOINTS}\n${EXIT_CODES}`)
    .action(async (flags: SourceFlags) => {
      const [{ runProxy }, { proxySource }] = await Promise.all([import('./proxy.js'), import('./proxy-source.js')]);
      await runProxy('proxy source', flags, () => proxySource(flags));
    });

  const destination = proxy.command('destination').description('beside the QEMUs that receive guests');
  destination
    .requiredOption(
      '--listen <ENDPOINT>',
      'where sources connect: tls:HOST:PORT, tcp:, unix:, [tls:]fd:N, stdio, [tls:]systemd',
    )
    .requiredOption('--connect <ENDPOINT>', 'where QEMU waits, with {name} and {port} in it: unix:PATH, tcp:HOST:PORT')
    .option('--libvirt', "carry libvirt's tunnel: --connect is the libvirt daemon's socket, one for all guests", false)
    .option('--libvirt-allow <LIST>', 'procedures of libvirt, beside those of a migration: numbers, or all alone', list)
    .option('--delta', 'take pages as differences (default)')
    .option('--no-delta', 'have every page sent whole')
    .option('--ports <RANGE>', 'ports that a source may name for {port}', '49152-49215')
    .option('--max-sessions <N>', 'migrations at once', integer, 16)
    .option('--max-handshakes <N>', 'connections at once that are not known yet', integer, 16)
    .addOption(given('--handshake-timeout <TIME>', 'how long a connection may take to be known', time, '10s'));
  proxyOptions(destination)
    .addHelpText('after', `${PROXY_ENDPOINTS}\n${EXIT_CODES}`)
    .action(async (flags: DestinationFlags) => {
      const [{ runProxy }, { proxyDestination }] = await Promise.all([
        import('./proxy.js'),
        import('./proxy-destination.js'),
      ]);
      await runProxy('proxy destination', flags, () => proxyDestination(flags));
    });

  command
    .command('keygen')
    .description('makes a key for this host, or shows the one that is there')
    .option('--dir <DIR>', 'where to keep it (default: /etc/pagewire, or ~/.config/pagewire for users)')
    .option('--name <NAME>', "the name in its certificate (default: the host's)")
    .addHelpText('after', EXIT_CODES)
    .action(async (flags: KeygenFlags) => {
      const { keygen } = await import('./keygen.js');
      await run('keygen', () => Promise.resolve(keygen(flags)));
    });

  command
    .command('check')
    .description('tries a destination proxy: versions, keys, codecs, memory, and the rate of the link')
    .argument('<ENDPOINT>', 'the destination proxy: tls:HOST:PORT and the like')
    .option('--peer <PEER>', "the peer's name, or SHA256:… of its key; may be repeated", each)
    .option('--tls-dir <DIR>', 'where key and certificates are')
    .option('--key <FILE>', 'a private key and its certificate (pagewire keygen)')
    .option('--insecure', 'plain tcp: to other hosts', false)
    .option('--libvirt', "a destination proxy of libvirt's tunnel", false)
    .option('--json', 'the report as JSON', false)
    .addHelpText('after', EXIT_CODES)
    .action(async (endpoint: string, flags: CheckFlags) => {
      const { check } = await import('./check.js');
      await run('check', () => check(endpoint, flags));
    });

  command
    .command('install-libvirt-filter')
    .description("has libvirt's save, managedsave and dump packed by pagewire (docs/libvirt.md)")
    .addOption(new Option('--as <PROGRAM...>', 'the program that it stands for (default: lzop)').choices(PROGRAMS))
    .option('--dry-run', 'only tell what would be done', false)
    .option('--uninstall', 'take it away again', false)
    .option('--root <DIR>', 'the system to install to, if it is not the one that runs')
    .addHelpText('after', EXIT_CODES)
    .action(async (flags: InstallFlags) => {
      const { installLibvirtFilter } = await import('./install-libvirt-filter.js');
      await run('install-libvirt-filter', () => Promise.resolve(installLibvirtFilter(flags)));
    });
  const libvirt = command.command('libvirt').description('what hosts with libvirt need');
  libvirt
    .command('setup')
    .description(
      'units, rules, folders and their owners for virsh migrate (docs/libvirt.md): shows them, or makes them',
    )
    .addOption(
      new Option('--way <WAY>', 'how QEMU, or libvirt, comes to the source proxy').choices(WAYS).default('unix'),
    )
    .option('--apply', 'do it', false)
    .option('--undo', 'take it away again', false)
    .option('--root <DIR>', 'the system to set up, if it is not the one that runs')
    .addHelpText('after', EXIT_CODES)
    .action(async (flags: SetupFlags) => {
      const { libvirtSetup } = await import('./libvirt-setup.js');
      await run('libvirt setup', () => Promise.resolve(libvirtSetup(flags)));
    });
  return command;
}

/** What both proxies take. */
function proxyOptions(command: Command): Command {
  return command
    .option('-T, --threads <N>', 'threads that pack or unpack (default: one for each processor, up to 8)', integer)
    .option('--memory-limit <SIZE>', 'for all of it (default: half of what is free)', size)
    .option(
      '--peer <PEER>',
      'who may be at the other end: NAME or SHA256:…, at the destination perhaps =GUEST,…',
      each,
      [],
    )
    .option('--tls-dir <DIR>', 'where key and certificates are')
    .option('--key <FILE>', 'a private key and its certificate (pagewire keygen)')
    .option('--insecure', 'plain tcp: to other hosts', false)
    .option('--listen-mode <MODE>', "a unix socket's mode (default: 0600)", mode)
    .option('--listen-owner <USER:GROUP>', "a unix socket's owner")
    .option('--require <LIST>', 'refuse a peer that lacks one of these: delta, zstd, lz4, zlib', list)
    .addOption(given('--replay <SIZE>', 'kept until the peer has acknowledged it', size, '64M'))
    .addOption(given('--silence <TIME>', 'a link that is silent for so long is lost', time, '5s'))
    .addOption(given('--reconnect <TIME>', 'how long to look for a lost link', time, '5min'))
    .addOption(new Option('--in-doubt <WHAT>', 'if both guests might run').choices(['hold', 'fail']).default('hold'))
    .option('--config <FILE>', 'settings that are read again at SIGHUP')
    .option('--last-error <FILE>', 'replaced when a session fails: which, why and what to do; {name}: the guest')
    .option('--stats <FILE>', 'append a line of JSON every second, to a file or fd:N (docs/stats.md)')
    .option('--metrics <HOST:PORT>', 'serve Prometheus metrics')
    .addOption(new Option('--log <FORMAT>', 'of the log on standard error').choices(['text', 'json']).default('text'))
    .option('-v, --verbose', 'more in the log', false)
    .option('-q, --quiet', 'warnings and errors only, no progress', false);
}

/** An option whose default is shown as a user would write it. */
function given(flags: string, description: string, parse: (text: string) => number, preset: string): Option {
  return new Option(flags, description).argParser(parse).default(parse(preset), preset);
}
