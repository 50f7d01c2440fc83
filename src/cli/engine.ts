/**
 * How V8 is to treat Tandem's own code. Most of it runs once, to compile a model, and hot loops are machine code of
 * Tandem's: by default V8 would optimize for as long as that takes, on processors that read weights meanwhile. So a
 * function has to have run for several times as long before it is optimized.
 */
import { setFlagsFromString } from 'node:v8';

/** By V8's major version: its flags are its own affair, and a version that is not known is left as it is. */
const FLAGS: { readonly [major: string]: readonly string[] } = {
  // Node 20; bytecodes, 67,584 by default.
  11: ['--interrupt-budget=1000000'],
  // Node 22 and 24; 3,000 and 500 by default.
  12: ['--invocation-count-for-turbofan=25000', '--invocation-count-for-osr=5000'],
  13: ['--invocation-count-for-turbofan=25000', '--invocation-count-for-osr=5000'],
};

const [major] = process.versions.v8.split('.');
for (const flag of FLAGS[major] ?? []) setFlagsFromString(flag);
