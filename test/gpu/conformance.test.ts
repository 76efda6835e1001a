import { describeBackend } from "../support/backend-suite.ts";
import { makeBackend } from "./cuda.ts";

describeBackend("cuda", makeBackend);
