/**
 * Text to token ids and back, in the Hugging Face format: `tokenizer.json` and `tokenizer_config.json`.
 *
 * Models trained here on a task have one token per word (a `WordLevel` model that splits at white space), so
 * that decoded text can be read. Every other tokenizer of that format is loaded the same way.
 */
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';
import { CheckpointError } from './error.ts';
import { quoted } from './json.ts';

export const PAD = '<pad>';
export const BOS = '<bos>';
export const EOS = '<eos>';
export const THINK = '<think>';
export const END_THINK = '</think>';

/** The first tokens of every vocabulary made here; their ids are their places in this list. */
export const SPECIAL_TOKENS: readonly string[] = [PAD, BOS, EOS, THINK, END_THINK];

/** Ids of the tokens that training and generation treat specially; undefined where the tokenizer has none. */
export interface SpecialIds {
  readonly pad: number | undefined;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly think: number | undefined;
  readonly endThink: number | undefined;
}

/** The two files of a tokenizer, as JSON values. */
export interface TokenizerFiles {
  readonly tokenizer: object;
  readonly config: object;
}

// What the tokenizer library needs in order not to fail later; it leaves checks of the rest to its reader.
const tokenizerSchema = z.looseObject({
  model: z.looseObject({}),
  added_tokens: z.array(
    z.looseObject({ id: z.int().nonnegative(), content: z.string(), special: z.boolean().optional() }),
  ),
  normalizer: z.looseObject({ type: z.string() }).nullable(),
  pre_tokenizer: z.looseObject({ type: z.string() }).nullable(),
  post_processor: z.looseObject({ type: z.string() }).nullable(),
  decoder: z.looseObject({ type: z.string() }).nullable(),
});

const tokenName = z.union([z.string(), z.looseObject({ content: z.string() }), z.null()]).optional();
const configSchema = z.looseObject({ pad_token: tokenName, bos_token: tokenName, eos_token: tokenName });

export class Tokenizer {
  readonly ids: SpecialIds;
  /** One more than the largest id: the least `vocab_size` of a model. */
  readonly size: number;
  readonly files: TokenizerFiles;
  private readonly implementation: HuggingFaceTokenizer;

  /**
   * @param files the contents of `tokenizer.json` and `tokenizer_config.json`
   * @throws CheckpointError where they are no tokenizer, or one of an unsupported kind
   */
  constructor(files: TokenizerFiles) {
    const tokenizer = checked('tokenizer.json', tokenizerSchema, files.tokenizer);
    const config = checked('tokenizer_config.json', configSchema, files.config);
    this.files = files;
    try {
      this.implementation = new HuggingFaceTokenizer(tokenizer, config);
    } catch (error) {
      throw new CheckpointError(`tokenizer.json: cannot be used: ${(error as Error).message}`, {
        cause: error,
      });
    }
    const idOf = (name: z.infer<typeof tokenName>) =>
      name == null ? undefined : this.id(typeof name === 'string' ? name : name.content);
    this.ids = {
      pad: idOf(config.pad_token),
      bos: idOf(config.bos_token),
      eos: idOf(config.eos_token),
      think: this.id(THINK),
      endThink: this.id(END_THINK),
    };
    let size = 0;
    for (const id of this.implementation.get_vocab().values()) size = Math.max(size, id + 1);
    this.size = size;
  }

  /**
   * The ids of a text's tokens.
   * @param options.special whether to add the tokens that the tokenizer puts around a text, such as `<bos>`
   *   (default true)
   * @throws CheckpointError that names the word where the vocabulary lacks it and has no token for such words
   */
  encode(text: string, options: { special?: boolean } = {}): number[] {
    const encoding: { ids: (number | undefined)[]; tokens: string[] } = this.implementation.encode(text, {
      add_special_tokens: options.special ?? true,
    });
    return encoding.ids.map((id, i) => {
      if (id !== undefined) return id;
      throw new CheckpointError(`${quoted(encoding.tokens[i])} is not in this model's vocabulary`);
    });
  }

  /**
   * The text of token ids.
   * @param options.skipSpecial leaves out `<pad>`, `<bos>`, `<eos>` and the like, not the thinking tags
   *   (default false)
   * @throws CheckpointError where an id is not in the vocabulary
   */
  decode(ids: readonly number[], options: { skipSpecial?: boolean } = {}): string {
    for (const id of ids) {
      if (this.implementation.id_to_token(id) === undefined) {
        throw new CheckpointError(`there is no token ${id} in a vocabulary of ${this.size}`);
      }
    }
    if (ids.length === 0) return '';
    return this.implementation.decode([...ids], { skip_special_tokens: options.skipSpecial ?? false });
  }

  /** The id of a token, or undefined where the vocabulary lacks it. */
  id(token: string): number | undefined {
    return this.implementation.token_to_id(token);
  }

  /** The token of an id, or undefined where there is none. */
  token(id: number): string | undefined {
    return this.implementation.id_to_token(id);
  }
}

/**
 * A tokenizer with one token for each word, after the special tokens. A text begins with `<bos>`. A word that
 * it does not know is an error, not an unknown token: a task with a mistyped word must not train silently.
 * @throws CheckpointError where a word is empty, has white space in it, comes twice, or looks special
 */
export function wordTokenizer(words: readonly string[]): Tokenizer {
  const vocabulary = new Map(SPECIAL_TOKENS.map((token, id) => [token, id]));
  for (const word of words) {
    if (word === '' || /\s/u.test(word)) {
      throw new CheckpointError(
        `vocabulary: ${quoted(word)} must be a word, not empty and without white space`,
      );
    }
    if (vocabulary.has(word)) throw new CheckpointError(`vocabulary: has ${quoted(word)} twice`);
    // Special tokens are found first, wherever they stand, and would cut such a word in pieces.
    const inside = SPECIAL_TOKENS.find((token) => word.includes(token));
    if (inside !== undefined) {
      throw new CheckpointError(
        `vocabulary: ${quoted(word)} must not have the special token ${inside} in it`,
      );
    }
    vocabulary.set(word, vocabulary.size);
  }
  const bos = { id: BOS, type_id: 0 };
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      // The thinking tags are part of what a person should see.
      special: content !== THINK && content !== END_THINK,
    })),
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: bos }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: bos },
        { Sequence: { id: 'A', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 1 } },
      ],
      special_tokens: { [BOS]: { id: BOS, ids: [SPECIAL_TOKENS.indexOf(BOS)], tokens: [BOS] } },
    },
    decoder: null,
    // The format demands a name for unknown words; as the vocabulary lacks it, such a word is an error.
    model: { type: 'WordLevel', vocab: Object.fromEntries(vocabulary), unk_token: '<unk>' },
  };
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    pad_token: PAD,
    bos_token: BOS,
    eos_token: EOS,
    clean_up_tokenization_spaces: false,
  };
  return new Tokenizer({ tokenizer, config });
}

function checked<T>(file: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new CheckpointError(`${file}: at ${issue.path.join('.') || 'the top'}: ${issue.message}`);
}
