/** Command line options derived from a zod schema, so that an option's name, default and bounds stand in one place. */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { z } from 'zod';
import { UsageError } from './errors.ts';

type Shape = Readonly<Record<string, z.ZodType>>;

interface Field {
  readonly kind: 'number' | 'boolean' | 'string' | 'choice';
  readonly choices: readonly string[];
  readonly description: string;
  readonly defaultValue: unknown;
}

interface Definition {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly defaultValue?: unknown;
  readonly entries?: Record<string, string>;
}

function definition(type: z.ZodType): Definition {
  return type._zod.def as unknown as Definition;
}

/** Looks through optional and default wrappers. Throws where a schema uses a type that has no command line form. */
function describeField(name: string, type: z.ZodType): Field {
  let inner = type;
  let defaultValue: unknown;
  let description = inner.description ?? '';
  for (let def = definition(inner); def.innerType !== undefined; def = definition(inner)) {
    if (def.type === 'default') defaultValue = def.defaultValue;
    inner = def.innerType;
    description ||= inner.description ?? '';
  }
  const def = definition(inner);
  const common = { description, defaultValue };
  switch (def.type) {
    case 'number':
      return { kind: 'number', choices: [], ...common };
    case 'boolean':
      return { kind: 'boolean', choices: [], ...common };
    case 'string':
      return { kind: 'string', choices: [], ...common };
    case 'enum':
      return { kind: 'choice', choices: Object.values(def.entries ?? {}), ...common };
    default:
      throw new TypeError(`option '${name}' has type '${def.type}', which has no command line form`);
  }
}

/** `max_steps` is `--max-steps` on the command line (`--max_steps`, as TRL users write it, is accepted too). */
export function flagOf(name: string): string {
  return `--${name.replaceAll('_', '-')}`;
}

/** Rewrites `--some_option` to `--some-option`; values are left alone. */
export function normaliseFlags(argv: readonly string[]): string[] {
  return argv.map((arg) => {
    const match = /^(--[A-Za-z0-9_-]+)(=.*)?$/su.exec(arg);
    return match ? match[1].replaceAll('_', '-') + (match[2] ?? '') : arg;
  });
}

/** Adds every option of `schema` to a command, except those in `leaveOut`. */
export function addFlags(
  command: Command,
  schema: { readonly shape: Shape },
  leaveOut: readonly string[] = [],
): Command {
  for (const [name, type] of Object.entries(schema.shape)) {
    if (leaveOut.includes(name)) continue;
    const field = describeField(name, type);
    const value =
      field.kind === 'number' ? ' <number>' : field.kind === 'boolean' ? ' [true|false]' : ' <value>';
    const option = new Option(flagOf(name) + value, helpText(field));
    if (field.kind === 'choice') option.choices([...field.choices]);
    // A flag without a value is true, as people expect; `--flag false` turns it off.
    if (field.kind === 'boolean') option.preset('true');
    command.addOption(option);
  }
  return command;
}

function helpText({ description, defaultValue }: Field): string {
  return defaultValue === undefined ? description : `${description} (default: ${String(defaultValue)})`;
}

const camel = (name: string) => name.replace(/[-_](\w)/gu, (_, letter: string) => letter.toUpperCase());

/**
 * The schema's options among those that commander parsed, still unchecked by the schema: only what was given.
 * Throws `UsageError` where a number or truth value cannot be read.
 */
export function givenOptions(
  schema: { readonly shape: Shape },
  parsed: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const [name, type] of Object.entries(schema.shape)) {
    const value = parsed[camel(name)];
    if (value === undefined) continue;
    given[name] = readValue(name, describeField(name, type), String(value));
  }
  return given;
}

function readValue(name: string, field: Field, text: string): unknown {
  if (field.kind === 'number') {
    const number = Number(text);
    if (text.trim() === '' || Number.isNaN(number))
      throw new UsageError(`${flagOf(name)} needs a number, not '${text}'`);
    return number;
  }
  if (field.kind === 'boolean') {
    if (text === 'true') return true;
    if (text === 'false') return false;
    throw new UsageError(`${flagOf(name)} is true or false, not '${text}'`);
  }
  return text;
}

/** Checks options against their schema; the error names each wrong option as it is written on the command line. */
export function checkOptions<T>(schema: z.ZodType<T>, given: unknown): T {
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  throw new UsageError(
    result.error.issues.map((issue) => `${flagOf(issue.path.join('.'))}: ${explain(issue)}`).join('; '),
  );
}

/** What is wrong with a value; zod's own words except where they name types that nobody types. */
function explain(issue: z.core.$ZodIssue): string {
  return issue.code === 'invalid_type' && issue.expected === 'int'
    ? 'a whole number is needed'
    : issue.message;
}
