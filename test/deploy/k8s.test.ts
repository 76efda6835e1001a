import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { Command } from "commander";
import { parse } from "yaml";
import { describedCommandLine } from "../support/command-line.ts";
import { rootPath } from "../support/deploy.ts";
import {
  containerOf,
  type DisruptionBudget,
  environmentOf,
  isAllowed,
  type K8sObject,
  missingKubectl,
  type NetworkPolicy,
  objectFaults,
  ofKind,
  type Pod,
  type PodMonitor,
  ROLES,
  type Role,
  render,
  type Service,
  type StatefulSet,
  selects,
  setOf,
} from "../support/k8s.ts";

const OVERLAYS = ["overlays/cpu", "overlays/gpu"] as const;
const missing = missingKubectl();

function check(title: string, run: () => void): void {
  if (missing === undefined) it(title, run);
  else it.skip(`${title} (${missing})`);
}

function variable(set: StatefulSet, name: string, index = 0): string {
  const value = environmentOf(set, index).get(name);
  if (value === undefined) throw new Error(`${set.metadata.name} sets no ${name}`);
  return value;
}

function portOf(address: string): number {
  return Number(address.split(":").at(-1));
}

/** Whom the policies are asked about. */
function podsOf(objects: readonly K8sObject[]): Record<string, Pod> {
  const namespace = setOf(objects, "worker").metadata.namespace ?? "";
  const pod = (name: string, labels: Pod["labels"], at = namespace, namespaceLabels = {}): Pod => ({
    name,
    labels,
    namespace: at,
    namespaceLabels: { "kubernetes.io/metadata.name": at, ...namespaceLabels },
  });
  const client = { "rankmesh-client": "true" };
  const prometheus = { "app.kubernetes.io/name": "prometheus" };
  const of = (role: Role) => setOf(objects, role).spec.template.metadata.labels;
  const pods = [
    pod("coordinator", of("coordinator")),
    pod("worker", of("worker")),
    pod("client", client),
    pod("client elsewhere", client, "team", client),
    pod("labelled pod of another namespace", client, "team"),
    pod("other pod", { app: "other" }),
    pod("worker of another namespace", of("worker"), "team"),
    pod("prometheus", prometheus, "monitoring"),
    pod("prometheus elsewhere", prometheus, "team"),
    pod("other pod of monitoring", {}, "monitoring"),
    pod("dns", { "k8s-app": "kube-dns" }, "kube-system"),
    pod("internet", {}, "nowhere"),
  ];
  return Object.fromEntries(pods.map((one) => [one.name, one]));
}

const PORTS = [
  [53, "UDP"],
  [53, "TCP"],
  [8080, "TCP"],
  [8081, "TCP"],
  [50051, "TCP"],
  [50052, "TCP"],
  [41234, "TCP"],
] as const;

/** All that passes and that coordinator or worker is an end of. */
function flows(objects: readonly K8sObject[]): string[] {
  const policies = ofKind<NetworkPolicy>(objects, "NetworkPolicy");
  const pods = Object.values(podsOf(objects));
  const ours = (pod: Pod) => pod.name === "coordinator" || pod.name === "worker";
  return pods
    .flatMap((from) =>
      pods.flatMap((to) =>
        (ours(from) || ours(to)) && !(from === to && from.name === "coordinator")
          ? PORTS.filter(([port, protocol]) => isAllowed(policies, from, to, port, protocol)).map(
              ([port, protocol]) => `${from.name} -> ${to.name} ${protocol} ${port}`,
            )
          : [],
      ),
    )
    .sort();
}

const FLOWS = [
  "client -> coordinator TCP 50051",
  "client -> coordinator TCP 8080",
  "client elsewhere -> coordinator TCP 50051",
  "client elsewhere -> coordinator TCP 8080",
  "coordinator -> dns TCP 53",
  "coordinator -> dns UDP 53",
  "coordinator -> worker TCP 50052",
  "prometheus -> coordinator TCP 8080",
  "prometheus -> worker TCP 8081",
  "worker -> coordinator TCP 50051",
  "worker -> dns TCP 53",
  "worker -> dns UDP 53",
  "worker -> worker TCP 50052",
];

