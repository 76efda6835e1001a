import { MessageChannel, type MessagePort } from "node:worker_threads";

/** Smaller buffers may share their memory with others, and are cheap to collect. */
const SMALLEST_BYTES = 64 << 10;

let closedPort: MessagePort | undefined;

/**
 * Frees the memory behind `bytes` now, in place of at some later garbage collection: the next message gets the same memory, still in
 * the processor's cache, and V8 does not collect because of it. Only the memory's sole user may call this: afterwards
 * `bytes` and every other view of it are empty.
 *
 * Does nothing for memory that holds more than these bytes and a header of at most 64 bytes before them.
 */
export function releaseBuffer(bytes: Uint8Array): void {
  const { buffer, byteOffset, byteLength } = bytes;
  const whole = byteOffset <= 64 && byteOffset + byteLength === buffer.byteLength;
  if (!whole || byteLength < SMALLEST_BYTES || !(buffer instanceof ArrayBuffer)) return;
  // A message to a port that has lost its other end is dropped, and what was moved into it freed.
  closedPort ??= portWithoutPeer();
  closedPort.postMessage(undefined, [buffer]);
}

function portWithoutPeer(): MessagePort {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  port1.unref();
  return port1;
}
