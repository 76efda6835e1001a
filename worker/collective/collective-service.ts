import type { ServiceDefinition } from "@grpc/grpc-js";
import type {
  PullFramesRequest,
  PullFramesRequest__Output,
} from "../../shared/rpc/gen/rankmesh/v1/PullFramesRequest.ts";
import { services } from "../../shared/rpc/proto.ts";
import { decodeFrame, type OutgoingFrame, type TaggedFrame } from "./frame-codec.ts";

/** PullFrames with frames coded by hand. */
export interface PullFramesMethod {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly originalName?: string;
  readonly requestSerialize: (request: PullFramesRequest) => Buffer;
  readonly requestDeserialize: (bytes: Buffer) => PullFramesRequest__Output;
  readonly responseSerialize: (frame: OutgoingFrame) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => TaggedFrame;
}

/** CollectiveService as this project's workers serve and call it: on the wire what the .proto file says. */
export function collectiveService(): {
  readonly name: string;
  readonly definition: ServiceDefinition & { readonly PullFrames: PullFramesMethod };
} {
  const { name, definition } = services().collective;
  const PullFrames: PullFramesMethod = {
    ...definition.PullFrames,
    // grpc-js reads byteLength and calls copy; a frame that answers both saves a copy of the payload.
    responseSerialize: (frame) => frame as unknown as Buffer,
    responseDeserialize: decodeFrame,
  };
  return { name, definition: { ...definition, PullFrames } };
}
