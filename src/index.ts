/** Tandem as a library. */
export { CheckpointError } from './checkpoint/error.ts';
export { Tokenizer, wordTokenizer } from './checkpoint/tokenizer.ts';
export { loadTokenizer, saveTokenizer } from './checkpoint/tokenizer-files.ts';
export { Random } from './numerics/random.ts';
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
