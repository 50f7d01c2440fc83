// biome-ignore-all assist/source/organizeImports: the groups are for readers.
/**
 * Tandem as a library. Everything a program needs is exported here, in groups from whole runs down to kernels; whatever
 * is not exported here is internal. Needs Node.
 */

// Tasks: make problems, judge answers.
export { TASKS } from './training/tasks/index.ts';
export { loadTask } from './training/tasks/load.ts';
export type {
  Answered,
  Completion,
  Problem,
  RewardValue,
  Solution,
  Task,
  TaskDefaults,
  Teacher,
} from './training/tasks/task.ts';
export { defineTask, TaskError } from './training/tasks/task.ts';
export { Random } from './numerics/random.ts';

// Runs: cold start, reinforcement under the parity gate, evaluation, report.
export type { NewRun, ResumeOptions } from './training/open-run.ts';
export { newRun, resumeRun, RunError } from './training/open-run.ts';
export type { TrainingRun } from './training/run.ts';
export { RunInterrupted } from './training/run.ts';
export type { GrpoOptions, LossType, RunOptions, SftOptions } from './training/options.ts';
export type {
  Accuracy,
  EvaluationMode,
  MetricName,
  Metrics,
  ParityReport,
  PhaseName,
  RunEvent,
  SampleTrace,
  Summary,
} from './training/events.ts';
export { METRICS } from './training/events.ts';
export { ParityError } from './fleet/parity.ts';

// Models: load, generate, score.
export type { OpenOptions } from './inference/open.ts';
export { openModel } from './inference/open.ts';
export type { GenerateOptions, LanguageModelParts } from './inference/language-model.ts';
export { LanguageModel, ProbabilityError, PromptError } from './inference/language-model.ts';
export type { LoadedModel } from './checkpoint/model.ts';
export { readModel, writeModel } from './checkpoint/model.ts';
export { Tokenizer, wordTokenizer } from './checkpoint/tokenizer.ts';
export { loadTokenizer, saveTokenizer } from './checkpoint/tokenizer-files.ts';
export { CheckpointError } from './checkpoint/error.ts';
export type { NewModel, Qwen3Config } from './models/config.ts';
export { ConfigError, newConfig, parseConfig } from './models/config.ts';
export { parameterCount } from './models/qwen3.ts';

// Primitives of training: forwardBackward, optimStep, saveState (Learner), sample (RolloutWorker).
export type { Batch, BatchShape, Objective, OptimizerSettings, StepOutputs } from './training/learner.ts';
export { Learner } from './training/learner.ts';
export type { Rollout, WeightUpdate } from './fleet/rollout.ts';
export { RolloutWorker, weightsChecksum } from './fleet/rollout.ts';
export type { Generation, GenerationRequest, SamplingSettings } from './inference/engine.ts';
export type { SamplingDistribution } from './inference/sampling.ts';
export type { HeldType, Weights, WeightType } from './inference/weights.ts';
export { initialWeights, modelConfig } from './training/new-model.ts';
export type { Sequence } from './training/batches.ts';
export { fromTargets, layOut, onTargets } from './training/batches.ts';
export { groupAdvantages, tokenWeights } from './training/advantages.ts';
export type { LogProbabilityDifference } from './fleet/parity.ts';
export { compareLogProbabilities } from './fleet/parity.ts';

// Accelerators.
export type {
  Binding,
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceProbe,
  Executable,
  Launch,
} from './accelerators/device.ts';
export type { DeviceName } from './accelerators/registry.ts';
export { deviceNames, listDevices, openDevice, resolveDevice } from './accelerators/registry.ts';
export { runKernel } from './accelerators/run-kernel.ts';

// The tile language: kernels written once for every accelerator.
export type { BlockOptions, ViewHandle, ViewOptions } from './tile/builder.ts';
export { buildKernel, ceilDiv, KernelBuilder } from './tile/builder.ts';
export type { Operand } from './tile/tile.ts';
export { Tile } from './tile/tile.ts';
export type { Instruction, Kernel, MapFn, Op, ReduceFn, TileType, View } from './tile/ir.ts';
export { interpret } from './tile/interpret.ts';
export { print } from './tile/print.ts';
export { KernelError, verify } from './tile/verify.ts';
export type { DType } from './numerics/dtype.ts';
export type { ValueArray } from './numerics/arrays.ts';

// Graphs: operations on tensors, gradients, programs.
export type { AdamWHyper } from './tensor/adamw.ts';
export { adamwHyper } from './tensor/adamw.ts';
export type { Value } from './tensor/graph.ts';
export { Graph } from './tensor/graph.ts';
export { Tensor } from './tensor/tensor.ts';
export { gradients } from './tensor/gradients.ts';
export type { AttentionShape, CustomGradient } from './tensor/primitives.ts';
export type { CompileOptions } from './tensor/program.ts';
export { compile, Program } from './tensor/program.ts';
export { ParameterStore } from './tensor/store.ts';
export { printGraph } from './tensor/print.ts';
export { GraphError } from './tensor/types.ts';
