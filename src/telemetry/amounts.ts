const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes for people: three digits and a binary unit. */
export function bytes(n: number): string {
  let unit = 0;
  while (n >= 1000 && unit < UNITS.length - 1) {
    n /= 1024;
    unit++;
  }
  const digits = unit === 0 || n >= 100 ? 0 : n >= 10 ? 1 : 2;
  return `${n.toFixed(digits)} ${UNITS[unit] ?? ''}`;
}

/** So many of something whose plural has an `s`. */
export function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}

/** How much smaller, for people; a dash where nothing came out. */
export function ratio(before: number, after: number): string {
  return after > 0 ? `${(before / after).toFixed(before / after < 10 ? 2 : 1)}x` : '-';
}

const FACTORS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** `512M`, `1.5GiB`, `4096`: bytes, with binary units; undefined where it is none of these. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim());
  const factor = FACTORS[match?.[2]?.toLowerCase() ?? ''];
  if (!match?.[1] || factor === undefined) return undefined;
  const n = Math.round(Number(match[1]) * factor);
  return Number.isSafeInteger(n) ? n : undefined;
}
