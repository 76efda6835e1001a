import { PeerCollectiveGroup, sourcesOf } from "./collective/collective-group.ts";
import type { CollectiveHub } from "./collective/collective-hub.ts";
import { GrpcTransport } from "./collective/grpc-transport.ts";
import type { OpenRing } from "./ring.ts";

/** Rings over CollectiveService, whose server side `hub` is. */
export function openGrpcRing(hub: CollectiveHub): OpenRing {
  return ({ jobId, generation, rank, addresses, program, collectiveTimeoutMs }, observer) => {
    const transport = new GrpcTransport({ jobId, generation, rank, addresses, hub });
    const timeoutMs = collectiveTimeoutMs;
    const group = new PeerCollectiveGroup({ program, rank, transport, timeoutMs, observer });
    return {
      group,
      waitingFor: () => group.waitingFor(),
      connect: (deadlineMs) => transport.connect(sourcesOf(program, rank), deadlineMs),
      close: () => transport.close(),
    };
  };
}
