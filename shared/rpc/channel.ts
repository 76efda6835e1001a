import type { ChannelOptions } from "@grpc/grpc-js";

/** Largest control message either side takes. A program of a 32-layer model stays under 1 MiB. */
export const CONTROL_MESSAGE_LIMIT_BYTES = 4 << 20;

/** Largest reply to a user's call: the report of a plan has some 3 kB a layer and rank, a job 16 bytes a step. */
export const REPLY_LIMIT_BYTES = 256 << 20;

/** Largest message on a bulk stream: one segment or one piece of a tensor, with its header. */
export const BULK_MESSAGE_LIMIT_BYTES = 4 << 20;

/** Pieces of tensors on bulk streams are at most this long. */
export const BULK_PIECE_BYTES = 1 << 20;

const COMMON: ChannelOptions = {
  // A variable for web traffic must not reroute the cluster's own.
  "grpc.enable_http_proxy": 0,
  // A worker that restarts is found again at once, not after the default of up to two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.dns_min_time_between_resolutions_ms": 1_000,
  "grpc.service_config_disable_resolution": 1,
  "grpc.keepalive_permit_without_calls": 1,
};

/** For unary calls, sessions and event streams. */
export function controlChannelOptions(): ChannelOptions {
  return {
    ...COMMON,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.max_receive_message_length": CONTROL_MESSAGE_LIMIT_BYTES,
    "grpc.max_send_message_length": CONTROL_MESSAGE_LIMIT_BYTES,
  };
}

/** For users' calls. */
export function userChannelOptions(): ChannelOptions {
  return { ...controlChannelOptions(), "grpc.max_receive_message_length": REPLY_LIMIT_BYTES };
}

/**
 * For streams that carry tensors from server to client, on a connection of their own: control messages
 * would queue behind the data otherwise.
 * @param windowBytes HTTP/2 receive window of the connection and of each stream. At least the bandwidth
 *   times the round trip; it is also what one stalled reader can hold in memory.
 */
export function bulkChannelOptions(windowBytes = 16 << 20): ChannelOptions {
  return {
    ...COMMON,
    "grpc.keepalive_time_ms": 5_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.max_receive_message_length": BULK_MESSAGE_LIMIT_BYTES,
    "grpc.max_send_message_length": BULK_MESSAGE_LIMIT_BYTES,
    "grpc-node.flow_control_window": windowBytes,
    // Not shared with control channels to the same address.
    "grpc.use_local_subchannel_pool": 1,
    // With a buffer, a write's callback fires before the bytes leave.
    "grpc.enable_retries": 0,
    "grpc.per_rpc_retry_buffer_size": 0,
  };
}
