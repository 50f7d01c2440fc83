/** The tests of programs, for any device. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import type { HostArray, Tensor } from '../../src/tensor/index.ts';
import { compile, Graph, gradients, ParameterStore } from '../../src/tensor/index.ts';
import { is } from '../../src/tensor/primitives.ts';
import { elementCount } from '../../src/tile/ir.ts';
import { CASES, type Case } from './cases.ts';
import { HAZARDS, type Hazard } from './hazards.ts';
import { random } from './random.ts';
import { randomGraph } from './random_graph.ts';
import { evaluateGraph, type Feeds, type Values } from './reference.ts';

/** Float32 values for every leaf of the graph. */
export function feedsFor(graph: Graph, { low = -1, high = 1, inputs = {} }: Partial<Case>, seed = 1): Feeds {
  const next = random(seed);
  const feeds: Feeds = new Map();
  for (const node of graph.nodes) {
    if (!is(node, 'input') && !is(node, 'parameter') && !is(node, 'state')) continue;
    const { name, type } = node.attributes;
    const values = Array.from({ length: elementCount(type.shape) }, () =>
      Math.fround(low + (high - low) * next()),
    );
    feeds.set(name, inputs[name] ?? values);
  }
  return feeds;
}

/** Compiles, runs once and reads everything back: outputs by name, states as 'state NAME'. */
export async function runGraph(
  device: Device,
  graph: Graph,
  feeds: Feeds,
  outputs: Readonly<Record<string, Tensor>>,
  options: { fuse?: boolean; poison?: boolean } = {},
): Promise<Map<string, HostArray>> {
  using store = new ParameterStore(device);
  for (const node of graph.nodes) {
    if (!is(node, 'parameter') && !is(node, 'state')) continue;
    const { name, type } = node.attributes;
    const values = feeds.get(name) as Values;
    store.create(
      name,
      type.dtype,
      type.shape,
      type.dtype === 'i32' ? Int32Array.from(values) : Float32Array.from(values),
    );
  }
  using program = await compile(graph, device, store, { outputs, fuse: options.fuse });
  for (const [name, { dtype }] of program.inputs) {
    const values = feeds.get(name) as Values;
    program.write(name, dtype === 'i32' ? Int32Array.from(values) : Float32Array.from(values));
  }
  if (options.poison && program.arena !== null)
    device.write(program.arena, new Uint8Array(program.arena.byteLength).fill(0xff));
  await program.run();
  const results = new Map<string, HostArray>();
  for (const name of Object.keys(outputs)) results.set(name, await program.read(name));
  for (const node of graph.nodes)
    if (is(node, 'state'))
      results.set(`state ${node.attributes.name}`, await store.read(node.attributes.name));
  return results;
}

function close(found: ArrayLike<number>, wanted: Values, tolerance: number, what: string): void {
  assert.equal(found.length, wanted.length, what);
  wanted.forEach((value, i) => {
    const error = Math.abs(found[i] - value);
    assert.ok(error <= tolerance * (1 + Math.abs(value)), `${what}[${i}]: ${found[i]} instead of ${value}`);
  });
}

/** One number from all results, with fixed weights: its gradient tests those of the results. */
function lossOf(g: Graph, outputs: readonly Tensor[]): Tensor {
  const next = random(7);
  return outputs
    .filter((output) => output.dtype === 'f32')
    .map((output) => {
      const weights = Float32Array.from({ length: elementCount(output.shape) }, () => next() - 0.3);
      return g.sum(g.mul(output, g.literal(weights, output.shape)));
    })
    .reduce((a, b) => g.add(a, b));
}

const named = (tensors: readonly Tensor[]) =>
  Object.fromEntries(tensors.map((tensor, index) => [`${index}`, tensor]));

/** The results of a case, fused and not, against the reference. */
export async function checkValues(device: Device, test: Case): Promise<void> {
  const g = new Graph();
  const outputs = test.build(g);
  const feeds = feedsFor(g, test);
  const wanted = evaluateGraph(g, new Map(feeds), outputs);
  for (const fuse of [true, false]) {
    const found = await runGraph(device, g, feeds, named(outputs), { fuse, poison: true });
    outputs.forEach((_, index) => {
      close(found.get(`${index}`) as HostArray, wanted[index], 2e-5, `output ${index}`);
    });
  }
}

/** The gradient with respect to every parameter of a case, against central differences of the reference. */
export async function checkGradient(device: Device, test: Case): Promise<void> {
  const g = new Graph();
  const loss = lossOf(g, test.build(g));
  const parameters = g.nodes.filter((node) => is(node, 'parameter')).map((node) => node.outputs[0]);
  const grads = gradients(g, loss, parameters);
  const feeds = feedsFor(g, test);
  const found = await runGraph(device, g, feeds, named(grads), { poison: true });
  const unfused = await runGraph(device, g, feeds, named(grads), { fuse: false });
  parameters.forEach((parameter, index) => {
    const { name: leaf } = parameter.node.attributes as { name: string };
    const values = feeds.get(leaf) as Values;
    const step = 1e-5;
    const wanted = values.map((value, i) => {
      const at = (x: number) =>
        evaluateGraph(
          g,
          new Map(feeds).set(
            leaf,
            values.map((v, j) => (j === i ? x : v)),
          ),
          [loss],
        )[0][0];
      return (at(value + step) - at(value - step)) / (2 * step);
    });
    close(found.get(`${index}`) as HostArray, wanted, 1e-4, `d ${leaf}`);
    close(unfused.get(`${index}`) as HostArray, wanted, 1e-4, `d ${leaf}, not fused`);
  });
}

export function programSuite(name: string, open: () => Promise<Device>): void {
  describe(`programs on ${name}`, () => {
    let device: Device;
    before(async () => {
      device = await open();
    });
    after(async () => {
      assert.equal(device.allocatedBytes, 0, 'every program and store has given its memory back');
      await device.close();
    });

    /** Compares outputs and states with the reference, fused and not. */
    const check = async ({ g, outputs }: Hazard, seed: number) => {
      const feeds = feedsFor(g, {}, seed);
      const after = new Map(feeds);
      const wanted = evaluateGraph(g, after, Object.values(outputs), g.nodes.length);
      for (const fuse of [true, false]) {
        const found = await runGraph(device, g, feeds, outputs, { fuse, poison: true });
        const what = `seed ${seed}, fuse ${fuse}`;
        Object.keys(outputs).forEach((output, index) => {
          close(found.get(output) as HostArray, wanted[index], 1e-4, `${what}, ${output}`);
        });
        for (const [key, values] of found)
          if (key.startsWith('state '))
            close(values, after.get(key.slice(6)) as Values, 1e-4, `${what}, ${key}`);
      }
    };
    it('random graphs give the reference values, fused and not, whatever the arena held before', async () => {
      for (let seed = 0; seed < 60; seed++) await check(randomGraph(seed), seed);
    });
    for (const [what, build] of Object.entries(HAZARDS)) it(what, () => check(build(), 1));

    for (const test of CASES) {
      it(`${test.name}: values`, () => checkValues(device, test));
      if (test.gradient !== false) it(`${test.name}: gradient`, () => checkGradient(device, test));
    }
  });
}
