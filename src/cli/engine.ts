/**
 * How V8 is to treat Tandem's own code. Most of it runs once, to compile a model, and hot loops are machine code of
 * Tandem's: by default V8 would optimize for as long as that takes, on processors that read weights meanwhile. So a
 * function has to have run for longer before it is optimized (the default budget is 67,584 to 132 KiB of bytecode).
 */
import { setFlagsFromString } from 'node:v8';

setFlagsFromString('--interrupt-budget=1000000');
