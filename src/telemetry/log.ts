/** The log on standard error: lines for people, or JSON for programs. */
import { type DestinationStream, pino } from 'pino';

export type LogFormat = 'text' | 'json';

/** What pagewire logs with. Fields before the message (`guest`, `error`) are for programs, and for the line's begin. */
export type Log = pino.Logger;

export interface LogOptions {
  /** The command, as it stands at the begin of a line. */
  name: string;
  format: LogFormat;
  /** Errors and warnings only. */
  quiet: boolean;
  /** Details too. */
  verbose?: boolean;
  /** Takes a whole line, synchronously: what is logged before a crash must be there after it. */
  write: (line: string) => void;
}

export function createLog({ name, format, quiet, verbose = false, write }: LogOptions): Log {
  const destination: DestinationStream = {
    write:
      format === 'json'
        ? write
        : (json) => {
            write(line(JSON.parse(json) as Entry));
          },
  };
  return pino(
    {
      name,
      level: quiet ? 'warn' : verbose ? 'debug' : 'info',
      base: { name, pid: process.pid },
      messageKey: 'message',
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
}

/** What a program gets of a log. */
export interface LogEntry {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly message: string;
}

/** A log for a program that has one of its own. */
export function logTo(name: string, take: (entry: LogEntry) => void): Log {
  const write = (json: string): void => {
    const { level, message } = JSON.parse(json) as LogEntry;
    take({ level, message });
  };
  return createLog({ name, format: 'json', quiet: false, verbose: true, write });
}

interface Entry {
  name: string;
  level: string;
  message?: string;
  guest?: string;
  /** Of a session that failed: its other end, the guest in libvirt's tunnel, and what to do about it. */
  connection?: string | null;
  tunnelled?: string;
  remedy?: string | null;
}

/** `pagewire proxy source: vm1: warning: …`, on one line whatever a peer has said. */
function line({ name, level, message = '', guest, connection, tunnelled, remedy }: Entry): string {
  const kind = level === 'warn' ? 'warning: ' : level === 'info' || level === 'error' ? '' : `${level}: `;
  const about = [
    tunnelled === undefined ? '' : `guest ${tunnelled}`,
    connection && !message.includes(connection) ? connection : '',
  ];
  const where = about.filter((part) => part !== '').join(', ');
  const said = `${message}${where && ` (${where})`}${remedy ? `; what to do: ${remedy}` : ''}`;
  return `pagewire ${name}: ${guest === undefined ? '' : `${guest}: `}${kind}${said.replace(/\s*\n\s*/g, ' ')}\n`;
}
