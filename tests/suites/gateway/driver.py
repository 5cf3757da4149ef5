#!/usr/bin/env python3
"""A mesh for the Gateway API conformance kit: a control plane, and a sidecar for each client workload.

The programs are those in SIDEMESH_PROGRAMS (default: target/release). Every sidecar listens at an address of its own for
each port of each Service, so that any client can reach any of them. Kinds that a mesh does not serve (Gateways, Secrets, ...)
are left out of what is applied. Needs PyYAML, as the kit does.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import yaml

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
PROGRAMS = os.environ.get("SIDEMESH_PROGRAMS", os.path.join(ROOT, "target", "release"))
SERVED = {"Namespace", "Service", "EndpointSlice", "HTTPRoute", "GRPCRoute", "TCPRoute", "ReferenceGrant",
          "BackendTLSPolicy", "ConfigMap"}


def program(name):
    return os.path.join(PROGRAMS, name)


def free_ports(count):
    """Addresses on loopback that nothing listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = ["127.0.0.1:%d" % s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def meshctl(workdir, *args):
    with open(os.path.join(workdir, "mesh.json")) as f:
        server = "http://" + json.load(f)["control_plane"]
    return subprocess.run([program("meshctl"), "--server", server, *args], check=True, stdout=subprocess.PIPE, text=True).stdout


def address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def bootstrap(sidecar, control_plane):
    http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": sidecar["node"], "cluster": sidecar["service"], "metadata": {"sidemesh": {
            "namespace": sidecar["namespace"], "service": sidecar["service"], "outbound": sidecar["outbound"]}}},
        "admin": {"address": address(sidecar["admin"])},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}]},
            "cds_config": ads, "lds_config": ads},
        "static_resources": {"clusters": [{
            "name": "control-plane", "type": "STATIC",
            "typed_extension_protocol_options": {http2: {
                "@type": "type.googleapis.com/" + http2, "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "control-plane", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(control_plane)}}]}]}}]}}


def plan(topology):
    """Addresses for the control plane, and for each client's sidecar."""
    with open(topology) as f:
        world = json.load(f)
    ports = ["%s.%s:%d" % (s["name"], s["namespace"], p["port"]) for s in world["services"] for p in s["ports"]]
    clients = [pod for pod in world["pods"] if pod.get("client")]
    # All at once, so that none is drawn twice.
    free = iter(free_ports(2 + len(clients) * (1 + len(ports))))
    return {"control_plane": next(free), "metrics": next(free), "sidecars": [
        {"node": "%s.%s" % (pod["name"], pod["namespace"]), "namespace": pod["namespace"], "service": pod["workload"],
         "admin": next(free), "outbound": {port: next(free) for port in ports}} for pod in clients]}


def get(at, path):
    try:
        with urllib.request.urlopen("http://%s%s" % (at, path), timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def start(topology, workdir):
    mesh = plan(topology)
    with open(os.path.join(workdir, "mesh.json"), "w") as f:
        json.dump(mesh, f)
    running = []

    def run(name, *argv):
        log = open(os.path.join(workdir, name + ".log"), "w")
        running.append(subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def end(*_):
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    run("control-plane", program("sidemesh-control-plane"), "--data-dir", os.path.join(workdir, "control-plane"),
        "--listen", mesh["control_plane"], "--metrics-listen", mesh["metrics"])
    while not get(mesh["metrics"], "/ready"):
        time.sleep(0.1)
    for sidecar in mesh["sidecars"]:
        files = {end: os.path.join(workdir, sidecar["node"] + end) for end in (".yaml", ".token")}
        with open(files[".yaml"], "w") as f:
            yaml.safe_dump(bootstrap(sidecar, mesh["control_plane"]), f)
        with open(files[".token"], "w") as f:
            f.write(meshctl(workdir, "token", "create", "-n", sidecar["namespace"], "--service-account", sidecar["service"]))
        run(sidecar["node"], program("sidemesh-proxy"), "-c", files[".yaml"], "--workers", "1", "--mesh", "--drain-time-s", "1",
            "--state-dir", os.path.join(workdir, sidecar["node"] + "-state"), "--join-token-file", files[".token"])
    while True:
        signal.pause()


def ready(workdir):
    with open(os.path.join(workdir, "mesh.json")) as f:
        mesh = json.load(f)
    sys.exit(0 if all(get(s["admin"], "/ready") for s in mesh["sidecars"]) else 1)


def served(workdir, file):
    """A file with those documents that the mesh serves; `None` when there are none."""
    with open(file) as f:
        documents = [d for d in yaml.safe_load_all(f) if d and d["kind"] in SERVED]
    path = os.path.join(workdir, "served.yaml")
    with open(path, "w") as f:
        yaml.safe_dump_all(documents, f)
    return path if documents else None


def outbound(workdir, namespace, pod, host, port):
    if host.replace(".", "").isdigit():
        # A pod's address: no Service, so the sidecar has no part in it.
        return print("%s:%s" % (host, port))
    with open(os.path.join(workdir, "mesh.json")) as f:
        mesh = json.load(f)
    sidecar = next(s for s in mesh["sidecars"] if s["node"] == "%s.%s" % (pod, namespace))
    name, _, of = host.partition(".")
    print(sidecar["outbound"]["%s.%s:%s" % (name, of.split(".")[0] or namespace, port)])


def main(command, *args):
    if command == "start":
        start(*args)
    elif command == "ready":
        ready(*args)
    elif command == "apply":
        path = served(*args)
        if path:
            meshctl(args[0], "apply", "-f", path)
    elif command == "delete":
        path = served(*args)
        if path:
            meshctl(args[0], "delete", "--ignore-not-found", "-f", path)
    elif command == "outbound":
        outbound(*args)
    elif command == "status":
        workdir, kind, namespace, name = args
        print(meshctl(workdir, "get", kind, name, "-n", namespace, "-o", "json"))
    else:
        sys.exit("unknown command " + command)


if __name__ == "__main__":
    main(*sys.argv[1:])
