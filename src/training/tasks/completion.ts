/** The form of a completion: `<think> thinking </think> answer`, then the end-of-text token. */
import type { Tokenizer } from '../../checkpoint/tokenizer.ts';
import { BOS, END_THINK, PAD, THINK } from '../../checkpoint/tokenizer.ts';
import type { Completion, Solution, Task } from './task.ts';

/** The text of a solution as a completion, without the end-of-text token. */
export function completionText({ think, answer }: Solution): string {
  return [THINK, think, END_THINK, answer].filter((part) => part !== '').join(' ');
}

/**
 * Takes a completion apart. Never throws on what a model wrote: whatever its form, the result says what is
 * wrong with it.
 * @param tokens everything after the prompt: a beginning that was forced on the model, then what it sampled;
 *   tokens after the first end-of-text token are dropped
 */
export function parseCompletion(
  tokens: readonly number[],
  tokenizer: Tokenizer,
  format: NonNullable<Task['format']> = 'think',
): Completion {
  const { eos } = tokenizer.ids;
  const end = eos === undefined ? -1 : tokens.indexOf(eos);
  const finished = end !== -1;
  const kept = finished ? tokens.slice(0, end + 1) : [...tokens];
  const text = tokenizer.decode(finished ? kept.slice(0, -1) : kept);
  // The tags are looked for in the text, because some tokenizers spell them with several tokens.
  const opened = text.trimStart().startsWith(THINK);
  const afterTag = opened ? text.slice(text.indexOf(THINK) + THINK.length) : text;
  const [before, ...rest] = afterTag.split(END_THINK) as [string, ...string[]];
  const malformed = formProblem(text, finished, opened, rest.length, format);
  const think = opened ? before.trim() : malformed === undefined ? '' : null;
  const answer = malformed === undefined ? (rest[0] ?? before).trim() : null;
  return { text, think, answer, tokens: kept, finished, malformed };
}

function formProblem(
  text: string,
  finished: boolean,
  opened: boolean,
  closings: number,
  format: NonNullable<Task['format']>,
): string | undefined {
  const openings = text.split(THINK).length - 1;
  if (!finished) return 'it did not end before the length limit';
  for (const token of [PAD, BOS]) if (text.includes(token)) return `${token} occurs in it`;
  if (format === 'free' && openings === 0 && closings === 0) return undefined;
  if (!opened) return `it does not begin with ${THINK}`;
  if (openings > 1) return `it has ${THINK} ${openings} times`;
  if (closings === 0) return `it has no ${END_THINK}`;
  if (closings > 1) return `it has ${END_THINK} ${closings} times`;
  return undefined;
}
