/**
 * A whole run: cold start, reinforcement under the parity gate, evaluation, report. Everything that defines the next
 * step is in the saved state, so a run that was killed continues bit for bit.
 */
import { z } from 'zod';
import type { Device } from '../accelerators/device.ts';
import { openDevice } from '../accelerators/registry.ts';
import { storedWeights, writeModel } from '../checkpoint/model.ts';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { saveTokenizer } from '../checkpoint/tokenizer-files.ts';
import { renderReport } from '../dashboard/report.ts';
import type { ReportStep } from '../dashboard/report.ts';
import { compareLogProbabilities, explainFailure, judgeParity, ParityError } from '../fleet/parity.ts';
import { RolloutWorker, weightsChecksum } from '../fleet/rollout.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parameterCount } from '../models/qwen3.ts';
