// Waiting for a condition: tests poll what they wait for and never sleep for a guessed time.

/** TAP_SLOW: how many times slower than usual the programs are, below valgrind. */
const slow = Math.min(100, Math.max(1, Number(process.env.TAP_SLOW) || 1));

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Polls `probe` until it returns something truthy, and returns that.
 * @param {() => any} probe may be async; what it throws is kept for the message, and it is asked again
 * @param {{what?: string, seconds?: number, everyMs?: number}} options
 */
export async function until(probe, { what = 'the condition', seconds = 20, everyMs = 50 } = {}) {
  const deadline = Date.now() + seconds * slow * 1000;
  let last;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) {
      throw new Error(`${what}: not within ${seconds * slow} s${last ? ` (${last.message})` : ''}`, { cause: last });
    }
    await pause(everyMs);
  }
}
