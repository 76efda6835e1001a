import { expect } from "chai";
import fc from "fast-check";
import { DataLossError } from "../../../../shared/errors.ts";
import { services } from "../../../../shared/rpc/proto.ts";
import {
  decodeFrame,
  encodeFrame,
  FRAME_HEADER_BYTES,
} from "../../../../worker/collective/frame-codec.ts";

/** The codec that any other gRPC client has, from the .proto file. */
function protoCodec() {
  const { responseSerialize, responseDeserialize } = services().collective.definition.PullFrames;
  return { encode: responseSerialize, decode: responseDeserialize };
}

const uint32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const frames = fc.record({
  generation: fc.maxSafeNat(),
  step: fc.maxSafeNat(),
  microbatch: uint32,
  collective: uint32,
  segment: uint32,
  batchHash: uint32,
  payload: fc.uint8Array({ maxLength: 300 }),
});

describe("frame codec", () => {
  it("writes what the .proto file's codec reads", () => {
    fc.assert(
      fc.property(frames, (frame) => {
        const read = protoCodec().decode(encodeFrame(frame));
        expect({ ...read, payload: [...read.payload] }).to.deep.equal({
          ...frame,
          payload: [...frame.payload],
        });
      }),
    );
  });

  it("reads what the .proto file's codec writes, defaults left out", () => {
    fc.assert(
      fc.property(frames, (frame) => {
        const read = decodeFrame(
          protoCodec().encode({ ...frame, payload: Buffer.from(frame.payload) }),
        );
        expect({ ...read, payload: [...read.payload] }).to.deep.equal({
          ...frame,
          payload: [...frame.payload],
        });
      }),
    );
  });

  it("puts the payload at a multiple of 8 behind gRPC's prefix of 5 bytes", () => {
    expect((FRAME_HEADER_BYTES + 5) % 8).to.equal(0);
    const frame = {
      generation: 1,
      step: 2,
      microbatch: 0,
      collective: 3,
      segment: 4,
      batchHash: 5,
      payload: Uint8Array.of(9),
    };
    expect(encodeFrame(frame)).to.have.length(FRAME_HEADER_BYTES + 1);
    expect(encodeFrame(frame)[FRAME_HEADER_BYTES]).to.equal(9);
  });

  it("skips fields it does not know", () => {
    const unknown = Buffer.from([
      0x40, 0x01, 0x49, 1, 2, 3, 4, 5, 6, 7, 8, 0x52, 2, 7, 7, 0x5d, 1, 2, 3, 4,
    ]);
    const read = decodeFrame(Buffer.concat([unknown, Buffer.from([0x10, 0x07])]));
    expect(read.step).to.equal(7);
  });

  it("throws DataLossError for bytes that are no message, and nothing else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        try {
          decodeFrame(bytes);
        } catch (error) {
          expect(error).to.be.instanceOf(DataLossError);
        }
      }),
    );
    expect(() => decodeFrame(Uint8Array.of(0x7a, 200, 1, 0))).to.throw(
      DataLossError,
      "ends 199 bytes before its field",
    );
    expect(() => decodeFrame(Uint8Array.of(0x10, 0x80))).to.throw(
      DataLossError,
      "ends inside a number",
    );
    expect(() => decodeFrame(Uint8Array.of(0x0b))).to.throw(DataLossError, "wire type 3");
  });
});
