/** The flags in the low bits of a RAM record's address (QEMU's migration stream, RAM section version 4). */
export const RecordFlag = {
  ZERO: 0x02,
  MEM_SIZE: 0x04,
  PAGE: 0x08,
  EOS: 0x10,
  CONTINUE: 0x20,
  XBZRLE: 0x40,
  HOOK: 0x80,
  COMPRESS_PAGE: 0x100,
  MULTIFD_FLUSH: 0x200,
} as const;

/** The bits of an address word that are flags. */
export const FLAG_BITS = 0xfff;

/** The byte that begins a section, and the others that stand where one could. */
export const Section = {
  EOF: 0x00,
  START: 0x01,
  PART: 0x02,
  END: 0x03,
  FULL: 0x04,
  DESCRIPTION: 0x06,
  CONFIGURATION: 0x07,
  COMMAND: 0x08,
  FOOTER: 0x7e,
} as const;

/** The command that a source of machine type 10.0 or newer sends when its guest has stopped. */
export const SWITCHOVER_START = 11;

export const MAGIC = 0x5145_564d;
export const VERSION = 3;
