/**
 * Finds a key that one object of a JSON text has twice; `JSON.parse` would keep the last without a word.
 * Two readers that choose differently see two different checkpoints in one file.
 * @param text valid JSON
 * @returns the first such key, or undefined
 */
export function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === '{') open.push(new Set());
    else if (character === '[') open.push(undefined);
    else if (character === '}' || character === ']') open.pop();
    else if (character === '"') {
      const start = i++;
      while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
      const keys = open.at(-1);
      if (keys === undefined || text[afterSpace(text, i + 1)] !== ':') continue;
      const key: string = JSON.parse(text.slice(start, i + 1));
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

function afterSpace(text: string, start: number): number {
  let i = start;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\t' || text[i] === '\r') i++;
  return i;
}

/** A value as JSON for an error message, shortened: a hostile file's names may have millions of characters. */
export function quoted(value: unknown): string {
  const json = JSON.stringify(value) ?? 'undefined';
  return json.length <= 200 ? json : json.slice(0, 200) + '…';
}
