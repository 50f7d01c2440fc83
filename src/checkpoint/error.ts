/** A checkpoint or tokenizer that cannot be read or written; the message says which file or tensor and why. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError';
}
