/** Every kernel with inputs and a float64 reference. `suite` in suite.ts runs the table on any device. */
import { attentionCases } from './attention-cases.ts';
import type { Case } from './buffers.ts';
import { embeddingCases } from './embedding-cases.ts';
import { cacheCases, headCases } from './head-cases.ts';
import { lossCases } from './loss-cases.ts';
import { matmulCases } from './matmul-cases.ts';
import { normCases } from './norm-cases.ts';
import { quantizedCases } from './quantized-cases.ts';
import { STORAGES } from './storage.ts';

export const CASES: readonly Case[] = [
  ...matmulCases(),
  ...attentionCases(),
  ...STORAGES.flatMap((type) => [...normCases(type), ...headCases(type), ...embeddingCases(type)]),
  ...cacheCases(),
  ...lossCases(),
  ...quantizedCases(),
];
