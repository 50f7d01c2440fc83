/** The tasks that come with Tandem, by name. */
import chain from './chain.ts';
import countdown from './countdown.ts';
import deduction from './deduction.ts';
import multiplication from './multiplication.ts';
import type { Task } from './task.ts';

export const TASKS: ReadonlyMap<string, Task> = new Map<string, Task>(
  [chain, multiplication, countdown, deduction].map((task: Task) => [task.name, task]),
);
