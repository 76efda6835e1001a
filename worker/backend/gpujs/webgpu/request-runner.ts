import { readDispatch } from "./dispatch.ts";
import type {
  DeviceFailure,
  DeviceRange,
  DeviceReply,
  DeviceRequest,
  DeviceStart,
  SharedRange,
} from "./messages.ts";

// GPUBufferUsage, GPUMapMode and GPUShaderStage: numbers of the specification, whose names are globals in browsers only.
const MAP_READ = 0x1;
const COPY_SRC = 0x4;
const COPY_DST = 0x8;
const UNIFORM = 0x40;
const STORAGE = 0x80;
const READ = 0x1;
const COMPUTE = 0x4;

/** Alignment of what a dispatch's parameters begin at. */
const PARAMETER_ALIGN = 256;

interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** By what they bind. */
  readonly groups: Map<string, GPUBindGroup>;
}

/** Carries out requests on the device, in order. */
export class RequestRunner {
  readonly #device: GPUDevice;
  readonly #start: DeviceStart;
  readonly #reply: (message: DeviceReply, transfer?: readonly ArrayBuffer[]) => void;
  readonly #fail: (failure: DeviceFailure) => void;
  readonly #pipelines = new Map<number, Pipeline>();
  readonly #layouts = new Map<number, GPUBindGroupLayout>();
  readonly #buffers = new Map<number, GPUBuffer>();
  readonly #parameters: GPUBuffer;
  readonly #staged: Uint32Array<ArrayBuffer>;
  readonly #stagings: GPUBuffer[];
  /** Those that wait for a staging buffer. */
  readonly #waiting: ((staging: GPUBuffer) => void)[] = [];

