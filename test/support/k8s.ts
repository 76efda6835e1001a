/** The manifests of deploy/k8s as `kubectl kustomize` renders them, and what their network policies let through. */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { rootPath } from "./deploy.ts";
import { fixturePath } from "./fixtures.ts";
import { type Schema, schemaFaults } from "./json-schema.ts";

export const ROLES = ["coordinator", "worker"] as const;

export type Role = (typeof ROLES)[number];

export type Labels = Readonly<Record<string, string>>;

export interface K8sObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Labels;
  };
}

export interface Selector {
  readonly matchLabels?: Labels;
}

export interface EnvVar {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: {
    readonly fieldRef?: { readonly fieldPath: string };
    readonly resourceFieldRef?: { readonly resource: string };
  };
}

export interface Probe {
  readonly grpc?: { readonly port: number; readonly service?: string };
  readonly periodSeconds: number;
  readonly failureThreshold?: number;
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly args: readonly string[];
  readonly env: readonly EnvVar[];
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly startupProbe: Probe;
  readonly readinessProbe: Probe;
  readonly livenessProbe: Probe;
  readonly resources?: { readonly limits?: Labels; readonly requests?: Labels };
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
}

export interface StatefulSet extends K8sObject {
  readonly spec: {
    readonly replicas: number;
    readonly serviceName: string;
    readonly podManagementPolicy?: string;
    readonly selector: Selector;
    readonly template: {
      readonly metadata: { readonly labels: Labels };
      readonly spec: {
        readonly containers: readonly Container[];
        readonly securityContext: Readonly<Record<string, unknown>>;
        readonly terminationGracePeriodSeconds: number;
        readonly enableServiceLinks: boolean;
        readonly automountServiceAccountToken: boolean;
        readonly volumes: readonly { readonly name: string }[];
      };
    };
    readonly volumeClaimTemplates?: readonly { readonly metadata: { readonly name: string } }[];
  };
}

export interface Service extends K8sObject {
  readonly spec: {
    readonly clusterIP?: string;
    readonly publishNotReadyAddresses?: boolean;
    readonly selector: Labels;
    readonly ports: readonly { readonly port: number; readonly targetPort: string }[];
  };
}

export interface DisruptionBudget extends K8sObject {
  readonly spec: { readonly selector: Selector; readonly maxUnavailable: number };
}

export interface PodMonitor extends K8sObject {
  readonly spec: {
    readonly selector: Selector;
    readonly podMetricsEndpoints: readonly {
      readonly port: string;
      readonly path: string;
      readonly relabelings: readonly {
        readonly sourceLabels?: readonly string[];
        readonly targetLabel: string;
        readonly replacement?: string;
      }[];
    }[];
  };
}

interface Peer {
  readonly podSelector?: Selector;
  readonly namespaceSelector?: Selector;
}

interface Rule {
  readonly from?: readonly Peer[];
  readonly to?: readonly Peer[];
  readonly ports?: readonly { readonly protocol?: string; readonly port?: number | string }[];
}

export interface NetworkPolicy extends K8sObject {
  readonly spec: {
    readonly podSelector: Selector;
    readonly policyTypes: readonly string[];
    readonly ingress?: readonly Rule[];
    readonly egress?: readonly Rule[];
  };
}

/** A pod as network policies see it. */
export interface Pod {
  readonly name: string;
  readonly labels: Labels;
  readonly namespace: string;
  readonly namespaceLabels: Labels;
}

/** Why manifests cannot be rendered here; undefined when they can. */
export function missingKubectl(): string | undefined {
  const { stdout } = spawnSync("kubectl", ["version", "--client"], { encoding: "utf8" });
  const kustomize = /Kustomize Version: v(\d+)/.exec(stdout ?? "")?.[1];
  return Number(kustomize ?? 0) >= 5
    ? undefined
    : "no kubectl of 1.27 or newer: https://kubernetes.io/docs/tasks/tools/#kubectl says how to install it";
}

/** The objects of a folder below deploy/k8s, or a copy of that. */
export function render(folder: string, root = rootPath("deploy/k8s")): K8sObject[] {
  const path = join(root, folder);
  const text = execFileSync("kubectl", ["kustomize", path], { encoding: "utf8" });
  return parseAllDocuments(text).map((document) => document.toJS() as K8sObject);
}

/** All of a kind. The kind says what type they are. */
export function ofKind<T extends K8sObject>(objects: readonly K8sObject[], kind: string): T[] {
  return objects.filter((object) => object.kind === kind) as T[];
}

