/** The error that `promise` rejects with; an error of its own when it does not. */
export async function caught(promise: Promise<unknown>): Promise<Error> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    return error instanceof Error ? error : new Error(`rejected with no error: ${String(error)}`);
  }
  throw new Error(`expected a rejection, got ${String(value)}`);
}
