import type { Frame, Transport } from "../../worker/collective/collective.ts";

/** A transport of rank 0 whose peers are the test: it hands in frames and sees what is sent. */
export class ScriptedTransport implements Transport {
  readonly rank = 0;
  readonly sent: { readonly peer: number; readonly frame: Frame }[] = [];
  readonly paused = new Set<number>();
  /** Set: what send returns, as a transport without room does. */
  room: Promise<void> | undefined;
  arrive: (peer: number, frame: Frame) => void = () => undefined;
  lose: (peer: number, cause: Error) => void = () => undefined;

  get sentSegments(): number[] {
    return this.sent.map(({ frame }) => frame.segment);
  }

  connect(): Promise<void> {
    return Promise.resolve();
  }
  send(peer: number, frame: Frame): Promise<void> | undefined {
    this.sent.push({ peer, frame });
    return this.room;
  }
  onFrame(handler: (peer: number, frame: Frame) => void): void {
    this.arrive = handler;
  }
  onPeerLost(handler: (peer: number, cause: Error) => void): void {
    this.lose = handler;
  }
  pause(peer: number): void {
    this.paused.add(peer);
  }
  resume(peer: number): void {
    this.paused.delete(peer);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}
