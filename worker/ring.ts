import type { Assignment } from "./assignment.ts";
import type { CollectiveGroup } from "./collective/collective.ts";
import type { CollectiveObserver } from "./collective/collective-group.ts";

/** What one assignment has to do with its peers. */
export interface Ring {
  readonly group: CollectiveGroup;
  /** Ranks whose frames are missing now, ascending. */
  waitingFor(): number[];
  /** Opens the streams on which peers' frames arrive. @throws PeerError naming the peers not reached by the deadline */
  connect(deadlineMs: number): Promise<void>;
  /** Ends all streams; afterwards nothing refers to buffers of collectives. */
  close(): Promise<void>;
}

/** Takes part in an assignment's collectives: its peers may connect from now on. */
export type OpenRing = (assignment: Assignment, observer: CollectiveObserver) => Ring;
