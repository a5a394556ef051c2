/** How connections come to the source proxy: docs/libvirt.md has which to choose. */
export const WAYS = ['unix', 'intercept', 'tunnel'] as const;
export type Way = (typeof WAYS)[number];
