import { expect } from "chai";
import type { JobEvent } from "../../../client/job-types.ts";
import { watchEvents } from "../../../client/watch.ts";
import { NotFoundError, UnavailableError } from "../../../shared/errors.ts";
import { caught } from "../../support/caught.ts";

function event(eventId: number, last = 5): JobEvent {
  if (eventId === last) {
    return {
      eventId,
      time: undefined,
      kind: "state",
      state: "SUCCEEDED",
      reason: "",
      error: undefined,
      ranks: [],
    };
  }
  return {
    eventId,
    time: undefined,
    kind: "log",
    level: "info",
    message: `${eventId}`,
    rank: undefined,
  };
}

/** Connections that each give the events after the asked id, up to `breakAfter`, and then fail with `error`. */
function flaky(
  breakAfter: readonly number[],
  error: Error = new UnavailableError("connection broke"),
) {
  const opened: (number | undefined)[] = [];
  return {
    opened,
    hasEnded: async () => false,
    async *open(after: number | undefined): AsyncGenerator<JobEvent> {
      const limit = breakAfter[opened.length];
      opened.push(after);
      for (let id = (after ?? 0) + 1; id <= 5; id++) {
        if (limit !== undefined && id > limit) throw error;
        yield event(id);
      }
    },
  };
}

async function ids(events: AsyncIterable<JobEvent>): Promise<number[]> {
  const seen: number[] = [];
  for await (const { eventId } of events) seen.push(eventId);
  return seen;
}

describe("watching a job", () => {
  it("gives each event once and in order over broken connections", async () => {
    const source = flaky([2, 2, 4]);
    expect(await ids(watchEvents(source, {}))).to.deep.equal([1, 2, 3, 4, 5]);
    expect(source.opened).to.deep.equal([undefined, 2, 2, 4]);
  });

  it("starts after the asked event", async () => {
    expect(await ids(watchEvents(flaky([]), { afterEventId: 3 }))).to.deep.equal([4, 5]);
  });

  it("tells of each lost connection", async () => {
    const told: string[] = [];
    const options = { onReconnect: (error: Error) => void told.push(error.message) };
    await ids(watchEvents(flaky([2, 4]), options));
    expect(told).to.deep.equal(["connection broke", "connection broke"]);
  });

  it("fails at once when the first connection does", async () => {
    const source = flaky([0]);
    expect(await caught(ids(watchEvents(source, {})))).to.be.instanceOf(UnavailableError);
    expect(source.opened).to.have.length(1);
  });

  it("fails when a lost coordinator stays away", async () => {
    const error = await caught(ids(watchEvents(flaky([2, 0, 0, 0, 0, 0]), { reconnectMs: 150 })));
    expect(error).to.be.instanceOf(UnavailableError);
    expect(error.message).to.equal("connection broke (dialled again for 150 ms)");
  });

  it("does not dial again for an error that will not go away", async () => {
    const error = await caught(ids(watchEvents(flaky([2], new NotFoundError("no such job")), {})));
    expect(error.message).to.equal("no such job");
  });

  it("ends when the job has ended and nothing is left to replay", async () => {
    const source = { open: () => (async function* () {})(), hasEnded: async () => true };
    expect(await ids(watchEvents(source, { afterEventId: 5 }))).to.deep.equal([]);
  });

  it("dials again when a stream ends in order before the job does", async () => {
    let opened = 0;
    const source = {
      hasEnded: async () => false,
      async *open(after: number | undefined) {
        opened += 1;
        yield event((after ?? 3) + 1);
      },
    };
    expect(await ids(watchEvents(source, {}))).to.deep.equal([4, 5]);
    expect(opened).to.equal(2);
  });

  it("throws the signal's reason when it is aborted between connections", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const options = { signal: controller.signal, onReconnect: () => controller.abort(reason) };
    expect(await caught(ids(watchEvents(flaky([2, 2]), options)))).to.equal(reason);
  });
});
