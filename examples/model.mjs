// A model of your own: a residual block between two linear layers.
// `rankmesh run examples/model.yaml` trains it; nothing here says how it is split over ranks.
import { add, gelu, Linear, Module } from "rankmesh";

class Block extends Module {
  constructor(dim, hidden) {
    super();
    this.up = new Linear(dim, hidden, { bias: true });
    this.down = new Linear(hidden, dim, { bias: true });
  }

  forward(x) {
    return add(x, this.down.call(gelu(this.up.call(x))));
  }
}

export default class Net extends Module {
  // Dims of the inputs after the batch.
  static inputs = { x: [64] };

  // The plan used where the job gives none.
  static plan = { "blocks.*.up": "colwise", "blocks.*.down": "rowwise" };

  constructor() {
    super();
    this.blocks = [new Block(64, 256), new Block(64, 256)];
    this.head = new Linear(64, 16);
  }

  forward(x) {
    const h = this.blocks.reduce((value, block) => block.call(value), x);
    return this.head.call(h);
  }
}
