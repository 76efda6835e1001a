import { expect } from "chai";
import koffi from "koffi";
import { UnavailableError } from "../../../../../shared/errors.ts";
import type { CollectiveOp, Program, Slot } from "../../../../../shared/program/program.ts";
import type { LoadedProgram } from "../../../../../worker/backend/backend.ts";
import { CudaBackend } from "../../../../../worker/backend/cuda/cuda-backend.ts";
import type {
  CollectiveBuffers,
  Frame,
  Transport,
} from "../../../../../worker/collective/collective.ts";
import { PeerCollectiveGroup } from "../../../../../worker/collective/collective-group.ts";
import { pieceCount } from "../../../../../worker/collective/operand-pieces.ts";
import { ControlBlock } from "../../../../../worker/compute/control-block.ts";
import { SharedPieces } from "../../../../../worker/compute/shared-pieces.ts";
import { descriptor, key, lineMesh } from "../../../../support/collectives.ts";
import { programOf } from "../../../../support/conformance.ts";
import { bindCudaCalls, type CudaCalls, ok } from "../../../../support/cuda-calls.ts";
import { ADD } from "../../../../support/loaded-program-suite.ts";
import { type LookAlike, lookAlike } from "../../../../support/look-alike.ts";

/** Floats of a piece. */
const PIECE = 1024;
const PIECE_BYTES = 4 * PIECE;
/** What the look-alike's driver fills memory with that nobody has written. */
const isPoison = (value: number): boolean => Number.isNaN(value);

/** Rank 0 of two. Collectives follow each other; each has slots of its own, or one slot. */
function programWith(
  ops: readonly {
    readonly op: CollectiveOp;
    readonly pieces: number;
    readonly inPlace?: boolean;
  }[],
): Program {
  const { program } = programOf(ADD);
  const slots: Slot[] = [];
  let at = 0;
  const add = (elements: number): number => {
    const sizeBytes = 4 * elements;
    slots.push({
      name: `s${slots.length}`,
      dtype: "float32",
      shape: [elements],
      offsetBytes: at,
      sizeBytes,
    });
    at += sizeBytes;
    return slots.length - 1;
  };
  const collectives = ops.map(({ op, pieces, inPlace }, index) => {
    const full = pieces * PIECE;
    const chunk = op === "allReduce" ? full : full / 2;
    const inputSlot = add(op === "allGather" ? chunk : full);
    const outputSlot = inPlace === true ? inputSlot : add(op === "reduceScatter" ? chunk : full);
    const label = `c${index}`;
    const fields = {
      op,
      algorithm: "direct",
      chunkElements: chunk,
      segmentBytes: PIECE_BYTES,
    } as const;
    return { ...descriptor(2, fields), inputSlot, outputSlot, label };
  });
  const body = collectives.flatMap((_, collective) => [
    { kind: "start", collective } as const,
    { kind: "wait", collective } as const,
  ]);
  const memoryByKind = { activations: at };
  return { ...program, mesh: lineMesh(2), slots, arenaBytes: at, memoryByKind, collectives, body };
}

/** The other rank is the test. */
class Peer implements Transport {
  readonly rank = 0;
  readonly frames: Frame[] = [];
  arrive: (peer: number, frame: Frame) => void = () => undefined;

  connect(): Promise<void> {
    return Promise.resolve();
  }
  send(_peer: number, frame: Frame): undefined {
    this.frames.push({ ...frame, payload: frame.payload.slice() });
  }
  onFrame(handler: (peer: number, frame: Frame) => void): void {
    this.arrive = handler;
  }
  onPeerLost(): void {}
  pause(): void {}
  resume(): void {}
  close(): Promise<void> {
    return Promise.resolve();
  }
}

const floats = (elements: number, first: number): Float32Array =>
  Float32Array.from({ length: elements }, (_, i) => first + i);
const bytes = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer);

/** Rank 0: its program on the look-alike, and both threads' sides of its collectives in this one. */
class Rank {
  readonly program: Program;
  readonly loaded: LoadedProgram;
  readonly control: ControlBlock;
  readonly peer = new Peer();
  readonly group: PeerCollectiveGroup;
  readonly views: readonly (CollectiveBuffers & { readonly staging: SharedPieces | undefined })[];

