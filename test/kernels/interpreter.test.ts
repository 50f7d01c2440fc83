import { interpret } from '../../src/tile/interpret.ts';
import { suite } from './suite.ts';

suite(async (kernel, buffers) => interpret(kernel, buffers));
