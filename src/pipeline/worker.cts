/**
 * What runs in a worker thread: native code on a slot, in place.
 *
 * CommonJS, since a thread that is ended while it loads an ES module takes the process with it (Node 20 aborts in
 * `v8::Module::IsGraphAsync`), and a short stream can be over before all of its workers have started.
 */
import type { Native } from '../native.js' with { 'resolution-mode': 'import' };
import type { Outcome } from './slot.js' with { 'resolution-mode': 'import' };
import type { PackTask, UnpackTask } from './workers.js' with { 'resolution-mode': 'import' };

// eslint-disable-next-line @typescript-eslint/no-require-imports -- as src/native.ts loads it
const native = require('../../build/Release/pagewire.node') as Native;

export = {
  pack({ handle, slot, codec, level }: PackTask): Outcome {
    return native.pack(handle, slot, codec, level);
  },

  unpack({ handle, slot }: UnpackTask): Outcome {
    return native.unpack(handle, slot);
  },
};
