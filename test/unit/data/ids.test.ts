import { expect } from "chai";
import { int32Values } from "../../../coordinator/data/ids.ts";

describe("ids in bytes", () => {
  for (const offset of [0, 1, 2, 3, 4]) {
    it(`are read at address ${offset} of an array and of a Buffer`, () => {
      const values = Int32Array.of(1, -2, 2 ** 31 - 1);
      const held = new Uint8Array(offset + values.byteLength + 3);
      held.set(new Uint8Array(values.buffer), offset);
      const bytes = held.subarray(offset, offset + values.byteLength);
      expect([...int32Values(bytes)]).to.deep.equal([...values]);
      // A Buffer's slice is no copy, unlike an array's.
      const buffer = Buffer.from(held.buffer, offset, values.byteLength);
      expect([...int32Values(buffer)]).to.deep.equal([...values]);
    });
  }
});
