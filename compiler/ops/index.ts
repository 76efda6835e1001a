// Importing this file fills the registry. A new op joins by a file of its own and a line here.
import "./activation.ts";
import "./elementwise.ts";
import "./gradient-norm.ts";
import "./linear.ts";
import "./loss.ts";
import "./movement.ts";
import "./optimizer.ts";

export { hasOp, opDefinition, opNames } from "./registry.ts";
