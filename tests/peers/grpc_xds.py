"""Two small gRPC servers and a client whose target is resolved over xDS.

Usage: grpc_xds.py TARGET PORT PORT. For each number read from standard input it makes that many calls, and prints how
many each server answered.
"""
import collections
import json
import sys
from concurrent import futures

import grpc

METHOD = "/demo.Greeter/Who"


def serve(port):
    def who(_request, _context):
        return str(port).encode()

    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Greeter", handlers),))
    if server.add_insecure_port(f"127.0.0.1:{port}") != port:
        sys.exit(f"port {port} is taken")
    server.start()
    return server


def main():
    target, ports = sys.argv[1], [int(p) for p in sys.argv[2:]]
    servers = [serve(port) for port in ports]
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(METHOD)
        for line in sys.stdin:
            by_port, failed, last = collections.Counter(), 0, ""
            for _ in range(int(line)):
                try:
                    by_port[call(b"", timeout=10, wait_for_ready=True).decode()] += 1
                except grpc.RpcError as error:
                    failed, last = failed + 1, f"{error.code()}: {error.details()}"
            print(json.dumps({"by_port": by_port, "failed": failed, "last": last}), flush=True)
    for server in servers:
        server.stop(None)


if __name__ == "__main__":
    main()
