/** Instruction sets of the cpu device, and what the lowering to loops may assume of a processor. */
import { LEAST_WAYS } from '../../kernels/operands.ts';
import type { LoopTarget } from '../loops/ir.ts';
import { SettingError } from '../settings.ts';
import type { Isa } from './codegen-emitter.ts';
import { type CpuFeature, dataCache, type Processor } from './cpuid.ts';
import { pageBytes } from './memory.ts';

/** Instruction sets that may be asked for by name. */
export type IsaName = Isa | 'amx';

interface IsaRule {
  /** What code is generated for. */
  readonly code: Isa;
  readonly label: string;
  readonly requires: readonly CpuFeature[];
  readonly target: LoopTarget;
}

const avx2: readonly CpuFeature[] = ['avx2', 'fma', 'f16c', 'bmi', 'lzcnt', 'popcnt'];

const avx512: readonly CpuFeature[] = [...avx2, 'avx512f', 'avx512dq', 'avx512bw', 'avx512vl'];

const avx512Target: LoopTarget = {
  name: 'avx512',
  lanes: 16,
  vectorRegisters: 31,
  fma: true,
  scales: true,
  bf16Pairs: false,
  matrixRegisters: false,
  cacheWays: LEAST_WAYS,
  streamPage: pageBytes,
  pointerBytes: 8,
  dotTile: { rows: 14, vectors: 2, round: 48 },
  wideTile: null,
};

/** Best first. */
export const isas: { readonly [I in IsaName]: IsaRule } = {
  amx: {
    code: 'avx512',
    label: 'AVX-512 and AMX',
    requires: [...avx512, 'avx512vnni', 'avx512bf16', 'amx'],
    target: { ...avx512Target, name: 'amx', matrixRegisters: true },
  },
  avx512: {
    code: 'avx512',
    label: 'AVX-512',
    requires: avx512,
    target: avx512Target,
  },
  avx2: {
    code: 'avx2',
    label: 'AVX2',
    requires: avx2,
    target: {
      name: 'avx2',
      lanes: 8,
      vectorRegisters: 15,
      fma: true,
      scales: false,
      bf16Pairs: false,
      matrixRegisters: false,
      cacheWays: LEAST_WAYS,
      streamPage: pageBytes,
      pointerBytes: 8,
      dotTile: { rows: 6, vectors: 2, round: 24 },
      wideTile: null,
    },
  },
};
const isaNames = Object.keys(isas) as IsaName[];

/** The best instruction set, or the one that was asked for. Throws when the processor or the request rules it out. */
export function chooseIsa({ features, brand }: Processor, asked?: readonly string[]): IsaName {
  const variable = process.env.TANDEM_CPU_ISA;
  const wanted = asked?.length ? asked : variable ? [variable] : [];
  const from = asked?.length ? 'feature' : 'TANDEM_CPU_ISA';
  for (const name of wanted) {
    if (!isaNames.includes(name as IsaName)) {
      throw new SettingError(
        `${from} '${name}' is unknown to the cpu device: use one of ${isaNames.join(', ')}`,
      );
    }
  }
  const candidates = isaNames.filter((name) => wanted.length === 0 || wanted.includes(name));
  const missing = (name: IsaName) => isas[name].requires.filter((feature) => !features.has(feature));
  const found = candidates.find((name) => missing(name).length === 0);
  if (found === undefined) {
    const last = candidates[candidates.length - 1];
    throw new Error(
      `${brand || 'this processor'} has no ${missing(last).join(', ')}, which ${isas[last].label} code needs: ` +
        'use another instruction set or the wasm device',
    );
  }
  return found;
}

/**
 * Multiply-adds of vectors in one round of a product's loop along k, where a core begins two a cycle: in shorter rounds
 * what counts and moves pointers takes their place.
 */
const LONG_ROUND = 112;
/** There, 16 loads to 28 multiply-adds are too many: 10 to 24 take 5 to 20 % less time. */
const WIDE_TILE = { rows: 6, vectors: 4 };

export function targetOf(processor: Processor, isa: IsaName): LoopTarget {
  const { code, target } = isas[isa];
  const { vendor, features } = processor;
  const twice = code === 'avx512' && vendor === 'GenuineIntel';
  return {
    ...target,
    bf16Pairs: code === 'avx512' && features.has('avx512bf16'),
    cacheWays: dataCache(processor, 1)?.ways ?? LEAST_WAYS,
    dotTile: twice ? { ...target.dotTile, round: LONG_ROUND } : target.dotTile,
    wideTile: twice ? WIDE_TILE : target.wideTile,
  };
}
