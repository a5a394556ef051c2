/** A session's process at the destination: started by the listener, which gives it settings and connections. */
import { PagewireError } from '../errors.js';
import { native, type NativeReceiver } from '../native.js';
import { createLog, type Log } from '../telemetry/log.js';
import { EXIT } from '../control/exit.js';
import { plain, replaceStandardStreams, tell } from '../control/standard-streams.js';
import { faultText, onFault } from '../control/faults.js';
import { onStop } from '../control/signals.js';
import { endedSession, failedSession, sessionEnd, type SessionOutcome, sessionSummary } from '../telemetry/session.js';
import { CONTROL_FD } from './carrier.js';
import type { DestinationSession } from './destination.js';
import { tellFailure } from './failure.js';
import type { Refuse } from './hello.js';
import { Host, type Registry } from './host.js';
import type { Handover, ToListener, ToSession } from './ipc.js';
import { readPreamble } from './preamble.js';
import { rehearse } from './rehearsal.js';

/** How often the listener hears how the session stands, in milliseconds. */
const SNAPSHOT_MS = 500;

replaceStandardStreams('stdout', 'stderr');
process.title = 'pagewire: a session to be';

/** Resolves when it is on its way. A listener that has gone takes nothing more: the session goes on without it. */
function say(message: ToListener): Promise<void> {
  return new Promise((resolve) => {
    if (!process.connected) resolve();
    else {
      process.send?.(message, () => {
        resolve();
      });
    }
  });
}

class Reception implements Registry {
  sessions = { now: 0, most: 0 };
  /** It has the name that it asked for. */
  hasName = false;
  #claimed: ((refuse: Refuse | undefined) => void) | undefined;

  claim(name: string, who: string): Promise<Refuse | undefined> {
    return new Promise((resolve) => {
      this.#claimed = resolve;
      void say({ type: 'claim', name, who });
    });
  }

  claimed(refuse: Refuse | undefined): void {
    this.hasName ||= refuse === undefined;
    this.#claimed?.(refuse);
  }
}

const reception = new Reception();
let host: Host | undefined;
let log: Log | undefined;

process.on('message', (message: ToSession) => {
  switch (message.type) {
    case 'settings':
      if (host) host.settings = message.settings;
      else begin(message);
      break;
    case 'change':
      host?.session?.setInDoubt(message.inDoubt);
      host?.session?.setReconnect(message.reconnectMs);
      break;
    case 'claimed':
      reception.claimed(message.refuse);
      break;
    case 'stop':
      stop(message.requests);
      break;
    case 'superseded':
      host?.session?.supersede();
      break;
  }
});
onFault((error) => {
  const { session } = host ?? {};
  if (log) log.error(session && { guest: session.name }, faultText(error));
  else tell(`pagewire proxy destination: ${faultText(error)}\n`);
  if (session) session.fault(error);
  else process.exit(EXIT.failed);
});
process.on('disconnect', () => {
  if (!host?.session) process.exit(0);
  // Nobody is left who could give us a new link: one that is lost is lost for good, and nothing can end a doubt.
  host.session.setInDoubt('fail');
  host.session.setReconnect(0);
});

/** Kept: a receiver that nobody holds takes nothing. */
let receiver: NativeReceiver | undefined;

function begin({ settings, log: logging, lastError }: Extract<ToSession, { type: 'settings' }>): void {
  const ours = createLog({ name: 'proxy destination', ...logging, write: tell });
  log = ours;
  host = new Host(settings, reception, ours);
  void host.opened.then((session) => carry(session, ours.child({ guest: session.name }), lastError));
  const callOff = rehearse(settings.end);
  receiver = new native.NativeReceiver(CONTROL_FD, (fd, bytes) => {
    callOff();
    if (fd >= 0) void handshake(fd, JSON.parse(bytes.toString()) as Handover);
    else receiver?.close();
  });
}

async function handshake(fd: number, { handshake: number, preamble, peer, sessions }: Handover): Promise<void> {
  reception.sessions = sessions;
  let why: string | undefined;
  let isOpen = false;
  try {
    const read = readPreamble(Buffer.from(preamble, 'hex'));
    isOpen = read?.kind === 'open';
    if (read && host) await host.accept(fd, read);
  } catch (error) {
    why = plain(PagewireError.from(error).message);
  }
  const hasSession = reception.hasName || host?.session !== undefined;
  await say({ type: 'shaken', handshake: number, peer, hasSession, ...(why !== undefined && { why }) });
  // Its peer was gone before it could be welcomed, and the name goes with us.
  if (isOpen && hasSession && !host?.session) process.exit(0);
}

async function carry(session: DestinationSession, log: Log, lastErrorFile: string | undefined): Promise<void> {
  const { name } = session;
  process.title = `pagewire: ${name}`;
  const tellHow = (): void => {
    void say({ type: 'snapshot', snapshot: session.snapshot(), linked: session.isLinked });
  };
  const timer = setInterval(tellHow, SNAPSHOT_MS);
  // Whose guest it is, the listener must know even of a process that is killed at once.
  session.onTunnel = tellHow;
  let outcome: SessionOutcome;
  let code: number;
  try {
    const end = await session.done;
    const { cancelled } = end;
    outcome = endedSession(end);
    code = cancelled ? EXIT.truncated : EXIT.ok;
    const snapshot = session.snapshot();
    log.info(`${sessionEnd(snapshot, cancelled)}: ${sessionSummary(snapshot)}`);
  } catch (error) {
    const failure = PagewireError.from(error);
    outcome = failedSession(failure);
    code = tellFailure(log, session.snapshot(), failure, lastErrorFile).exitCode;
  }
  clearInterval(timer);
  await say({ type: 'ended', snapshot: session.snapshot(), outcome });
  process.exit(code);
}

/** A signal that goes to a whole group of processes comes here from the listener too: it counts once. */
let asked = 0;
function stop(requests: number): void {
  while (asked < requests) {
    asked++;
    if (host?.session) host.session.stop('stopped by a signal at the destination');
    else process.exit(0);
  }
}
let own = 0;
onStop(() => {
  stop(++own);
});
