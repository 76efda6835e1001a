// Importing this file fills the registry. A new op joins by a file of its own and a line here.
import "./activation.ts";
import "./attention.ts";
import "./attention-cached.ts";
import "./attention-gradient.ts";
import "./cast.ts";
import "./cross-entropy.ts";
import "./dropout.ts";
import "./elementwise.ts";
import "./embedding.ts";
import "./gradient-norm.ts";
import "./linear.ts";
import "./loss.ts";
import "./movement.ts";
import "./norm.ts";
import "./optimizer.ts";
import "./position.ts";
import "./sample-token.ts";
import "./swiglu.ts";
import "./view.ts";
import "./rope.ts";

export { hasOp, opDefinition, opNames } from "./registry.ts";
