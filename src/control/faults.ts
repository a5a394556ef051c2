/**
 * Calls `handle` with what nobody caught. Node would exit, and so close QEMU's socket: in doubt, both guests would run.
 */
export function onFault(handle: (error: unknown) => void): void {
  const guarded = (error: unknown): void => {
    try {
      handle(error);
    } catch {
      // Thrown from here, it would end the process.
    }
  };
  process.on('uncaughtException', guarded);
  process.on('unhandledRejection', guarded);
}

/** A fault, for people, and for whoever is to find it. */
export function faultText(error: unknown): string {
  return `a fault in pagewire itself: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
