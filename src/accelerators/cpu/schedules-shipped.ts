/** Blocks that were measured before Tandem was published, so that nobody waits for it: see `schedules.ts`. */
import type { Measured } from './schedules.ts';

/** By `processorKey`. */
export const SHIPPED: Readonly<Record<string, Measured>> = {
  'AuthenticAMD 25/17 avx512+bf16 32K 1024K 32768K 1 thread': {
    '1280x64x96 n·n f32·f32>f32': '432x64x96',
    '1280x24x96 n·t f32·f32>f32': '432x24x96',
    '1280x256x96 n·t f32·f32>f32': '432x256x96',
    '1280x128x96 n·t f32·f32>f32': '432x128x96',
    '96x64x1280 t·n f32·f32>f32 +full f32': '48x64x1280',
    '1280x96x128 n·t f32·f32>f32 +full f32 +full f32': '432x96x128',
    '96x64x1792 t·n f32·f32>f32 +full f32': '48x64x1792',
    '4096x256x512 n·n f32·f32>f32': '256x256x512',
    '4096x512x256 n·t bf16·bf16>f32': '512x512x256',
    '256x768x4096 t·n bf16·bf16>f32 +full f32': '256x384x1024',
    '512x256x4096 t·n bf16·bf16>f32 +full f32 +full f32': '512x256x512',
    '64x1024x3072 n·panel32 f32·bf16>f32 +full f32': '64x32x3072',
    '16x1024x3072 n·panel32 f32·bf16>f32 +full f32': '16x64x1536',
    '64x1024x1024 n·panel32 bf16·bf16>f32': '64x64x1024',
    '16x1024x2048 n·panel32 bf16·bf16>f32 +full f32': '16x128x2048',
    '16x1024x3072 n·panel32 bf16·bf16>f32 +full f32': '16x128x3072',
  },
  'AuthenticAMD 25/17 avx512+bf16 32K 1024K 32768K 2 threads': {
    '1280x64x96 n·n f32·f32>f32': '432x64x96',
    '1280x24x96 n·t f32·f32>f32': '432x24x96',
    '96x64x1280 t·n f32·f32>f32 +full f32': '48x64x128',
    '24x96x14336 t·n f32·f32>f32 +full f32 +full f32': '24x48x3584',
    '16x1024x3072 n·panel32 f32·bf16>f32 +full f32': '16x32x1536',
    '16x151936x1024 n·panel32 f32·bf16>f32': '16x32x512',
    '64x3072x1024 n·panel32 bf16·bf16>bf16 +full f32': '64x256x1024',
    '16x1024x2048 n·panel32 bf16·bf16>f32 +full f32': '16x64x2048',
    '16x1024x3072 n·panel32 bf16·bf16>f32 +full f32': '16x128x3072',
    '64x151936x1024 n·panel32 bf16·bf16>f32 +row f32': '64x32x1024',
    '64x151936x1024 n·panel32 bf16·bf16>f32': '64x128x1024',
  },
};
