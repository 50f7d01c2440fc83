/** How much memory training takes at its peak, against what the memory plans say. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { Qwen3Config } from '../models/config.ts';
import type { BatchShape, LearnerOptions } from '../training/learner.ts';
import type { Item } from './item.ts';
import { widerModel } from './models.ts';
import { label, trainingPeer, WIDER_SHAPE } from './training.ts';

const MEGABYTE = 1e6;
const usage = z.object({ used: z.number().positive(), planned: z.number().positive() });

/** A TypeScript or a JavaScript file, whichever this is. */
const child = fileURLToPath(import.meta.url).replace(/memory\.(ts|js)$/u, 'memory-child.$1');

function printedBy(args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const process_ = spawn(process.execPath, [...process.execArgv, child, ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const printed: Buffer[] = [];
    process_.stdout.on('data', (data: Buffer) => printed.push(data));
    process_.on('error', reject);
    process_.on('close', (code, signal) => {
      if (code === 0) resolve(Buffer.concat(printed).toString());
      else reject(new Error(`the process that trains to measure memory ended with ${code ?? signal}`));
    });
  });
}

/**
 * The peak of a process's resident memory beyond what it had with the device open and no model. The limit: weights,
 * gradients, moments, and the blocks of all programs, as planned.
 */
export function memoryItem(
  config: Qwen3Config,
  shape: BatchShape,
  device: string,
  options: LearnerOptions = {},
): Item {
  return {
    name: 'memory',
    shape: label(config, shape, options),
    dtype: 'f32',
    device,
    unit: 'MB',
    limit: () => null,
    // PyTorch keeps what it computed.
    peers: options.gradientCheckpointing ? {} : { pytorch: trainingPeer('memory', config, shape) },
    async measure() {
      const { used, planned } = usage.parse(
        JSON.parse(
          await printedBy([device, ...[config, shape, options].map((value) => JSON.stringify(value))]),
        ),
      );
      return { value: used / MEGABYTE, limit: planned / MEGABYTE };
    },
  };
}

export const memoryItems = (device: string): Item[] =>
  [{}, { gradientCheckpointing: true }].map((options) =>
    memoryItem(widerModel(), WIDER_SHAPE, device, options),
  );
