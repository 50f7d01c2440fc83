/** How many bytes a launch of a kernel moves, from its text. */
import { byteLength } from '../numerics/dtype.ts';
import type { Instruction, Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import { viewBytes } from './bindings.ts';

export interface Traffic {
  readonly read: number;
  readonly written: number;
}

/**
 * Bytes of all views that a launch reads and writes, each byte counted once: what must pass between memory and
 * processor where caches hold what is used again. Of a view that only a few rows are taken from, those rows. Where the
 * length of a loop is known only when it runs (attention to a cache), the whole view.
 */
export function trafficOf(kernel: Kernel): Traffic {
  const programs = elementCount(kernel.grid);
  const read = kernel.views.map(() => 0);
  const written = kernel.views.map(() => 0);
  const constants = new Map<number, number>();
  const walk = (body: readonly Instruction[], times: number) => {
    for (const { op, results } of body) {
      const elements = (value: number) => times * elementCount(kernel.types[value].shape);
      switch (op.op) {
        case 'constant':
          constants.set(results[0], op.value);
          break;
        case 'load':
        case 'gather':
          read[op.view] += elements(results[0]);
          break;
        case 'store':
        case 'scatter':
          written[op.view] += elements(op.value);
          break;
        case 'atomicAdd':
          read[op.view] += elements(op.value);
          written[op.view] += elements(op.value);
          break;
        case 'loop': {
          const [lo, hi] = [constants.get(op.lo), constants.get(op.hi)];
          const known = lo !== undefined && hi !== undefined;
          const trips = known ? Math.max(0, Math.ceil((hi - lo) / op.step)) : Number.POSITIVE_INFINITY;
          if (trips > 0) walk(op.body, times * trips);
          break;
        }
        default:
      }
    }
  };
  walk(kernel.body, programs);
  const bytes = (elements: readonly number[]) =>
    kernel.views.reduce((sum, { dtype }, view) => {
      if (elements[view] === 0) return sum;
      const whole = viewBytes(kernel, view);
      return (
        sum + (Number.isFinite(elements[view]) ? Math.min(whole, byteLength(dtype, elements[view])) : whole)
      );
    }, 0);
  return { read: bytes(read), written: bytes(written) };
}
