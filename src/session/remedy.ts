/** What an operator does about a session that failed: the same sentence in the log and in the file of `--last-error`. */
import type { ErrorCode } from '../errors.js';

/** Of every code that a session can end with; null: of files alone. */
export const REMEDIES: Readonly<Record<ErrorCode, string | null>> = {
  BAD_DESCRIPTOR: 'pass on a descriptor that is open, and a socket or a pipe',
  BAD_IDENTITY:
    "give --peer the other host's key or name, if it is the right one, and see that keys and certificates can be read",
  BAD_OPTION: 'correct the option that the message names, and start the proxy again',
  CACHE_TOO_LARGE: 'take a smaller --cache-size, or percent',
  CONNECTION_LOST: "look at the other end's log, see that both ends have the same kind of endpoint, and migrate again",
  CONNECT_FAILED: 'start what is to listen at that address, or correct the address, and migrate again',
  FRAMES_DAMAGED: 'migrate again; if it comes back, look for a device between the hosts, or memory, that changes bytes',
  FRAMES_TRUNCATED: "look at the other end's log, and migrate again",
  FRAMES_UNSUPPORTED: 'install the same version of pagewire on both hosts',
  INCOMPATIBLE: 'install the same version of pagewire on both hosts, or leave out what --require asks for',
  INTERNAL:
    'where descriptors or threads ran out, raise LimitNOFILE= or TasksMax= of the service; migrate again, and if it comes back, report it with the log',
  LINK_LOST:
    'see where the guest runs, mend the network between the hosts, and migrate again; --reconnect is how long a link is looked for',
  LISTEN_FAILED: 'see to what the message names, or take another address',
  MIGRATION_FAILED: 'look at the log of the QEMU at the destination, mend what it names, and migrate again',
  OPEN_FAILED: 'see that the file that the message names is there and can be opened',
  OUTPUT_CLOSED: 'look at the log of the QEMU or libvirt that closed its connection, and migrate again',
  OUT_OF_MEMORY: 'raise --memory-limit, or take fewer --threads or a smaller --cache-size or --match',
  PEER_FAILED: "do what the message and the other end's log say, and migrate again",
  PEER_REFUSED: 'change what the message names at the destination, and migrate again',
  PROTOCOL_ERROR:
    'see that the other end is a pagewire proxy of the same version, and that nothing changes bytes on the way',
  READ_FAILED: 'look at the log of the QEMU or libvirt that is read from, and migrate again',
  SENDER_STOPPED: "look at the source's log, and migrate again",
  SESSION_FAILED: "look at the other end's log, and migrate again; if it comes back, report it with both logs",
  STOPPED: 'see where the guest runs; if it is to move, start the proxy and the migration again',
  TIMED_OUT: 'see that the host is up and that no firewall stands between, and migrate again',
  WRITE_FAILED: 'look at the log of the QEMU or libvirt that is written to, and migrate again',
  BASE_MISSING: null,
  NOT_IN_FILE: null,
  NO_INDEX: null,
  WRONG_BASE: null,
};
