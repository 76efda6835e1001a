import type { MessagePort } from "node:worker_threads";

/** What the compute thread and the thread that owns the device tell each other. Requests are carried out in their order. */
export type DeviceRequest =
  | {
      readonly kind: "pipeline";
      readonly id: number;
      readonly label: string;
      readonly code: string;
      readonly bindings: number;
    }
  /** Answered by `done` or `refused`. */
  | { readonly kind: "buffer"; readonly id: number; readonly bytes: number; readonly label: string }
  | { readonly kind: "destroy"; readonly buffer: number }
  /** Dispatches, as `encodeDispatch` writes them. */
  | {
      readonly kind: "batch";
      readonly words: Uint32Array<ArrayBuffer>;
      readonly dispatches: number;
    }
  | {
      readonly kind: "write";
      readonly buffer: number;
      readonly offset: number;
      readonly bytes: Uint8Array<ArrayBuffer>;
    }
  /** Answered by `bytes`. */
  | {
      readonly kind: "read";
      readonly id: number;
      readonly buffer: number;
      readonly offset: number;
      readonly bytes: number;
    }
  /** Copies device memory to shared host memory; answered by `done`. */
  | {
      readonly kind: "fetch";
      readonly id: number;
      readonly from: DeviceRange;
      readonly to: SharedRange;
    }
  | { readonly kind: "send"; readonly from: SharedRange; readonly to: DeviceRange }
  /** Answered by `done` when all requests before are carried out. */
  | { readonly kind: "wait"; readonly id: number }
  | { readonly kind: "close" };

export interface DeviceRange {
  readonly buffer: number;
  readonly offset: number;
  readonly bytes: number;
}

export interface SharedRange {
  readonly memory: SharedArrayBuffer;
  readonly offset: number;
}

export type DeviceReply =
  | { readonly kind: "ready"; readonly adapter: AdapterFacts }
  | { readonly kind: "unavailable"; readonly why: string }
  | { readonly kind: "bytes"; readonly id: number; readonly bytes: Uint8Array }
  | { readonly kind: "done"; readonly id: number }
  | { readonly kind: "refused"; readonly id: number; readonly text: string }
  | { readonly kind: "closed" }
  | { readonly kind: "failed"; readonly failure: DeviceFailure };

/** The first thing that went wrong on the device. Nothing that it computes is worth anything from then on. */
export interface DeviceFailure {
  readonly call: string;
  readonly status: "out of memory" | "lost" | "validation" | "internal";
  readonly text: string;
}

/** The adapter as WebGPU describes it, and what the device was given of its limits. */
export interface AdapterFacts {
  /** `llvmpipe: Mesa 25.0.7 (LLVM 15.0.6)`, or what else it calls itself. */
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  /** Computes on the processor. */
  readonly software: boolean;
  readonly maxBufferBytes: number;
  readonly maxBindingBytes: number;
  readonly maxBindings: number;
  /** Alignment of a binding's offset. */
  readonly alignBytes: number;
  readonly maxGroupsPerDim: number;
}

/** What the device's thread starts from. */
export interface DeviceStart {
  readonly port: MessagePort;
  /** What Dawn, which implements WebGPU here, is told: `adapter=NAME`, `backend=null`. */
  readonly options: readonly string[];
  /** One word that counts replies: what the compute thread sleeps on. */
  readonly replies: SharedArrayBuffer;
  /** Of the buffer that a batch's parameters lie in, and of the largest dispatch's. */
  readonly parameterBytes: number;
  readonly maxParameterBytes: number;
  readonly stagingBytes: number;
  readonly numStagings: number;
}
