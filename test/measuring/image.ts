// Images as `virsh save` writes them.

/** libvirt's header of a saved guest, with a domain's XML of some length. */
export function image(format: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(92 + 5000);
  header.write('LibvirtQemudSave');
  header.writeUInt32LE(2, 16);
  header.writeUInt32LE(5000, 20);
  header.writeUInt32LE(format, 28);
  return Buffer.concat([header, payload]);
}
