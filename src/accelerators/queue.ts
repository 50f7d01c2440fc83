/** Runs of one device, one after the other. */
export class RunQueue {
  #tail: Promise<void> = Promise.resolve();

  /** Starts `task` when all earlier ones have ended, however they ended. */
  add(task: () => Promise<void>): Promise<void> {
    const run = this.#tail.then(task);
    // The error belongs to whoever added the task, and has reached them through `run`.
    this.#tail = run.catch(() => {});
    return run;
  }

  /** Resolves when everything added before has ended. */
  idle(): Promise<void> {
    return this.#tail;
  }
}
