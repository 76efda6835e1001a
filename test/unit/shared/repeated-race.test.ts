import { expect } from "chai";
import { RepeatedRace } from "../../../shared/repeated-race.ts";
import { caught } from "../../support/caught.ts";
import { collectGarbage } from "../../support/garbage.ts";

describe("a race of one promise against others, one after another", () => {
  it("is won by what comes first, also where that is an error", async () => {
    let end: (value: string) => void = () => {};
    const ending = new Promise<string>((resolve) => {
      end = resolve;
    });
    const race = new RepeatedRace(ending);
    expect(await race.against(1)).to.equal(1);
    expect(await race.against(Promise.resolve(2))).to.equal(2);
    expect((await caught(race.against(Promise.reject(new Error("no work"))))).message).to.equal(
      "no work",
    );
    const waiting = race.against(new Promise(() => {}));
    end("over");
    expect(await waiting).to.equal("over");
    expect(await race.against(new Promise(() => {}))).to.equal("over");
  });

  it("ends in the ending's error, and swallows what comes after it", async () => {
    const race = new RepeatedRace(Promise.reject(new Error("cut off")));
    let fail: (error: Error) => void = () => {};
    const work = new Promise<never>((_, reject) => {
      fail = reject;
    });
    expect((await caught(race.against(work))).message).to.equal("cut off");
    fail(new Error("too late"));
    await new Promise((resolve) => setImmediate(resolve));
  });

  it("keeps nothing of what was raced against", async () => {
    const race = new RepeatedRace(new Promise<never>(() => {}));
    const seen: WeakRef<Buffer>[] = [];
    for (let i = 0; i < 100; i++) {
      const result = await race.against(Promise.resolve(Buffer.alloc(1000)));
      seen.push(new WeakRef(result));
    }
    await collectGarbage();
    expect(seen.filter((one) => one.deref() !== undefined)).to.have.length.below(5);
    expect(await race.against("still open")).to.equal("still open");
  });
});
