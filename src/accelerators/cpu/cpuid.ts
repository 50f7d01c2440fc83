/** What the processor has and the operating system lets programs use, asked with the cpuid and xgetbv instructions. */
import { Assembler } from './assembler.ts';
import { CodeBlock } from './memory.ts';
import type { Native } from './native.ts';
import { mem } from './operands.ts';
import { eax, ebx, ecx, edi, edx, esi, rbx, rdi } from './registers.ts';

export interface Cache {
  readonly level: number;
  readonly kind: 'data' | 'instruction' | 'unified';
  readonly byteLength: number;
  readonly ways: number;
  readonly lineBytes: number;
  /** Logical processors that share it, at most. */
  readonly sharing: number;
}

/** Instruction sets by what the rest of the accelerator calls them. */
export type CpuFeature =
  | 'avx2'
  | 'fma'
  | 'f16c'
  | 'bmi'
  | 'lzcnt'
  | 'popcnt'
  | 'avx512f'
  | 'avx512dq'
  | 'avx512bw'
  | 'avx512vl'
  | 'avx512vnni'
  | 'avx512bf16'
  | 'amx';

export interface Processor {
  readonly brand: string;
  readonly vendor: string;
  readonly family: number;
  readonly model: number;
  readonly features: ReadonlySet<CpuFeature>;
  readonly caches: readonly Cache[];
}

interface Registers {
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}
type Query = (leaf: number, subleaf?: number) => Registers;

const extendedBase = 0x80000000;
const leafFeatures = 1;
const leafExtendedFeatures = 7;
const leafCaches = 4;
const leafCachesAmd = 0x8000001d;
const osXsave = 27;

/** io[0], io[1] are leaf and subleaf; io[0..3] receive eax, ebx, ecx, edx. */
function assembleCpuid(): Uint8Array {
  return new Assembler()
    .emit('push', rbx)
    .emit('mov', eax, mem(rdi))
    .emit('mov', ecx, mem(rdi, 4))
    .emit('cpuid')
    .emit('mov', mem(rdi), eax)
    .emit('mov', mem(rdi, 4), ebx)
    .emit('mov', mem(rdi, 8), ecx)
    .emit('mov', mem(rdi, 12), edx)
    .emit('pop', rbx)
    .emit('ret')
    .finish().bytes;
}

/**
 * arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): asks Linux for the tile registers, for this process and all of its
 * threads. Returns 0 or a negative error number.
 */
function assembleTilePermission(): Uint8Array {
  const [archPrctl, requestPermission, tileData] = [158, 0x1023, 18];
  return new Assembler()
    .emit('mov', eax, archPrctl)
    .emit('mov', edi, requestPermission)
    .emit('mov', esi, tileData)
    .emit('syscall')
    .emit('ret')
    .finish().bytes;
}

/** io[0], io[1] receive the low and high half of XCR0. Only where cpuid says OSXSAVE. */
function assembleXgetbv(): Uint8Array {
  return new Assembler()
    .emit('xor', ecx, ecx)
    .emit('xgetbv')
    .emit('mov', mem(rdi), eax)
    .emit('mov', mem(rdi, 4), edx)
    .emit('ret')
    .finish().bytes;
}

/** What of XCR0 must be set: SSE and AVX; with opmasks, upper halves, and registers 16 to 31; tiles and their shapes. */
const stateBits = { none: 0, ymm: 0x06, zmm: 0xe6, tile: 0x600e6 } as const;

type Bit = readonly [leaf: number, subleaf: number, register: keyof Registers, bit: number];
/** Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E. */
const featureBits: { readonly [F in CpuFeature]: { state: keyof typeof stateBits; bits: readonly Bit[] } } = {
  avx2: {
    state: 'ymm',
    bits: [
      [leafFeatures, 0, 'ecx', 28],
      [leafExtendedFeatures, 0, 'ebx', 5],
    ],
  },
  fma: { state: 'ymm', bits: [[leafFeatures, 0, 'ecx', 12]] },
  f16c: { state: 'ymm', bits: [[leafFeatures, 0, 'ecx', 29]] },
  bmi: {
    state: 'none',
    bits: [
      [leafExtendedFeatures, 0, 'ebx', 3],
      [leafExtendedFeatures, 0, 'ebx', 8],
    ],
  },
  lzcnt: { state: 'none', bits: [[extendedBase + 1, 0, 'ecx', 5]] },
  popcnt: { state: 'none', bits: [[leafFeatures, 0, 'ecx', 23]] },
  avx512f: { state: 'zmm', bits: [[leafExtendedFeatures, 0, 'ebx', 16]] },
  avx512dq: { state: 'zmm', bits: [[leafExtendedFeatures, 0, 'ebx', 17]] },
  avx512bw: { state: 'zmm', bits: [[leafExtendedFeatures, 0, 'ebx', 30]] },
  avx512vl: { state: 'zmm', bits: [[leafExtendedFeatures, 0, 'ebx', 31]] },
  avx512vnni: { state: 'zmm', bits: [[leafExtendedFeatures, 0, 'ecx', 11]] },
  avx512bf16: { state: 'zmm', bits: [[leafExtendedFeatures, 1, 'eax', 5]] },
  // Tiles, with products of bf16 and of bytes.
  amx: {
    state: 'tile',
    bits: [
      [leafExtendedFeatures, 0, 'edx', 24],
      [leafExtendedFeatures, 0, 'edx', 22],
      [leafExtendedFeatures, 0, 'edx', 25],
    ],
  },
};

