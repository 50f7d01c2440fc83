/**
 * A kernel of one's own, with its gradient, in a small model: node --import tsx examples/own-kernel.ts
 *
 * Softsign, y = x / (1 + |x|), is written once in the tile language. It runs alone on three accelerators, and then as
 * the activation of a network that is trained for some steps on two of them. Names of others can be given as arguments.
 */
import type { CustomGradient, Device, Kernel } from 'tandem';
import {
  adamwHyper,
  buildKernel,
  ceilDiv,
  compile,
  Graph,
  gradients,
  openDevice,
  ParameterStore,
  print,
  Random,
  runKernel,
} from 'tandem';

/** Columns of a block. */
const BLOCK = 256;

/** One program for each row and block of columns. What lies beyond the last column is neither loaded nor stored. */
function softsign(rows: number, columns: number): Kernel {
  return buildKernel(`softsign_${rows}x${columns}`, (k) => {
    const x = k.input('x', 'f32', [rows, columns]);
    const y = k.output('y', 'f32', [rows, columns]);
    k.grid(ceilDiv(columns, BLOCK), rows);
    const at = [k.programId(1), k.programId(0).mul(BLOCK)];
    const tile = k.load(x, at, [1, BLOCK]);
    k.store(y, at, tile.div(tile.abs().add(1)));
  });
}

/** dx = dy / (1 + |x|)². */
function softsignGradient(rows: number, columns: number): Kernel {
  return buildKernel(`softsign_gradient_${rows}x${columns}`, (k) => {
    const x = k.input('x', 'f32', [rows, columns]);
    const dy = k.input('dy', 'f32', [rows, columns]);
    const dx = k.output('dx', 'f32', [rows, columns]);
    k.grid(ceilDiv(columns, BLOCK), rows);
    const at = [k.programId(1), k.programId(0).mul(BLOCK)];
    const slope = k.load(x, at, [1, BLOCK]).abs().add(1);
    k.store(dx, at, k.load(dy, at, [1, BLOCK]).div(slope.mul(slope)));
  });
}

const ROWS = 64;
const INPUTS = 8;
const HIDDEN = 300;
const random = new Random(1);
const normals = (count: number, scale = 1) =>
  Float32Array.from({ length: count }, () => scale * random.normal());
const start = { first: normals(INPUTS * HIDDEN, INPUTS ** -0.5), second: normals(HIDDEN, HIDDEN ** -0.5) };
const examples = normals(ROWS * INPUTS);
/** What the network has to learn: the product of the first two inputs. */
const wanted = Float32Array.from(
  { length: ROWS },
  (_, row) => examples[row * INPUTS] * examples[row * INPUTS + 1],
);

/** Trains the network for `steps` steps; returns the loss before each of them. */
async function train(device: Device, steps: number): Promise<number[]> {
  const g = new Graph();
  const first = g.parameter('first', 'f32', [INPUTS, HIDDEN]);
  const second = g.parameter('second', 'f32', [HIDDEN, 1]);
  const gradient: CustomGradient = (graph, { inputs: [x], cotangents: [dy] }) =>
    dy === null ? [null] : graph.custom(softsignGradient(ROWS, HIDDEN), [x, dy]);
  const [hidden] = g.custom(softsign(ROWS, HIDDEN), [g.matmul(g.literal(examples, [ROWS, INPUTS]), first)], {
    gradient,
  });
  const error = g.sub(g.matmul(hidden, second), g.literal(wanted, [ROWS, 1]));
  const loss = g.mean(g.mul(error, error));
  const [dFirst, dSecond] = gradients(g, loss, [first, second]);
  const hyper = g.input('hyper', 'f32', [7]);
  for (const [parameter, derivative, name] of [
    [first, dFirst, 'first'],
    [second, dSecond, 'second'],
  ] as const) {
    const moment = (which: string) => g.state(`${which}.${name}`, 'f32', parameter.shape);
    g.adamw(parameter, derivative, moment('m'), moment('v'), hyper);
  }

  using store = new ParameterStore(device);
  store.create('first', 'f32', [INPUTS, HIDDEN], start.first);
  store.create('second', 'f32', [HIDDEN, 1], start.second);
  using program = await compile(g, device, store, { outputs: { loss } });
  const losses: number[] = [];
  for (let step = 1; step <= steps; step++) {
    const settings = { learningRate: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, step };
    program.write('hyper', adamwHyper(settings));
    await program.run();
    losses.push((await program.read('loss'))[0]);
  }
  return losses;
}

const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a, (value, i) => Math.abs(value - b[i])).reduce(
    (max, difference) => Math.max(max, difference),
    0,
  );

console.log(print(softsign(3, 1000)));
const names = process.argv.length > 2 ? process.argv.slice(2) : ['cpu', 'wasm'];
const values = normals(3000);
const expected = values.map((x) => x / (1 + Math.abs(x)));
for (const name of [...names, 'interpreter']) {
  await using device = await openDevice(name);
  const [y] = await runKernel(device, softsign(3, 1000), [values]);
  console.log(`${name}: largest error ${largestDifference(y, expected)}`);
}
const curves: number[][] = [];
for (const name of names) {
  await using device = await openDevice(name);
  const losses = await train(device, 40);
  console.log(`${name}: loss ${losses[0]} before training, ${losses.at(-1)} after ${losses.length} steps`);
  curves.push(losses);
}
for (const [i, curve] of curves.slice(1).entries()) {
  console.log(
    `${names[0]} and ${names[i + 1]}: losses differ by ${largestDifference(curves[0], curve)} at most`,
  );
}
