import { expect } from "chai";
import { f32, made, ok } from "../../../../support/cuda-calls.ts";
import { buildLookAlike, lookAlike } from "../../../../support/look-alike.ts";
import { LookAlikeDevice } from "../../../../support/look-alike-device.ts";

const NOT_READY = 600;
const INVALID_HANDLE = 400;
const CAPTURE_UNSUPPORTED = 900;
const CAPTURE_INVALIDATED = 901;
const CAPTURE_UNMATCHED = 903;
const CAPTURE_UNJOINED = 904;
const CAPTURE_ISOLATION = 905;
const CAPTURE_IMPLICIT = 906;
const CAPTURED_EVENT = 907;
const THREAD_LOCAL = 1;
const RELAXED = 2;

describe("the look-alike driver", () => {
  let device: LookAlikeDevice;
  before(buildLookAlike);
  beforeEach(() => {
    device = new LookAlikeDevice();
  });
  afterEach(() => device.close());

  /** Four floats in device memory. */
  const four = (...values: number[]): bigint => device.upload(Float32Array.from(values));
  const read = (address: bigint): number[] => [...device.floats(address, 4)];
  /** y += a x, on a stream. */
  const axpy = (x: bigint, y: bigint, a: number, stream: bigint): void =>
    ok(device.launch("probe_axpy", [1, 32], [x, y, f32(a), 4n], { stream }));

  describe("has streams that", () => {
    it("do nothing until the host waits: pinned memory is what it was", () => {
      const { cuda } = device;
      const [stream, x] = [device.stream(), four(1, 2, 3, 4)];
      const { address, values } = device.pinned(4);
      values.fill(7);
      axpy(x, x, 1, stream);
      ok(cuda.cuMemcpyDtoHAsync_v2(values, x, 16, stream));
      expect([...values]).to.deep.equal([7, 7, 7, 7]);
      expect(lookAlike().waiting()).to.equal(2);
      ok(cuda.cuStreamSynchronize(stream));
      expect([...values]).to.deep.equal([2, 4, 6, 8]);
      expect(lookAlike().waiting()).to.equal(0);
      ok(cuda.cuMemFreeHost(address));
    });

    it("read pinned memory when they get there, and pageable memory at the call", () => {
      const { cuda } = device;
      const [stream, x, y] = [device.stream(), four(0, 0, 0, 0), four(0, 0, 0, 0)];
      const { values } = device.pinned(4);
      const pageable = new Float32Array(4);
      values.fill(1);
      pageable.fill(1);
      ok(cuda.cuMemcpyHtoDAsync_v2(x, values, 16, stream));
      ok(cuda.cuMemcpyHtoDAsync_v2(y, pageable, 16, stream));
      values.fill(2);
      pageable.fill(2);
      ok(cuda.cuStreamSynchronize(stream));
      expect([read(x), read(y)]).to.deep.equal([
        [2, 2, 2, 2],
        [1, 1, 1, 1],
      ]);
    });

    it("have copied to pageable memory when the call returns, after all that came before", () => {
      const [stream, x] = [device.stream(), four(1, 2, 3, 4)];
      const values = new Float32Array(4);
      axpy(x, x, 1, stream);
      ok(device.cuda.cuMemcpyDtoHAsync_v2(values, x, 16, stream));
      expect([...values]).to.deep.equal([2, 4, 6, 8]);
    });

    it("do not wait for each other, but for an event", () => {
      const { cuda } = device;
      const [first, second, event] = [device.stream(), device.stream(), device.event()];
      const [x, y, z] = [four(1, 1, 1, 1), four(0, 0, 0, 0), four(0, 0, 0, 0)];
      axpy(x, y, 5, first);
      axpy(y, z, 1, second);
      ok(cuda.cuStreamSynchronize(second));
      expect(read(z), "without").to.deep.equal([0, 0, 0, 0]);
      ok(cuda.cuEventRecord(event, first));
      // Behind the event: not waited for.
      axpy(x, y, 100, first);
      ok(cuda.cuStreamWaitEvent(second, event, 0));
      axpy(y, z, 1, second);
      ok(cuda.cuStreamSynchronize(second));
      expect(read(z), "with").to.deep.equal([5, 5, 5, 5]);
      expect(read(y), "in part").to.deep.equal([5, 5, 5, 5]);
      expect(lookAlike().waiting()).to.equal(1);
    });

    it("wait for an event as it was recorded before the wait", () => {
      const { cuda } = device;
      const [first, second, event] = [device.stream(), device.stream(), device.event()];
      const [x, y] = [four(1, 1, 1, 1), four(0, 0, 0, 0)];
      ok(cuda.cuEventRecord(event, first));
      ok(cuda.cuStreamWaitEvent(second, event, 0));
      axpy(x, y, 1, first);
      ok(cuda.cuEventRecord(event, first));
      ok(cuda.cuStreamSynchronize(second));
      expect(read(y)).to.deep.equal([0, 0, 0, 0]);
      ok(cuda.cuEventSynchronize(event));
      expect(read(y)).to.deep.equal([1, 1, 1, 1]);
    });

    it("take chains of events over two streams, however long", () => {
      const { cuda } = device;
      const streams = [device.stream(), device.stream()];
      const [x, y] = [four(1, 1, 1, 1), four(0, 0, 0, 0)];
      const event = device.event();
      for (let i = 0; i < 5000; i++) {
        const stream = streams[i % 2] ?? 0n;
        ok(cuda.cuStreamWaitEvent(stream, event, 0));
        axpy(x, y, 1, stream);
        ok(cuda.cuEventRecord(event, stream));
      }
      ok(cuda.cuEventSynchronize(event));
      expect(read(y)).to.deep.equal([5000, 5000, 5000, 5000]);
    });

    it("answer a query with not ready once, and let the work go on", () => {
      const { cuda } = device;
      const [stream, event, x] = [device.stream(), device.event(), four(1, 1, 1, 1)];
      expect([cuda.cuStreamQuery(stream), cuda.cuEventQuery(event)]).to.deep.equal([0, 0]);
      axpy(x, x, 1, stream);
      ok(cuda.cuEventRecord(event, stream));
      expect([cuda.cuEventQuery(event), cuda.cuEventQuery(event)]).to.deep.equal([NOT_READY, 0]);
      axpy(x, x, 1, stream);
      expect([cuda.cuStreamQuery(stream), cuda.cuStreamQuery(stream)]).to.deep.equal([
        NOT_READY,
        0,
      ]);
      expect(read(x)).to.deep.equal([4, 4, 4, 4]);
    });

    it("are bound to the legacy stream, and so to synchronous copies, unless they say otherwise", () => {
      const [BLOCKING, NON_BLOCKING] = [0, 1];
      const [bound, free] = [device.stream(BLOCKING), device.stream(NON_BLOCKING)];
      const [x, y, z] = [four(1, 1, 1, 1), four(0, 0, 0, 0), four(0, 0, 0, 0)];
      axpy(x, y, 1, bound);
      axpy(x, z, 1, free);
      expect(read(y)).to.deep.equal([1, 1, 1, 1]);
      expect(read(z)).to.deep.equal([0, 0, 0, 0]);
      // And the other way round: what the legacy stream got comes before.
      axpy(x, y, 1, 0n);
      axpy(y, z, 10, bound);
      ok(device.cuda.cuStreamSynchronize(bound));
      expect(read(z)).to.deep.equal([20, 20, 20, 20]);
      ok(device.cuda.cuCtxSynchronize());
      expect(read(z)).to.deep.equal([21, 21, 21, 21]);
    });

    it("are bound to each other by the legacy stream", () => {
      const [first, second] = [device.stream(0), device.stream(0)];
      const [x, y, z] = [four(1, 1, 1, 1), four(0, 0, 0, 0), four(0, 0, 0, 0)];
      const { values } = device.pinned(4);
      axpy(x, y, 1, first);
      axpy(y, z, 2, 0n);
      ok(device.cuda.cuMemcpyDtoHAsync_v2(values, z, 16, second));
      ok(device.cuda.cuStreamSynchronize(second));
      expect([...values]).to.deep.equal([2, 2, 2, 2]);
    });

    it("finish before memory is freed, and when the context is waited for", () => {
      const { cuda } = device;
      const [stream, x, y] = [device.stream(), four(1, 1, 1, 1), four(0, 0, 0, 0)];
      axpy(x, y, 3, stream);
      ok(cuda.cuMemFree_v2(x));
      expect(read(y)).to.deep.equal([3, 3, 3, 3]);
      ok(cuda.cuMemsetD8Async(y, 0, 16, stream));
      ok(cuda.cuStreamDestroy_v2(stream));
      expect(read(y)).to.deep.equal([0, 0, 0, 0]);
      expect(cuda.cuStreamSynchronize(stream)).to.equal(INVALID_HANDLE);
    });

    it("copy rows, and fill bytes and words", () => {
      const { cuda } = device;
      const stream = device.stream();
      const from = device.upload(Float32Array.from({ length: 20 }, (_, i) => i));
      const to = device.alloc(48);
      ok(cuda.cuMemsetD32Async(to, 0x3f800000, 12, stream));
      // Columns 1 and 2 of rows 1 to 3 of 5 columns, into rows of 4.
      const [DEVICE, width, height] = [2n, 8n, 3n];
      const source = [4n, 1n, DEVICE, 0n, from, 0n, 20n];
      const target = [0n, 0n, DEVICE, 0n, to, 0n, 16n];
      const copy = BigUint64Array.of(...source, ...target, width, height);
      ok(cuda.cuMemcpy2DAsync_v2(copy, stream));
      ok(cuda.cuMemsetD8Async(to + 44n, 0, 4, stream));
      ok(cuda.cuStreamSynchronize(stream));
      expect([...device.floats(to, 12)]).to.deep.equal([6, 7, 1, 1, 11, 12, 1, 1, 16, 17, 1, 0]);
      copy[15] = 4n;
      expect(cuda.cuMemcpy2DAsync_v2(copy, stream), "a row too many").to.equal(1);
    });

    it("measure time between events that ask for it", () => {
      const { cuda } = device;
      const [stream, x] = [device.stream(), four(1, 1, 1, 1)];
      const [start, end, untimed] = [device.event(0), device.event(0), device.event(2)];
      for (const event of [start, end, untimed]) {
        ok(cuda.cuEventRecord(event, stream));
        axpy(x, x, 1, stream);
      }
      const ms = new Float32Array([-1]);
      expect(cuda.cuEventElapsedTime_v2(ms, start, end)).to.equal(NOT_READY);
      ok(cuda.cuStreamSynchronize(stream));
      ok(cuda.cuEventElapsedTime_v2(ms, start, end));
      expect(ms[0]).to.be.at.least(0);
      expect(cuda.cuEventElapsedTime_v2(ms, start, untimed)).to.equal(INVALID_HANDLE);
    });
  });

  describe("records streams as graphs that", () => {
    const capture = (stream: bigint, mode: number, work: () => void): bigint => {
      ok(device.cuda.cuStreamBeginCapture_v2(stream, mode));
      work();
      return made((out) => device.cuda.cuStreamEndCapture(stream, out));
    };
    const instantiate = (graph: bigint): bigint =>
      made((out) => device.cuda.cuGraphInstantiateWithFlags(out, graph, 0));
    const nodesOf = (graph: bigint): number =>
      Number(made((out) => device.cuda.cuGraphGetNodes(graph, null, out)));

    it("run nothing while recorded, and replay kernels, copies and fills with their arguments", () => {
      const { cuda } = device;
      const [stream, x, y] = [device.stream(), four(1, 2, 3, 4), four(0, 0, 0, 0)];
      const { values } = device.pinned(4);
      values.fill(0);
      const graph = capture(stream, THREAD_LOCAL, () => {
        axpy(x, y, 2, stream);
        ok(cuda.cuMemcpyDtoHAsync_v2(values, y, 16, stream));
        ok(cuda.cuMemsetD8Async(x, 0, 4, stream));
      });
      expect(nodesOf(graph)).to.equal(3);
      expect(read(y)).to.deep.equal([0, 0, 0, 0]);
      const exec = instantiate(graph);
      ok(cuda.cuGraphDestroy(graph));
      ok(cuda.cuGraphLaunch(exec, stream));
      ok(cuda.cuGraphLaunch(exec, stream));
      expect(read(y)).to.deep.equal([0, 0, 0, 0]);
      ok(cuda.cuStreamSynchronize(stream));
      expect([...values]).to.deep.equal([2, 8, 12, 16]);
      expect(read(x)).to.deep.equal([0, 2, 3, 4]);
      ok(cuda.cuGraphExecDestroy(exec));
    });

    it("outlive the graph's destruction while a launch waits", () => {
      const { cuda } = device;
      const [stream, x] = [device.stream(), four(1, 1, 1, 1)];
      const graph = capture(stream, THREAD_LOCAL, () => axpy(x, x, 1, stream));
      const exec = instantiate(graph);
      ok(cuda.cuGraphLaunch(exec, stream));
      ok(cuda.cuGraphExecDestroy(exec));
      ok(cuda.cuGraphDestroy(graph));
      ok(cuda.cuStreamSynchronize(stream));
      expect(read(x)).to.deep.equal([2, 2, 2, 2]);
      expect(cuda.cuGraphLaunch(exec, stream)).to.equal(INVALID_HANDLE);
    });

    it("fork to another stream and join, by events", () => {
      const { cuda } = device;
      const [main, side, event] = [device.stream(), device.stream(), device.event()];
      const [x, y, z] = [four(1, 1, 1, 1), four(0, 0, 0, 0), four(0, 0, 0, 0)];
      const graph = capture(main, THREAD_LOCAL, () => {
        axpy(x, y, 1, main);
        ok(cuda.cuEventRecord(event, main));
        ok(cuda.cuStreamWaitEvent(side, event, 0));
        axpy(y, z, 2, side);
        const status = new BigUint64Array(1);
        ok(cuda.cuStreamIsCapturing(side, status));
        expect(status[0]).to.equal(1n);
        ok(cuda.cuEventRecord(event, side));
        ok(cuda.cuStreamWaitEvent(main, event, 0));
        axpy(z, y, 3, main);
      });
      expect(nodesOf(graph)).to.equal(3);
      ok(cuda.cuGraphLaunch(instantiate(graph), main));
      ok(cuda.cuStreamSynchronize(main));
      expect([read(z), read(y)]).to.deep.equal([
        [2, 2, 2, 2],
        [7, 7, 7, 7],
      ]);
    });

    it("run what no event orders the other way round, so that a missing one shows", () => {
      const { cuda } = device;
      const [main, side, event] = [device.stream(), device.stream(), device.event()];
      const [x, y, z] = [four(1, 1, 1, 1), four(0, 0, 0, 0), four(0, 0, 0, 0)];
      const graph = capture(main, THREAD_LOCAL, () => {
        ok(cuda.cuEventRecord(event, main));
        ok(cuda.cuStreamWaitEvent(side, event, 0));
        axpy(x, y, 1, main);
        // Reads what the other stream writes, with nothing between the two.
        axpy(y, z, 1, side);
        ok(cuda.cuEventRecord(event, side));
        ok(cuda.cuStreamWaitEvent(main, event, 0));
      });
      ok(cuda.cuGraphLaunch(instantiate(graph), main));
      ok(cuda.cuStreamSynchronize(main));
      expect([read(y), read(z)]).to.deep.equal([
        [1, 1, 1, 1],
        [0, 0, 0, 0],
      ]);
    });

    it("must have joined what they forked", () => {
      const { cuda } = device;
      const [main, side, event] = [device.stream(), device.stream(), device.event()];
      const x = four(1, 1, 1, 1);
      ok(cuda.cuStreamBeginCapture_v2(main, THREAD_LOCAL));
      ok(cuda.cuEventRecord(event, main));
      ok(cuda.cuStreamWaitEvent(side, event, 0));
      axpy(x, x, 1, side);
      const graph = new BigUint64Array(1);
      expect(cuda.cuStreamEndCapture(side, graph)).to.equal(CAPTURE_UNMATCHED);
      expect(cuda.cuStreamEndCapture(main, graph)).to.equal(CAPTURE_INVALIDATED);

      ok(cuda.cuStreamBeginCapture_v2(main, THREAD_LOCAL));
      ok(cuda.cuEventRecord(event, main));
      ok(cuda.cuStreamWaitEvent(side, event, 0));
      axpy(x, x, 1, side);
      expect(cuda.cuStreamEndCapture(main, graph)).to.equal(CAPTURE_UNJOINED);
      expect(graph[0]).to.equal(0n);
      // Both streams are plain ones again.
      axpy(x, x, 1, side);
      ok(cuda.cuStreamSynchronize(side));
      expect(read(x)).to.deep.equal([2, 2, 2, 2]);
    });

    const spoilers: readonly (readonly [
      what: string,
      status: number,
      spoil: (stream: bigint, other: bigint) => number,
    ])[] = [
      [
        "memory is allocated",
        CAPTURE_UNSUPPORTED,
        () => device.cuda.cuMemAlloc_v2(new BigUint64Array(1), 16),
      ],
      [
        "the stream is waited for",
        CAPTURE_UNSUPPORTED,
        (stream) => device.cuda.cuStreamSynchronize(stream),
      ],
      ["the stream is asked", CAPTURE_UNSUPPORTED, (stream) => device.cuda.cuStreamQuery(stream)],
      ["the context is waited for", CAPTURE_UNSUPPORTED, () => device.cuda.cuCtxSynchronize()],
      [
        "an event of it is waited for",
        CAPTURED_EVENT,
        (stream) => {
          const event = device.event();
          ok(device.cuda.cuEventRecord(event, stream));
          return device.cuda.cuEventSynchronize(event);
        },
      ],
      [
        "it waits for an event of another stream",
        CAPTURE_ISOLATION,
        (stream, other) => {
          const event = device.event();
          ok(device.cuda.cuEventRecord(event, other));
          return device.cuda.cuStreamWaitEvent(stream, event, 0);
        },
      ],
      [
        "it copies to pageable memory",
        CAPTURE_UNSUPPORTED,
        (stream) => device.cuda.cuMemcpyDtoHAsync_v2(new Float32Array(4), four_, 16, stream),
      ],
    ];
    let four_ = 0n;
    for (const [what, status, spoil] of spoilers) {
      it(`are lost when ${what}`, () => {
        const { cuda } = device;
        four_ = four(1, 1, 1, 1);
        const [stream, other] = [device.stream(), device.stream()];
        ok(cuda.cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
        expect(spoil(stream, other)).to.equal(status);
        const launch = device.launch("probe_indices", [1, 1], [four_], { stream });
        expect(launch).to.equal(CAPTURE_INVALIDATED);
        const graph = new BigUint64Array(1);
        expect(cuda.cuStreamEndCapture(stream, graph)).to.equal(CAPTURE_INVALIDATED);
        expect(graph[0]).to.equal(0n);
        ok(cuda.cuStreamSynchronize(stream));
      });
    }

    it("bar the legacy stream where they come of a stream that is bound to it", () => {
      const { cuda } = device;
      const x = four(1, 1, 1, 1);
      const [bound, free] = [device.stream(0), device.stream(1)];
      ok(cuda.cuStreamBeginCapture_v2(free, RELAXED));
      expect(read(x)).to.deep.equal([1, 1, 1, 1]);
      ok(cuda.cuStreamEndCapture(free, new BigUint64Array(1)));
      ok(cuda.cuStreamBeginCapture_v2(bound, RELAXED));
      expect(cuda.cuMemcpyDtoH_v2(new Float32Array(4), x, 16)).to.equal(CAPTURE_IMPLICIT);
      expect(cuda.cuStreamEndCapture(bound, new BigUint64Array(1))).to.equal(CAPTURE_INVALIDATED);
    });

    it("allow allocations where they are recorded in relaxed mode", () => {
      const { cuda } = device;
      const stream = device.stream();
      const graph = capture(stream, RELAXED, () => ok(cuda.cuMemFree_v2(device.alloc(16))));
      expect(nodesOf(graph)).to.equal(0);
      ok(cuda.cuGraphLaunch(instantiate(graph), stream));
      ok(cuda.cuStreamSynchronize(stream));
    });

    it("cannot be recorded of the legacy stream, nor twice at once", () => {
      const { cuda } = device;
      const stream = device.stream();
      expect(cuda.cuStreamBeginCapture_v2(0, THREAD_LOCAL)).to.equal(CAPTURE_UNSUPPORTED);
      ok(cuda.cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
      expect(cuda.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)).to.equal(401);
    });
  });
});