  constructor(backend: CudaBackend, program: Program) {
    this.program = program;
    this.loaded = backend.load(program, 0);
    const numCollectives = program.collectives.length;
    this.control = new ControlBlock({ numCollectives });
    this.group = new PeerCollectiveGroup({ program, rank: 0, transport: this.peer });
    this.views = program.collectives.map(({ inputSlot, outputSlot }, index) => {
      const { input, output, pieces } = this.loaded.collectiveOperands(index);
      const view = (address: bigint, slot: number): Uint8Array =>
        new Uint8Array(koffi.view(address, program.slots[slot]?.sizeBytes ?? 0));
      const staging = pieces && new SharedPieces(pieces, this.control, index);
      return { input: view(input, inputSlot), output: view(output, outputSlot), staging };
    });
  }

  inputs(index: number): number {
    const { staging } = this.#view(index);
    return staging === undefined ? 1 : pieceCount(staging.pieces.input);
  }

  /** The host's floats at the beginning of a piece. */
  host(side: "input" | "output", index: number): number[] {
    const view = new Float32Array(this.#view(index)[side].slice().buffer);
    return Array.from({ length: Math.ceil(view.length / PIECE) }, (_, i) => view[i * PIECE] ?? 0);
  }

  device(slot: number): Float32Array {
    const into = new Uint8Array(this.program.slots[slot]?.sizeBytes ?? 0);
    this.loaded.read(slot, into);
    return new Float32Array(into.buffer);
  }

  start(index: number): void {
    this.control.clearPieces(index);
    this.loaded.startCollective(index);
  }

  /** Waits for the next piece of the input. */
  bring(index: number): void {
    const arrived = this.control.arrivedPieces(index);
    this.loaded.collectiveReady(index, true, arrived);
    this.control.setArrivedPieces(index, arrived + 1);
    if (arrived > 0) this.#view(index).staging?.arrivedMore();
  }

  run(index: number, step = 0): Promise<void> {
    const collective = this.program.collectives[index];
    if (collective === undefined) throw new Error(`no collective ${index}`);
    return this.group.run(collective, key(index, step, index), this.#view(index), 0);
  }

  /** The peer's frame `segment` of one piece: floats from `first` on. */
  frame(index: number, segment: number, first: number, step = 0): void {
    const payload = bytes(floats(PIECE, first));
    this.peer.arrive(1, { ...key(index, step, index), segment, batchHash: 0, payload });
  }

  /** What the compute thread does when it is woken. */
  returnFinal(index: number): number {
    const final = this.control.finalPieces(index);
    this.loaded.returnPieces?.(index, final);
    return final;
  }

  #view(index: number): (typeof this.views)[number] {
    const view = this.views[index];
    if (view === undefined) throw new Error(`no collective ${index}`);
    return view;
  }
}

/** The look-alike runs a copy when something waits for it, and no earlier. */
describe("operands staged on the host, on the look-alike", () => {
  let device: LookAlike;
  let cuda: CudaCalls;
  let backend: CudaBackend;
  let rank: Rank | undefined;

  before(() => {
    device = lookAlike();
    cuda = bindCudaCalls(koffi.load(device.path));
  });
  beforeEach(() => {
    backend = new CudaBackend({ leastPieceBytes: PIECE_BYTES });
  });
  afterEach(() => {
    rank?.group.abort(new UnavailableError("the test is over"));
    rank = undefined;
    device.clear();
  });

  function load(...ops: Parameters<typeof programWith>[0]): Rank {
    rank = new Rank(backend, programWith(ops));
    return rank;
  }

  function end(): void {
    rank?.loaded.dispose();
    backend.close();
    expect(device.leaks()).to.deep.equal([]);
  }

  for (const inPlace of [false, true]) {
    const where = inPlace ? "in place" : "from one slot to another";
    it(`all-reduce ${where}: frames of the first piece leave before the last is on the host, and what is final is on the device before the last frame came`, async () => {
      const r = load({ op: "allReduce", pieces: 4, inPlace });
      expect(r.views[0]?.staging?.pieces.outputAt).to.equal(inPlace ? 0 : undefined);
      const [input = -1, output = -1] = inPlace ? [0, 0] : [0, 1];
      r.loaded.write(input, bytes(floats(4 * PIECE, 1)));
      r.start(0);
      r.bring(0);
      const running = r.run(0);
      expect(r.peer.frames.map(({ segment }) => segment)).to.deep.equal([0]);
      expect(r.peer.frames[0]?.payload).to.deep.equal(bytes(floats(PIECE, 1)));
      expect(r.host("input", 0).map(isPoison)).to.deep.equal([false, true, true, true]);

      // The peer is ahead: what it sends is summed as own input comes.
      for (let segment = 0; segment < 3; segment++) r.frame(0, segment, 10_000);
      expect(r.control.finalPieces(0)).to.equal(0b0001);
      expect(r.host("output", 0)[0]).to.equal(10_001);
      r.bring(0);
      expect(r.returnFinal(0)).to.equal(0b0011);
      while (r.control.arrivedPieces(0) < 4) r.bring(0);
      expect(r.returnFinal(0)).to.equal(0b0111);
      ok(cuda.cuCtxSynchronize());
      const halfway = r.device(output);
      const at = (piece: number): number => halfway[piece * PIECE] ?? 0;
      expect([at(0), at(1), at(2)]).to.deep.equal([10_001, 10_001 + PIECE, 10_001 + 2 * PIECE]);
      if (inPlace) expect(at(3)).to.equal(1 + 3 * PIECE);
      else expect(at(3)).to.be.NaN;

      r.frame(0, 3, 10_000);
      await running;
      r.loaded.finishCollective(0);
      const wanted = floats(4 * PIECE, 1).map((value, i) => value + 10_000 + (i % PIECE));
      expect(r.device(output)).to.deep.equal(wanted);
      end();
    });
  }

  it("reduce-scatter and all-gather bring and return by the same rule", async () => {
    const r = load({ op: "reduceScatter", pieces: 8 }, { op: "allGather", pieces: 8 });
    expect([r.inputs(0), r.inputs(1)]).to.deep.equal([8, 4]);
    r.loaded.write(0, bytes(floats(8 * PIECE, 1)));
    r.start(0);
    // The chunk of the other, and the own one that is summed: in turn.
    expect(r.views[0]?.staging?.pieces.order).to.deep.equal([0, 4, 1, 5, 2, 6, 3, 7]);
    r.bring(0);
    const scattering = r.run(0);
    expect(r.peer.frames).to.have.length(0);
    r.bring(0);
    expect(r.peer.frames.map(({ segment }) => segment)).to.deep.equal([0]);
    expect(r.host("input", 0).map(isPoison)).to.deep.equal(
      Array.from({ length: 8 }, (_, piece) => piece !== 0 && piece !== 4),
    );
    for (let segment = 0; segment < 4; segment++) {
      while (r.control.arrivedPieces(0) < 2 + 2 * segment) r.bring(0);
      r.frame(0, segment, 10_000);
      expect(r.returnFinal(0)).to.equal((1 << (segment + 1)) - 1);
    }
    await scattering;
    r.loaded.finishCollective(0);
    const sums = floats(4 * PIECE, 1).map((value, i) => value + 10_000 + (i % PIECE));
    expect(r.device(1)).to.deep.equal(sums);

    r.loaded.write(2, bytes(floats(4 * PIECE, 1)));
    r.start(1);
    r.bring(1);
    const gathering = r.run(1);
    // The own chunk lies in the output as soon as it is there.
    expect(r.returnFinal(1)).to.equal(0b0001);
    for (let segment = 0; segment < 4; segment++) r.frame(1, segment, 10_000);
    expect(r.returnFinal(1)).to.equal(0b1111_0001);
    while (r.control.arrivedPieces(1) < 4) r.bring(1);
    await gathering;
    r.loaded.finishCollective(1);
    const gathered = r.device(3);
    expect(gathered.subarray(0, 4 * PIECE)).to.deep.equal(floats(4 * PIECE, 1));
    expect(gathered[4 * PIECE]).to.equal(10_000);
    expect(gathered.at(-1)).to.equal(10_000 + PIECE - 1);
    end();
  });

  it("a second collective takes the same host memory when the first one's result has left it", async () => {
    const r = load({ op: "allReduce", pieces: 2 }, { op: "allReduce", pieces: 2 });
    const places = [0, 1].map((index) => r.loaded.collectiveOperands(index).input);
    expect(places[0]).to.equal(places[1]);
    r.loaded.write(0, bytes(floats(2 * PIECE, 1)));
    r.loaded.write(2, bytes(floats(2 * PIECE, 5000)));
    for (const index of [0, 1]) {
      r.start(index);
      r.bring(index);
      const running = r.run(index);
      r.frame(index, 0, 10_000);
      expect(r.returnFinal(index)).to.equal(0b01);
      r.bring(index);
      r.frame(index, 1, 20_000);
      await running;
      r.loaded.finishCollective(index);
    }
    // Nothing but the streams' own order has made any copy to the device run so far.
    for (const [slot, first] of [
      [1, 1],
      [3, 5000],
    ] as const) {
      const result = r.device(slot);
      expect([result[0], result[PIECE]]).to.deep.equal([first + 10_000, first + PIECE + 20_000]);
    }
    end();
  });

  it("a collective that runs again returns all of its result again, each piece once", async () => {
    const r = load({ op: "allReduce", pieces: 4 });
    const returns = (): number => device.calls("cuMemcpyHtoDAsync_v2");
    for (const step of [0, 1]) {
      r.loaded.write(0, bytes(floats(4 * PIECE, 1000 * step)));
      const before = returns();
      r.start(0);
      while (r.control.arrivedPieces(0) < 4) r.bring(0);
      const running = r.run(0, step);
      for (let segment = 0; segment < 4; segment++) {
        r.frame(0, segment, 10_000, step);
        if (segment < 3) r.returnFinal(0);
      }
      await running;
      r.loaded.finishCollective(0);
      expect(returns() - before).to.equal(4);
      const result = r.device(1);
      const firsts = [0, 1, 2, 3].map((piece) => result[piece * PIECE]);
      const wanted = [0, 1, 2, 3].map((piece) => 1000 * step + piece * PIECE + 10_000);
      expect(firsts).to.deep.equal(wanted);
    }
    end();
  });

  it("operands of one piece come and go whole, with the calls that they always took", async () => {
    backend = new CudaBackend();
    const r = load({ op: "allReduce", pieces: 4 });
    expect(r.loaded.collectiveOperands(0).pieces).to.equal(undefined);
    r.loaded.write(0, bytes(floats(4 * PIECE, 1)));
    const names = [
      "cuMemcpyDtoHAsync_v2",
      "cuMemcpyHtoDAsync_v2",
      "cuEventRecord",
      "cuStreamWaitEvent",
    ];
    const before = names.map((name) => device.calls(name));
    r.start(0);
    r.loaded.collectiveReady(0, true);
    const running = r.run(0);
    for (let segment = 0; segment < 4; segment++) r.frame(0, segment, 10_000);
    await running;
    r.loaded.finishCollective(0);
    expect(names.map((name, i) => device.calls(name) - (before[i] ?? 0))).to.deep.equal([
      1, 1, 2, 1,
    ]);
    expect(r.device(1)[PIECE]).to.equal(10_001 + PIECE);
    end();
  });

  it("take no more host memory in pieces than whole", () => {
    const program = programWith([{ op: "allReduce", pieces: 40 }]);
    const bytesOf = (made: CudaBackend): number | undefined => {
      const loaded = made.load(program, 0);
      const held = made.memory.byKind()["pinned host"];
      loaded.dispose();
      made.close();
      return held;
    };
    expect(bytesOf(backend)).to.equal(bytesOf(new CudaBackend()));
  });

  it("come in 32 pieces at most", () => {
    const r = load({ op: "allReduce", pieces: 40 });
    expect(r.inputs(0)).to.equal(20);
    end();
  });

  it("are given back in the middle of everything", () => {
    const r = load({ op: "allReduce", pieces: 4 });
    r.loaded.write(0, bytes(floats(4 * PIECE, 1)));
    r.start(0);
    r.bring(0);
    r.run(0).catch(() => undefined);
    r.frame(0, 0, 10_000);
    expect(r.returnFinal(0)).to.equal(0b0001);
    r.group.abort(new UnavailableError("cancelled"));
    end();
  });
});
