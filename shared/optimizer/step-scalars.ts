import type { OptimizerSpec, ScheduleSpec } from "../program/program.ts";

/**
 * Per-step scalars, formed in double on the host and rounded to float32 once, where a kernel takes them.
 * In float32 alone 1 - 0.999f is off by 1e-5, which would miss the accuracy bound.
 */
export interface StepScalars {
  /** 0-based step. */
  readonly step: number;
  /** 0-based microbatch within the step. */
  readonly microbatch: number;
  readonly learningRate: number;
  /** AdamW: 1 - lr * weightDecay. SGD: 1. */
  readonly decay: number;
  readonly oneMinusBeta1: number;
  readonly beta2: number;
  readonly oneMinusBeta2: number;
  /** lr / (1 - beta1^t). SGD: lr. */
  readonly stepSize: number;
  /** 1 / sqrt(1 - beta2^t). */
  readonly rootScale: number;
  readonly eps: number;
  /** SGD momentum. */
  readonly momentum: number;
}

/** Learning rate at 0-based `step`. Warm-up is linear from lr/steps to lr; cosine falls to minLr at totalSteps. */
export function learningRate(lr: number, schedule: ScheduleSpec, step: number): number {
  switch (schedule.kind) {
    case "constant":
      return lr;
    case "linearWarmup":
      return lr * Math.min(1, (step + 1) / Math.max(1, schedule.steps));
    case "cosine": {
      if (step < schedule.warmupSteps) return (lr * (step + 1)) / schedule.warmupSteps;
      const span = Math.max(1, schedule.totalSteps - schedule.warmupSteps);
      const progress = Math.min(1, (step - schedule.warmupSteps) / span);
      return schedule.minLr + 0.5 * (lr - schedule.minLr) * (1 + Math.cos(Math.PI * progress));
    }
  }
}

/** Scalars of 0-based `step` as PyTorch's AdamW forms them (bias corrections with t = step + 1). */
export function stepScalars(
  optimizer: OptimizerSpec,
  schedule: ScheduleSpec,
  step: number,
  microbatch = 0,
): StepScalars {
  const lr = learningRate(optimizer.lr, schedule, step);
  if (optimizer.kind === "sgd") {
    return {
      step,
      microbatch,
      learningRate: lr,
      decay: 1,
      oneMinusBeta1: 0,
      beta2: 0,
      oneMinusBeta2: 0,
      stepSize: lr,
      rootScale: 1,
      eps: 0,
      momentum: optimizer.momentum,
    };
  }
  const [beta1, beta2] = optimizer.betas;
  const t = step + 1;
  return {
    step,
    microbatch,
    learningRate: lr,
    decay: 1 - lr * optimizer.weightDecay,
    oneMinusBeta1: 1 - beta1,
    beta2,
    oneMinusBeta2: 1 - beta2,
    stepSize: lr / (1 - beta1 ** t),
    rootScale: 1 / Math.sqrt(1 - beta2 ** t),
    eps: optimizer.eps,
    momentum: 0,
  };
}
