import { workerData } from "node:worker_threads";
import type { DeviceFailure, DeviceReply, DeviceRequest, DeviceStart } from "./messages.ts";
import { openDevice } from "./open-device.ts";
import { RequestRunner } from "./request-runner.ts";

/**
 * The thread that owns the WebGPU device. WebGPU answers through its event loop, which the compute thread does not have: that
 * posts requests here and sleeps on a word of shared memory where it needs an answer.
 */
const start = workerData as DeviceStart;
const replies = new Int32Array(start.replies);

function reply(message: DeviceReply, transfer: readonly ArrayBuffer[] = []): void {
  start.port.postMessage(message, transfer);
  Atomics.add(replies, 0, 1);
  Atomics.notify(replies, 0);
}

function fail(failure: DeviceFailure): void {
  reply({ kind: "failed", failure });
}

async function closeDevice(runner: RequestRunner | undefined, device: GPUDevice): Promise<void> {
  // A device that has failed owes nothing any more.
  await runner?.close().catch(() => undefined);
  device.destroy();
}

const opened = await openDevice(start.options, fail);
if (typeof opened === "string") {
  reply({ kind: "unavailable", why: opened });
  start.port.close();
} else {
  // Nothing is allocated before the first program is loaded.
  let runner: RequestRunner | undefined;
  start.port.on("message", (request: DeviceRequest) => {
    if (request.kind === "close") {
      void closeDevice(runner, opened.device).then(() => {
        reply({ kind: "closed" });
        start.port.close();
      });
      return;
    }
    try {
      runner ??= new RequestRunner(opened.device, start, reply, fail);
      runner.run(request);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      fail({ call: request.kind, status: "internal", text });
    }
  });
  reply({ kind: "ready", adapter: opened.facts });
}