describe("manifests for Kubernetes", function () {
  this.timeout(60_000);
  const rendered = new Map<string, readonly K8sObject[]>();
  let commandLine: Command;

  before(() => {
    if (missing !== undefined) return;
    for (const folder of ["base", ...OVERLAYS, "monitoring"]) rendered.set(folder, render(folder));
    commandLine = describedCommandLine();
  });

  const objectsOf = (folder: string) => rendered.get(folder) ?? [];

  for (const folder of ["base", ...OVERLAYS, "monitoring"]) {
    check(
      `of ${folder} fit Kubernetes' schemas, each with a name of its own in one namespace`,
      () => {
        const objects = objectsOf(folder);
        expect(objects).to.not.be.empty;
        for (const object of objects) expect(objectFaults(object)).to.deep.equal([]);
        const names = objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
        expect(new Set(names).size).to.equal(names.length);
        for (const { kind, metadata } of objects) {
          expect(metadata.namespace, metadata.name).to.equal(
            kind === "Namespace" ? undefined : "rankmesh",
          );
        }
      },
    );
  }

  check("would not fit with a key, a type or a value that Kubernetes does not know", () => {
    const change = (from: string, to: string): string[] => {
      const text = JSON.stringify(objectsOf("overlays/gpu"));
      if (!text.includes(from)) throw new Error(`no ${from} to change`);
      return (JSON.parse(text.replace(from, to)) as K8sObject[]).flatMap(objectFaults);
    };
    expect(change('"serviceName"', '"service"')).to.include("StatefulSet.spec.service: unknown");
    expect(change('"serviceName"', '"service"')).to.include(
      "StatefulSet.spec.serviceName: missing",
    );
    expect(change('"containerPort":50051', '"containerPort":"50051"')[0]).to.match(
      /is no integer$/,
    );
    expect(change('"4Gi"', '"4 GB"')[0]).to.match(
      /resources\.limits\.memory: fits 0 of its forms$/,
    );
    expect(change('"OnDelete"', '"Never"')[0]).to.match(/updateStrategy\.type: Never is none of/);
    expect(change('"grpc":{"port"', '"grpc":{"prt"')[0]).to.match(/Probe\.grpc\.port: missing$/);
  });

  for (const overlay of OVERLAYS) {
    describe(`in ${overlay}`, () => {
      const set = (role: Role) => setOf(objectsOf(overlay), role);

      check("select the pods of their own role and no others", () => {
        const objects = [...objectsOf(overlay), ...objectsOf("monitoring")];
        const selectors = [
          ...ofKind<Service>(objects, "Service").map(
            ({ metadata, spec }) => [metadata.name, { matchLabels: spec.selector }] as const,
          ),
          ...[
            ...ofKind<StatefulSet>(objects, "StatefulSet"),
            ...ofKind<DisruptionBudget>(objects, "PodDisruptionBudget"),
            ...ofKind<PodMonitor>(objects, "PodMonitor"),
          ].map(({ metadata, spec }) => [metadata.name, spec.selector] as const),
          ...ofKind<NetworkPolicy>(objects, "NetworkPolicy").map(
            ({ metadata, spec }) => [metadata.name, spec.podSelector] as const,
          ),
        ];
        expect(selectors).to.have.length(10);
        for (const [name, selector] of selectors) {
          const selected = ROLES.filter((role) =>
            selects(selector, set(role).spec.template.metadata.labels),
          );
          expect(selected.map((role) => `rankmesh-${role}`)).to.deep.equal([name]);
        }
      });

      for (const role of ROLES) {
        check(
          `run \`rankmesh ${role}\` with variables that it knows, and values that it takes`,
          () => {
            const { args } = containerOf(set(role));
            expect(args).to.deep.equal([role]);
            const command = commandLine.commands.find((each) => each.name() === role);
            const options = new Map(command?.options.map((option) => [option.envVar, option]));
            for (const [name, value] of environmentOf(set(role), 1)) {
              expect(value, name).to.not.match(/\$\(/);
              if (!name.startsWith("RANKMESH_")) continue;
              const option = options.get(name);
              if (option === undefined) throw new Error(`rankmesh ${role} does not know ${name}`);
              // Throws for a value that it does not take.
              option.parseArg?.(value, undefined as never);
              if (option.argChoices !== undefined) expect(option.argChoices).to.include(value);
            }
          },
        );

        check(`probe and name the ports that the ${role} binds`, () => {
          const container = containerOf(set(role));
          const grpc = variable(set(role), "RANKMESH_LISTEN");
          const http = variable(set(role), "RANKMESH_HTTP");
          for (const address of [grpc, http]) expect(address).to.match(/^0\.0\.0\.0:/);
          expect(
            container.ports.map(({ name, containerPort }) => [name, containerPort]),
          ).to.deep.equal([
            ["grpc", portOf(grpc)],
            ["http", portOf(http)],
          ]);
          for (const probe of ["startupProbe", "readinessProbe", "livenessProbe"] as const) {
            // No service: the health of the daemon as a whole.
            expect(container[probe].grpc).to.deep.equal({ port: portOf(grpc) });
          }
          const service = ofKind<Service>(objectsOf(overlay), "Service").find(
            ({ metadata }) => metadata.name === set(role).spec.serviceName,
          );
          expect(
            service?.spec.ports.map(({ port, targetPort }) => [targetPort, port]),
          ).to.deep.equal(container.ports.map(({ name, containerPort }) => [name, containerPort]));
        });

        check(`keep what the ${role} may do and write to the least`, () => {
          const { spec } = set(role).spec.template;
          expect(spec.securityContext).to.deep.include({ runAsNonRoot: true, runAsUser: 1000 });
          expect(spec.securityContext["seccompProfile"]).to.deep.equal({ type: "RuntimeDefault" });
          expect(containerOf(set(role)).securityContext).to.deep.equal({
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ["ALL"] },
          });
          expect(spec.automountServiceAccountToken).to.equal(false);
          expect(spec.enableServiceLinks).to.equal(false);
          // A daemon gives itself 5 s to end in order.
          expect(spec.terminationGracePeriodSeconds).to.be.at.least(30);
          const volumes = [
            ...spec.volumes.map(({ name }) => name),
            ...(set(role).spec.volumeClaimTemplates ?? []).map(({ metadata }) => metadata.name),
          ];
          const mounts = containerOf(set(role)).volumeMounts;
          expect(mounts.map(({ name }) => name).sort()).to.deep.equal(volumes.sort());
          expect(mounts.map(({ mountPath }) => mountPath)).to.include("/tmp");
        });
      }

      check(
        "let ranks dial names of pods, which a Service without an address of its own gives them",
        () => {
          for (const service of ofKind<Service>(objectsOf(overlay), "Service")) {
            expect(service.spec.clusterIP).to.equal("None");
            expect(service.spec.publishNotReadyAddresses).to.equal(true);
          }
          const worker = set("worker");
          for (const index of [0, 1]) {
            const pod = `rankmesh-worker-${index}`;
            expect(variable(worker, "RANKMESH_NAME", index)).to.equal(pod);
            expect(variable(worker, "RANKMESH_ADVERTISE", index)).to.equal(
              `${pod}.${worker.spec.serviceName}.rankmesh.svc:${portOf(variable(worker, "RANKMESH_LISTEN"))}`,
            );
          }
          const coordinator = set("coordinator");
          expect(variable(worker, "RANKMESH_COORDINATOR")).to.equal(
            `rankmesh-coordinator-0.${coordinator.spec.serviceName}.rankmesh.svc:${portOf(variable(coordinator, "RANKMESH_LISTEN"))}`,
          );
          expect(coordinator.spec.replicas).to.equal(1);
          expect(worker.spec.podManagementPolicy).to.equal("Parallel");
        },
      );

      check(
        "keep the coordinator's data where jobs' paths lie, and let browsers open its status page by the Service's names",
        () => {
          const coordinator = set("coordinator");
          const claims = coordinator.spec.volumeClaimTemplates?.map(
            ({ metadata }) => metadata.name,
          );
          expect(claims).to.deep.equal(["data"]);
          const mount = containerOf(coordinator).volumeMounts.find(({ name }) => name === "data");
          expect(mount?.mountPath).to.equal(variable(coordinator, "RANKMESH_DATA_ROOT"));
          const name = coordinator.spec.serviceName;
          expect(variable(coordinator, "RANKMESH_HTTP_HOST").split(",")).to.deep.equal(
            ["", ".rankmesh", ".rankmesh.svc", ".rankmesh.svc.cluster.local"].map(
              (end) => name + end,
            ),
          );
        },
      );

      check("take the images that docker-compose.yml builds", () => {
        const compose = readFileSync(rootPath("docker-compose.yml"), "utf8");
        const { version } = JSON.parse(readFileSync(rootPath("package.json"), "utf8")) as {
          version: string;
        };
        const kind = overlay === "overlays/gpu" ? "cuda" : "cpu";
        expect(containerOf(set("coordinator")).image).to.equal(`rankmesh:${version}-cpu`);
        expect(containerOf(set("worker")).image).to.equal(`rankmesh:${version}-${kind}`);
        for (const suffix of new Set(["cpu", kind])) {
          expect(compose).to.include(`image: rankmesh:\${RANKMESH_VERSION:-${version}}-${suffix}`);
        }
      });

      check("evict no pod of a running job", () => {
        const budgets = ofKind<DisruptionBudget>(objectsOf(overlay), "PodDisruptionBudget");
        expect(budgets.map(({ spec }) => spec.maxUnavailable)).to.deep.equal([0, 0]);
      });
    });
  }

  check(
    "let through what the system needs and nothing else: peers to peers, users and Prometheus by label",
    () => {
      expect(flows(objectsOf("overlays/cpu"))).to.deep.equal(FLOWS);
    },
  );

  check("let ranks on GPUs exchange over any port, as NCCL does, and only them", () => {
    const any = PORTS.flatMap(([port, protocol]) =>
      protocol === "TCP" ? [`worker -> worker TCP ${port}`] : [],
    );
    expect(flows(objectsOf("overlays/gpu"))).to.deep.equal([...new Set([...FLOWS, ...any])].sort());
  });

  check(
    "give each worker of the GPU overlay one GPU and a place for compiled kernels, and no pod of the other one",
    () => {
      const gpus = (overlay: string, role: Role) =>
        containerOf(setOf(objectsOf(overlay), role)).resources?.limits?.["nvidia.com/gpu"];
      expect(gpus("overlays/gpu", "worker")).to.equal("1");
      expect(gpus("overlays/gpu", "coordinator")).to.equal(undefined);
      expect(gpus("overlays/cpu", "worker")).to.equal(undefined);
      const worker = setOf(objectsOf("overlays/gpu"), "worker");
      expect(variable(worker, "RANKMESH_BACKEND")).to.equal("cuda");
      const cache = /CUDA_CACHE_PATH=(\S+)/.exec(
        readFileSync(rootPath("deploy/Dockerfile"), "utf8"),
      )?.[1];
      expect(containerOf(worker).volumeMounts.map(({ mountPath }) => mountPath)).to.include(cache);
    },
  );

  check(
    "scrape what deploy/prometheus scrapes, under the labels that rules and dashboards go by",
    () => {
      const { scrape_configs: configs } = parse(
        readFileSync(rootPath("deploy/prometheus/prometheus.yml"), "utf8"),
      ) as { scrape_configs: { job_name: string }[] };
      const monitors = ofKind<PodMonitor>(objectsOf("monitoring"), "PodMonitor");
      expect(monitors.map(({ metadata }) => metadata.name)).to.deep.equal(
        configs.map(({ job_name: name }) => name),
      );
      for (const { metadata, spec } of monitors) {
        const [endpoint] = spec.podMetricsEndpoints;
        expect(endpoint).to.deep.include({ port: "http", path: "/metrics" });
        const labels = endpoint?.relabelings.map(({ targetLabel, replacement, sourceLabels }) => [
          targetLabel,
          replacement ?? sourceLabels,
        ]);
        const worker = ["worker", ["__meta_kubernetes_pod_name"]];
        expect(labels).to.deep.equal([
          ["job", metadata.name],
          ...(metadata.name === "rankmesh-worker" ? [worker] : []),
        ]);
      }
    },
  );

  check(
    "make an overlay of one's own, as the README has it, of the user's images and number of workers",
    () => {
      const readme = readFileSync(rootPath("deploy/k8s/README.md"), "utf8");
      const overlay = /```yaml\n([^`]*kind: Kustomization[^`]*)```/.exec(readme)?.[1] ?? "";
      const folder = /`([\w-]+)\/kustomization\.yaml`/.exec(readme)?.[1] ?? "";
      expect(readme).to.include(`kubectl apply -k ${folder}\n`);
      const root = mkdtempSync(join(tmpdir(), "rankmesh-k8s-"));
      try {
        cpSync(rootPath("deploy/k8s"), join(root, "deploy/k8s"), { recursive: true });
        mkdirSync(join(root, folder));
        writeFileSync(join(root, folder, "kustomization.yaml"), overlay);
        const objects = render(folder, root);
        const images = ROLES.map((role) => containerOf(setOf(objects, role)).image);
        for (const image of images) expect(image).to.match(/^registry\.example\.org\/rankmesh:/);
        expect(setOf(objects, "worker").spec.replicas).to.equal(8);
      } finally {
        rmSync(root, { recursive: true });
      }
    },
  );

  check("bring the dashboards of deploy/grafana as they are", () => {
    const [dashboards] = ofKind<K8sObject & { data: Record<string, string> }>(
      objectsOf("monitoring"),
      "ConfigMap",
    );
    expect(Object.keys(dashboards?.data ?? {}).sort()).to.deep.equal([
      "fleet.json",
      "training.json",
    ]);
    for (const [name, text] of Object.entries(dashboards?.data ?? {})) {
      expect(text).to.equal(readFileSync(rootPath(`deploy/grafana/dashboards/${name}`), "utf8"));
    }
  });
});
