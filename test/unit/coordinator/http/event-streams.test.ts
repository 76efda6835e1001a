import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { expect } from "chai";
import { EventStreams, type StreamSource } from "../../../../coordinator/http/event-streams.ts";
import { poll } from "../../../support/cli.ts";

/** An overview of many bytes that is another one each time. */
function largeOverviews(bytes: number): StreamSource & { readonly made: () => number } {
  let made = 0;
  const source = {
    instance: "abc",
    now: () => ({ now: "2026-01-02T03:04:05.000Z" }),
    overview: () => {
      made += 1;
      return { made, padding: "x".repeat(bytes) };
    },
    job: () => undefined,
    made: () => made,
  };
  return source as unknown as StreamSource & { readonly made: () => number };
}

describe("streams of events", () => {
  let server: Server;
  let streams: EventStreams;
  let buffered: () => number;
  const sockets: Socket[] = [];

  async function serve(source: StreamSource, slowMs: number): Promise<void> {
    streams = new EventStreams(source, { maxStreams: 3, slowMs });
    server = createServer((request, response) => {
      streams.open(request, response, undefined);
      buffered = () => response.writableLength;
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  }

  async function ask(): Promise<Socket> {
    const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
    sockets.push(socket);
    await once(socket, "connect");
    socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    return socket;
  }

  afterEach(() => {
    streams.close();
    for (const socket of sockets.splice(0)) socket.destroy();
    server.closeAllConnections();
    server.close();
  });

  it("queue nothing for a client that does not read, and cut it off", async () => {
    const bytes = 8_000_000;
    const source = largeOverviews(bytes);
    await serve(source, 1_500);
    const socket = await ask();
    socket.pause();
    await poll(() => (source.made() > 0 ? true : undefined), "first overview");
    let most = 0;
    await poll(() => {
      most = Math.max(most, buffered());
      return streams.size === 0 ? true : undefined;
    }, "end of the stream");
    expect(most).to.be.below(2 * bytes);
  });

  it("tell a client that reads on what is new, again and again", async () => {
    const source = largeOverviews(10);
    await serve(source, 1_500);
    const socket = await ask();
    let text = "";
    socket.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    await poll(() => (text.split("event: overview").length > 4 ? true : undefined), "overviews");
    expect(text).to.contain(
      'retry: 1000\n\nevent: clock\ndata: {"now":"2026-01-02T03:04:05.000Z"}\n\n',
    );
    expect(streams.size).to.equal(1);
  });

  it("do nothing while nobody listens", async () => {
    const source = largeOverviews(10);
    await serve(source, 1_500);
    const socket = await ask();
    await poll(() => (source.made() > 0 ? true : undefined), "first overview");
    socket.destroy();
    await poll(() => (streams.size === 0 ? true : undefined), "end of the stream");
    const made = source.made();
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect(source.made()).to.be.at.most(made + 1);
  });

  it("are no more than the limit", async () => {
    await serve(largeOverviews(10), 1_500);
    for (let i = 0; i < 3; i++) await ask();
    await poll(() => (streams.size === 3 ? true : undefined), "three streams");
    expect(streams.hasRoom).to.equal(false);
  });
});