  constructor(
    device: GPUDevice,
    start: DeviceStart,
    reply: (message: DeviceReply, transfer?: readonly ArrayBuffer[]) => void,
    fail: (failure: DeviceFailure) => void,
  ) {
    this.#device = device;
    this.#start = start;
    this.#reply = reply;
    this.#fail = fail;
    this.#staged = new Uint32Array(start.parameterBytes / 4);
    this.#parameters = device.createBuffer({
      label: "parameters",
      size: start.parameterBytes,
      usage: UNIFORM | COPY_DST,
    });
    this.#stagings = Array.from({ length: start.numStagings }, () =>
      device.createBuffer({
        label: "staging",
        size: start.stagingBytes,
        usage: MAP_READ | COPY_DST,
      }),
    );
  }

  run(request: Exclude<DeviceRequest, { readonly kind: "close" }>): void {
    switch (request.kind) {
      case "pipeline":
        this.#addPipeline(request);
        return;
      case "buffer":
        this.#settle("createBuffer", this.#addBuffer(request));
        return;
      case "destroy":
        this.#destroy(request.buffer);
        return;
      case "batch":
        this.#batch(request.words, request.dispatches);
        return;
      case "write":
        this.#device.queue.writeBuffer(this.#buffer(request.buffer), request.offset, request.bytes);
        return;
      case "read":
        this.#settle("read", this.#read(request));
        return;
      case "fetch":
        this.#settle("read", this.#fetch(request.id, request.from, request.to));
        return;
      case "send":
        this.#send(request.from, request.to);
        return;
      case "wait":
        this.#settle("wait", this.#wait(request.id));
        return;
    }
  }

  /** Ends when the device has done what it was asked for, and gives back all memory. */
  async close(): Promise<void> {
    await this.#device.queue.onSubmittedWorkDone();
    for (const buffer of this.#buffers.values()) buffer.destroy();
    for (const staging of this.#stagings) staging.destroy();
    this.#parameters.destroy();
  }

  #addPipeline({ id, label, code, bindings }: DeviceRequest & { readonly kind: "pipeline" }): void {
    const layout = this.#layouts.get(bindings) ?? this.#addLayout(bindings);
    const module = this.#device.createShaderModule({ label, code });
    const pipeline = this.#device.createComputePipeline({
      label,
      layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    this.#pipelines.set(id, { pipeline, layout, groups: new Map() });
  }

  /** Parameters at a dynamic offset, then operands, all of them writable: WebGPU lets a buffer be one or the other in a dispatch. */
  #addLayout(bindings: number): GPUBindGroupLayout {
    const layout = this.#device.createBindGroupLayout({
      entries: [
        {
          binding: 0,
          visibility: COMPUTE,
          buffer: { type: "uniform", hasDynamicOffset: true },
        },
        ...Array.from(
          { length: bindings },
          (_, i): GPUBindGroupLayoutEntry => ({
            binding: i + 1,
            visibility: COMPUTE,
            buffer: { type: "storage" },
          }),
        ),
      ],
    });
    this.#layouts.set(bindings, layout);
    return layout;
  }

  async #addBuffer({
    id,
    bytes,
    label,
  }: DeviceRequest & { readonly kind: "buffer" }): Promise<void> {
    this.#device.pushErrorScope("out-of-memory");
    const usage = STORAGE | COPY_SRC | COPY_DST;
    this.#buffers.set(id, this.#device.createBuffer({ label, size: bytes, usage }));
    const error = await this.#device.popErrorScope();
    if (error === null) {
      this.#reply({ kind: "done", id });
      return;
    }
    this.#buffers.delete(id);
    this.#reply({ kind: "refused", id, text: error.message });
  }

  #destroy(id: number): void {
    this.#buffer(id).destroy();
    this.#buffers.delete(id);
    // Those that bind it would keep it.
    for (const { groups } of this.#pipelines.values()) groups.clear();
  }

  /** One submission: parameters of all dispatches, then the dispatches. */
  #batch(words: Uint32Array<ArrayBuffer>, dispatches: number): void {
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    let [at, parameters] = [0, 0];
    for (let i = 0; i < dispatches; i++) {
      const dispatch = readDispatch(words, at);
      const pipeline = this.#pipelines.get(dispatch.pipeline);
      if (pipeline === undefined) throw new Error(`no pipeline ${dispatch.pipeline}`);
      this.#staged.set(dispatch.parameters, parameters / 4);
      pass.setPipeline(pipeline.pipeline);
      pass.setBindGroup(0, this.#group(pipeline, dispatch.bindings), [parameters]);
      pass.dispatchWorkgroups(dispatch.groupsX, dispatch.groupsY, 1);
      parameters = align(parameters + dispatch.parameters.byteLength, PARAMETER_ALIGN);
      at = dispatch.end;
    }
    pass.end();
    this.#device.queue.writeBuffer(this.#parameters, 0, this.#staged, 0, parameters / 4);
    this.#device.queue.submit([encoder.finish()]);
  }

  /** @param bindings buffer, offset and size of each operand */
  #group(pipeline: Pipeline, bindings: Uint32Array): GPUBindGroup {
    const key = bindings.join();
    const known = pipeline.groups.get(key);
    if (known !== undefined) return known;
    const entries: GPUBindGroupEntry[] = [
      { binding: 0, resource: { buffer: this.#parameters, size: this.#start.maxParameterBytes } },
    ];
    for (let i = 0; i < bindings.length; i += 3) {
      const [id = -1, offset = 0, size = 0] = bindings.subarray(i, i + 3);
      entries.push({
        binding: entries.length,
        resource: { buffer: this.#buffer(id), offset, size },
      });
    }
    const group = this.#device.createBindGroup({ layout: pipeline.layout, entries });
    pipeline.groups.set(key, group);
    return group;
  }

  async #read({
    id,
    buffer,
    offset,
    bytes,
  }: DeviceRequest & { readonly kind: "read" }): Promise<void> {
    const into = new Uint8Array(bytes);
    await this.#pieces({ buffer, offset, bytes }, (piece, at) => into.set(piece, at));
    this.#reply({ kind: "bytes", id, bytes: into }, [into.buffer]);
  }

  async #fetch(id: number, from: DeviceRange, to: SharedRange): Promise<void> {
    const into = new Uint8Array(to.memory, to.offset, from.bytes);
    await this.#pieces(from, (piece, at) => into.set(piece, at));
    this.#reply({ kind: "done", id });
  }

  /** Brings device memory to the host piece by piece, each through a staging buffer. */
  async #pieces(
    { buffer, offset, bytes }: DeviceRange,
    take: (piece: Uint8Array, at: number) => void,
  ): Promise<void> {
    const source = this.#buffer(buffer);
    const { stagingBytes } = this.#start;
    const piece = async (at: number): Promise<void> => {
      const size = Math.min(stagingBytes, bytes - at);
      const staging = await this.#staging();
      try {
        const encoder = this.#device.createCommandEncoder();
        encoder.copyBufferToBuffer(source, offset + at, staging, 0, size);
        this.#device.queue.submit([encoder.finish()]);
        await staging.mapAsync(READ, 0, size);
        take(new Uint8Array(staging.getMappedRange(0, size)), at);
        staging.unmap();
      } finally {
        this.#giveBack(staging);
      }
    };
    const count = Math.ceil(bytes / stagingBytes);
    await Promise.all(Array.from({ length: count }, (_, i) => piece(i * stagingBytes)));
  }

  /** A free staging buffer. The first caller's copy is submitted before this returns to the event loop, when one is free. */
  #staging(): GPUBuffer | Promise<GPUBuffer> {
    return (
      this.#stagings.pop() ??
      new Promise<GPUBuffer>((resolve) => {
        this.#waiting.push(resolve);
      })
    );
  }

  #giveBack(staging: GPUBuffer): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#stagings.push(staging);
    else next(staging);
  }

  #send({ memory, offset }: SharedRange, to: DeviceRange): void {
    const buffer = this.#buffer(to.buffer);
    const { stagingBytes } = this.#start;
    for (let at = 0; at < to.bytes; at += stagingBytes) {
      const size = Math.min(stagingBytes, to.bytes - at);
      // A copy: shared memory given to writeBuffer ends the process.
      const piece = new Uint8Array(new Uint8Array(memory, offset + at, size));
      this.#device.queue.writeBuffer(buffer, to.offset + at, piece);
    }
  }

  async #wait(id: number): Promise<void> {
    await this.#device.queue.onSubmittedWorkDone();
    this.#reply({ kind: "done", id });
  }

  #buffer(id: number): GPUBuffer {
    const buffer = this.#buffers.get(id);
    if (buffer === undefined) throw new Error(`no buffer ${id}`);
    return buffer;
  }

  #settle(call: string, work: Promise<void>): void {
    work.catch((error: unknown) => {
      const text = error instanceof Error ? error.message : String(error);
      this.#fail({ call, status: "internal", text });
    });
  }
}

function align(bytes: number, to: number): number {
  return Math.ceil(bytes / to) * to;
}