const text = (words: readonly number[]): string =>
  new TextDecoder()
    .decode(new Uint8Array(Uint32Array.from(words).buffer))
    .replace(/\0/g, '')
    .trim();

function readBrand(query: Query): string {
  if (query(extendedBase).eax >>> 0 < extendedBase + 4) return '';
  const words = [2, 3, 4].flatMap((leaf) => {
    const { eax, ebx, ecx, edx } = query(extendedBase + leaf);
    return [eax, ebx, ecx, edx];
  });
  return text(words).replace(/\s+/g, ' ');
}

function readCaches(query: Query, vendor: string): Cache[] {
  const amd = vendor === 'AuthenticAMD' || vendor === 'HygonGenuine';
  const leaf = amd ? leafCachesAmd : leafCaches;
  const largest = amd ? query(extendedBase).eax : query(0).eax;
  if (largest < leaf) return [];
  const kinds = [null, 'data', 'instruction', 'unified'] as const;
  const caches: Cache[] = [];
  for (let index = 0; index < 16; index++) {
    const { eax, ebx, ecx } = query(leaf, index);
    const kind = kinds[eax & 31];
    if (!kind) break;
    const ways = (ebx >>> 22) + 1;
    const partitions = ((ebx >>> 12) & 0x3ff) + 1;
    const lineBytes = (ebx & 0xfff) + 1;
    caches.push({
      level: (eax >>> 5) & 7,
      kind,
      byteLength: ways * partitions * lineBytes * (ecx + 1),
      ways,
      lineBytes,
      sharing: ((eax >>> 14) & 0xfff) + 1,
    });
  }
  return caches;
}

/** Intel SDM volume 2, CPUID, figure 3-6: the extended parts count only where the base family is 15, or for a model 6. */
function readModel(query: Query): { family: number; model: number } {
  const { eax } = query(leafFeatures);
  const base = (eax >>> 8) & 15;
  const low = (eax >>> 4) & 15;
  const extended = ((eax >>> 16) & 15) * 16 + low;
  return {
    family: base === 15 ? base + ((eax >>> 20) & 0xff) : base,
    model: base === 15 || base === 6 ? extended : low,
  };
}

/** The cache of data at a level, which may hold instructions too; undefined where the processor does not tell. */
export const dataCache = ({ caches }: Processor, level: number): Cache | undefined =>
  caches.find((cache) => cache.level === level && cache.kind !== 'instruction');

let known: Processor | undefined;

/** This machine's processor. Asked once; it does not change. */
export function processor(native: Native): Processor {
  known ??= identify(native);
  return known;
}

function identify(native: Native): Processor {
  const code = new CodeBlock(native, [assembleCpuid(), assembleXgetbv(), assembleTilePermission()]);
  try {
    const [cpuid, xgetbv, requestTiles] = code.addresses.map(native.routine);
    const io = new Uint32Array(4);
    const query: Query = (leaf, subleaf = 0) => {
      io[0] = leaf;
      io[1] = subleaf;
      cpuid(io);
      return { eax: io[0], ebx: io[1], ecx: io[2], edx: io[3] };
    };
    const identity = query(0);
    const vendor = text([identity.ebx, identity.edx, identity.ecx]);
    let state = 0;
    if ((query(leafFeatures).ecx >>> osXsave) & 1) {
      xgetbv(io);
      state = io[0];
    }
    const exists = (leaf: number, subleaf: number) => {
      const base = leaf >= extendedBase ? extendedBase : 0;
      if (query(base).eax < leaf) return false;
      // Leaf 7 tells in eax how many subleaves it has.
      return subleaf === 0 || query(leaf).eax >= subleaf;
    };
    const has = ([leaf, subleaf, register, bit]: Bit) =>
      exists(leaf, subleaf) && ((query(leaf, subleaf)[register] >>> bit) & 1) === 1;
    const names = Object.keys(featureBits) as CpuFeature[];
    const features = names.filter((name) => {
      const { state: needed, bits } = featureBits[name];
      const enabled = (state & stateBits[needed]) === stateBits[needed] && bits.every(has);
      return enabled && (needed !== 'tile' || requestTiles(null) === 0);
    });
    return {
      brand: readBrand(query),
      vendor,
      ...readModel(query),
      features: new Set(features),
      caches: readCaches(query, vendor),
    };
  } finally {
    code.free();
  }
}
