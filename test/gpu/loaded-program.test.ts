import { describeLoadedProgram } from "../support/loaded-program-suite.ts";
import { makeBackend } from "./cuda.ts";

describeLoadedProgram("cuda", makeBackend);
