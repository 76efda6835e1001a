/**
 * Steps of a job as points of a chart: a point stands for one step or, where steps are many, for several in a row, of which
 * it keeps mean and extremes. Pure: server and page both use it.
 */

/** Points as columns of equal length. */
export interface PointsView {
  /** Steps that a whole point stands for. */
  readonly stride: number;
  /** First and last step of each point, counted from 1. */
  readonly first: readonly number[];
  readonly last: readonly number[];
  /** Mean, least and largest loss; null where none was finite. */
  readonly loss: readonly (number | null)[];
  readonly lossMin: readonly (number | null)[];
  readonly lossMax: readonly (number | null)[];
  /** Steps whose loss was not finite. */
  readonly nonFinite: readonly number[];
  /** Largest norm of the gradient; null where none was reported. */
  readonly gradNorm: readonly (number | null)[];
  /** Mean and longest time of a step. */
  readonly seconds: readonly number[];
  readonly secondsMax: readonly number[];
}

export interface StepPoint {
  /** Counted from 1. */
  readonly first: number;
  readonly last: number;
  readonly loss: number | null;
  readonly lossMin: number | null;
  readonly lossMax: number | null;
  readonly nonFinite: number;
  readonly gradNorm: number | null;
  readonly seconds: number;
  readonly secondsMax: number;
}

/** One step as a point. @param step counted from 0 */
export function stepPoint(of: {
  readonly step: number;
  readonly loss: number;
  readonly gradNorm?: number;
  readonly seconds: number;
}): StepPoint {
  const { step, seconds } = of;
  const loss = finite(of.loss);
  return {
    first: step + 1,
    last: step + 1,
    loss,
    lossMin: loss,
    lossMax: loss,
    nonFinite: loss === null ? 1 : 0,
    gradNorm: finite(of.gradNorm),
    seconds,
    secondsMax: seconds,
  };
}

/** No more than `maxPoints` points, whatever is added: when there are more, two become one. */
export class Points {
  readonly #maxPoints: number;
  #stride: number;
  #points: StepPoint[] = [];

  constructor(maxPoints: number, stride = 1) {
    this.#maxPoints = maxPoints;
    this.#stride = stride;
  }

  get stride(): number {
    return this.#stride;
  }

  get all(): readonly StepPoint[] {
    return this.#points;
  }

  /** Adds steps that follow on those there are. */
  add(point: StepPoint): void {
    const before = this.#points.at(-1);
    if (before !== undefined && numSteps(before) + numSteps(point) <= this.#stride) {
      this.#points[this.#points.length - 1] = merged(before, point);
      return;
    }
    this.#points.push(point);
    while (this.#points.length > this.#maxPoints) this.#halve();
  }

  view(): PointsView {
    return pointsView(this.#points, this.#stride);
  }

  #halve(): void {
    this.#stride *= 2;
    const points = this.#points;
    this.#points = [];
    for (const point of points) {
      const before = this.#points.at(-1);
      if (before !== undefined && numSteps(before) + numSteps(point) <= this.#stride) {
        this.#points[this.#points.length - 1] = merged(before, point);
      } else this.#points.push(point);
    }
  }
}

export function pointsView(points: readonly StepPoint[], stride: number): PointsView {
  return {
    stride,
    first: points.map((point) => point.first),
    last: points.map((point) => point.last),
    loss: points.map((point) => point.loss),
    lossMin: points.map((point) => point.lossMin),
    lossMax: points.map((point) => point.lossMax),
    nonFinite: points.map((point) => point.nonFinite),
    gradNorm: points.map((point) => point.gradNorm),
    seconds: points.map((point) => point.seconds),
    secondsMax: points.map((point) => point.secondsMax),
  };
}

/** The points of a view, one by one. */
export function pointsOf(view: PointsView): StepPoint[] {
  return view.first.map((first, i) => ({
    first,
    last: view.last[i] ?? first,
    loss: view.loss[i] ?? null,
    lossMin: view.lossMin[i] ?? null,
    lossMax: view.lossMax[i] ?? null,
    nonFinite: view.nonFinite[i] ?? 0,
    gradNorm: view.gradNorm[i] ?? null,
    seconds: view.seconds[i] ?? 0,
    secondsMax: view.secondsMax[i] ?? 0,
  }));
}

function numSteps({ first, last }: StepPoint): number {
  return last - first + 1;
}

/** Two points in a row as one. */
function merged(a: StepPoint, b: StepPoint): StepPoint {
  const steps = numSteps(a) + numSteps(b);
  return {
    first: a.first,
    last: b.last,
    loss: weighted(a.loss, numSteps(a) - a.nonFinite, b.loss, numSteps(b) - b.nonFinite),
    lossMin: extreme(Math.min, a.lossMin, b.lossMin),
    lossMax: extreme(Math.max, a.lossMax, b.lossMax),
    nonFinite: a.nonFinite + b.nonFinite,
    gradNorm: extreme(Math.max, a.gradNorm, b.gradNorm),
    seconds: (a.seconds * numSteps(a) + b.seconds * numSteps(b)) / steps,
    secondsMax: Math.max(a.secondsMax, b.secondsMax),
  };
}

function weighted(
  a: number | null,
  weightA: number,
  b: number | null,
  weightB: number,
): number | null {
  if (a === null) return b;
  if (b === null) return a;
  return (a * weightA + b * weightB) / (weightA + weightB);
}

function extreme(
  choose: (a: number, b: number) => number,
  a: number | null,
  b: number | null,
): number | null {
  if (a === null) return b;
  return b === null ? a : choose(a, b);
}

function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}
