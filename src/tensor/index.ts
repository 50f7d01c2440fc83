/** The tensor room: graphs, gradients, programs. */

export type { AdamWHyper } from './adamw.ts';
export { adamwHyper } from './adamw.ts';
export { gradients } from './gradients.ts';
export type { SequencePlace, Value } from './graph.ts';
export { Graph } from './graph.ts';
export type { HostArray } from './host.ts';
export type { AttentionShape, CustomGradient, Node, Primitive } from './primitives.ts';
export { printGraph } from './print.ts';
export type { CompileOptions, LaunchInfo, ProgramMemory } from './program.ts';
export { compile, Program } from './program.ts';
export type { StoreEntry } from './store.ts';
export { ParameterStore } from './store.ts';
export { Tensor } from './tensor.ts';
export type { TensorType } from './types.ts';
export { GraphError } from './types.ts';
