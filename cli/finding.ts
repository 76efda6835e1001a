/** One thing looked at. */
export interface Finding {
  readonly name: string;
  readonly ok: boolean;
  /** What was found. */
  readonly detail: string;
  /** What to do about it, when it is not well. */
  readonly advice?: string;
  /** Not here, and no fault: nothing needs it. */
  readonly absent?: boolean;
}
