// `node scripts/ship-schedules.mjs [THREADS…]`: measures the products of the default recipe, of the benchmarks' wider model and
// of Qwen3-0.6B's shape on this processor, and puts what beats the model of the caches into the table that is shipped.
// Takes minutes; the machine should have nothing else to do.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { register } from 'tsx/esm/api';
import { root } from './setup.mjs';

register();
const { openDevice } = await import('../src/accelerators/registry.ts');
const { SHIPPED } = await import('../src/accelerators/cpu/schedules-shipped.ts');
const { distinct, generationProducts, recipeProducts, widerProducts } = await import(
  '../src/bench/products.ts'
);
const { improvements } = await import('../src/bench/schedules.ts');
const { qwen3Small } = await import('../src/bench/synthetic.ts');
const { tuneProduct } = await import('../src/bench/tune.ts');
const { defaultBlocks } = await import('../src/kernels/schedule.ts');

const path = join(root, 'src/accelerators/cpu/schedules-shipped.ts');
const table = { ...SHIPPED };
for (const threads of process.argv.slice(2).map(Number)) {
  const device = await openDevice('cpu', { threads });
  const { schedule } = device;
  const large = qwen3Small();
  const products = distinct([
    await recipeProducts(device),
    await widerProducts(device),
    await generationProducts(device, large, { held: 'bf16', computed: 'f32', layout: 'panels' }),
    await generationProducts(device, large, { held: 'bf16', computed: 'bf16', layout: 'panels' }),
  ]);
  const tuned = [];
  for (const product of products) {
    const result = await tuneProduct(device, product, defaultBlocks(product, schedule));
    tuned.push(result);
    const gain = (100 * (result.secondsBefore / result.secondsAfter - 1)).toFixed(1);
    if (result.before !== result.after) console.log(`${threads} threads, ${result.name}: +${gain} %`);
  }
  console.log(`${threads} threads: ${Object.keys(improvements(tuned)).length} of ${tuned.length} are faster`);
  table[schedule.machineKey] = improvements(tuned);
  await device.close();
}
const source = readFileSync(path, 'utf8');
const start = source.indexOf('export const SHIPPED');
writeFileSync(
  path,
  `${source.slice(0, start)}export const SHIPPED: Readonly<Record<string, Measured>> = ${JSON.stringify(table, null, 2)};\n`,
);
console.log(`Written to ${path}; run npm run format`);