interface SchemaFile {
  readonly kinds: Readonly<Record<string, string>>;
  readonly definitions: Readonly<Record<string, Schema>>;
}

let schemas: SchemaFile | undefined;

/** What does not fit the schema of the object's kind, each with its place. @throws for a kind without one */
export function objectFaults(object: K8sObject): string[] {
  schemas ??= JSON.parse(readFileSync(fixturePath("k8s/schemas.json"), "utf8")) as SchemaFile;
  const definition =
    schemas.definitions[schemas.kinds[`${object.apiVersion} ${object.kind}`] ?? ""];
  if (definition === undefined) throw new Error(`no schema of ${object.apiVersion} ${object.kind}`);
  return schemaFaults(object, definition, schemas.definitions, object.kind);
}

export function selects(selector: Selector, labels: Labels): boolean {
  return Object.entries(selector.matchLabels ?? {}).every(
    ([name, value]) => labels[name] === value,
  );
}

/** Whether the policies let a connection through, at both of its ends. A pod that none selects takes and makes any. */
export function isAllowed(
  policies: readonly NetworkPolicy[],
  from: Pod,
  to: Pod,
  port: number,
  protocol = "TCP",
): boolean {
  const lets = (pod: Pod, other: Pod, direction: "ingress" | "egress"): boolean => {
    const type = direction === "ingress" ? "Ingress" : "Egress";
    const effective = policies.filter(
      ({ metadata, spec }) =>
        metadata.namespace === pod.namespace &&
        selects(spec.podSelector, pod.labels) &&
        spec.policyTypes.includes(type),
    );
    if (effective.length === 0) return true;
    return effective.some(({ metadata, spec }) =>
      (spec[direction] ?? []).some((rule) => {
        const peers = direction === "ingress" ? rule.from : rule.to;
        const isPeer =
          peers === undefined || peers.some((peer) => isOf(peer, other, metadata.namespace ?? ""));
        return isPeer && (rule.ports === undefined || rule.ports.some(isPort));
      }),
    );
  };
  const isPort = (rule: { readonly protocol?: string; readonly port?: number | string }) =>
    (rule.protocol ?? "TCP") === protocol && (rule.port === undefined || rule.port === port);
  return lets(from, to, "egress") && lets(to, from, "ingress");
}

function isOf(peer: Peer, pod: Pod, policyNamespace: string): boolean {
  const isInNamespace =
    peer.namespaceSelector === undefined
      ? pod.namespace === policyNamespace
      : selects(peer.namespaceSelector, pod.namespaceLabels);
  return isInNamespace && (peer.podSelector === undefined || selects(peer.podSelector, pod.labels));
}

/** The set of a role. */
export function setOf(objects: readonly K8sObject[], role: Role): StatefulSet {
  const set = ofKind<StatefulSet>(objects, "StatefulSet").find(
    ({ metadata }) => metadata.name === `rankmesh-${role}`,
  );
  if (set === undefined) throw new Error(`no StatefulSet rankmesh-${role}`);
  return set;
}

/** Its only container. */
export function containerOf(set: StatefulSet): Container {
  const { containers } = set.spec.template.spec;
  const [container] = containers;
  if (container === undefined || containers.length !== 1) {
    throw new Error(`${containers.length} containers`);
  }
  return container;
}

/** Variables of the pod `index` as Kubernetes sets them: earlier ones stand in later ones' values. */
export function environmentOf(set: StatefulSet, index: number): Map<string, string> {
  const container = containerOf(set);
  const values = new Map<string, string>();
  for (const { name, value, valueFrom } of container.env) {
    if (values.has(name)) throw new Error(`${name} is set twice`);
    const field = valueFrom?.fieldRef?.fieldPath;
    const resource = valueFrom?.resourceFieldRef?.resource;
    if (field === "metadata.name") values.set(name, `${set.metadata.name}-${index}`);
    else if (field === "metadata.namespace") values.set(name, set.metadata.namespace ?? "");
    else if (resource === "limits.cpu") {
      // Without a limit it would be the node's.
      const cores = container.resources?.limits?.["cpu"];
      if (cores === undefined) throw new Error(`${name} takes a limit that is not set`);
      values.set(name, String(Math.ceil(Number(cores))));
    } else if (value !== undefined) {
      values.set(
        name,
        value.replace(/\$\((\w+)\)/g, (whole, of: string) => values.get(of) ?? whole),
      );
    } else throw new Error(`no value of ${name}: ${JSON.stringify(valueFrom)}`);
  }
  return values;
}
